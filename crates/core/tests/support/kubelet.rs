//! What the kubelet, the scheduler and the pod garbage collector write about a pod.

use agentloop_contract::report::Report;
use agentloop_core::facts::{PodFacts, PodState};
use agentloop_test_support::pods;
pub use agentloop_test_support::pods::{running, waiting};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::merge;

/// Merges `patch` into a pod.
pub fn change(pod: &mut Pod, patch: &Value) {
    let mut whole = serde_json::to_value(&*pod).unwrap();
    merge(&mut whole, patch);
    *pod = serde_json::from_value(whole).unwrap();
}

/// A status of the pod's containers: the agent's state, and that of all others.
fn containers(pod: &Pod, agent: &Value, others: &Value) -> Value {
    let containers = &pod.spec.as_ref().unwrap().containers;
    let is_agent = |c: &k8s_openapi::api::core::v1::Container| {
        c.command.as_ref().is_some_and(|c| c[0] == "/agentloop/bin/agentloop-runner")
    };
    let status = |c: &k8s_openapi::api::core::v1::Container| {
        let state = if is_agent(c) { agent } else { others };
        pods::container_status(&c.name, c.image.as_deref().unwrap_or_default(), state)
    };
    containers.iter().map(status).collect()
}

pub fn set_status(pod: &mut Pod, phase: &str, agent: &Value, others: &Value) {
    let statuses = containers(pod, agent, others);
    change(pod, &json!({ "status": { "phase": phase, "containerStatuses": statuses } }));
}

/// A terminated state with a termination message.
pub fn terminated(code: i32, reason: &str, message: Option<&str>, at: Timestamp) -> Value {
    pods::terminated(code, reason, message, at - SignedDuration::from_secs(1), at)
}

/// The terminated state of a runner that has reported.
pub fn reported(report: &Report, at: Timestamp) -> Value {
    let code = report.container_exit_code().unwrap();
    let message = report.encode(3072, Some(b"the-key")).unwrap();
    terminated(code, pods::reason_for(code), Some(&message), at)
}

pub fn bind(pod: &mut Pod) {
    change(pod, &json!({ "spec": { "nodeName": "node-1" }, "status": { "phase": "Pending" } }));
    set_status(pod, "Pending", &waiting(), &waiting());
}

pub fn run(pod: &mut Pod, at: Timestamp) {
    set_status(pod, "Running", &running(at), &running(at));
}

pub fn end(pod: &mut Pod, agent: &Value) {
    let code = agent["terminated"]["exitCode"].as_i64();
    set_status(pod, if code == Some(0) { "Succeeded" } else { "Failed" }, agent, agent);
}

/// The agent has ended, and a sidecar still runs.
pub fn leave_sidecars(pod: &mut Pod, agent: &Value, at: Timestamp) {
    set_status(pod, "Running", agent, &running(at));
}

/// The agent's container has ended, but its pod has not.
pub fn has_ended_agent(pod: &Pod) -> bool {
    !is_ended(pod) && matches!(PodFacts::of(pod).state, PodState::AgentEnded(_))
}

/// The sidecars that outlived the agent end, and the pod with them.
pub fn end_sidecars(pod: &mut Pod) {
    change(pod, &json!({ "status": { "phase": "Succeeded" } }));
}

/// The node is gone: the garbage collector writes Failed over the kubelet's last status.
pub fn collect_garbage(pod: &mut Pod) {
    change(
        pod,
        &json!({ "status": { "phase": "Failed", "conditions": [
            { "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC" },
        ] } }),
    );
}

pub fn is_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

pub fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}

pub fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.scheduling_gates.iter().flatten().count() > 0)
}

pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The agent's container runs.
pub fn is_running(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().any(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
}
