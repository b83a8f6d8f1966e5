//! A counterexample in words.

use std::fmt::Write as _;

use agentloop_core::sync::{self, OrphanRequest};

use crate::handles::Modelled;
use crate::kubelet::Happening;
use crate::model::Step;
use crate::operator::{self, Fate};
use crate::state::{Attempt, Deletion, End, Operator, Pod, Request, Shown, State, StatusId};
use crate::statuses;
use crate::sweep;
use crate::user::Act;
use agentloop_test_support::invariants::Invariant;

/// The steps, numbered, one a line, and what they lead to.
pub fn tell(path: &[(State, Option<Step>)], invariant: Invariant, words: &str) -> String {
    let mut text = String::new();
    let steps = path.iter().filter_map(|(state, step)| step.map(|step| sentence(state, step)));
    for (number, sentence) in steps.enumerate() {
        let _ = writeln!(text, "{:>3}. {sentence}", number + 1);
    }
    let _ = writeln!(text, "     VIOLATED {}: {words}", invariant.name());
    if let Some((state, _)) = path.last() {
        let _ = writeln!(text, "     in the end: {}", shown(state));
    }
    text
}

fn shown(state: &State) -> String {
    let task = state
        .task
        .task
        .map_or_else(|| "no task".to_owned(), |task| format!("{} of task {}", status(task.status), task.uid));
    let pods: Vec<String> = state.pods.iter().map(pod_words).collect();
    format!("{task}; pods: {}", if pods.is_empty() { "none".to_owned() } else { pods.join(", ") })
}

fn attempt(of: Attempt) -> String {
    format!("iteration {} attempt {} of task {}", of.iteration, of.attempt, of.task)
}

/// A pod in words.
fn pod_words(pod: &Pod) -> String {
    let mut words = vec![format!("pod {} ({})", pod.uid, attempt(pod.of))];
    let mut when = |holds: bool, word: &str| {
        if holds {
            words.push(word.to_owned());
        }
    };
    when(pod.foreign, "somebody else's");
    when(pod.gated, "gated");
    when(pod.held, "held");
    when(pod.bound, "bound");
    when(pod.deletion != Deletion::No, "deleting");
    match pod.shown {
        Shown::Pending => {}
        Shown::Running => words.push("running".to_owned()),
        Shown::Ended(end) => words.push(format!("ended: {end:?}")),
    }
    words.join(" ")
}

fn status(id: StatusId) -> String {
    let view = statuses::get(id);
    if view.whole.is_none() {
        return "no status".to_owned();
    }
    let phase = view.phase.map_or_else(String::new, |phase| format!("{phase:?}"));
    let claim = view.active.map_or_else(
        || format!("nothing claimed (next attempt {})", view.next_attempt),
        |(iteration, attempt)| format!("claim {iteration}/{attempt}"),
    );
    let limit = view.limit.map_or_else(String::new, |limit| format!(" of {limit}"));
    format!(
        "status {phase}, {}{limit} iterations, {claim}, settings version {}",
        view.iterations, view.config_version
    )
}

fn by_uid(state: &State, uid: u8) -> String {
    state
        .pod(uid)
        .map_or_else(|| format!("pod {uid}, which is gone"), |pod| format!("pod {uid} ({})", attempt(pod.of)))
}

fn request_text(state: &State, request: &sync::Request<Modelled>) -> String {
    use sync::Request::{
        AddFinalizer, ConfirmTask, CreatePod, CreatePvc, DeletePod, DeleteTask, Gather, ListPreviousPods,
        ReadConfiguration, ReadEvents, ReadPod, ReadPvc, ReadTask, RemoveFinalizer, RemoveSchedulingGate,
        SetPvcOwner, WriteStatus,
    };
    match request {
        Gather => "gathers and decides".to_owned(),
        ReadEvents(pod) => format!("reads the Events of {}", by_uid(state, pod.uid)),
        WriteStatus { status: after, .. } => format!("writes {}", status(*after)),
        ReadTask => "reads the task from the API server".to_owned(),
        ConfirmTask => "reads the task from the API server before it acts".to_owned(),
        ReadConfiguration => {
            format!("reads the settings from the API server (version {})", state.settings + 1)
        }
        ListPreviousPods => "lists pods of previous tasks".to_owned(),
        ReadPod => "reads the pod of the active iteration's name".to_owned(),
        ReadPvc => "reads the PVC".to_owned(),
        CreatePvc => "creates the PVC".to_owned(),
        SetPvcOwner(_) => "sets the owner of the PVC".to_owned(),
        CreatePod => "creates the pod of the active iteration".to_owned(),
        RemoveSchedulingGate(pod) => format!("removes the scheduling gate of {}", by_uid(state, pod.uid)),
        AddFinalizer(pod) => format!("adds the finalizer to {}", by_uid(state, pod.uid)),
        DeletePod(pod) => format!("deletes {}", by_uid(state, pod.uid)),
        RemoveFinalizer { pod, .. } => format!("removes the finalizer from {}", by_uid(state, pod.uid)),
        DeleteTask(_) => "deletes the task".to_owned(),
    }
}

fn sweep_text(state: &State, request: &OrphanRequest<Modelled>) -> String {
    match request {
        OrphanRequest::ReadTask => "reads whether the task is gone".to_owned(),
        OrphanRequest::DeletePod(pod) => format!("deletes {}", by_uid(state, pod.uid)),
        OrphanRequest::RemoveFinalizer { pod, .. } => {
            format!("removes the finalizer from {}", by_uid(state, pod.uid))
        }
    }
}

fn fate_words(fate: Fate) -> &'static str {
    match fate {
        Fate::Answered => "",
        Fate::AnswerLost => "; it is done, the answer is lost",
        Fate::Lost => "; the request is lost",
        Fate::Delayed => "; it gives up, the request arrives later",
        Fate::Refused => "; the API server refuses",
        Fate::Overtaken => "; the API server gives up on it, others were faster",
    }
}

fn request_words(request: Request) -> String {
    match request {
        Request::Status { after, .. } => format!("write of {}", status(after)),
        Request::Create { of, .. } => format!("create of the pod of {}", attempt(of)),
        Request::Start { of, .. } => format!("start of the pod of {}", attempt(of)),
        Request::Hold { of, .. } => format!("finalizer on the pod of {}", attempt(of)),
        Request::Delete { of, .. } => format!("deletion of the pod of {}", attempt(of)),
        Request::CreatePvc { task, .. } => format!("create of the PVC of task {task}"),
        Request::SetPvcOwner { task, .. } => format!("change of the owner of the PVC of task {task}"),
        Request::Release { of, .. } => format!("release of the pod of {}", attempt(of)),
    }
}

fn seen_words(operator: &Operator) -> String {
    let task = operator.task.task.map_or_else(|| "no task".to_owned(), |task| status(task.status));
    let pods: Vec<String> = operator.pods.iter().map(pod_words).collect();
    format!("{task}; pods: {}", if pods.is_empty() { "none".to_owned() } else { pods.join(", ") })
}

/// One step in words.
pub fn sentence(state: &State, step: Step) -> String {
    match step {
        Step::Begin(who) => {
            format!(
                "operator {} looks at the task; its caches show {}",
                who + 1,
                seen_words(&state.operators[who])
            )
        }
        Step::Act(who, fate) => {
            let request = operator::next(&state.operators[who]);
            let text = request.map_or_else(String::new, |request| request_text(state, request));
            format!("operator {} {text}{}", who + 1, fate_words(fate))
        }
        Step::BeginSweep(who) => format!("operator {}'s sweep looks at a pod without a task", who + 1),
        Step::Sweep(who, fate) => {
            let request = sweep::next(&state.operators[who]);
            let text = request.map_or_else(String::new, |request| sweep_text(state, request));
            format!("operator {}'s sweep {text}{}", who + 1, fate_words(fate))
        }
        Step::SyncTask(who) => format!("operator {}'s cache of tasks catches up", who + 1),
        Step::SyncPods(who) => format!("operator {}'s cache of pods catches up", who + 1),
        Step::SyncSettings(who) => {
            format!("operator {} sees the settings of version {}", who + 1, state.settings + 1)
        }
        Step::Forget(who) => format!("operator {} forgets the answers to its writes", who + 1),
        Step::Crash(who, task, pods) => {
            let from = match (task, pods) {
                (false, false) => "",
                (true, false) => ", and lists tasks from a replica that lags",
                (false, true) => ", and lists pods from a replica that lags",
                (true, true) => ", and lists tasks and pods from a replica that lags",
            };
            format!("operator {} dies and starts again{from}", who + 1)
        }
        Step::Snapshot => format!("a replica of the API server stops following ({})", shown(state)),
        Step::Late(place) => {
            let request = state.late.get(place).copied();
            format!("the API server commits the delayed {}", request.map_or_else(String::new, request_words))
        }
        Step::Collect(pod) => format!("the garbage collector deletes {}", by_uid(state, pod)),
        Step::CollectPvc(task) => format!("the garbage collector deletes the PVC of task {task}"),
        Step::Happens(pod, what) => happening_words(&by_uid(state, pod), what),
        Step::TimePasses => "time passes: the wait is over".to_owned(),
        Step::User(act) => act_words(act),
    }
}

fn happening_words(pod: &str, what: Happening) -> String {
    match what {
        Happening::Bind => format!("the scheduler gives {pod} a node"),
        Happening::Start => format!("kubelet: the agent of {pod} starts"),
        Happening::ShowRunning => format!("kubelet: tells that {pod} runs"),
        Happening::End(End::NeverStarted) => format!("kubelet: {pod} ends before its agent started"),
        Happening::End(end) => format!("kubelet: the agent of {pod} ends: {end:?}"),
        Happening::Silence => format!("the node of {pod} goes silent"),
        Happening::Return => format!("the node of {pod} is heard again"),
        Happening::Collect => format!("the node of {pod} is off; the pod garbage collector ends the pod"),
        Happening::GrowOld => format!("the node of {pod} has been silent for long"),
    }
}

fn act_words(act: Act) -> String {
    match act {
        Act::Limit(limit) => format!("user: sets maxIterations to {limit}"),
        Act::Suspend => "user: suspends the task".to_owned(),
        Act::Resume => "user: resumes the task".to_owned(),
        Act::Reset => "user: sets another resetToken".to_owned(),
        Act::Template => "user: changes the template".to_owned(),
        Act::Goal => "user: changes the goal".to_owned(),
        Act::Workspace(workspace) => format!("user: wants the PVC {workspace:?} with the task"),
        Act::Delete => "user: deletes the task".to_owned(),
        Act::DeleteForeground => "user: deletes the task in the foreground".to_owned(),
        Act::Create => "user: creates a task of the same name".to_owned(),
        Act::DeletePod => "user: deletes the pod".to_owned(),
        Act::Configure => "administrator: changes the settings".to_owned(),
        Act::Squat => "user: makes a pod of the name that is next".to_owned(),
        Act::Unsquat => "user: removes the pod of that name".to_owned(),
    }
}
