//! Objects as lines of text.

pub mod cost;
pub mod doctor;
pub mod iteration;
pub mod list;
pub mod task;
pub mod watch;
pub mod why;

use agentloop_core::api::{AgentTask, AgentTaskStatus, Phase, condition};
use jiff::Timestamp;

use crate::text::{Style, line};

/// What a view is drawn on.
#[derive(Clone, Copy, Debug)]
pub struct Canvas {
    /// Colours.
    pub style: Style,
    /// Columns of the terminal; none if it is not a terminal, and lines are never cut.
    pub columns: Option<usize>,
    /// The present time.
    pub now: Timestamp,
}

/// The phase of a task.
pub fn phase(task: &AgentTask) -> Phase {
    task.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Pending)
}

/// The message of a task.
pub fn message(task: &AgentTask) -> String {
    let message = task.status.as_ref().and_then(|status| status.message.as_deref());
    line(message.unwrap_or(agentloop_core::message::PENDING))
}

/// Whether a condition is true.
pub fn is_true(status: &AgentTaskStatus, type_: &str) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

/// Whether a person must act: the task is stopped without success, or it is stalled.
pub fn needs_a_person(task: &AgentTask) -> bool {
    let Some(status) = &task.status else { return false };
    let stopped = status.stop.as_ref().is_some_and(|stop| stop.phase != Phase::Succeeded);
    let suspended = phase(task) == Phase::Suspended;
    (stopped && !suspended) || is_true(status, condition::STALLED)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) const NOW: &str = "2026-03-01T12:00:00Z";

    pub(crate) fn canvas(columns: Option<usize>) -> Canvas {
        Canvas { style: Style::default(), columns, now: NOW.parse().expect("a time") }
    }

    /// A task whose circuit breaker opened, unless `change` says otherwise.
    pub(crate) fn task(change: &Value) -> AgentTask {
        let from = |value: i32, from: &str| json!({ "value": value, "from": from });
        let mut task = json!({
            "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask",
            "metadata": {
                "name": "idle", "namespace": "dev", "uid": "7f0c2c1e-0000-4000-8000-000000000000",
                "creationTimestamp": "2026-03-01T11:47:00Z",
            },
            "spec": { "template": { "spec": { "containers": [{ "name": "a", "image": "i", "command": ["c"] }] } } },
            "status": {
                "phase": "CircuitOpen", "reason": "NoChange", "iterations": 4, "maxIterations": 10, "progress": "4/10",
                "message": "stopped after 4 iterations: the last 3 changed nothing (threshold 3, agentloop's default); to resume with streaks at zero: kubectl -n dev patch agt/idle --type merge -p '{\"spec\":{\"resetToken\":\"after-4\"}}'",
                "stop": { "phase": "CircuitOpen", "reason": "NoChange", "generation": 1 },
                "breaker": { "consecutiveNoChange": 3, "consecutiveSameError": 1, "errorSignature": "no such table" },
                "conditions": [{ "type": "Stalled", "status": "True", "reason": "NoChange", "message": "",
                    "lastTransitionTime": "2026-03-01T11:55:00Z" }],
                "usage": { "costUSD": "0.4211", "inputTokens": 125_000, "cachedInputTokens": 100_000, "outputTokens": 4300 },
                "thresholds": {
                    "maxIterations": from(10, "Default"), "hardLimit": from(50, "Config"), "noChange": from(3, "Default"),
                    "sameError": from(5, "Spec"), "iterationTimeoutSeconds": from(3600, "Default"),
                },
                "history": [
                    { "iteration": 4, "attempt": 1, "outcome": "Exited", "exitCode": 1, "changed": "Unchanged",
                      "error": "no such \u{1b}[31mtable", "startTime": "2026-03-01T11:54:00Z", "completionTime": "2026-03-01T11:55:00Z" },
                    { "iteration": 3, "attempt": 0, "outcome": "Exited", "exitCode": 0, "changed": "Unchanged",
                      "gate": { "ready": false, "reason": "two tests fail", "blockers": ["no database"] },
                      "usage": { "costUSD": "0.2" },
                      "startTime": "2026-03-01T11:53:00Z", "completionTime": "2026-03-01T11:53:20Z" },
                    { "iteration": 2, "attempt": 0, "outcome": "TimedOut", "changed": "Unchanged", "startedIn": "/" },
                    { "iteration": 1, "attempt": 0, "outcome": "Exited", "exitCode": 0, "changed": "Changed", "filesChanged": 3,
                      "gate": { "ready": false, "progress": "wrote the parser" }, "usage": { "costUSD": "0.2211" },
                      "startTime": "2026-03-01T11:48:00Z", "completionTime": "2026-03-01T11:52:30Z" },
                ],
            },
        });
        merge(&mut task, change);
        serde_json::from_value(task).expect("a task")
    }

    /// A JSON merge patch.
    fn merge(value: &mut Value, change: &Value) {
        match (value, change) {
            (Value::Object(fields), Value::Object(changes)) => {
                for (key, change) in changes {
                    if change.is_null() {
                        fields.remove(key);
                    } else {
                        merge(fields.entry(key.clone()).or_insert(Value::Null), change);
                    }
                }
            }
            (value, change) => *value = change.clone(),
        }
    }

    #[test]
    fn a_person_is_needed_for_stops_without_success_and_for_stalled_tasks() {
        let needed = |change: Value| needs_a_person(&task(&change));
        assert!(needed(json!({})));
        assert!(!needed(json!({ "status": { "stop": { "phase": "Succeeded" }, "conditions": [] } })));
        assert!(needed(
            json!({ "status": { "stop": { "phase": "IterationLimitReached" }, "conditions": [] } })
        ));
        assert!(
            !needed(json!({ "status": { "phase": "Suspended", "conditions": [] } })),
            "someone wanted it so"
        );
        assert!(needed(json!({ "status": { "phase": "Waiting", "stop": null } })));
        assert!(!needed(json!({ "status": { "phase": "Waiting", "stop": null, "conditions": [] } })));
        assert!(!needed(json!({ "status": null })));
    }
}
