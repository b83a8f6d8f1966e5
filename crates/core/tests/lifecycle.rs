//! Suspending, losing nodes, deleting, tidying up: what happens around a loop.

use crate::support::{World, done, idled, interrupted, kubelet, rate_limited, worked};
use agentloop_contract::report::{Change, Report};
use agentloop_core::{
    api::{IterationOutcome, Phase, WaitReason},
    decide::{Action, PodRef},
    facts::PodFacts,
};
use serde_json::json;

#[test]
fn suspended_before_the_start_nothing_is_claimed() {
    let mut world = World::new(&json!({ "suspend": true }));
    world.go();
    assert_eq!((world.phase(), world.created.len()), (Phase::Suspended, 0));
    assert_eq!(world.again, None, "nothing but an edit goes on");
    assert_eq!(world.status().progress.as_deref(), Some("0/10"));
    world.edit(&json!({ "suspend": false }));
    world.go();
    assert_eq!(world.active(), Some((1, 0)));
}

#[test]
fn suspending_stops_the_running_pod_and_charges_it() {
    let mut world = World::new(&json!({}));
    world.iterate_times(2, &idled());
    world.run();
    world.edit(&json!({ "suspend": true }));
    world.go();
    assert!(kubelet::is_deleting(world.pod()));
    assert_eq!(world.phase(), Phase::Suspended);
    world.kubelets_obey();
    world.go();
    let status = world.status();
    assert_eq!((status.iterations, status.history[0].outcome), (3, IterationOutcome::Interrupted));
    assert_eq!(status.breaker.consecutive_no_change, 2, "as it was");
    world.pass(3600);
    assert_eq!(world.created.len(), 3);
    world.edit(&json!({ "suspend": false }));
    world.go();
    assert_eq!(world.active(), Some((4, 0)), "nothing is lost");
}

#[test]
fn suspended_before_its_agent_started_the_attempt_is_free() {
    let mut world = World::new(&json!({}));
    world.go();
    world.edit(&json!({ "suspend": true }));
    world.go();
    assert_eq!((world.iterations(), world.active()), (0, None));
    world.edit(&json!({ "suspend": false }));
    world.go();
    assert_eq!(world.active(), Some((1, 1)), "at once: nothing failed");
}

#[test]
fn the_attempts_number_survives_suspend() {
    let mut world = World::new(&json!({}));
    world.iterate(&rate_limited(Change::Unchanged, None));
    world.edit(&json!({ "suspend": true }));
    world.go();
    world.edit(&json!({ "suspend": false }));
    world.go();
    assert_eq!(world.active(), Some((1, 1)));
}

#[test]
fn a_claim_without_a_pod_creates_none_while_suspended() {
    let mut world = World::new(&json!({}));
    world.refusal =
        Some(agentloop_core::facts::Obstacle { reason: WaitReason::PodRejected, message: String::new() });
    world.go();
    world.refusal = None;
    world.edit(&json!({ "suspend": true }));
    world.go();
    assert_eq!((world.phase(), world.created.len()), (Phase::Suspended, 0));
    world.edit(&json!({ "suspend": false }));
    world.go();
    assert_eq!(world.created, [(1, 0)]);
}

#[test]
fn what_a_stop_froze_stays_frozen_while_suspended() {
    let mut world = World::new(&json!({ "maxIterations": 1 }));
    world.iterate(&worked());
    world.edit(&json!({ "suspend": true, "maxIterations": 5 }));
    world.go();
    assert_eq!((world.phase(), world.status().max_iterations), (Phase::Suspended, Some(1)));
    world.edit(&json!({ "suspend": false }));
    world.go();
    assert_eq!((world.phase(), world.status().max_iterations), (Phase::Running, Some(5)));
}

#[test]
fn the_limit_that_a_suspended_task_shows_is_that_of_its_spec_and_no_newer_setting() {
    let mut world = World::new(&json!({ "suspend": true }));
    world.go();
    assert_eq!(world.status().max_iterations, Some(10));
    world.configure(&[("defaultMaxIterations", "7")]);
    world.go();
    assert_eq!(world.status().max_iterations, Some(10), "nothing was asked of it");
    world.edit(&json!({ "maxIterations": 3 }));
    world.go();
    assert_eq!(world.status().max_iterations, Some(3));
}

#[test]
fn done_while_suspended_is_succeeded() {
    let mut world = World::new(&json!({}));
    world.go();
    world.run();
    world.edit(&json!({ "suspend": true }));
    world.end(&done());
    world.go();
    assert_eq!(world.phase(), Phase::Succeeded);
}

#[test]
fn an_agent_that_exits_badly_because_it_was_told_to_stop_fails_nothing() {
    let mut world = World::new(&json!({ "failOnExitCodes": [1, 137, 143] }));
    world.go();
    world.run();
    world.edit(&json!({ "suspend": true }));
    world.go();
    let report = agentloop_contract::report::Report { exit_code: Some(1), ..interrupted(Change::Unknown) };
    world.end(&report);
    world.go();
    assert_eq!((world.phase(), world.iterations()), (Phase::Suspended, 1));
    world.edit(&json!({ "suspend": false }));
    world.go();
    assert_eq!(world.phase(), Phase::Running);
    world.run();
    world.delete_pod();
    world.end_silently(137, "Error");
    world.go();
    assert_eq!((world.phase(), world.iterations()), (Phase::Running, 2), "killed after its grace");
}

#[test]
fn a_limit_that_is_reached_while_suspended_is_told_when_it_goes_on() {
    let mut world = World::new(&json!({ "maxIterations": 1 }));
    world.go();
    world.edit(&json!({ "suspend": true }));
    world.end(&worked());
    world.go();
    assert_eq!((world.phase(), world.iterations()), (Phase::Suspended, 1));
    world.edit(&json!({ "suspend": false }));
    world.go();
    assert_eq!((world.phase(), world.created.len()), (Phase::IterationLimitReached, 1));
}

#[test]
fn a_pod_on_a_silent_node_is_waited_for_and_never_given_up() {
    let mut world = World::new(&json!({}));
    world.go();
    world.run();
    world.delete_pod();
    world.go();
    world.pass(59);
    assert_eq!(world.waits_for(), None);
    world.pass(1);
    assert_eq!((world.phase(), world.waits_for()), (Phase::Waiting, Some(WaitReason::NodeLost)));
    world.pass(7 * 24 * 3600);
    assert_eq!((world.active(), world.iterations()), (Some((1, 0)), 0));
    world.note_charge(true);
    kubelet::collect_garbage(world.pod());
    world.go();
    assert_eq!(
        (world.iterations(), world.active()),
        (1, Some((2, 0))),
        "charged: nothing proves that it was free"
    );
}

#[test]
fn a_bound_pod_that_the_garbage_collector_ended_is_charged_though_it_seems_not_to_have_started() {
    let mut world = World::new(&json!({}));
    world.go();
    kubelet::bind(world.pod());
    world.note_charge(true);
    kubelet::collect_garbage(world.pod());
    world.go();
    assert_eq!(world.iterations(), 1);
}

#[test]
fn a_pod_that_was_deleted_by_hand_before_it_was_bound_is_free() {
    let mut world = World::new(&json!({}));
    world.go();
    world.delete_pod();
    world.go();
    assert_eq!((world.iterations(), world.waits_for()), (0, Some(WaitReason::StartFailed)));
    world.pass(10);
    assert_eq!(world.active(), Some((1, 1)));
}

#[test]
fn sidecars_that_outlive_the_agent_are_ended_and_the_agent_is_judged() {
    let mut world = World::new(&json!({
        "template": { "spec": { "containers": [
            { "name": "agent", "image": "a", "command": ["agent"] },
            { "name": "docker", "image": "d" },
        ] } },
    }));
    world.go();
    world.run();
    let now = world.now;
    world.note_charge(true);
    kubelet::leave_sidecars(world.pod(), &kubelet::reported(&done(), now), now);
    world.pass(29);
    assert!(!kubelet::is_deleting(world.pod()));
    world.pass(1);
    assert!(kubelet::is_deleting(world.pod()));
    kubelet::end(world.pod(), &kubelet::reported(&done(), now));
    world.go();
    assert_eq!(world.phase(), Phase::Succeeded);
}

#[test]
fn an_agent_that_was_killed_beside_a_sidecar_is_not_excused_by_the_deletion_that_followed() {
    let mut world = World::new(&json!({}));
    for _ in 0..5 {
        world.go();
        world.run();
        let now = world.now;
        let killed = kubelet::terminated(139, "Error", None, now);
        world.note_charge(true);
        kubelet::leave_sidecars(world.pod(), &killed, now);
        world.pass(30);
        assert!(kubelet::is_deleting(world.pod()));
        kubelet::end(world.pod(), &killed);
        world.go();
        assert_eq!(world.status().history[0].outcome, IterationOutcome::Killed);
    }
    assert_eq!((world.phase(), world.reason().as_str()), (Phase::CircuitOpen, "SameError"));
}

#[test]
fn sidecars_are_ended_where_nobody_knows_when_the_agent_ended() {
    let mut world = World::new(&json!({}));
    world.go();
    world.run();
    let now = world.now;
    let gone = json!({ "terminated": { "exitCode": 137, "reason": "ContainerStatusUnknown" } });
    kubelet::leave_sidecars(world.pod(), &gone, now);
    world.pass(30);
    world.pass(30);
    assert!(kubelet::is_deleting(world.pod()));
}

#[test]
fn a_deleted_task_stops_its_pod_settles_nothing_and_leaves_nothing() {
    let mut world = World::new(&json!({}));
    world.iterate_times(3, &worked());
    world.run();
    world.delete_task();
    let status = world.status();
    world.go();
    assert!(world.pods.iter().all(kubelet::is_deleting));
    world.kubelets_obey();
    world.go();
    assert_eq!((world.pods.len(), world.status()), (0, status));
}

#[test]
fn only_success_starts_the_time_to_live() {
    let mut world = World::new(&json!({ "ttlSecondsAfterSucceeded": 60, "maxIterations": 1 }));
    world.iterate(&worked());
    world.pass(3600);
    assert!(!world.expired, "a resumable stop is kept");
    world.edit(&json!({ "maxIterations": 2 }));
    world.iterate(&done());
    world.pass(59);
    assert!(!world.expired);
    world.now += jiff::SignedDuration::from_secs(1);
    world.turn();
    assert!(world.expired);
}

#[test]
fn the_longest_time_to_live_ends_in_its_last_second_and_no_earlier() {
    let mut world = World::new(&json!({ "ttlSecondsAfterSucceeded": i32::MAX }));
    world.iterate(&done());
    world.pass(i64::from(i32::MAX) - 1);
    assert!(!world.expired);
    assert_eq!(world.phase(), Phase::Succeeded);
}

#[test]
fn settled_pods_are_let_go_and_kept_up_to_the_history_limit() {
    let mut world = World::new(&json!({ "podHistoryLimit": 2, "maxIterations": 5 }));
    world.iterate_times(5, &worked());
    let kept: Vec<i32> = world.pods.iter().map(|pod| PodFacts::of(pod).iteration).collect();
    assert_eq!(kept, [4, 5]);
    assert!(world.pods.iter().all(|pod| !PodFacts::of(pod).has_finalizer));
    world.edit(&json!({ "podHistoryLimit": 0 }));
    world.go();
    assert!(world.pods.is_empty());
}

#[test]
fn a_claim_released_by_an_uninstall_is_charged_as_lost_when_its_pod_is_gone() {
    let mut world = World::new(&json!({}));
    world.go();
    world.run();
    world.note_charge(true);
    world.task.status.as_mut().unwrap().active.as_mut().unwrap().orphaned = true;
    world.pods.clear();
    world.go();
    let status = world.status();
    assert_eq!((status.iterations, status.history[0].outcome), (1, IterationOutcome::PodLost));
    assert_eq!(world.active(), Some((2, 0)));
}

#[test]
fn a_claim_released_by_an_uninstall_whose_pod_is_there_is_taken_up_again() {
    let mut world = World::new(&json!({}));
    world.go();
    world.run();
    world.task.status.as_mut().unwrap().active.as_mut().unwrap().orphaned = true;
    world.pod().metadata.finalizers = None;
    world.go();
    assert!(PodFacts::of(world.pod()).has_finalizer, "our finalizer is back");
    world.end(&worked());
    world.go();
    assert_eq!((world.iterations(), world.active()), (1, Some((2, 0))));
}

#[test]
fn a_gated_pod_that_comes_too_late_is_deleted_and_has_run_nothing() {
    let mut world = World::new(&json!({}));
    assert!(world.turn());
    let mut late = world.pod().clone();
    world.iterate_times(2, &worked());
    late.metadata.uid = Some("late".to_owned());
    world.pods.retain(|pod| pod.metadata.name != late.metadata.name);
    world.pods.push(late);
    world.go();
    assert!(world.pods.iter().all(|pod| pod.metadata.uid.as_deref() != Some("late")));
    assert_eq!((world.iterations(), world.active()), (2, Some((3, 0))));
}

#[test]
fn a_pod_of_somebody_else_is_never_touched() {
    let mut world = World::new(&json!({}));
    assert!(world.turn());
    let mut foreign = world.pod().clone();
    foreign.metadata.uid = Some("foreign".to_owned());
    foreign.metadata.owner_references.as_mut().unwrap()[0].uid = "another-task".to_owned();
    world.iterate_times(2, &worked());
    world.pods.push(foreign.clone());
    world.go();
    assert!(world.pods.contains(&foreign));
    world.delete_task();
    world.go();
    assert!(world.pods.contains(&foreign), "though it bears the task's labels");
}

#[test]
fn a_copy_of_the_claimed_pod_is_not_taken_for_it() {
    for is_first in [true, false] {
        let mut world = World::new(&json!({}));
        world.go();
        let mut copy = world.pod().clone();
        copy.metadata.name = Some("a-copy".to_owned());
        copy.metadata.uid = Some("copy".to_owned());
        kubelet::bind(&mut copy);
        kubelet::end(&mut copy, &kubelet::reported(&done(), world.now));
        let place = if is_first { 0 } else { world.pods.len() };
        world.pods.insert(place, copy);
        world.run();
        world.go();
        assert_eq!(
            (world.phase(), world.active()),
            (Phase::Running, Some((1, 0))),
            "its word does not count"
        );
        world.end(&worked());
        world.go();
        assert_eq!(world.active(), Some((2, 0)));
    }
}

#[test]
fn a_task_is_being_reconciled_until_its_first_agent_has_run_and_never_again() {
    let is_reconciling = |world: &World| world.condition("Reconciling").0 == "True";
    // The agent was seen while it ran.
    let mut world = World::new(&json!({}));
    world.go();
    assert!(is_reconciling(&world));
    world.run();
    world.go();
    assert!(!is_reconciling(&world));
    // It was not, and its iteration counts.
    let mut world = World::new(&json!({}));
    world.iterate(&worked());
    assert!(!is_reconciling(&world));
    // It ran, and its iteration does not count.
    let mut world = World::new(&json!({}));
    world.go();
    world.run();
    world.go();
    world.end(&rate_limited(Change::Unchanged, None));
    world.go();
    assert_eq!(world.iterations(), 0);
    assert!(!is_reconciling(&world));
    // It never ran.
    let mut world = World::new(&json!({}));
    world.go();
    world.fail_to_start();
    world.go();
    assert!(is_reconciling(&world));
}

#[test]
fn what_holds_a_task_that_never_ran_is_no_progress() {
    let status_of = |world: &World, type_: &str| world.condition(type_).0;
    let mut suspended = World::new(&json!({ "suspend": true }));
    suspended.go();
    assert_eq!(status_of(&suspended, "Reconciling"), "False");
    assert_eq!(status_of(&suspended, "Stalled"), "False");
    for (reason, stalled) in [
        (WaitReason::PodRejected, "True"),
        (WaitReason::NameConflict, "True"),
        (WaitReason::QuotaExceeded, "False"),
    ] {
        let mut world = World::new(&json!({}));
        world.refusal = Some(agentloop_core::facts::Obstacle { reason, message: String::new() });
        world.go();
        assert_eq!(status_of(&world, "Stalled"), stalled, "{reason:?}");
        assert_ne!(status_of(&world, "Reconciling"), stalled, "{reason:?}");
    }
}

#[test]
fn a_condition_tells_since_when_it_is_so() {
    let since = |world: &World, type_: &str| {
        let found = world.status().conditions.into_iter().find(|c| c.type_ == type_).unwrap();
        found.last_transition_time.0
    };
    let mut world = World::new(&json!({ "maxIterations": 1 }));
    world.go();
    let begun = world.now;
    world.pass(600);
    world.iterate(&worked());
    let stopped = world.now;
    assert!(stopped > begun);
    assert_eq!(since(&world, "Stopped"), stopped, "it has become true");
    assert_eq!(since(&world, "Succeeded"), begun, "it is as undecided as before");
    world.pass(600);
    world.edit(&json!({ "prompt": "more of the same" }));
    world.go();
    assert_eq!(since(&world, "Stopped"), stopped, "true again is no change");
}

#[test]
fn an_iteration_that_neither_stops_nor_waits_changes_no_condition() {
    let mut world = World::new(&json!({ "maxIterations": 20 }));
    world.iterate(&worked());
    let before = world.status().conditions;
    for iteration in 2..12 {
        world.pass(60);
        world.go();
        assert_eq!(world.status().conditions, before, "while {iteration} waits for its node");
        world.run();
        world.go();
        assert_eq!(world.status().conditions, before, "while {iteration} runs");
        world.end(&if iteration % 3 == 0 { idled() } else { worked() });
        world.go();
        assert_eq!((world.iterations(), world.status().conditions), (iteration, before.clone()));
    }
}

#[test]
fn that_an_iteration_has_run_is_known_without_any_condition() {
    let mut world = World::new(&json!({}));
    world.go();
    assert_eq!(world.status().first_run_time, None);
    world.run();
    let ran = world.now;
    world.go();
    world.task.status.as_mut().unwrap().conditions.clear();
    world.pass(60);
    world.end(&rate_limited(Change::Unchanged, None));
    world.go();
    assert_eq!(world.condition("Reconciling"), ("False".to_owned(), "FirstIterationRan".to_owned()));
    assert_eq!(world.status().first_run_time.map(|time| time.0), Some(ran));
}

#[test]
fn whether_a_task_has_succeeded_or_failed_is_unknown_until_it_is_decided() {
    let both = |world: &World| (world.condition("Succeeded"), world.condition("Failed"));
    let words = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    let undecided = (words("Unknown", "Undecided"), words("Unknown", "Undecided"));
    let mut world = World::new(&json!({ "maxIterations": 2, "failOnExitCodes": [9] }));
    world.go();
    assert_eq!(both(&world), undecided, "nothing has run");
    world.iterate_times(2, &worked());
    assert_eq!((world.phase(), both(&world)), (Phase::IterationLimitReached, undecided.clone()));
    world.edit(&json!({ "maxIterations": 9 }));
    world.iterate(&Report { exit_code: Some(9), ..worked() });
    assert_eq!(both(&world), (words("False", "ExitCode"), words("True", "ExitCode")));
    world.edit(&json!({ "suspend": true }));
    world.go();
    assert_eq!(world.condition("Failed").0, "True", "it is not less failed while it is suspended");
    world.edit(&json!({ "suspend": false, "resetToken": "again" }));
    world.go();
    assert_eq!(both(&world), undecided, "it may still succeed");
    world.iterate(&done());
    assert_eq!(both(&world), (words("True", "Completed"), words("False", "Completed")));
    assert_eq!(world.condition("Stopped"), words("True", "Succeeded"));
}

#[test]
fn suspended_is_a_condition_that_can_be_waited_for() {
    let mut world = World::new(&json!({}));
    world.iterate(&worked());
    assert_eq!(world.condition("Suspended").0, "False");
    world.edit(&json!({ "suspend": true }));
    world.go();
    assert_eq!(world.condition("Suspended").0, "True");
    assert_eq!(world.condition("Stopped").0, "False", "no rule has stopped it");
    world.edit(&json!({ "suspend": false }));
    world.go();
    assert_eq!(world.condition("Suspended").0, "False");
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
