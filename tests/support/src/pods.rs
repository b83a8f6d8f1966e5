//! Pods as a scheduler and a kubelet report them.

use agentloop_contract::names::env;
use agentloop_contract::report::{Change, MAX_BYTES, Report};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json;

/// The status of a container.
pub fn container_status(name: &str, image: &str, state: &Value) -> Value {
    json!({
        "name": name, "image": image, "imageID": "", "ready": false, "restartCount": 0, "state": state,
    })
}

/// The status of a pod whose only container is the agent.
pub fn status(phase: &str, state: &Value) -> Value {
    json!({ "phase": phase, "containerStatuses": [container_status("agent", "none", state)] })
}

/// The state of a container that has not started.
pub fn waiting() -> Value {
    json!({ "waiting": { "reason": "PodInitializing" } })
}

/// The state of a running container.
pub fn running(since: Timestamp) -> Value {
    json!({ "running": { "startedAt": since.to_string() } })
}

/// The state of a container that has ended.
pub fn terminated(
    code: i32,
    reason: &str,
    message: Option<&str>,
    started: Timestamp,
    finished: Timestamp,
) -> Value {
    json!({ "terminated": {
        "exitCode": code, "reason": reason, "message": message,
        "startedAt": started.to_string(), "finishedAt": finished.to_string(),
    } })
}

/// The reason that a kubelet gives for this exit code.
pub fn reason_for(code: i32) -> &'static str {
    if code == 0 { "Completed" } else { "Error" }
}

/// The phase of a pod whose containers have ended with this exit code.
pub fn phase_for(code: i32) -> &'static str {
    if code == 0 { "Succeeded" } else { "Failed" }
}

/// The termination message of this pod's runner, signed with the key that the pod has.
pub fn termination_message(report: &Report, pod: &Value) -> Option<String> {
    let variables = json::list(pod, "/spec/containers").iter().flat_map(|one| json::list(one, "/env"));
    let key = variables.into_iter().find(|variable| json::text(variable, "/name") == env::REPORT_KEY);
    let report = Report { untouched: report.changed == Change::Unchanged, ..report.clone() };
    report.encode(MAX_BYTES, key.map(|key| json::text(key, "/value").as_bytes()))
}

/// Whether the pod has a scheduling gate, with any name.
pub fn is_gated(pod: &Value) -> bool {
    !json::list(pod, "/spec/schedulingGates").is_empty()
}

/// Whether the pod is on a node.
pub fn is_bound(pod: &Value) -> bool {
    json::has(pod, "/spec/nodeName")
}

/// Whether the pod's deletion has begun.
pub fn is_deleting(pod: &Value) -> bool {
    json::has(pod, "/metadata/deletionTimestamp")
}
