//! The API server: what each write does, what guards it, and the garbage collector.

use std::sync::Arc;

use crate::invariants;
use crate::state::{
    Agent, Attempt, Deletion, Operator, Place, Pod, Pvc, Read, Request, Shown, State, StatusId, each_task_in,
};
use crate::statuses;
use crate::variants::Variant;

/// What a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Task(Read),
    Pod(Pod),
    NotFound,
    Conflict,
    Exists,
    /// It is done.
    Done,
    /// Not allowed.
    Invalid,
}

/// Does a write.
pub fn commit(state: &mut State, variant: Variant, request: Request) -> Reply {
    match request {
        Request::Status { version, before, after, .. } => {
            write_status(state, variant, version, before, after)
        }
        Request::Create { of, template, goal } => create(state, variant, of, template, goal),
        Request::Start { pod, of } => on_pod(state, variant, pod, of, |pod| {
            pod.gated = false;
            true
        }),
        Request::Hold { pod, of } => on_pod(state, variant, pod, of, |pod| {
            // No finalizer can be added to an object that is being deleted.
            let allowed = pod.deletion == Deletion::No || pod.held;
            pod.held = pod.held || allowed;
            allowed
        }),
        Request::Delete { pod, of } => on_pod(state, variant, pod, of, |pod| {
            if pod.deletion == Deletion::No {
                pod.deletion = Deletion::Asked;
            }
            true
        }),
        Request::CreatePvc { task, is_owned, generation } => {
            if state.pvcs.iter().any(|pvc| pvc.task == task) {
                return Reply::Exists;
            }
            state.pvcs.push(Pvc { task, version: 0, is_owned, generation });
            Reply::Done
        }
        Request::SetPvcOwner { task, version, is_owned, generation } => {
            let Some(pvc) = state.pvcs.iter_mut().find(|pvc| pvc.task == task) else {
                return Reply::NotFound;
            };
            if pvc.version != version && variant != Variant::PvcUnguarded {
                return Reply::Conflict;
            }
            pvc.is_owned = is_owned;
            pvc.generation = generation;
            pvc.version = pvc.version.saturating_add(1);
            Reply::Done
        }
        Request::Release { pod, of } => on_pod(state, variant, pod, of, |pod| {
            pod.held = false;
            true
        }),
    }
}

fn write_status(
    state: &mut State,
    variant: Variant,
    version: u8,
    before: StatusId,
    after: StatusId,
) -> Reply {
    let Some(task) = state.task.task else { return Reply::NotFound };
    let is_guarded = match variant {
        Variant::StatusUnguarded => false,
        Variant::LimitReadLate => task.status != before,
        _ => true,
    };
    if is_guarded && state.task.version != version {
        return Reply::Conflict;
    }
    let after = if task.status == before { after } else { statuses::merged(task.status, before, after) };
    if after != task.status {
        invariants::check_status_write(state, &task, after);
        state.task = Read {
            version: state.task.version + 1,
            task: Some(crate::state::Task { status: after, ..task }),
        };
    }
    Reply::Task(state.task)
}

fn create(state: &mut State, variant: Variant, of: Attempt, template: u8, goal: u8) -> Reply {
    if state.named(of).is_some() {
        return Reply::Exists;
    }
    let pod = Pod {
        uid: state.next_pod,
        version: 0,
        of,
        foreign: false,
        gated: variant != Variant::NoGate,
        held: variant != Variant::NoFinalizer,
        deletion: Deletion::No,
        bound: false,
        template,
        goal,
        shown: Shown::Pending,
    };
    add(state, pod);
    invariants::check_pods(state);
    Reply::Pod(pod)
}

/// Adds a pod.
pub fn add(state: &mut State, pod: Pod) {
    state.next_pod += 1;
    Arc::make_mut(&mut state.pods).push(pod);
    state.places.push(Place { pod: pod.uid, agent: Agent::NotYet, silent: false });
}

/// Changes the pod of this uid. A pod of another uid by the same name is a conflict.
fn on_pod(
    state: &mut State,
    variant: Variant,
    uid: u8,
    of: Attempt,
    change: impl FnOnce(&mut Pod) -> bool,
) -> Reply {
    let found = state.named(of).map(|pod| pod.uid);
    match found {
        None => Reply::NotFound,
        Some(found) if found != uid && variant != Variant::NoUid => Reply::Conflict,
        Some(uid) => change_pod(state, uid, change),
    }
}

/// Changes a pod, and takes it away where nothing keeps it.
pub fn change_pod(state: &mut State, uid: u8, change: impl FnOnce(&mut Pod) -> bool) -> Reply {
    let Some(place) = state.pods.iter().position(|pod| pod.uid == uid) else { return Reply::NotFound };
    let before = state.pods[place];
    let mut pod = before;
    if !change(&mut pod) {
        return Reply::Invalid;
    }
    if pod == before {
        return Reply::Pod(pod);
    }
    pod.version += 1;
    let pods = Arc::make_mut(&mut state.pods);
    if pod.deletion != Deletion::No && !pod.held && pod.has_ended() {
        pods.remove(place);
        state.places.retain(|place| place.pod != uid);
    } else {
        pods[place] = pod;
    }
    finish_foreground_deletion(state);
    invariants::check_pods(state);
    Reply::Pod(pod)
}

/// The task goes at once; the garbage collector sees to its pods.
pub fn remove_task(state: &mut State) {
    state.task = Read { version: state.task.version + 1, task: None };
}

/// A task that is deleted in the foreground goes once its last pod has gone.
pub fn finish_foreground_deletion(state: &mut State) {
    let Some(task) = state.task.task.filter(|task| task.deleting) else { return };
    if state.pods.iter().all(|pod| pod.foreign || pod.of.task != task.uid) {
        remove_task(state);
    }
}

/// Pods whose owner is gone, or is being deleted in the foreground, and which are not being deleted yet.
pub fn garbage(state: &State) -> impl Iterator<Item = &Pod> {
    let owner = state.task.task.filter(|task| !task.deleting).map(|task| task.uid);
    state
        .pods
        .iter()
        .filter(move |pod| !pod.foreign && Some(pod.of.task) != owner && pod.deletion == Deletion::No)
}

/// PVCs whose owner is gone.
pub fn garbage_pvcs(state: &State) -> impl Iterator<Item = u8> {
    let task = state.task.task.map(|task| task.uid);
    state.pvcs.iter().filter(move |pvc| pvc.is_owned && Some(pvc.task) != task).map(|pvc| pvc.task)
}

/// What a watch of pods shows: those with our labels.
pub fn watched(pods: &crate::state::Pods) -> crate::state::Pods {
    if pods.iter().any(|pod| pod.foreign) {
        Arc::new(pods.iter().filter(|pod| !pod.foreign).copied().collect())
    } else {
        pods.clone()
    }
}

/// Waits come to their end everywhere at once.
pub fn pass_time(state: &mut State) {
    let pass = |read: &mut Read| {
        if let Some(task) = &mut read.task {
            task.status = statuses::after_its_wait(task.status);
        }
    };
    pass(&mut state.task);
    state.replica.iter_mut().for_each(|replica| pass(&mut replica.0));
    for Operator { task, memory, run, .. } in &mut state.operators {
        pass(task);
        memory.answers().0.into_iter().for_each(pass);
        for run in run.iter_mut() {
            pass(run.sync.task_mut());
            each_task_in(&mut run.request, pass);
        }
    }
    for request in &mut state.late {
        if let Request::Status { before, .. } = request {
            *before = statuses::after_its_wait(*before);
        }
    }
}

/// Whether the task waits for time to pass.
pub fn waits_for_time(state: &State) -> bool {
    state.task.task.is_some_and(|task| statuses::get(task.status).is_held)
}
