//! A counterexample as text.

use std::fmt::Write as _;

use agentloop_core::sync::{OrphanRequest, Request, UninstallRequest};
use agentloop_test_support::invariants::Invariant;

use crate::api::{
    Attempt, Deletion, ModelPod, ModelPodId, ModelPods, PodEnd, PodProgress, StatusId, TaskVersion,
    WriteRequest,
};
use crate::handles::Modelled;
use crate::kubelet::PodEvent;
use crate::operator;
use crate::orphans;
use crate::requests::RequestOutcome;
use crate::state::ModelState;
use crate::statuses;
use crate::system::Transition;
use crate::uninstall;
use crate::user::UserAction;

/// The transitions, numbered, one per line, and what they lead to.
pub fn text(path: &[(ModelState, Option<Transition>)], invariant: Invariant, violation: &str) -> String {
    let mut text = String::new();
    let sentences =
        path.iter().filter_map(|(state, transition)| transition.map(|next| sentence(state, next)));
    for (index, sentence) in sentences.enumerate() {
        let _ = writeln!(text, "{:>3}. {sentence}", index + 1);
    }
    let _ = writeln!(text, "     VIOLATED {}: {violation}", invariant.name());
    if let Some((state, _)) = path.last() {
        let _ = writeln!(text, "     at the end: {}", objects(state.task, &state.pods));
    }
    text
}

/// A task and its pods.
fn objects(read: TaskVersion, pods: &ModelPods) -> String {
    let task = read
        .task
        .map_or_else(|| "no task".to_owned(), |task| format!("{} of task {}", status(task.status), task.uid));
    let pods: Vec<String> = pods.iter().map(pod_text).collect();
    format!("{task}; pods: {}", if pods.is_empty() { "none".to_owned() } else { pods.join(", ") })
}

fn attempt(of: Attempt) -> String {
    format!("iteration {} attempt {} of task {}", of.iteration, of.attempt, of.task)
}

fn pod_text(pod: &ModelPod) -> String {
    let mut text = vec![format!("pod {} ({})", pod.uid, attempt(pod.of))];
    let mut when = |holds: bool, word: &str| {
        if holds {
            text.push(word.to_owned());
        }
    };
    when(pod.foreign, "of someone else");
    when(pod.has_scheduling_gate, "with scheduling gate");
    when(pod.has_finalizer, "with finalizer");
    when(pod.bound, "bound");
    when(pod.deletion != Deletion::No, "being deleted");
    match pod.progress {
        PodProgress::Pending => {}
        PodProgress::Running => text.push("running".to_owned()),
        PodProgress::Ended(end) => text.push(format!("ended: {end:?}")),
    }
    text.join(" ")
}

fn status(id: StatusId) -> String {
    let view = statuses::get(id);
    if view.whole.is_none() {
        return "no status".to_owned();
    }
    let phase = view.phase.map_or_else(String::new, |phase| format!("{phase:?}"));
    let orphaned = if view.orphaned { " (orphaned)" } else { "" };
    let active = view.active.map_or_else(
        || format!("no active iteration (next attempt {})", view.next_attempt),
        |(iteration, attempt)| format!("active iteration {iteration} attempt {attempt}{orphaned}"),
    );
    let limit = view.limit.map_or_else(String::new, |limit| format!(" of {limit}"));
    let served = view.served_by.map_or_else(String::new, |by| format!(", served by release {by}"));
    format!(
        "status {phase}, {}{limit} iterations, {active}, settings version {}{served}",
        view.iterations, view.config_version
    )
}

fn by_uid(state: &ModelState, uid: u8) -> String {
    state
        .pod(uid)
        .map_or_else(|| format!("pod {uid}, which is gone"), |pod| format!("pod {uid} ({})", attempt(pod.of)))
}

fn request_text(state: &ModelState, request: &Request<Modelled>) -> String {
    let pod = |pod: &ModelPodId| by_uid(state, pod.uid);
    match request {
        Request::Gather => "reads its caches and decides".to_owned(),
        Request::ReadEvents(id) => format!("reads the Events of {}", pod(id)),
        Request::WriteStatus { status: after, .. } => format!("writes {}", status(*after)),
        Request::ReadTask => "reads the task from the API server".to_owned(),
        Request::ConfirmTask => "reads the task from the API server before it starts the pod".to_owned(),
        Request::ReadConfiguration => {
            format!("reads the ConfigMap from the API server (version {})", state.config_map + 1)
        }
        Request::ListPreviousPods => "lists pods of previous tasks".to_owned(),
        Request::ReadPod => "reads the pod of the active iteration".to_owned(),
        Request::ReadPvc => "reads the PVC".to_owned(),
        Request::CreatePvc => "creates the PVC".to_owned(),
        Request::SetPvcOwner(_) => "sets the owner of the PVC".to_owned(),
        Request::CreatePod => "creates the pod of the active iteration".to_owned(),
        Request::RemoveSchedulingGate(id) => format!("removes the scheduling gate of {}", pod(id)),
        Request::AddFinalizer(id) => format!("adds the finalizer to {}", pod(id)),
        Request::DeletePod(id) => format!("deletes {}", pod(id)),
        Request::RemoveFinalizer { pod: id, .. } => format!("removes the finalizer from {}", pod(id)),
        Request::DeleteTask(_) => "deletes the task".to_owned(),
    }
}

fn orphan_request_text(state: &ModelState, request: &OrphanRequest<Modelled>) -> String {
    match request {
        OrphanRequest::ReadTask => "reads whether the task of an orphaned pod is gone".to_owned(),
        OrphanRequest::DeletePod(pod) => format!("deletes the orphaned {}", by_uid(state, pod.uid)),
        OrphanRequest::RemoveFinalizer { pod, .. } => {
            format!("removes the finalizer from the orphaned {}", by_uid(state, pod.uid))
        }
    }
}

fn uninstall_request_text(state: &ModelState, request: &UninstallRequest<Modelled>) -> String {
    match request {
        UninstallRequest::ListPods => "lists the pods that have our finalizer".to_owned(),
        UninstallRequest::ListTasks => "lists the tasks".to_owned(),
        UninstallRequest::WriteStatus { status: after, .. } => format!("writes {}", status(*after)),
        UninstallRequest::ReadTask(_) => "reads the task".to_owned(),
        UninstallRequest::RemoveFinalizer(pod) => {
            format!("removes the finalizer from {}", by_uid(state, pod.uid))
        }
        UninstallRequest::Pause => "waits".to_owned(),
    }
}

fn outcome_text(outcome: RequestOutcome) -> &'static str {
    match outcome {
        RequestOutcome::Answered => "",
        RequestOutcome::AnswerLost => "; it is carried out, the answer is lost",
        RequestOutcome::RequestLost => "; the request is lost",
        RequestOutcome::Delayed => "; it gives up, the request arrives later",
        RequestOutcome::Refused => "; the API server refuses",
        RequestOutcome::PatchConflict => "; the API server gives up on it because other writes were faster",
    }
}

fn write_text(request: WriteRequest) -> String {
    match request {
        WriteRequest::Status { after, .. } => format!("write of {}", status(after)),
        WriteRequest::Mark { after, .. } => format!("write of the uninstall of {}", status(after)),
        WriteRequest::CreatePod { of, .. } => format!("creation of the pod of {}", attempt(of)),
        WriteRequest::RemoveSchedulingGate(pod) => {
            format!("removal of the scheduling gate of the pod of {}", attempt(pod.of))
        }
        WriteRequest::AddFinalizer(pod) => format!("finalizer on the pod of {}", attempt(pod.of)),
        WriteRequest::DeletePod(pod) => format!("deletion of the pod of {}", attempt(pod.of)),
        WriteRequest::RemoveFinalizer(pod) => {
            format!("removal of the finalizer from the pod of {}", attempt(pod.of))
        }
        WriteRequest::CreatePvc { task, .. } => format!("creation of the PVC of task {task}"),
        WriteRequest::SetPvcOwner { task, .. } => format!("change of the owner of the PVC of task {task}"),
    }
}

/// One transition as a sentence.
fn sentence(state: &ModelState, transition: Transition) -> String {
    match transition {
        Transition::BeginReconcile(id) => {
            let operator = &state.operators[id];
            let seen = objects(operator.task, &operator.pods);
            format!("operator {} begins a reconcile; its caches show {seen}", id + 1)
        }
        Transition::PerformRequest(id, outcome) => {
            let request = operator::next_request(&state.operators[id]);
            let text = request.map_or_else(String::new, |request| request_text(state, request));
            format!("operator {} {text}{}", id + 1, outcome_text(outcome))
        }
        Transition::BeginOrphanCheck(id) => {
            format!("operator {} begins the check of a pod without a task", id + 1)
        }
        Transition::PerformOrphanRequest(id, outcome) => {
            let request = orphans::next_request(&state.operators[id]);
            let text = request.map_or_else(String::new, |request| orphan_request_text(state, request));
            format!("operator {} {text}{}", id + 1, outcome_text(outcome))
        }
        Transition::SyncTask(id) => format!("the task cache of operator {} catches up", id + 1),
        Transition::SyncPods(id) => format!("the pod cache of operator {} catches up", id + 1),
        Transition::SyncConfigMap(id) => {
            format!("operator {} observes version {} of the ConfigMap", id + 1, state.config_map + 1)
        }
        Transition::ForgetAnswers(id) => format!("operator {} forgets the answers to its writes", id + 1),
        Transition::Crash(id, task, pods) => {
            let from = match (task, pods) {
                (false, false) => "",
                (true, false) => ", and lists tasks from a replica that lags",
                (false, true) => ", and lists pods from a replica that lags",
                (true, true) => ", and lists tasks and pods from a replica that lags",
            };
            format!("operator {} dies and restarts{from}", id + 1)
        }
        Transition::StopOperator(id) => format!("operator {} stops", id + 1),
        Transition::InstallOperator(id) => format!("operator {} is installed", id + 1),
        Transition::BeginUninstall => "the uninstall of release 0 begins".to_owned(),
        Transition::PerformUninstallRequest(outcome) => {
            let request = uninstall::next_request(state);
            let text = request.map_or_else(String::new, |request| uninstall_request_text(state, request));
            format!("the uninstall {text}{}", outcome_text(outcome))
        }
        Transition::CrashUninstall => "the uninstall dies and begins again".to_owned(),
        Transition::FreezeReplica => {
            format!("a replica of the API server stops following ({})", objects(state.task, &state.pods))
        }
        Transition::CommitDelayed(index) => {
            let request = state.delayed_writes.get(index).copied();
            let text = request.map_or_else(String::new, write_text);
            format!("the API server carries out the delayed {text}")
        }
        Transition::DeleteGarbage(pod) => format!("the garbage collector deletes {}", by_uid(state, pod)),
        Transition::DeleteGarbagePvc(task) => {
            format!("the garbage collector deletes the PVC of task {task}")
        }
        Transition::Pod(pod, event) => event_text(&by_uid(state, pod), event),
        Transition::TimePasses => "time passes: the wait is over".to_owned(),
        Transition::User(action) => action_text(action),
    }
}

fn event_text(pod: &str, event: PodEvent) -> String {
    match event {
        PodEvent::Bind => format!("the scheduler binds {pod} to a node"),
        PodEvent::StartAgent => format!("kubelet: the agent of {pod} starts"),
        PodEvent::ReportRunning => format!("kubelet: reports that {pod} runs"),
        PodEvent::End(PodEnd::NeverStarted) => format!("kubelet: {pod} ends before its agent started"),
        PodEvent::End(end) => format!("kubelet: the agent of {pod} ends: {end:?}"),
        PodEvent::NodeGoesSilent => format!("the node of {pod} goes silent"),
        PodEvent::NodeReturns => format!("the node of {pod} reports again"),
        PodEvent::CollectByPodGc => {
            format!("the node of {pod} is off; the pod garbage collector ends the pod")
        }
        PodEvent::DeletionAges => format!("the node of {pod} has been silent for a long time"),
    }
}

fn action_text(action: UserAction) -> String {
    match action {
        UserAction::SetLimit(limit) => format!("user: sets maxIterations to {limit}"),
        UserAction::Suspend => "user: suspends the task".to_owned(),
        UserAction::Resume => "user: resumes the task".to_owned(),
        UserAction::SetResetToken => "user: sets another resetToken".to_owned(),
        UserAction::ChangeTemplate => "user: changes the template".to_owned(),
        UserAction::ChangeGoal => "user: changes the goal".to_owned(),
        UserAction::SetWorkspacePolicy(policy) => format!("user: sets whenDeleted of the PVC to {policy:?}"),
        UserAction::DeleteTask => "user: deletes the task".to_owned(),
        UserAction::DeleteTaskInForeground => "user: deletes the task in the foreground".to_owned(),
        UserAction::CreateTask => "user: creates a task of the same name".to_owned(),
        UserAction::DeletePod => "user: deletes the pod".to_owned(),
        UserAction::ChangeConfigMap => "administrator: changes the ConfigMap".to_owned(),
        UserAction::CreateForeignPod => "user: creates a pod with the name of the first pod".to_owned(),
        UserAction::DeleteForeignPod => "user: deletes that pod".to_owned(),
    }
}
