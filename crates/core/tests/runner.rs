//! A pod that has not started is replaced when the operator has another runner for it.

use crate::support::{Simulation, kubelet};
use agentloop_core::{api::WaitReason, facts::Obstacle, pod::Injection};
use serde_json::json;

const MARK: &str = "agentloop.dev/runner";

/// The first pod has waited for this many seconds and has not started.
fn waiting(seconds: i64) -> Simulation {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 0)));
    sim.pass(seconds);
    sim
}

/// The pod is on a node, and Events report what keeps it from starting.
fn report_obstacle(sim: &mut Simulation, reason: WaitReason, message: &str) {
    kubelet::bind(sim.pod_mut());
    sim.events = Some(Obstacle { reason, message: message.to_owned() });
}

fn mark(sim: &mut Simulation, value: &serde_json::Value) {
    kubelet::change(sim.pod_mut(), &json!({ "metadata": { "annotations": { MARK: value } } }));
}

#[test]
fn a_waiting_pod_is_replaced_free_of_charge_when_the_runners_image_or_pull_policy_changes() {
    let image = Injection { image: "example/runner:2".to_owned(), ..crate::support::injection() };
    let policy = Injection { pull_policy: Some("Always".to_owned()), ..crate::support::injection() };
    for other in [image, policy] {
        let mut sim = waiting(60);
        sim.injection = other.clone();
        sim.reconcile();
        assert_eq!((sim.iterations(), sim.active()), (0, Some((1, 1))), "immediately, and free of charge");
        let pod = sim.pod();
        assert_eq!(pod.metadata.annotations.as_ref().unwrap()[MARK], other.mark());
    }
}

#[test]
fn a_pod_whose_agent_runs_keeps_its_runner() {
    let mut sim = waiting(60);
    sim.run();
    sim.injection.image = "example/runner:2".to_owned();
    sim.injection.image_volume = true;
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 0)));
}

#[test]
fn another_injection_replaces_no_pod_that_waits_for_something_else() {
    let others = [
        None,
        Some((WaitReason::ImagePullFailed, "container agent: example/agent:1: not found")),
        Some((WaitReason::VolumePending, "MountVolume.SetUp failed for volume \"pvc-1\"")),
        Some((WaitReason::StartFailed, "sidecar proxy: CrashLoopBackOff (restarts: 3)")),
        Some((WaitReason::PromptMissing, "configmap \"goal\" not found")),
        Some((WaitReason::Unschedulable, "0/3 nodes are available")),
    ];
    for other in others {
        let mut sim = waiting(60);
        if let Some((reason, message)) = other {
            report_obstacle(&mut sim, reason, message);
        }
        sim.injection.image_volume = true;
        sim.reconcile();
        sim.stop_deleted_pods();
        sim.reconcile();
        assert_eq!(sim.active(), Some((1, 0)), "{other:?}");
    }
}

#[test]
fn another_injection_replaces_a_pod_that_its_own_injection_keeps_from_starting() {
    let because = [
        (WaitReason::ImagePullFailed, "container agentloop-install: back-off pulling"),
        (WaitReason::ImagePullFailed, "container agent: failed to pull \"example/runner:1\""),
        (WaitReason::VolumePending, "unmounted volumes=[agentloop-bin]: no volume plugin matched"),
        (WaitReason::StartFailed, "container agent: CreateContainerError: failed to mkdir \"\""),
        (WaitReason::StartFailed, "container agent: exec /agentloop/bin/agentloop-runner: not found"),
    ];
    for (reason, message) in because {
        let mut sim = waiting(60);
        report_obstacle(&mut sim, reason, message);
        sim.reconcile();
        assert_eq!(sim.active(), Some((1, 0)), "the same injection would not help: {message}");
        sim.injection.image_volume = true;
        sim.reconcile();
        sim.stop_deleted_pods();
        sim.reconcile();
        assert_eq!((sim.iterations(), sim.active()), (0, Some((1, 1))), "{message}");
    }
}

#[test]
fn a_missing_or_unreadable_runner_annotation_replaces_nothing() {
    for value in
        [json!(null), json!(""), json!("x"), json!("0123456789abcdef/by-magic"), json!("12/image-volume")]
    {
        let mut sim = waiting(60);
        mark(&mut sim, &value);
        sim.injection.image = "example/runner:2".to_owned();
        sim.reconcile();
        assert_eq!(sim.active(), Some((1, 0)), "{value}");
    }
}

#[test]
fn two_operators_that_take_turns_replace_young_pods_with_a_growing_delay() {
    let mut sim = waiting(0);
    let mut delays = Vec::new();
    for turn in 0..5 {
        sim.injection.image = format!("example/runner:{}", if turn % 2 == 0 { 2 } else { 1 });
        sim.reconcile();
        assert_eq!((sim.iterations(), sim.active()), (0, None));
        assert_eq!(sim.waits_for(), Some(WaitReason::StartFailed));
        delays.push(sim.seconds_until_retry());
        sim.pass_wait();
    }
    assert_eq!(delays, [10, 20, 40, 80, 160]);
}

#[test]
fn a_webhook_that_edits_the_runner_annotation_delays_its_own_pods() {
    let mut sim = waiting(0);
    let mut delays = Vec::new();
    for _ in 0..4 {
        mark(&mut sim, &json!("0123456789abcdef/image-volume"));
        sim.reconcile();
        delays.push(sim.seconds_until_retry());
        sim.pass_wait();
    }
    assert_eq!((sim.iterations(), delays), (0, vec![10, 20, 40, 80]));
}
