//! Starts that fail, pods that cannot start, and pods that the API server refuses.

use crate::support::{Simulation, after, invalid_pod, kubelet, quota_exceeded, rate_limited, worked};
use agentloop_contract::report::Change;
use agentloop_core::{
    api::{Phase, WaitReason},
    facts::Obstacle,
};
use jiff::SignedDuration;
use serde_json::json;

#[test]
fn a_pod_that_never_started_is_free_and_retried_with_a_growing_delay() {
    let mut sim = Simulation::new(&json!({}));
    let mut delays = Vec::new();
    sim.reconcile();
    for attempt in 0..8 {
        assert_eq!(sim.active(), Some((1, attempt)));
        sim.fail_to_start();
        sim.reconcile();
        assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::StartFailed)));
        assert_eq!(sim.active(), None, "nothing is active while it waits");
        delays.push(sim.seconds_until_retry());
        let delay = sim.seconds_until_retry();
        sim.pass(delay - 1);
        assert_eq!(sim.active(), None);
        sim.pass(1);
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!((sim.iterations(), sim.active()), (0, Some((1, 8))), "attempts only grow");
    sim.iterate(&worked());
    assert_eq!(sim.active(), Some((2, 0)));
}

#[test]
fn a_wait_is_shown_in_whole_seconds_and_never_ends_early() {
    for (milliseconds, shown) in [(0, 10), (1, 11), (999, 11)] {
        let mut sim = Simulation::new(&json!({}));
        sim.reconcile();
        sim.fail_to_start();
        sim.now += SignedDuration::from_millis(milliseconds);
        let due = sim.now + SignedDuration::from_secs(10);
        sim.reconcile();
        let until = sim.status().waiting.and_then(|waiting| waiting.retry_time).unwrap().0;
        assert_eq!(until, after(shown));
        assert!(until >= due && sim.requeue_at == Some(until), "{until}");
    }
}

#[test]
fn a_wait_survives_a_restart_of_the_operator() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&rate_limited(Change::Unchanged, None));
    sim.restart();
    sim.pass(59);
    assert_eq!((sim.active(), sim.phase()), (None, Phase::Waiting));
}

#[test]
fn a_pod_that_cannot_start_is_left_to_its_kubelet_and_shown_as_waiting() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    let state = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image" } });
    kubelet::set_status(sim.pod_mut(), "Pending", &state, &state);
    sim.pass(3600);
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::ImagePullFailed)));
    assert_eq!(sim.active(), Some((1, 0)), "it is not deleted");
    sim.run();
    sim.reconcile();
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Running, None));
}

#[test]
fn events_report_the_obstacle_if_the_pods_status_does_not() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Running);
    assert_eq!(sim.requeue_at, Some(sim.now + SignedDuration::from_secs(10)), "it checks again");
    let message = "secret \"goal\" not found".to_owned();
    sim.events = Some(Obstacle { reason: WaitReason::PromptMissing, message });
    sim.pass(10);
    assert_eq!(sim.waits_for(), Some(WaitReason::PromptMissing));
    assert_eq!(sim.condition("Stalled").0, "True");
}

#[test]
fn a_pod_that_has_not_started_is_replaced_when_its_template_changes() {
    let mut sim = Simulation::new(&json!({ "prompt": "do" }));
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    sim.edit(&json!({ "maxIterations": 20 }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 0)), "no pod is created from the limit");
    sim.edit(&json!({ "prompt": "do better" }));
    sim.reconcile();
    sim.stop_deleted_pods();
    sim.reconcile();
    assert_eq!((sim.active(), sim.iterations()), (Some((1, 1)), 0), "immediately, and free of charge");
    sim.run();
    sim.edit(&json!({ "prompt": "do best" }));
    sim.reconcile();
    assert!(!kubelet::is_deleting(sim.pod()), "an agent that runs is left alone");
}

#[test]
fn a_webhook_that_removes_the_hash_does_not_cause_a_storm_of_pods() {
    let mut sim = Simulation::new(&json!({}));
    assert!(sim.step(), "the iteration is active and has its pod");
    kubelet::change(sim.pod_mut(), &json!({ "metadata": { "annotations": null } }));
    sim.reconcile();
    assert_eq!((sim.created.len(), sim.waits_for()), (1, Some(WaitReason::StartFailed)));
    assert_eq!(sim.seconds_until_retry(), 10);
}

#[test]
fn a_pod_that_is_rejected_for_what_a_webhook_changed_never_starts() {
    let mut sim = Simulation::new(&json!({}));
    assert!(sim.step());
    kubelet::change(sim.pod_mut(), &json!({ "spec": { "restartPolicy": "OnFailure" } }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::PodRejected)));
    assert!(sim.message().contains("an admission webhook changed the pod's restartPolicy"));
    assert_eq!((sim.created.len(), sim.seconds_until_retry()), (1, 10));
    assert!(sim.ran.is_empty());
}

#[test]
fn a_pod_that_the_api_server_refuses_is_retried_with_a_growing_delay() {
    let mut sim = Simulation::new(&json!({}));
    sim.refusal = Some(quota_exceeded());
    sim.reconcile();
    assert_eq!((sim.active(), sim.waits_for()), (Some((1, 0)), Some(WaitReason::QuotaExceeded)));
    let mut delays = vec![sim.seconds_until_retry()];
    for _ in 0..8 {
        sim.pass_wait();
        delays.push(sim.seconds_until_retry());
    }
    assert!(delays.is_sorted() && delays[0] == 10 && delays[8] == 300, "{delays:?}");
    sim.refusal = None;
    sim.pass(299);
    assert!(sim.created.is_empty());
    sim.pass(1);
    assert_eq!((sim.created.as_slice(), sim.phase()), ([(1, 0)].as_slice(), Phase::Running));
}

#[test]
fn a_refused_pod_is_retried_immediately_when_the_spec_changes() {
    let mut sim = Simulation::new(&json!({}));
    sim.refusal = Some(invalid_pod());
    sim.reconcile();
    assert_eq!(sim.condition("Stalled").0, "True");
    sim.refusal = None;
    sim.edit(&json!({ "template": { "metadata": { "labels": { "team": "a" } } } }));
    sim.reconcile();
    assert_eq!(sim.created, [(1, 0)]);
}

#[test]
fn the_first_iteration_waits_for_a_pod_of_a_previous_task_of_this_name() {
    let mut sim = Simulation::new(&json!({}));
    sim.leave_previous_pod("x-0badcafe-7-0");
    sim.reconcile();
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::PreviousPodRunning)));
    assert!(sim.message().contains("x-0badcafe-7-0"));
    let writes = sim.writes;
    sim.pass(5);
    assert_eq!((sim.writes, sim.active()), (writes, None));
    assert!(sim.requeue_at.is_some(), "it checks again");
    sim.remove_pod("x-0badcafe-7-0");
    sim.pass(5);
    assert_eq!(sim.active(), Some((1, 0)));
}
