//! The API server: what each write does, what guards it, and the garbage collector.

use std::sync::Arc;

use crate::api::{
    AgentProgress, Attempt, Deletion, ModelPod, ModelPodId, ModelPods, ModelPvc, ModelTask, PodExecution,
    PodProgress, StatusId, TaskVersion, WriteRequest,
};
use crate::invariants;
use crate::state::ModelState;
use crate::statuses;
use crate::variants::Variant;

/// The answer to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerResponse {
    Task(TaskVersion),
    Pod(ModelPod),
    NotFound,
    Conflict,
    Exists,
    Done,
    Invalid,
}

/// Carries out a write.
pub fn commit(state: &mut ModelState, variant: Variant, request: WriteRequest) -> ServerResponse {
    match request {
        WriteRequest::Status { version, before, after, .. } => {
            write_status(state, variant, StatusWrite { by_uninstall: None, version, before, after })
        }
        WriteRequest::Mark { release, version, before, after, .. } => {
            write_status(state, variant, StatusWrite { by_uninstall: Some(release), version, before, after })
        }
        WriteRequest::CreatePod { of, template, goal } => create_pod(state, variant, of, template, goal),
        WriteRequest::RemoveSchedulingGate(pod) => change_pod_of(state, variant, pod, |pod| {
            pod.has_scheduling_gate = false;
            true
        }),
        WriteRequest::AddFinalizer(pod) => change_pod_of(state, variant, pod, |pod| {
            // No finalizer can be added to an object that is being deleted.
            let is_allowed = pod.deletion == Deletion::No || pod.has_finalizer;
            pod.has_finalizer = pod.has_finalizer || is_allowed;
            is_allowed
        }),
        WriteRequest::RemoveFinalizer(pod) => change_pod_of(state, variant, pod, |pod| {
            pod.has_finalizer = false;
            true
        }),
        WriteRequest::DeletePod(pod) => change_pod_of(state, variant, pod, |pod| {
            if pod.deletion == Deletion::No {
                pod.deletion = Deletion::Requested;
            }
            true
        }),
        WriteRequest::CreatePvc { task, is_owned, generation } => {
            if state.pvcs.iter().any(|pvc| pvc.task == task) {
                return ServerResponse::Exists;
            }
            state.pvcs.push(ModelPvc { task, version: 0, is_owned, generation });
            ServerResponse::Done
        }
        WriteRequest::SetPvcOwner { task, version, is_owned, generation } => {
            let Some(pvc) = state.pvcs.iter_mut().find(|pvc| pvc.task == task) else {
                return ServerResponse::NotFound;
            };
            if pvc.version != version && variant != Variant::PvcOwnerWithoutVersion {
                return ServerResponse::Conflict;
            }
            pvc.is_owned = is_owned;
            pvc.generation = generation;
            pvc.version = pvc.version.saturating_add(1);
            ServerResponse::Done
        }
    }
}

/// A write of the status.
#[derive(Clone, Copy)]
struct StatusWrite {
    /// An uninstall of this release writes, and no operator.
    by_uninstall: Option<u8>,
    version: u8,
    before: StatusId,
    after: StatusId,
}

fn write_status(state: &mut ModelState, variant: Variant, write: StatusWrite) -> ServerResponse {
    let StatusWrite { by_uninstall, version, before, after } = write;
    let Some(task) = state.task.task else { return ServerResponse::NotFound };
    let is_guarded = match (by_uninstall, variant) {
        (None, Variant::StatusWithoutVersion) | (Some(_), Variant::UninstallWithoutVersion) => false,
        (None, Variant::SpecVersionIgnored) => task.status != before,
        _ => true,
    };
    if is_guarded && state.task.version != version {
        return ServerResponse::Conflict;
    }
    let merged = || statuses::merged(task.status, before, after);
    let after = if task.status == before { Some(after) } else { merged() };
    let Some(after) = after else { return ServerResponse::Invalid };
    if after != task.status {
        match by_uninstall {
            Some(release) => invariants::check_mark(state, release, &task, after),
            None => invariants::check_status_write(state, &task, after),
        }
        let task = Some(ModelTask { status: after, ..task });
        state.task = TaskVersion { version: state.task.version + 1, task };
    }
    ServerResponse::Task(state.task)
}

fn create_pod(
    state: &mut ModelState,
    variant: Variant,
    of: Attempt,
    template: u8,
    goal: u8,
) -> ServerResponse {
    if state.pod_named(of).is_some() {
        return ServerResponse::Exists;
    }
    let pod = ModelPod {
        uid: state.next_pod,
        version: 0,
        of,
        foreign: false,
        has_scheduling_gate: variant != Variant::NoSchedulingGate,
        has_finalizer: variant != Variant::NoFinalizer,
        deletion: Deletion::No,
        bound: false,
        template,
        goal,
        progress: PodProgress::Pending,
    };
    add_pod(state, pod);
    invariants::check_pods(state);
    ServerResponse::Pod(pod)
}

/// Adds a pod.
pub fn add_pod(state: &mut ModelState, pod: ModelPod) {
    state.next_pod += 1;
    Arc::make_mut(&mut state.pods).push(pod);
    let execution = PodExecution { pod: pod.uid, agent: AgentProgress::NotStarted, is_node_silent: false };
    state.executions.push(execution);
}

/// Changes the pod of this name and uid. A pod of another uid with the same name is a conflict.
fn change_pod_of(
    state: &mut ModelState,
    variant: Variant,
    pod: ModelPodId,
    change: impl FnOnce(&mut ModelPod) -> bool,
) -> ServerResponse {
    match state.pod_named(pod.of).map(|found| found.uid) {
        None => ServerResponse::NotFound,
        Some(found) if found != pod.uid && variant != Variant::NoUidPrecondition => ServerResponse::Conflict,
        Some(uid) => change_pod(state, uid, change),
    }
}

/// Changes a pod, and removes it if nothing keeps it. Then the answer has the version that the pod had before.
pub fn change_pod(
    state: &mut ModelState,
    uid: u8,
    change: impl FnOnce(&mut ModelPod) -> bool,
) -> ServerResponse {
    let Some(index) = state.pods.iter().position(|pod| pod.uid == uid) else {
        return ServerResponse::NotFound;
    };
    let before = state.pods[index];
    let mut pod = before;
    if !change(&mut pod) {
        return ServerResponse::Invalid;
    }
    if pod == before {
        return ServerResponse::Pod(pod);
    }
    let pods = Arc::make_mut(&mut state.pods);
    if pod.deletion != Deletion::No && !pod.has_finalizer && pod.has_ended() {
        pods.remove(index);
        state.executions.retain(|execution| execution.pod != uid);
    } else {
        pod.version += 1;
        pods[index] = pod;
    }
    finish_foreground_deletion(state);
    invariants::check_pods(state);
    ServerResponse::Pod(pod)
}

/// The task is gone immediately; the garbage collector deletes its pods.
pub fn remove_task(state: &mut ModelState) {
    state.task = TaskVersion { version: state.task.version + 1, task: None };
}

/// A task that is deleted in the foreground is gone once its last pod is gone.
pub fn finish_foreground_deletion(state: &mut ModelState) {
    let Some(task) = state.task.task.filter(|task| task.deleting) else { return };
    if state.pods.iter().all(|pod| pod.foreign || pod.of.task != task.uid) {
        remove_task(state);
    }
}

/// Pods whose owner is gone, or is being deleted in the foreground, and which are not being deleted yet.
pub fn garbage_pods(state: &ModelState) -> impl Iterator<Item = &ModelPod> {
    let owner = state.task.task.filter(|task| !task.deleting).map(|task| task.uid);
    state
        .pods
        .iter()
        .filter(move |pod| !pod.foreign && Some(pod.of.task) != owner && pod.deletion == Deletion::No)
}

/// The tasks whose PVCs are left although their owner is gone.
pub fn garbage_pvcs(state: &ModelState) -> impl Iterator<Item = u8> {
    let task = state.task.task.map(|task| task.uid);
    state.pvcs.iter().filter(move |pvc| pvc.is_owned && Some(pvc.task) != task).map(|pvc| pvc.task)
}

/// What a watch of pods shows: those with our labels.
pub fn watched(pods: &ModelPods) -> ModelPods {
    if pods.iter().any(|pod| pod.foreign) {
        Arc::new(pods.iter().filter(|pod| !pod.foreign).copied().collect())
    } else {
        pods.clone()
    }
}

/// Every wait is over, for everyone at the same moment.
pub fn pass_time(state: &mut ModelState) {
    state.each_task(|read| {
        if let Some(task) = &mut read.task {
            task.status = statuses::after_wait(task.status);
        }
    });
    for request in &mut state.delayed_writes {
        if let WriteRequest::Status { before, .. } | WriteRequest::Mark { before, .. } = request {
            *before = statuses::after_wait(*before);
        }
    }
}

/// Whether the task waits for time to pass.
pub fn waits_for_time(state: &ModelState) -> bool {
    state.task.task.is_some_and(|task| statuses::get(task.status).is_waiting)
}
