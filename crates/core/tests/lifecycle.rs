//! Nodes, sidecars, deletions and uninstalls: what happens around a loop.

use crate::support::{Simulation, done, kubelet, worked};
use agentloop_core::{
    api::{IterationOutcome, Phase, WaitReason},
    facts::PodFacts,
};
use serde_json::json;

#[test]
fn a_pod_on_a_silent_node_is_waited_for_without_end() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.delete_pod();
    sim.reconcile();
    sim.pass(59);
    assert_eq!(sim.waits_for(), None);
    sim.pass(1);
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::NodeLost)));
    sim.pass(7 * 24 * 3600);
    assert_eq!((sim.active(), sim.iterations()), (Some((1, 0)), 0));
    sim.expect_charge(true);
    kubelet::collect_garbage(sim.pod_mut());
    sim.reconcile();
    assert_eq!(
        (sim.iterations(), sim.active()),
        (1, Some((2, 0))),
        "charged: nothing proves that it was free"
    );
}

#[test]
fn a_bound_pod_that_the_garbage_collector_ended_is_charged_even_if_it_seems_not_to_have_started() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    sim.expect_charge(true);
    kubelet::collect_garbage(sim.pod_mut());
    sim.reconcile();
    assert_eq!(sim.iterations(), 1);
}

#[test]
fn a_pod_that_a_user_deletes_before_it_is_bound_is_free() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.delete_pod();
    sim.reconcile();
    assert_eq!((sim.iterations(), sim.waits_for()), (0, Some(WaitReason::StartFailed)));
    sim.pass(10);
    assert_eq!(sim.active(), Some((1, 1)));
}

#[test]
fn sidecars_that_outlive_the_agent_are_stopped_and_its_report_counts() {
    let mut sim = Simulation::new(&json!({
        "template": { "spec": { "containers": [
            { "name": "agent", "image": "a", "command": ["agent"] },
            { "name": "docker", "image": "d" },
        ] } },
    }));
    sim.reconcile();
    sim.run();
    let now = sim.now;
    sim.expect_charge(true);
    kubelet::leave_sidecars(sim.pod_mut(), &kubelet::reported(&done(), now), now);
    sim.pass(29);
    assert!(!kubelet::is_deleting(sim.pod()));
    sim.pass(1);
    assert!(kubelet::is_deleting(sim.pod()));
    kubelet::end(sim.pod_mut(), &kubelet::reported(&done(), now));
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Succeeded);
}

#[test]
fn the_deletion_that_stops_sidecars_does_not_excuse_an_agent_that_was_killed_before() {
    let mut sim = Simulation::new(&json!({}));
    for _ in 0..5 {
        sim.reconcile();
        sim.run();
        let now = sim.now;
        let killed = kubelet::terminated(139, "Error", None, now);
        sim.expect_charge(true);
        kubelet::leave_sidecars(sim.pod_mut(), &killed, now);
        sim.pass(30);
        assert!(kubelet::is_deleting(sim.pod()));
        kubelet::end(sim.pod_mut(), &killed);
        sim.reconcile();
        assert_eq!(sim.status().history[0].outcome, IterationOutcome::Killed);
    }
    assert_eq!((sim.phase(), sim.reason().as_str()), (Phase::CircuitOpen, "SameError"));
}

#[test]
fn sidecars_are_stopped_even_if_the_end_of_the_agent_has_no_time() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    let now = sim.now;
    let gone = json!({ "terminated": { "exitCode": 137, "reason": "ContainerStatusUnknown" } });
    kubelet::leave_sidecars(sim.pod_mut(), &gone, now);
    sim.pass(30);
    sim.pass(30);
    assert!(kubelet::is_deleting(sim.pod()));
}

#[test]
fn a_deleted_task_stops_its_pod_and_settles_nothing() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(3, &worked());
    sim.run();
    sim.delete_task();
    let status = sim.status();
    sim.reconcile();
    assert!(sim.pods().iter().all(kubelet::is_deleting));
    sim.stop_deleted_pods();
    sim.reconcile();
    assert_eq!((sim.pods().len(), sim.status()), (0, status));
}

#[test]
fn only_success_starts_the_time_to_live() {
    let mut sim = Simulation::new(&json!({ "ttlSecondsAfterSucceeded": 60, "maxIterations": 1 }));
    sim.iterate(&worked());
    sim.pass(3600);
    assert!(!sim.is_task_gone(), "a task that can be resumed is kept");
    sim.edit(&json!({ "maxIterations": 2 }));
    sim.iterate(&done());
    sim.pass(59);
    assert!(!sim.is_task_gone());
    sim.pass(1);
    assert!(sim.is_task_gone());
}

#[test]
fn the_longest_time_to_live_ends_in_its_last_second_and_no_earlier() {
    let mut sim = Simulation::new(&json!({ "ttlSecondsAfterSucceeded": i32::MAX }));
    sim.iterate(&done());
    sim.pass(i64::from(i32::MAX) - 1);
    assert!(!sim.is_task_gone());
    assert_eq!(sim.phase(), Phase::Succeeded);
}

#[test]
fn settled_pods_lose_their_finalizers_and_are_kept_up_to_the_history_limit() {
    let mut sim = Simulation::new(&json!({ "podHistoryLimit": 2, "maxIterations": 5 }));
    sim.iterate_times(5, &worked());
    let kept: Vec<i32> = sim.pods().iter().map(|pod| PodFacts::of(pod).iteration).collect();
    assert_eq!(kept, [4, 5]);
    assert!(sim.pods().iter().all(|pod| !PodFacts::of(pod).has_finalizer));
    sim.edit(&json!({ "podHistoryLimit": 0 }));
    sim.reconcile();
    assert!(sim.pods().is_empty());
}

#[test]
fn an_iteration_that_an_uninstall_orphaned_is_charged_as_lost_if_its_pod_is_gone() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.expect_charge(true);
    sim.task_mut().status.as_mut().unwrap().active.as_mut().unwrap().orphaned = true;
    sim.pods_mut().clear();
    sim.reconcile();
    let status = sim.status();
    assert_eq!((status.iterations, status.history[0].outcome), (1, IterationOutcome::PodLost));
    assert_eq!(sim.active(), Some((2, 0)));
}

#[test]
fn an_iteration_that_an_uninstall_orphaned_continues_if_its_pod_is_there() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.task_mut().status.as_mut().unwrap().active.as_mut().unwrap().orphaned = true;
    sim.pod_mut().metadata.finalizers = None;
    sim.reconcile();
    assert!(PodFacts::of(sim.pod()).has_finalizer, "the finalizer is added again");
    sim.end(&worked());
    sim.reconcile();
    assert_eq!((sim.iterations(), sim.active()), (1, Some((2, 0))));
}

#[test]
fn a_gated_pod_that_is_created_too_late_is_deleted_before_it_runs() {
    let mut sim = Simulation::new(&json!({}));
    assert!(sim.step());
    let mut late = sim.pod().clone();
    sim.iterate_times(2, &worked());
    late.metadata.uid = Some("late".to_owned());
    sim.pods_mut().retain(|pod| pod.metadata.name != late.metadata.name);
    sim.pods_mut().push(late);
    sim.reconcile();
    assert!(sim.pods().iter().all(|pod| pod.metadata.uid.as_deref() != Some("late")));
    assert_eq!((sim.iterations(), sim.active()), (2, Some((3, 0))));
}

#[test]
fn a_pod_of_another_owner_is_never_touched() {
    let mut sim = Simulation::new(&json!({}));
    assert!(sim.step());
    let mut foreign = sim.pod().clone();
    foreign.metadata.uid = Some("foreign".to_owned());
    foreign.metadata.owner_references.as_mut().unwrap()[0].uid = "another-task".to_owned();
    sim.iterate_times(2, &worked());
    sim.pods_mut().push(foreign.clone());
    sim.reconcile();
    assert!(sim.pods().contains(&foreign));
    sim.delete_task();
    sim.reconcile();
    assert!(sim.pods().contains(&foreign), "even though it has the task's labels");
}

#[test]
fn a_copy_of_the_active_pod_does_not_count() {
    for is_first in [true, false] {
        let mut sim = Simulation::new(&json!({}));
        sim.reconcile();
        let mut copy = sim.pod().clone();
        copy.metadata.name = Some("a-copy".to_owned());
        copy.metadata.uid = Some("copy".to_owned());
        kubelet::bind(&mut copy);
        kubelet::end(&mut copy, &kubelet::reported(&done(), sim.now));
        let place = if is_first { 0 } else { sim.pods().len() };
        sim.pods_mut().insert(place, copy);
        sim.run();
        sim.reconcile();
        assert_eq!((sim.phase(), sim.active()), (Phase::Running, Some((1, 0))), "its report does not count");
        sim.end(&worked());
        sim.reconcile();
        assert_eq!(sim.active(), Some((2, 0)));
    }
}
