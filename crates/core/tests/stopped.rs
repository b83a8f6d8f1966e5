//! Agents that the kubelet stopped because of the pod itself, and sidecars that keep the agent from starting.

use crate::support::{Simulation, interrupted, kubelet, merge};
use agentloop_contract::report::Change;
use agentloop_core::{
    api::{IterationOutcome, Phase, WaitReason},
    facts::{Ending, PodFacts, PodState},
};
use jiff::SignedDuration;
use serde_json::{Value, json};

const LIVENESS: &str = "livenessProbe";

fn with_probe(probe: &str) -> Value {
    json!({
        "breaker": { "sameErrorThreshold": 3 },
        "maxIterations": 5,
        "template": { "spec": { "containers": [{
            "name": "agent", "image": "i", "command": ["a"], probe: { "httpGet": { "port": 80 } },
        }] } },
    })
}

#[test]
fn a_probe_that_stops_every_agent_opens_the_circuit_and_is_named_in_the_message() {
    for probe in [LIVENESS, "startupProbe"] {
        let mut sim = Simulation::new(&with_probe(probe));
        for _ in 0..3 {
            sim.iterate(&interrupted(Change::Changed));
        }
        assert_eq!((sim.phase(), sim.reason().as_str()), (Phase::CircuitOpen, "SameError"));
        let entry = sim.status().history[0].clone();
        assert_eq!(entry.outcome, IterationOutcome::Killed);
        assert!(entry.error.as_ref().unwrap().contains(probe), "{entry:?}");
        assert!(sim.message().contains(probe), "{}", sim.message());
    }
}

#[test]
fn an_agent_that_a_probe_killed_without_a_report_names_the_probe() {
    for code in [137, 143] {
        let mut sim = Simulation::new(&with_probe(LIVENESS));
        sim.reconcile();
        sim.end_silently(code, "Error");
        sim.reconcile();
        let error = sim.status().history[0].error.clone().unwrap();
        assert!(error.contains(LIVENESS), "{error}");
    }
    let mut sim = Simulation::new(&with_probe(LIVENESS));
    sim.reconcile();
    sim.end_silently(137, "OOMKilled");
    sim.reconcile();
    assert!(sim.status().history[0].error.as_ref().unwrap().contains("OOMKilled"));
}

#[test]
fn an_interruption_without_a_deletion_is_an_error_even_without_a_probe() {
    let mut sim = Simulation::new(&json!({ "breaker": { "sameErrorThreshold": 2 } }));
    sim.iterate(&interrupted(Change::Unknown));
    sim.iterate(&interrupted(Change::Unknown));
    assert_eq!(sim.phase(), Phase::CircuitOpen);
    assert!(sim.message().contains("its pod was neither deleted nor evicted"), "{}", sim.message());
}

#[test]
fn an_agent_whose_pod_was_deleted_is_interrupted_whatever_probe_it_has() {
    let mut sim = Simulation::new(&with_probe(LIVENESS));
    sim.reconcile();
    sim.run();
    sim.delete_pod();
    sim.stop_deleted_pods();
    sim.reconcile();
    let status = sim.status();
    assert_eq!(
        (status.history[0].outcome, status.breaker.consecutive_same_error),
        (IterationOutcome::Interrupted, 0)
    );
    for condition in ["EvictionByEvictionAPI", "TerminationByKubelet", "PreemptionByScheduler"] {
        let mut sim = Simulation::new(&with_probe(LIVENESS));
        sim.reconcile();
        sim.run();
        sim.end(&interrupted(Change::Unknown));
        kubelet::change(
            sim.pod_mut(),
            &json!({ "status": { "conditions": [
            { "type": "DisruptionTarget", "status": "True", "reason": condition },
        ] } }),
        );
        sim.reconcile();
        assert_eq!(sim.status().history[0].outcome, IterationOutcome::Interrupted, "{condition}");
    }
}

fn evicted(message: &str) -> Value {
    json!({ "status": { "phase": "Failed", "reason": "Evicted", "message": message } })
}

/// The messages of kubernetes/pkg/kubelet/eviction/helpers.go.
const OWN_DISK: &[&str] = &[
    "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
    "Container agent exceeded its local ephemeral storage limit \"1Gi\". ",
    "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Gi\". ",
];

#[test]
fn a_pod_evicted_for_its_own_disk_use_has_that_error() {
    for message in OWN_DISK {
        let mut sim = Simulation::new(&json!({ "breaker": { "sameErrorThreshold": 3 } }));
        for round in 0..3 {
            sim.reconcile();
            if round == 0 {
                // The kubelet writes the end of the pod before the ends of its containers.
                sim.run();
                sim.expect_charge(true);
            } else {
                sim.end(&interrupted(Change::Changed));
            }
            kubelet::change(sim.pod_mut(), &evicted(message));
            sim.reconcile();
        }
        assert_eq!((sim.phase(), sim.reason().as_str()), (Phase::CircuitOpen, "SameError"), "{message}");
        let entry = sim.status().history[0].clone();
        assert_eq!(entry.outcome, IterationOutcome::Killed);
        assert!(entry.error.unwrap().contains(message.trim()), "{message}");
    }
}

#[test]
fn a_pod_evicted_because_of_its_node_is_interrupted() {
    let target = json!({ "status": { "conditions": [
        { "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet" },
    ] } });
    let mut for_the_node = evicted(OWN_DISK[0]);
    merge(&mut for_the_node, &target);
    for eviction in [for_the_node, evicted("The node was low on resource: memory. ")] {
        let mut sim = Simulation::new(&json!({}));
        sim.reconcile();
        sim.end(&interrupted(Change::Unknown));
        kubelet::change(sim.pod_mut(), &eviction);
        sim.reconcile();
        assert_eq!(sim.status().history[0].outcome, IterationOutcome::Interrupted, "{eviction}");
    }
}

fn with_sidecar() -> Value {
    json!({ "template": { "spec": {
        "initContainers": [{ "name": "proxy", "image": "p", "restartPolicy": "Always" }],
        "containers": [{ "name": "agent", "image": "i", "command": ["a"] }],
    } } })
}

fn sidecar(sim: &mut Simulation, restarts: i32, started: bool, state: &Value) {
    let status = json!({
        "name": "proxy", "image": "p", "imageID": "", "ready": false, "restartCount": restarts,
        "started": started, "state": state,
    });
    kubelet::change(sim.pod_mut(), &json!({ "status": { "initContainerStatuses": [status] } }));
}

#[test]
fn a_sidecar_that_crashes_before_it_started_is_named_in_the_wait() {
    let mut sim = Simulation::new(&with_sidecar());
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    let crash = json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s restarting" } });
    let now = sim.now.to_string();
    for state in [crash, json!({ "running": { "startedAt": now } })] {
        sidecar(&mut sim, 2, false, &state);
        sim.reconcile();
        assert_eq!(sim.waits_for(), Some(WaitReason::StartFailed), "{state}");
        let message = sim.message();
        assert!(message.contains("sidecar proxy"), "{message}");
    }
}

#[test]
fn a_sidecar_that_fails_its_startup_probe_is_named_after_half_a_minute() {
    let mut sim = Simulation::new(&with_sidecar());
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    let now = sim.now.to_string();
    sidecar(&mut sim, 0, false, &json!({ "running": { "startedAt": now } }));
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Running, "it may still start");
    assert!(sim.requeue_at.is_some_and(|again| again <= sim.now + SignedDuration::from_secs(30)));
    for _ in 0..6 {
        sim.pass(10);
    }
    assert_eq!(sim.waits_for(), Some(WaitReason::StartFailed));
    assert!(sim.message().contains("sidecar proxy"), "{}", sim.message());
    sidecar(&mut sim, 0, true, &json!({ "running": { "startedAt": now } }));
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Running);
}

#[test]
fn an_ordinary_init_container_may_take_its_time() {
    let mut pod = json!({
        "metadata": { "name": "p" },
        "spec": {
            "nodeName": "n",
            "initContainers": [{ "name": "clone" }],
            "containers": [{ "name": "agent", "command": ["/agentloop/bin/agentloop-runner"] }],
        },
        "status": { "phase": "Pending", "initContainerStatuses": [{
            "name": "clone", "image": "", "imageID": "", "ready": false, "restartCount": 0, "started": false,
            "state": { "running": { "startedAt": "2026-11-22T09:00:00Z" } },
        }] },
    });
    let facts = PodFacts::of(&serde_json::from_value(pod.clone()).unwrap());
    assert_eq!((facts.slow, facts.state), (None, PodState::Starting(None)));
    merge(&mut pod, &json!({ "status": { "phase": "Failed" } }));
    let facts = PodFacts::of(&serde_json::from_value(pod).unwrap());
    assert!(matches!(facts.ended(), Some(Ending::NeverStarted { .. })));
}
