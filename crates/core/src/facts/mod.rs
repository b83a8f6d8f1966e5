//! What one pod tells about its iteration, and no more.
//!
//! The two facts that counting rests on are read here: whether the pod has *ended*, and whether there is
//! *proof* that its agent never started.

mod ending;
mod obstacle;
mod origin;

use agentloop_contract::{
    names::{
        ANNOTATION_AGENT, ANNOTATION_COMPLETION_HASH, ANNOTATION_RUNNER, ANNOTATION_TEMPLATE_HASH,
        FINALIZER_SETTLE, GATE_START, LABEL_ATTEMPT, LABEL_ITERATION, LABEL_TASK_UID, RUNNER_FILE,
    },
    report::Report,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod, PodCondition, PodStatus};

pub(crate) use obstacle::RUNNERS_IMAGE;
pub use obstacle::obstacle_from_events;

use crate::api::{AgentTask, WaitReason};

/// The Events of a pod that has not started after this are worth reading.
const EVENTS_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// What a pod tells.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The uid of the object that controls it.
    pub controller_uid: Option<String>,
    /// The uids of all its owners.
    pub owner_uids: Vec<String>,
    /// The uid of the task that its label names.
    pub task_uid: Option<String>,
    /// The iteration that it runs; 0 where its label is no number.
    pub iteration: i32,
    /// The attempt that it is.
    pub attempt: i32,
    /// Our scheduling gate is there: the pod is inert.
    pub has_scheduling_gate: bool,
    /// Our finalizer is there: the pod stays until it is released.
    pub has_finalizer: bool,
    /// When its deletion was asked for, grace included.
    pub deletion: Option<Timestamp>,
    /// It has a node.
    pub bound: bool,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Hash of what it was made from.
    pub hash: Option<String>,
    /// Hash of the goal and of what completes the task, as it was made from them; absent in the pod of an
    /// older operator.
    pub completion: Option<String>,
    /// The runner that it was made with, as [`Injection::mark`](crate::pod::Injection::mark) says it; absent
    /// in the pod of an older operator.
    pub runner: Option<String>,
    /// Why it must not be started: an admission webhook made it something else.
    pub rejected: Option<&'static str>,
    /// A sidecar that has not started yet and holds the agent, and since when it runs.
    pub slow: Option<(Timestamp, Obstacle)>,
    /// How far it has come.
    pub state: PodState,
}

/// How far a pod has come.
#[derive(Clone, Debug, PartialEq)]
pub enum PodState {
    /// The agent's container has not started; what stands in its way, where that is known.
    Starting(Option<Obstacle>),
    /// The agent runs.
    Running,
    /// The agent's container has ended; other containers keep the pod alive.
    AgentEnded(Option<Timestamp>),
    /// The pod has ended.
    Ended(Ending),
}

/// Why a pod cannot start yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Obstacle {
    /// What it is.
    pub reason: WaitReason,
    /// In the words of whoever told it.
    pub message: String,
}

/// What a pod of the active iteration's name is to the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// It is the pod of the active iteration.
    Active,
    /// It was the pod of the active iteration until its owner references or labels were edited.
    Estranged,
    /// It belongs to another owner.
    Foreign,
}

/// What became of the agent in a pod that has ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Proven: the agent's container never started.
    NeverStarted {
        /// Why, in words.
        message: String,
    },
    /// The agent ran, or nothing proves that it did not.
    Ran(Box<AgentEnd>),
}

/// How an agent that ran has ended.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; they are no states of one thing"
)]
pub struct AgentEnd {
    /// The runner's report, if it is whole and comes from the runner as far as the pod can show.
    pub report: Option<Report>,
    /// The pod has a key for reports: its runner can sign, and looks at the workspace closely.
    pub keyed: bool,
    /// The report is the runner's whatever the container's exit code: it is signed with a key that nothing
    /// but the runner could read.
    pub authentic: bool,
    /// The container's exit code.
    pub exit_code: Option<i32>,
    /// The container's or the pod's reason, such as `OOMKilled` or `Evicted`.
    pub reason: Option<String>,
    /// Somebody ended the pod: an eviction, a drain, a deletion.
    pub disrupted: bool,
    /// The pod's own deadline, the backstop behind the iteration's timeout, ran out.
    pub deadline: bool,
    /// The kubelet evicted the pod for the disk that it used itself, in these words: it will again.
    pub own_disk: Option<String>,
    /// A probe of the agent's container whose failure has the kubelet stop it.
    pub probe: Option<&'static str>,
    /// When the container started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

impl PodFacts {
    /// Reads a pod.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let label = |name: &str| meta.labels.as_ref().and_then(|labels| labels.get(name));
        let note = |name: &str| meta.annotations.as_ref().and_then(|notes| notes.get(name));
        let number = |name: &str| label(name).and_then(|text| text.parse::<i32>().ok());
        let spec = pod.spec.as_ref();
        let gates = spec.and_then(|s| s.scheduling_gates.as_deref()).unwrap_or_default();
        Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            controller_uid: meta
                .owner_references
                .iter()
                .flatten()
                .find(|owner| owner.controller == Some(true))
                .map(|owner| owner.uid.clone()),
            owner_uids: meta.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect(),
            task_uid: label(LABEL_TASK_UID).cloned(),
            iteration: number(LABEL_ITERATION).unwrap_or(0),
            attempt: number(LABEL_ATTEMPT).unwrap_or(0),
            has_scheduling_gate: gates.iter().any(|gate| gate.name == GATE_START),
            has_finalizer: meta.finalizers.iter().flatten().any(|name| name == FINALIZER_SETTLE),
            deletion: meta.deletion_timestamp.as_ref().map(|time| time.0),
            bound: spec.and_then(|s| s.node_name.as_deref()).is_some_and(|node| !node.is_empty()),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            hash: note(ANNOTATION_TEMPLATE_HASH).cloned(),
            completion: note(ANNOTATION_COMPLETION_HASH).cloned(),
            runner: note(ANNOTATION_RUNNER).cloned(),
            rejected: rejected(pod),
            slow: obstacle::slow_sidecar(pod),
            state: state(pod),
        }
    }

    /// Whether this is the pod of that attempt at that iteration, and this task's own.
    pub fn is_attempt(&self, task_uid: &str, iteration: i32, attempt: i32) -> bool {
        self.belongs_to(task_uid) && self.iteration == iteration && self.attempt == attempt
    }

    /// Whether the task of this uid controls the pod.
    pub fn belongs_to(&self, task_uid: &str) -> bool {
        self.controller_uid.as_deref() == Some(task_uid)
    }

    /// What the pod is to a task whose active iteration's pod has its name.
    ///
    /// The rules take a pod for the active one by the same marks. If an answer that is remembered had others, they
    /// would ask for the same read again and again.
    pub fn relation(&self, task: &AgentTask) -> Relation {
        let uid = task.metadata.uid.as_deref().unwrap_or_default();
        let active = task.status.as_ref().and_then(|status| status.active.as_ref());
        let is_active = active.is_some_and(|active| {
            self.name == active.pod_name
                && self.task_uid.as_deref() == Some(uid)
                && self.is_attempt(uid, active.iteration, active.attempt)
        });
        // Anything that still points to the task: the agent may be at work.
        let points_to_task = self.has_finalizer
            || self.task_uid.as_deref() == Some(uid)
            || self.owner_uids.iter().any(|owner| owner == uid);
        match (is_active, points_to_task) {
            (true, _) => Relation::Active,
            (false, true) => Relation::Estranged,
            (false, false) => Relation::Foreign,
        }
    }

    /// Whether the pod may be at work for another task than the one of this uid. A gated pod may: another operator may
    /// have confirmed its start just before its task was deleted.
    pub fn is_live_pod_of_another(&self, own_uid: Option<&str>) -> bool {
        self.task_uid.as_deref() != own_uid && self.ended().is_none()
    }

    /// How long the pod has been silent, if it is bound to a node, has not started, and its status does not say why.
    pub fn is_silent_for(&self, now: Timestamp) -> Option<SignedDuration> {
        let is_silent = self.state == PodState::Starting(None) && self.bound && self.deletion.is_none();
        let silent = now.duration_since(self.created?).checked_sub(EVENTS_AFTER)?;
        (is_silent && !silent.is_negative()).then_some(silent)
    }

    /// The pod has ended: nothing of it runs or ever will.
    pub fn ended(&self) -> Option<&Ending> {
        match &self.state {
            PodState::Ended(ending) => Some(ending),
            _ => None,
        }
    }
}

/// The container that runs the agent: the one that the operator named when it made the pod, and whose
/// command is still the runner. In the pod of an older operator it is the first with that command.
///
/// The command alone does not tell: a template may have a second container that runs the runner's file.
/// The name `agent` does not tell either: the template may have changed since.
fn agent(pod: &Pod) -> Option<&Container> {
    let runs_runner = |container: &&Container| {
        container.command.as_ref().and_then(|c| c.first()).is_some_and(|program| program == RUNNER_FILE)
    };
    let name = pod.metadata.annotations.as_ref().and_then(|notes| notes.get(ANNOTATION_AGENT));
    let is_named = |container: &&Container| name.is_none_or(|name| container.name == *name);
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    containers.iter().find(|container| is_named(container) && runs_runner(container))
}

fn agent_name(pod: &Pod) -> Option<&str> {
    agent(pod).map(|container| container.name.as_str())
}

fn agent_status<'a>(pod: &Pod, status: &'a PodStatus) -> Option<&'a ContainerStatus> {
    let name = agent_name(pod)?;
    status.container_statuses.iter().flatten().find(|status| status.name == name)
}

/// Why a pod that was created must not be started. Restarts in place would be iterations that nobody
/// counts: a restart rule re-ran an agent 70 times in five minutes.
fn rejected(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let agent = agent_name(pod);
    if agent.is_none() {
        return Some(
            "no container runs agentloop's runner: an admission webhook changed the agent's command",
        );
    }
    if spec.restart_policy.as_deref().is_some_and(|policy| policy != "Never") {
        return Some("an admission webhook changed the pod's restartPolicy");
    }
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in all {
        let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
        if rules.iter().any(|rule| rule.action == "RestartAllContainers") {
            return Some(
                "a container may restart all containers, which would run the agent again without counting it",
            );
        }
        let is_agent = Some(container.name.as_str()) == agent;
        let restarts = container.restart_policy.as_deref().is_some_and(|policy| policy != "Never");
        if is_agent && (restarts || !rules.is_empty()) {
            return Some(
                "the agent's container may be restarted in place, which would run the agent again without counting it",
            );
        }
    }
    None
}

fn state(pod: &Pod) -> PodState {
    let empty = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
    let deleting = pod.metadata.deletion_timestamp.is_some();
    let terminal = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if terminal || (deleting && !bound) {
        return PodState::Ended(ending::ending(pod, status, bound));
    }
    match agent_status(pod, status).and_then(|agent| agent.state.as_ref()) {
        Some(ContainerState { running: Some(_), .. }) => PodState::Running,
        Some(ContainerState { terminated: Some(end), .. }) => {
            PodState::AgentEnded(end.finished_at.as_ref().map(|time| time.0))
        }
        _ => PodState::Starting(obstacle::obstacle(pod, status)),
    }
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}
