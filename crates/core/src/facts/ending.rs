//! What happened to the agent in a pod that has ended.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    AgentEnd, Ending, agent_status, condition,
    origin::{self, Origin},
};
use crate::time::later;

/// How much the clocks of a node and of the API server may differ.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(10);

/// The pod garbage collector ended the pod: it sets the phase Failed, whatever the kubelet last reported.
fn ended_by_garbage_collector(status: &PodStatus) -> bool {
    condition(status, "DisruptionTarget").is_some_and(|c| c.reason.as_deref() == Some("DeletionByPodGC"))
}

pub(super) fn ending(pod: &Pod, status: &PodStatus, bound: bool) -> Ending {
    let agent = agent_status(pod, status);
    let terminated = agent.and_then(|agent| agent.state.as_ref()).and_then(|state| state.terminated.as_ref());
    // The status of the containers proves something only if the kubelet also wrote the end of the pod. Without any
    // container status, no container was ever created. With the status of other containers only, the agent's container
    // may be one of them under another name.
    let no_containers = status.container_statuses.as_deref().unwrap_or_default().is_empty();
    let proven =
        !bound || (!ended_by_garbage_collector(status) && agent.map_or(no_containers, never_started));
    if proven {
        return Ending::NeverStarted { message: why_never_started(pod, status, terminated) };
    }
    let reason = terminated.and_then(|end| end.reason.clone());
    let pod_reason = status.reason.clone();
    let deadline = pod_reason.as_deref() == Some("DeadlineExceeded");
    let exit_code = terminated.map(|end| end.exit_code);
    let finished = terminated.and_then(|end| started(end.finished_at.as_ref()));
    let message = terminated.and_then(|end| end.message.as_deref()).unwrap_or_default();
    let Origin { report, keyed, authentic } = origin::read(super::agent(pod), message, exit_code);
    let own_disk = own_disk(status);
    let by_kubelet = pod_reason.is_some() && !deadline && own_disk.is_none();
    Ending::Ran(Box::new(AgentEnd {
        report,
        keyed,
        authentic,
        exit_code,
        disrupted: was_disrupted(pod, status, finished) || by_kubelet,
        deadline,
        own_disk,
        probe: super::agent(pod).and_then(stopping_probe),
        reason: reason.filter(|reason| reason != "Error" && reason != "Completed").or(pod_reason),
        started: terminated.and_then(|end| started(end.started_at.as_ref())),
        finished,
    }))
}

/// The kubelet's message if it evicted the pod because the pod used more disk than a limit in its template allows. Then
/// the pod has no condition `DisruptionTarget`, unlike when the node runs out of a resource (`eviction_manager.go`,
/// `localStorageEviction`).
fn own_disk(status: &PodStatus) -> Option<String> {
    const PHRASES: &[&str] = &[
        "Pod ephemeral local storage usage exceeds",
        "exceeded its local ephemeral storage limit",
        "Usage of EmptyDir volume",
    ];
    let is_evicted = status.reason.as_deref() == Some("Evicted");
    let message = status.message.as_deref().filter(|_| is_evicted)?;
    let is_own = PHRASES.iter().any(|phrase| message.contains(phrase));
    (is_own && condition(status, "DisruptionTarget").is_none()).then(|| message.trim().to_owned())
}

/// A probe whose failure makes the kubelet stop the container. SIGTERM is the only trace of that.
fn stopping_probe(agent: &Container) -> Option<&'static str> {
    if agent.liveness_probe.is_some() {
        Some("livenessProbe")
    } else if agent.startup_probe.is_some() {
        Some("startupProbe")
    } else {
        None
    }
}

/// Whether the pod was deleted or evicted before the agent's container had ended. A pod may also be deleted later,
/// because its other containers keep running without the agent, or evicted after it succeeded.
fn was_disrupted(pod: &Pod, status: &PodStatus, finished: Option<Timestamp>) -> bool {
    // A client may ask for any grace period, and the API server stores it unchanged.
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    let before = SignedDuration::ZERO.saturating_sub(grace);
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| later(time.0, before));
    let target = condition(status, "DisruptionTarget")
        .map(|condition| condition.last_transition_time.as_ref().map(|time| time.0));
    let came_first =
        |asked: Timestamp| finished.is_none_or(|finished| asked <= later(finished, CLOCKS_DIFFER));
    deleted.is_some_and(came_first) || target.is_some_and(|asked| asked.is_none_or(came_first))
}

/// Whether the status of a container proves that it never started. If the kubelet loses track of a container that ran,
/// it writes the same state as for one that never ran. Only the last state or the restart count tells them apart
/// (kubernetes/kubernetes#95364).
fn never_started(container: &ContainerStatus) -> bool {
    let ran = |state: Option<&ContainerState>| {
        state.is_some_and(|state| {
            state.running.is_some() || state.terminated.as_ref().is_some_and(|end| !never_ran(end))
        })
    };
    container.restart_count == 0 && !ran(container.state.as_ref()) && !ran(container.last_state.as_ref())
}

/// Whether the kubelet reports a container as terminated that never started: the runtime could not start it
/// (`StartError`, with the epoch as its start time), or the kubelet never found it.
fn never_ran(end: &ContainerStateTerminated) -> bool {
    let started = started(end.started_at.as_ref()).is_some();
    let was_running = end.message.as_deref().is_some_and(|message| message.contains("used to be Running"));
    match end.reason.as_deref() {
        Some("StartError" | "ContainerStatusUnknown") => !started && !was_running,
        _ => false,
    }
}

/// A time other than the epoch, which container runtimes write for "never".
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
    let reported = status.message.clone().map(|message| match &status.reason {
        Some(reason) => format!("{reason}: {message}"),
        None => message,
    });
    failed_init.or(start_error).or(reported).or_else(|| status.reason.clone()).unwrap_or_else(|| {
        let how = if pod.metadata.deletion_timestamp.is_some() { "was deleted" } else { "ended" };
        format!("the pod {how} before its agent started")
    })
}
