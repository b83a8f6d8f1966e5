//! The decision never panics, whatever a pod or a task contains.

use crate::support::{after, done, merge, observed, rate_limited, task, worked};
use agentloop_contract::report::Change;
use agentloop_core::{
    api::AgentTask,
    decide::{Observed, decide},
    facts::PodFacts,
    settings::Configuration,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

const TIMES: &[&str] = &[
    "-009999-01-02T01:59:59Z",
    "9999-12-30T22:00:00.999999999Z",
    "1970-01-01T00:00:00Z",
    "2026-11-22T10:00:00Z",
];

const NUMBERS: &[i64] = &[i64::MIN, i64::MAX, -2_147_483_648, 2_147_483_647, -1, 0, 1];

const WORDS: &[&str] = &["Running", "Pending", "Succeeded", "Always", "OOMKilled", "NewWord"];

/// A task with an active iteration, and its pod after it has ended. Every field that is read has a value.
fn seed(message: &str) -> (Value, Value) {
    let time = "2026-11-22T10:00:00Z";
    let mut whole = serde_json::to_value(task(&json!({ "ttlSecondsAfterSucceeded": 5 }))).unwrap();
    let threshold = |value: i64| json!({ "value": value, "from": "Default" });
    merge(
        &mut whole,
        &json!({ "status": {
        "observedGeneration": 1, "phase": "Running", "iterations": 2, "maxIterations": 10, "nextAttempt": 1,
        "freeAttempts": 1, "refusals": 1,
        "active": { "iteration": 3, "attempt": 1, "podName": "p", "generation": 1 },
        "waiting": { "reason": "RateLimited", "startTime": time, "retryTime": time },
        "breaker": { "consecutiveNoChange": 1, "consecutiveSameError": 1, "errorSignature": "x" },
        "usage": { "inputTokens": 5, "costUSD": "1.5" },
        "thresholds": {
            "maxIterations": threshold(10), "hardLimit": threshold(50), "noChange": threshold(3),
            "sameError": threshold(5), "iterationTimeoutSeconds": threshold(3600),
        },
        "startTime": time, "completionTime": time,
    } }),
    );
    let pod = json!({
        "metadata": {
            "name": "p", "uid": "pod", "creationTimestamp": time, "deletionTimestamp": time,
            "deletionGracePeriodSeconds": 30,
            "labels": { "agentloop.dev/iteration": "3", "agentloop.dev/attempt": "1" },
            "finalizers": ["agentloop.dev/settle"],
            "ownerReferences": [{
                "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "name": "x", "controller": true,
                "uid": "11111111-2222-3333-4444-555555555555",
            }],
        },
        "spec": {
            "nodeName": "n", "restartPolicy": "Never",
            "containers": [{ "name": "agent", "command": ["/agentloop/bin/agentloop-runner"] }],
            "initContainers": [{ "name": "proxy", "restartPolicy": "Always" }],
        },
        "status": {
            "phase": "Failed", "reason": "Evicted", "message": "m",
            "conditions": [{ "type": "DisruptionTarget", "status": "True", "lastTransitionTime": time }],
            "initContainerStatuses": [{
                "name": "proxy", "image": "", "imageID": "", "ready": false, "restartCount": 3, "started": false,
                "state": { "running": { "startedAt": time } },
            }],
            "containerStatuses": [{
                "name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": {
                    "exitCode": 1, "reason": "Error", "message": message, "startedAt": time, "finishedAt": time,
                } },
            }],
        },
    });
    (whole, pod)
}

/// Every place in a document, as JSON pointers.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            places(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), into);
        }),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(n, value)| places(value, &format!("{at}/{n}"), into));
        }
        _ => {}
    }
}

fn replacement() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        proptest::sample::select(TIMES).prop_map(|time| json!(time)),
        proptest::sample::select(NUMBERS).prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number)),
        any::<i32>().prop_map(|number| json!(number)),
        "\\PC{0,12}".prop_map(|text| json!(text)),
        proptest::sample::select(WORDS).prop_map(|text| json!(text)),
        any::<bool>().prop_map(|flag| json!(flag)),
        Just(json!([])),
        Just(json!({})),
    ]
}

fn mutate(document: &mut Value, changes: &[(prop::sample::Index, Value)]) {
    for (place, to) in changes {
        let mut all = Vec::new();
        places(document, "", &mut all);
        if let Some(found) = document.pointer_mut(place.get::<String>(&all)) {
            *found = to.clone();
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, Value)>> {
    proptest::collection::vec((any::<prop::sample::Index>(), replacement()), 0..6)
}

fn decided(task: &AgentTask, pods: &[Pod], now: Timestamp, configuration: &Configuration) {
    let pods: Vec<PodFacts> = pods.iter().map(PodFacts::of).collect();
    for (was_started, is_gone) in [(false, false), (true, true)] {
        drop(decide(&Observed { configuration, was_started, is_gone, now, ..observed(task, &pods) }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_pod_and_no_task_causes_a_panic(
        report in proptest::sample::select(vec![worked(), done(), rate_limited(Change::Unchanged, Some(Timestamp::MAX))]),
        in_task in changes(),
        in_pod in changes(),
        now in proptest::sample::select(vec![Timestamp::MIN, Timestamp::MAX, after(0), after(60)]),
    ) {
        let (mut task, mut pod) = seed(&report.encode(3072, None).unwrap());
        mutate(&mut task, &in_task);
        mutate(&mut pod, &in_pod);
        let pods: Vec<Pod> = serde_json::from_value(pod).into_iter().collect();
        if let Ok(task) = serde_json::from_value::<AgentTask>(task) {
            decided(&task, &pods, now, &Configuration::absent());
        }
        for pod in &pods {
            drop(PodFacts::of(pod));
        }
    }
}

#[test]
fn extreme_grace_periods_are_accepted() {
    for grace in [i64::MIN, i64::MAX, -1] {
        for deletion in TIMES {
            let (task, mut pod) = seed("");
            merge(
                &mut pod,
                &json!({ "metadata": {
                "deletionTimestamp": deletion, "deletionGracePeriodSeconds": grace,
            } }),
            );
            let task = serde_json::from_value(task).unwrap();
            for phase in ["Failed", "Running"] {
                merge(&mut pod, &json!({ "status": { "phase": phase } }));
                let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
                for now in [after(0), Timestamp::MAX] {
                    decided(&task, std::slice::from_ref(&pod), now, &Configuration::absent());
                }
            }
        }
    }
}
