//! The facts that the rules read from one pod.
//!
//! Counting depends on two of them: whether the pod has *ended*, and whether there is *proof* that its agent never
//! started.

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

/// If a pod has not started after this time, its Events are read.
const EVENTS_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// The facts about a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The uid of its controller.
    pub controller_uid: Option<String>,
    /// The uids of all its owners.
    pub owner_uids: Vec<String>,
    /// The uid of the task in its label.
    pub task_uid: Option<String>,
    /// Its iteration; 0 if the label is not a number.
    pub iteration: i32,
    /// Its attempt.
    pub attempt: i32,
    /// It has our scheduling gate, so it is not scheduled.
    pub has_scheduling_gate: bool,
    /// It has our finalizer, so it stays until the finalizer is removed.
    pub has_finalizer: bool,
    /// Its deletion timestamp: the time of the request plus the grace period.
    pub deletion: Option<Timestamp>,
    /// It is bound to a node.
    pub bound: bool,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// The hash of the template that it was created from.
    pub hash: Option<String>,
    /// The hash of the goal and of the completion policy at its creation; absent in the pod of an older operator.
    pub completion: Option<String>,
    /// The runner that it was created with, in the format of [`Injection::mark`](crate::pod::Injection::mark); absent
    /// in the pod of an older operator.
    pub runner: Option<String>,
    /// Why it must not be started, if an admission webhook changed it so.
    pub rejected: Option<&'static str>,
    /// A sidecar that delays the start of the agent, and since when it is running.
    pub slow: Option<(Timestamp, Obstacle)>,
    /// Its state.
    pub state: PodState,
}

/// The state of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodState {
    /// The agent's container has not started. The obstacle, if it is known.
    Starting(Option<Obstacle>),
    /// The agent is running.
    Running,
    /// The agent's container has ended at this time, but other containers are still running.
    AgentEnded(Option<Timestamp>),
    /// The pod has ended.
    Ended(Ending),
}

/// Why a pod cannot start yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Obstacle {
    /// The kind of obstacle.
    pub reason: WaitReason,
    /// The message of the component that reported it.
    pub message: String,
}

/// The relation of a pod with the name of the active pod to the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// It is the pod of the active iteration.
    Active,
    /// It was the pod of the active iteration until its owner references or labels were edited.
    Detached,
    /// It belongs to another owner.
    Foreign,
}

/// What happened to the agent in a pod that has ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Proven: the agent's container never started.
    NeverStarted {
        /// Why, as text.
        message: String,
    },
    /// The agent ran, or nothing proves that it did not.
    Ran(Box<AgentEnd>),
}

/// How an agent that ran has ended.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the facts are independent of each other; they are not states of one thing"
)]
pub struct AgentEnd {
    /// The runner's report, if it is whole and comes from the runner as far as the pod can show.
    pub report: Option<Report>,
    /// The pod has a report key: its runner signs reports, and reports whether the workspace is untouched.
    pub keyed: bool,
    /// The report is authentic whatever the exit code of the container is: it is signed with a key that only the runner
    /// could read.
    pub authentic: bool,
    /// The container's exit code.
    pub exit_code: Option<i32>,
    /// The container's or the pod's reason, such as `OOMKilled` or `Evicted`.
    pub reason: Option<String>,
    /// The pod was evicted, drained or deleted.
    pub disrupted: bool,
    /// The pod exceeded its `activeDeadlineSeconds`, the backstop behind the iteration's timeout.
    pub deadline: bool,
    /// The kubelet's message, if it evicted the pod because of the disk that the pod itself used. The next pod is
    /// likely to be evicted too.
    pub own_disk: Option<String>,
    /// A probe of the agent's container whose failure makes the kubelet stop the container.
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

    /// Whether the pod belongs to this task and is this attempt at this iteration.
    pub fn is_attempt(&self, task_uid: &str, iteration: i32, attempt: i32) -> bool {
        self.belongs_to(task_uid) && self.iteration == iteration && self.attempt == attempt
    }

    /// Whether the task of this uid controls the pod.
    pub fn belongs_to(&self, task_uid: &str) -> bool {
        self.controller_uid.as_deref() == Some(task_uid)
    }

    /// The relation of the pod to a task whose active pod has the same name.
    ///
    /// [`decide`](crate::decide) identifies the active pod by the same facts. If this function used others, the
    /// decision would ask for the same read again and again.
    pub fn relation(&self, task: &AgentTask) -> Relation {
        let uid = task.metadata.uid.as_deref().unwrap_or_default();
        let active = task.status.as_ref().and_then(|status| status.active.as_ref());
        let is_active = active.is_some_and(|active| {
            self.name == active.pod_name
                && self.task_uid.as_deref() == Some(uid)
                && self.is_attempt(uid, active.iteration, active.attempt)
        });
        // If anything still points to the task, its agent may be running in the pod.
        let points_to_task = self.has_finalizer
            || self.task_uid.as_deref() == Some(uid)
            || self.owner_uids.iter().any(|owner| owner == uid);
        match (is_active, points_to_task) {
            (true, _) => Relation::Active,
            (false, true) => Relation::Detached,
            (false, false) => Relation::Foreign,
        }
    }

    /// Whether the pod may be running for another task than the one with this uid. This includes a pod with a
    /// scheduling gate, because another operator may have confirmed its start just before the task was deleted.
    pub fn is_live_pod_of_another(&self, own_uid: Option<&str>) -> bool {
        self.task_uid.as_deref() != own_uid && self.ended().is_none()
    }

    /// How long the pod has been silent: it is bound to a node, has not started, and its status does not say why.
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

/// The container that runs the agent: the one that the operator named when it created the pod, if its command is still
/// the runner. In the pod of an older operator it is the first container with that command.
///
/// The command alone is not enough, because a template may have a second container that runs the runner's file. Neither
/// is the name `agent`, because the template may have changed since.
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

/// Why a pod that was created must not be started. A restart in place would be an uncounted iteration: in a test, a
/// restart rule ran an agent 70 times in five minutes.
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
