//! Suspending, losing nodes, deleting, tidying up: what happens around a loop.

use crate::support::{
    Simulation, done, idled, interrupted, invalid_pod, kubelet, quota_exceeded, rate_limited,
    simulation::Call, worked,
};
use agentloop_contract::report::{Change, Report};
use agentloop_core::{
    api::{IterationOutcome, Phase, WaitReason},
    decide::{Action, PodRef},
    facts::PodFacts,
};
use serde_json::json;

#[test]
fn suspended_before_the_start_nothing_is_claimed() {
    let mut sim = Simulation::new(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.created.len()), (Phase::Suspended, 0));
    assert_eq!(sim.requeue_at, None, "nothing but an edit goes on");
    assert_eq!(sim.status().progress.as_deref(), Some("0/10"));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 0)));
}

#[test]
fn suspending_stops_the_running_pod_and_charges_it() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(2, &idled());
    sim.run();
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    assert!(kubelet::is_deleting(sim.pod()));
    assert_eq!(sim.phase(), Phase::Suspended);
    sim.stop_deleted_pods();
    sim.reconcile();
    let status = sim.status();
    assert_eq!((status.iterations, status.history[0].outcome), (3, IterationOutcome::Interrupted));
    assert_eq!(status.breaker.consecutive_no_change, 2, "as it was");
    sim.pass(3600);
    assert_eq!(sim.created.len(), 3);
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((4, 0)), "nothing is lost");
}

#[test]
fn suspended_before_its_agent_started_the_attempt_is_free() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!((sim.iterations(), sim.active()), (0, None));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 1)), "at once: nothing failed");
}

#[test]
fn the_attempts_number_survives_suspend() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&rate_limited(Change::Unchanged, None));
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 1)));
}

#[test]
fn a_claim_without_a_pod_creates_none_while_suspended() {
    let mut sim = Simulation::new(&json!({}));
    sim.refusal = Some(invalid_pod());
    sim.reconcile();
    sim.refusal = None;
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.created.len()), (Phase::Suspended, 0));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.created, [(1, 0)]);
}

#[test]
fn what_a_stop_froze_stays_frozen_while_suspended() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 1 }));
    sim.iterate(&worked());
    sim.edit(&json!({ "suspend": true, "maxIterations": 5 }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.status().max_iterations), (Phase::Suspended, Some(1)));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.status().max_iterations), (Phase::Running, Some(5)));
}

#[test]
fn the_limit_that_a_suspended_task_shows_is_that_of_its_spec_and_no_newer_setting() {
    let mut sim = Simulation::new(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!(sim.status().max_iterations, Some(10));
    sim.configure(&[("defaultMaxIterations", "7")]);
    sim.reconcile();
    assert_eq!(sim.status().max_iterations, Some(10), "nothing was asked of it");
    sim.edit(&json!({ "maxIterations": 3 }));
    sim.reconcile();
    assert_eq!(sim.status().max_iterations, Some(3));
}

#[test]
fn done_while_suspended_is_succeeded() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.edit(&json!({ "suspend": true }));
    sim.end(&done());
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Succeeded);
}

#[test]
fn an_agent_that_exits_badly_because_it_was_told_to_stop_fails_nothing() {
    let mut sim = Simulation::new(&json!({ "failOnExitCodes": [1, 137, 143] }));
    sim.reconcile();
    sim.run();
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    let report = agentloop_contract::report::Report { exit_code: Some(1), ..interrupted(Change::Unknown) };
    sim.end(&report);
    sim.reconcile();
    assert_eq!((sim.phase(), sim.iterations()), (Phase::Suspended, 1));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Running);
    sim.run();
    sim.delete_pod();
    sim.end_silently(137, "Error");
    sim.reconcile();
    assert_eq!((sim.phase(), sim.iterations()), (Phase::Running, 2), "killed after its grace");
}

#[test]
fn a_limit_that_is_reached_while_suspended_is_told_when_it_goes_on() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 1 }));
    sim.reconcile();
    sim.edit(&json!({ "suspend": true }));
    sim.end(&worked());
    sim.reconcile();
    assert_eq!((sim.phase(), sim.iterations()), (Phase::Suspended, 1));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.created.len()), (Phase::IterationLimitReached, 1));
}

#[test]
fn a_pod_on_a_silent_node_is_waited_for_and_never_given_up() {
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
fn a_bound_pod_that_the_garbage_collector_ended_is_charged_though_it_seems_not_to_have_started() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    sim.expect_charge(true);
    kubelet::collect_garbage(sim.pod_mut());
    sim.reconcile();
    assert_eq!(sim.iterations(), 1);
}

#[test]
fn a_pod_that_was_deleted_by_hand_before_it_was_bound_is_free() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.delete_pod();
    sim.reconcile();
    assert_eq!((sim.iterations(), sim.waits_for()), (0, Some(WaitReason::StartFailed)));
    sim.pass(10);
    assert_eq!(sim.active(), Some((1, 1)));
}

#[test]
fn sidecars_that_outlive_the_agent_are_ended_and_the_agent_is_judged() {
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
fn an_agent_that_was_killed_beside_a_sidecar_is_not_excused_by_the_deletion_that_followed() {
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
fn sidecars_are_ended_where_nobody_knows_when_the_agent_ended() {
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
fn a_deleted_task_stops_its_pod_settles_nothing_and_leaves_nothing() {
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
    assert!(!sim.is_task_gone(), "a resumable stop is kept");
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
fn settled_pods_are_let_go_and_kept_up_to_the_history_limit() {
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
fn a_claim_released_by_an_uninstall_is_charged_as_lost_when_its_pod_is_gone() {
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
fn a_claim_released_by_an_uninstall_whose_pod_is_there_is_taken_up_again() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.task_mut().status.as_mut().unwrap().active.as_mut().unwrap().orphaned = true;
    sim.pod_mut().metadata.finalizers = None;
    sim.reconcile();
    assert!(PodFacts::of(sim.pod()).has_finalizer, "our finalizer is back");
    sim.end(&worked());
    sim.reconcile();
    assert_eq!((sim.iterations(), sim.active()), (1, Some((2, 0))));
}

#[test]
fn a_gated_pod_that_comes_too_late_is_deleted_and_has_run_nothing() {
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
fn a_pod_of_somebody_else_is_never_touched() {
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
    assert!(sim.pods().contains(&foreign), "though it bears the task's labels");
}

#[test]
fn a_copy_of_the_claimed_pod_is_not_taken_for_it() {
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
        assert_eq!((sim.phase(), sim.active()), (Phase::Running, Some((1, 0))), "its word does not count");
        sim.end(&worked());
        sim.reconcile();
        assert_eq!(sim.active(), Some((2, 0)));
    }
}

#[test]
fn a_task_is_being_reconciled_until_its_first_agent_has_run_and_never_again() {
    let is_reconciling = |sim: &Simulation| sim.condition("Reconciling").0 == "True";
    // The agent was seen while it ran.
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    assert!(is_reconciling(&sim));
    sim.run();
    sim.reconcile();
    assert!(!is_reconciling(&sim));
    // It was not, and its iteration counts.
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&worked());
    assert!(!is_reconciling(&sim));
    // It ran, and its iteration does not count.
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.reconcile();
    sim.end(&rate_limited(Change::Unchanged, None));
    sim.reconcile();
    assert_eq!(sim.iterations(), 0);
    assert!(!is_reconciling(&sim));
    // It never ran.
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.fail_to_start();
    sim.reconcile();
    assert!(is_reconciling(&sim));
}

#[test]
fn what_holds_a_task_that_never_ran_is_no_progress() {
    let status_of = |sim: &Simulation, type_: &str| sim.condition(type_).0;
    let mut suspended = Simulation::new(&json!({ "suspend": true }));
    suspended.reconcile();
    assert_eq!(status_of(&suspended, "Reconciling"), "False");
    assert_eq!(status_of(&suspended, "Stalled"), "False");
    for (refusal, reason, stalled) in [
        (Some(invalid_pod()), WaitReason::PodRejected, "True"),
        (None, WaitReason::NameConflict, "True"),
        (Some(quota_exceeded()), WaitReason::QuotaExceeded, "False"),
    ] {
        let mut sim = Simulation::new(&json!({}));
        sim.refusal = refusal;
        if reason == WaitReason::NameConflict {
            sim.before(Call::CreatePod, |sim| {
                let name = sim.pod_name();
                sim.leave_previous_pod(&name);
            });
        }
        sim.reconcile();
        assert_eq!(sim.waits_for(), Some(reason));
        assert_eq!(status_of(&sim, "Stalled"), stalled, "{reason:?}");
        assert_ne!(status_of(&sim, "Reconciling"), stalled, "{reason:?}");
    }
}

#[test]
fn a_condition_tells_since_when_it_is_so() {
    let since = |sim: &Simulation, type_: &str| {
        let found = sim.status().conditions.into_iter().find(|c| c.type_ == type_).unwrap();
        found.last_transition_time.0
    };
    let mut sim = Simulation::new(&json!({ "maxIterations": 1 }));
    sim.reconcile();
    let begun = sim.now;
    sim.pass(600);
    sim.iterate(&worked());
    let stopped = sim.now;
    assert!(stopped > begun);
    assert_eq!(since(&sim, "Stopped"), stopped, "it has become true");
    assert_eq!(since(&sim, "Succeeded"), begun, "it is as undecided as before");
    sim.pass(600);
    sim.edit(&json!({ "prompt": "more of the same" }));
    sim.reconcile();
    assert_eq!(since(&sim, "Stopped"), stopped, "true again is no change");
}

#[test]
fn an_iteration_that_neither_stops_nor_waits_changes_no_condition() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 20 }));
    sim.iterate(&worked());
    let before = sim.status().conditions;
    for iteration in 2..12 {
        sim.pass(60);
        sim.reconcile();
        assert_eq!(sim.status().conditions, before, "while {iteration} waits for its node");
        sim.run();
        sim.reconcile();
        assert_eq!(sim.status().conditions, before, "while {iteration} runs");
        sim.end(&if iteration % 3 == 0 { idled() } else { worked() });
        sim.reconcile();
        assert_eq!((sim.iterations(), sim.status().conditions), (iteration, before.clone()));
    }
}

#[test]
fn that_an_iteration_has_run_is_known_without_any_condition() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    assert_eq!(sim.status().first_run_time, None);
    sim.run();
    let ran = sim.now;
    sim.reconcile();
    sim.task_mut().status.as_mut().unwrap().conditions.clear();
    sim.pass(60);
    sim.end(&rate_limited(Change::Unchanged, None));
    sim.reconcile();
    assert_eq!(sim.condition("Reconciling"), ("False".to_owned(), "FirstIterationRan".to_owned()));
    assert_eq!(sim.status().first_run_time.map(|time| time.0), Some(ran));
}

#[test]
fn whether_a_task_has_succeeded_or_failed_is_unknown_until_it_is_decided() {
    let both = |sim: &Simulation| (sim.condition("Succeeded"), sim.condition("Failed"));
    let words = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    let undecided = (words("Unknown", "Undecided"), words("Unknown", "Undecided"));
    let mut sim = Simulation::new(&json!({ "maxIterations": 2, "failOnExitCodes": [9] }));
    sim.reconcile();
    assert_eq!(both(&sim), undecided, "nothing has run");
    sim.iterate_times(2, &worked());
    assert_eq!((sim.phase(), both(&sim)), (Phase::IterationLimitReached, undecided.clone()));
    sim.edit(&json!({ "maxIterations": 9 }));
    sim.iterate(&Report { exit_code: Some(9), ..worked() });
    assert_eq!(both(&sim), (words("False", "ExitCode"), words("True", "ExitCode")));
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!(sim.condition("Failed").0, "True", "it is not less failed while it is suspended");
    sim.edit(&json!({ "suspend": false, "resetToken": "again" }));
    sim.reconcile();
    assert_eq!(both(&sim), undecided, "it may still succeed");
    sim.iterate(&done());
    assert_eq!(both(&sim), (words("True", "Completed"), words("False", "Completed")));
    assert_eq!(sim.condition("Stopped"), words("True", "Succeeded"));
}

#[test]
fn suspended_is_a_condition_that_can_be_waited_for() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&worked());
    assert_eq!(sim.condition("Suspended").0, "False");
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!(sim.condition("Suspended").0, "True");
    assert_eq!(sim.condition("Stopped").0, "False", "no rule has stopped it");
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.condition("Suspended").0, "False");
}

#[test]
fn a_refused_action_keeps_from_being_done_all_but_what_stops_other_pods_or_lets_them_go() {
    let pod = |name: &str| PodRef { name: name.to_owned(), uid: format!("uid of {name}") };
    let failed = [
        Action::CreatePod,
        Action::RemoveSchedulingGate(pod("a")),
        Action::AddFinalizer(pod("a")),
        Action::DeletePod(pod("a")),
        Action::RemoveFinalizer { pod: pod("a"), has_ended: true },
        Action::DeleteTask,
    ];
    for failed in &failed {
        for independent in
            [Action::DeletePod(pod("b")), Action::RemoveFinalizer { pod: pod("b"), has_ended: true }]
        {
            assert!(independent.may_follow_failed(failed), "{independent:?} after {failed:?}");
        }
        for other in [
            Action::CreatePod,
            Action::RemoveSchedulingGate(pod("b")),
            Action::AddFinalizer(pod("b")),
            Action::DeleteTask,
            Action::ReadPod,
        ] {
            assert!(!other.may_follow_failed(failed), "{other:?} after {failed:?}");
        }
    }
    for failed in &failed[1..5] {
        for same in [Action::DeletePod(pod("a")), Action::RemoveFinalizer { pod: pod("a"), has_ended: true }]
        {
            assert!(!same.may_follow_failed(failed), "{same:?} after {failed:?}");
        }
    }
    assert!(
        !Action::DeletePod(pod("b")).may_follow_failed(&Action::ReadConfiguration),
        "nothing is decided yet"
    );
}
