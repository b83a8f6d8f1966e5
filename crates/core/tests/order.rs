//! What comes first: an agent waits for its pod, and nobody waits for the cleanup.

use crate::support::{active, observed, task_at};
use agentloop_core::{
    api::AgentTask,
    decide::{Action, decide},
    facts::PodFacts,
    pod::template_hash,
};
use serde_json::{Value, json};

fn third_is_active() -> AgentTask {
    task_at(&json!({}), &active(&json!({})))
}

/// A pod of this iteration of the task, with our finalizer.
fn pod(task: &AgentTask, iteration: i32, gates: &Value, phase: &str) -> PodFacts {
    let uid = task.metadata.uid.as_deref();
    PodFacts::of(
        &serde_json::from_value(json!({
            "metadata": {
                "name": format!("x-{iteration}-0"), "uid": format!("pod-{iteration}"),
                "labels": {
                    "agentloop.dev/task-uid": uid,
                    "agentloop.dev/iteration": iteration.to_string(), "agentloop.dev/attempt": "0",
                },
                "annotations": { "agentloop.dev/template-hash": template_hash(&task.spec) },
                "ownerReferences": [{
                    "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "name": "x", "uid": uid,
                    "controller": true,
                }],
                "finalizers": ["agentloop.dev/settle"],
            },
            "spec": {
                "schedulingGates": gates,
                "containers": [
                    { "name": "agent", "image": "a", "command": ["/agentloop/bin/agentloop-runner"] },
                ],
            },
            "status": { "phase": phase },
        }))
        .unwrap(),
    )
}

fn ended(task: &AgentTask, iteration: i32) -> PodFacts {
    pod(task, iteration, &Value::Null, "Succeeded")
}

fn waiting_for_its_start(task: &AgentTask) -> PodFacts {
    pod(task, 3, &json!([{ "name": "agentloop.dev/start" }]), "Pending")
}

#[test]
fn the_next_pod_is_created_before_the_settled_one_is_cleaned_up() {
    let task = third_is_active();
    let pods = [ended(&task, 2)];
    let clean_up = Action::RemoveFinalizer { pod: (&pods[0]).into(), has_ended: true };
    assert_eq!(decide(&observed(&task, &pods)).actions, [Action::CreatePod, clean_up]);
}

#[test]
fn the_next_pod_is_started_before_the_settled_one_is_cleaned_up() {
    let task = third_is_active();
    let pods = [ended(&task, 2), waiting_for_its_start(&task)];
    let start = Action::RemoveSchedulingGate((&pods[1]).into());
    let clean_up = Action::RemoveFinalizer { pod: (&pods[0]).into(), has_ended: true };
    assert_eq!(decide(&observed(&task, &pods)).actions, [start, clean_up]);
}
