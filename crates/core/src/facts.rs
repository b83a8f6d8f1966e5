//! What one pod tells about its iteration, and no more.
//!
//! The two facts that counting rests on are read here: whether the pod has *ended*, and whether there is
//! *proof* that its agent never started.

use agentloop_contract::{
    names::{
        ANNOTATION_TEMPLATE_HASH, FINALIZER_SETTLE, GATE_START, LABEL_ATTEMPT, LABEL_ITERATION,
        LABEL_TASK_UID, RUNNER_FILE,
    },
    report::{End, Report},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::api::WaitReason;

/// How far the clocks of a node and of the API server may lie apart.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(10);

/// What a pod tells.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The uid of the object that controls it.
    pub controller_uid: Option<String>,
    /// The uid of the task that its label names.
    pub task_uid: Option<String>,
    /// The iteration that it runs; 0 where its label is no number.
    pub iteration: i32,
    /// The attempt that it is.
    pub attempt: i32,
    /// Our scheduling gate is there: the pod is inert.
    pub gated: bool,
    /// Our finalizer is there: the pod stays until it is released.
    pub held: bool,
    /// When its deletion was asked for, grace included.
    pub deletion: Option<Timestamp>,
    /// It has a node.
    pub bound: bool,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Hash of what it was made from.
    pub hash: Option<String>,
    /// Why it must not be started: an admission webhook made it something else.
    pub unfit: Option<&'static str>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is.
    pub reason: WaitReason,
    /// In the words of whoever told it.
    pub detail: String,
}

/// What became of the agent in a pod that has ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Proven: the agent's container never started.
    NeverStarted {
        /// Why, in words.
        detail: String,
    },
    /// The agent ran, or nothing proves that it did not.
    Ran(Box<AgentEnd>),
}

/// How an agent that ran has ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentEnd {
    /// The runner's report, where it is whole and agrees with the container's exit code.
    pub report: Option<Report>,
    /// The container's exit code.
    pub exit_code: Option<i32>,
    /// The container's or the pod's reason, such as `OOMKilled` or `Evicted`.
    pub reason: Option<String>,
    /// Somebody ended the pod: an eviction, a drain, a deletion.
    pub disrupted: bool,
    /// The pod's own deadline, the backstop behind the iteration's timeout, ran out.
    pub deadline: bool,
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
            task_uid: label(LABEL_TASK_UID).cloned(),
            iteration: number(LABEL_ITERATION).unwrap_or(0),
            attempt: number(LABEL_ATTEMPT).unwrap_or(0),
            gated: gates.iter().any(|gate| gate.name == GATE_START),
            held: meta.finalizers.iter().flatten().any(|name| name == FINALIZER_SETTLE),
            deletion: meta.deletion_timestamp.as_ref().map(|time| time.0),
            bound: spec.and_then(|s| s.node_name.as_deref()).is_some_and(|node| !node.is_empty()),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            hash: meta.annotations.as_ref().and_then(|a| a.get(ANNOTATION_TEMPLATE_HASH)).cloned(),
            unfit: unfit(pod),
            state: state(pod),
        }
    }

    /// Whether this is the pod of that attempt at that iteration, and this task's own.
    pub fn is_of(&self, task_uid: &str, iteration: i32, attempt: i32) -> bool {
        self.belongs_to(task_uid) && self.iteration == iteration && self.attempt == attempt
    }

    /// Whether the task of this uid controls the pod.
    pub fn belongs_to(&self, task_uid: &str) -> bool {
        self.controller_uid.as_deref() == Some(task_uid)
    }

    /// The pod has ended: nothing of it runs or ever will.
    pub fn ended(&self) -> Option<&Ending> {
        match &self.state {
            PodState::Ended(ending) => Some(ending),
            _ => None,
        }
    }
}

/// The container that runs the agent: the one whose command is the runner.
///
/// Not the only one, and not the one named `agent`: webhooks add containers, and the template may have
/// changed since.
fn agent_name(pod: &Pod) -> Option<&str> {
    let is_agent = |command: &Option<Vec<String>>| {
        command.as_ref().and_then(|c| c.first()).is_some_and(|program| program == RUNNER_FILE)
    };
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    containers.iter().find(|c| is_agent(&c.command)).map(|c| c.name.as_str())
}

fn agent_status<'a>(pod: &Pod, status: &'a PodStatus) -> Option<&'a ContainerStatus> {
    let name = agent_name(pod)?;
    status.container_statuses.iter().flatten().find(|status| status.name == name)
}

/// Why a pod that was created must not be started. Restarts in place would be iterations that nobody
/// counts: a restart rule re-ran an agent 70 times in five minutes.
fn unfit(pod: &Pod) -> Option<&'static str> {
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
            return Some("a container may restart all containers, which would run the agent again uncounted");
        }
        let is_agent = Some(container.name.as_str()) == agent;
        let restarts = container.restart_policy.as_deref().is_some_and(|policy| policy != "Never");
        if is_agent && (restarts || !rules.is_empty()) {
            return Some("the agent's container may restart in place, which would run it again uncounted");
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
        return PodState::Ended(ending(pod, status, bound));
    }
    match agent_status(pod, status).and_then(|agent| agent.state.as_ref()) {
        Some(ContainerState { running: Some(_), .. }) => PodState::Running,
        Some(ContainerState { terminated: Some(end), .. }) => {
            PodState::AgentEnded(end.finished_at.as_ref().map(|time| time.0))
        }
        _ => PodState::Starting(obstacle(pod, status)),
    }
}

/// The pod garbage collector ended the pod: it writes Failed over whatever the kubelet last said.
fn ended_by_garbage_collector(status: &PodStatus) -> bool {
    condition(status, "DisruptionTarget").is_some_and(|c| c.reason.as_deref() == Some("DeletionByPodGC"))
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

fn ending(pod: &Pod, status: &PodStatus, bound: bool) -> Ending {
    let agent = agent_status(pod, status);
    let terminated = agent.and_then(|agent| agent.state.as_ref()).and_then(|state| state.terminated.as_ref());
    // What the kubelet last wrote proves something only where the kubelet also wrote the end. Without a
    // status of any container none was ever made; with those of others only, the agent may be one of them.
    let no_containers = status.container_statuses.as_deref().unwrap_or_default().is_empty();
    let proven =
        !bound || (!ended_by_garbage_collector(status) && agent.map_or(no_containers, never_started));
    if proven {
        return Ending::NeverStarted { detail: why_never_started(pod, status, terminated) };
    }
    let reason = terminated.and_then(|end| end.reason.clone());
    let pod_reason = status.reason.clone();
    let deadline = pod_reason.as_deref() == Some("DeadlineExceeded");
    let exit_code = terminated.map(|end| end.exit_code);
    let finished = terminated.and_then(|end| started(end.finished_at.as_ref()));
    Ending::Ran(Box::new(AgentEnd {
        report: terminated
            .and_then(|end| end.message.as_deref())
            .and_then(|message| Report::decode(message).ok())
            .filter(|report| agrees(report, exit_code)),
        exit_code,
        disrupted: was_disrupted(pod, status, finished) || (pod_reason.is_some() && !deadline),
        deadline,
        reason: reason.filter(|reason| reason != "Error" && reason != "Completed").or(pod_reason),
        started: terminated.and_then(|end| started(end.started_at.as_ref())),
        finished,
    }))
}

/// Whether somebody asked for the pod's end before the agent's container had ended. A pod is also deleted
/// because its other containers go on without the agent, and evicted after it had succeeded.
fn was_disrupted(pod: &Pod, status: &PodStatus, finished: Option<Timestamp>) -> bool {
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0 - grace);
    let target = condition(status, "DisruptionTarget")
        .map(|condition| condition.last_transition_time.as_ref().map(|time| time.0));
    let came_first = |asked: Timestamp| finished.is_none_or(|finished| asked <= finished + CLOCKS_DIFFER);
    deleted.is_some_and(came_first) || target.is_some_and(|asked| asked.is_none_or(came_first))
}

/// A report counts only with the exit code that goes with it: whoever writes a report and then has the
/// runner killed leaves another.
fn agrees(report: &Report, container: Option<i32>) -> bool {
    let expected = match report.end {
        End::Exited => report.exit_code.or(report.signal.map(|signal| 128 + signal)),
        End::TimedOut => Some(124),
        End::Interrupted => Some(143),
        End::CommandNotFound => return matches!(container, Some(126 | 127)),
        End::AlreadyRan | End::RunnerFailed => return container != Some(0),
    };
    expected == container
}

/// Proof, in all that the kubelet tells of a container, that it never started. A kubelet that lost sight
/// of a container that ran writes the same state as for one that never did, and tells them apart only by
/// the last state or the count of restarts (kubernetes/kubernetes#95364).
fn never_started(container: &ContainerStatus) -> bool {
    let ran = |state: Option<&ContainerState>| {
        state.is_some_and(|state| {
            state.running.is_some() || state.terminated.as_ref().is_some_and(|end| !never_ran(end))
        })
    };
    container.restart_count == 0 && !ran(container.state.as_ref()) && !ran(container.last_state.as_ref())
}

/// A container that the kubelet reports as ended without ever having started: the runtime could not start
/// it (`StartError`, with the epoch as its start), or nothing of it was ever found.
fn never_ran(end: &ContainerStateTerminated) -> bool {
    let started = started(end.started_at.as_ref()).is_some();
    let was_seen_running =
        end.message.as_deref().is_some_and(|message| message.contains("used to be Running"));
    match end.reason.as_deref() {
        Some("StartError" | "ContainerStatusUnknown") => !started && !was_seen_running,
        _ => false,
    }
}

/// A time that is not the epoch, which container runtimes write for "never".
fn started(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|time| time.0).filter(|time| time.as_second() > 0)
}

fn why_never_started(pod: &Pod, status: &PodStatus, terminated: Option<&ContainerStateTerminated>) -> String {
    let failed_init = status.init_container_statuses.iter().flatten().find_map(|init| {
        let end = init.state.as_ref()?.terminated.as_ref()?;
        (end.exit_code != 0).then(|| {
            let reason = end.reason.as_deref().unwrap_or("Error");
            let message = end.message.as_deref().map(|m| format!(": {m}")).unwrap_or_default();
            format!("init container {} ended with exit code {} ({reason}){message}", init.name, end.exit_code)
        })
    });
    let start_error = terminated
        .filter(|end| end.reason.as_deref() == Some("StartError"))
        .and_then(|end| end.message.clone())
        .map(|message| format!("the agent's container could not be started: {message}"));
    let told = status.message.clone().map(|message| match &status.reason {
        Some(reason) => format!("{reason}: {message}"),
        None => message,
    });
    failed_init.or(start_error).or(told).or_else(|| status.reason.clone()).unwrap_or_else(|| {
        let how = if pod.metadata.deletion_timestamp.is_some() { "was deleted" } else { "ended" };
        format!("the pod {how} before its agent started")
    })
}

/// Reasons for which the kubelet keeps a container waiting because of its image.
const IMAGE_REASONS: &[&str] = &[
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];

/// Reasons for which the kubelet cannot make a container and tries again.
const CREATE_REASONS: &[&str] = &[
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "PreCreateHookError",
    "PreStartHookError",
];

fn obstacle(pod: &Pod, status: &PodStatus) -> Option<Obstacle> {
    let scheduled = condition(status, "PodScheduled").filter(|condition| condition.status == "False");
    if let Some(condition) = scheduled {
        let detail = condition.message.clone().unwrap_or_default();
        return match condition.reason.as_deref() {
            Some("SchedulingGated") => {
                let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_deref()).unwrap_or_default();
                let others: Vec<&str> =
                    gates.iter().map(|gate| gate.name.as_str()).filter(|name| *name != GATE_START).collect();
                (!others.is_empty()).then(|| Obstacle {
                    reason: WaitReason::SchedulingGated,
                    detail: format!("scheduling gate {}", others.join(", ")),
                })
            }
            Some(_) if detail.to_lowercase().contains("persistentvolumeclaim") => {
                Some(Obstacle { reason: WaitReason::VolumePending, detail })
            }
            Some(_) => Some(Obstacle { reason: WaitReason::Unschedulable, detail }),
            None => None,
        };
    }
    let containers =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in containers {
        let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) else {
            continue;
        };
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let told = waiting.message.as_deref().unwrap_or(reason);
        if IMAGE_REASONS.contains(&reason) {
            let detail = format!("container {}: {told}", container.name);
            return Some(Obstacle { reason: WaitReason::ImagePull, detail });
        }
        if CREATE_REASONS.contains(&reason) {
            let detail = format!("container {}: {reason}: {told}", container.name);
            return Some(Obstacle { reason: WaitReason::StartFailed, detail });
        }
    }
    None
}

/// The obstacle that a pod's Events tell, where its status is silent: a volume that cannot be mounted
/// shows as `ContainerCreating` and no more.
pub fn obstacle_from_events<'a>(
    events: impl IntoIterator<Item = (&'a str, &'a str)>,
    input_volume: &str,
) -> Option<Obstacle> {
    events.into_iter().find_map(|(reason, message)| {
        let reason = match reason {
            "FailedMount" if message.contains(&format!("\"{input_volume}\"")) => WaitReason::PromptMissing,
            "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => WaitReason::VolumePending,
            "FailedCreatePodSandBox" => WaitReason::StartFailed,
            _ => return None,
        };
        Some(Obstacle { reason, detail: message.to_owned() })
    })
}
