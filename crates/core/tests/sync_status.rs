//! One reconcile, request by request: how the status is written, and what follows if it is not.

use std::time::Duration;

use crate::support::{
    Simulation, idled, kubelet,
    simulation::{
        Call::{
            ConfirmTask, CreatePod, DeletePod, ListPreviousPods, ReadConfiguration, ReadEvents, ReadTask,
            RemoveFinalizer, RemoveSchedulingGate, WriteStatus,
        },
        server_error,
    },
    worked,
};
use agentloop_core::{
    api::{Phase, WaitReason},
    facts::Obstacle,
    settings::Configuration,
    sync::{Failure, Response, SyncOutcome},
};
use serde_json::json;

/// The requests of the reconcile in which the first iteration starts.
const FIRST_START: [crate::support::simulation::Call; 5] =
    [ListPreviousPods, WriteStatus, CreatePod, ConfirmTask, RemoveSchedulingGate];

/// No one knows whether the request was carried out.
fn ambiguous() -> [Failure; 3] {
    let gateway_timeout = Failure::Rejected { code: 504, message: "gateway timeout".to_owned() };
    [Failure::Lost, Failure::TimedOut(5), gateway_timeout]
}

#[test]
fn the_first_iteration_is_written_created_confirmed_and_started_in_one_reconcile() {
    let mut sim = Simulation::new(&json!({}));
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), FIRST_START);
    assert!(!kubelet::is_gated(sim.pod()));
}

#[test]
fn an_iteration_is_settled_and_the_next_one_started_in_one_reconcile() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.end(&worked());
    sim.take_requests();
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    let requests = [WriteStatus, CreatePod, ConfirmTask, RemoveSchedulingGate, RemoveFinalizer];
    assert_eq!(sim.take_requests(), requests);
}

#[test]
fn a_task_at_rest_is_asked_nothing() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.reconcile();
    sim.take_requests();
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), []);
}

#[test]
fn after_a_conflict_the_task_is_read_and_decided_on_again() {
    let mut sim = Simulation::new(&json!({}));
    sim.before(WriteStatus, |sim| sim.edit(&json!({ "suspend": true })));
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus, ReadTask, WriteStatus]);
    assert_eq!((sim.phase(), sim.active()), (Phase::Suspended, None), "nothing was done before");
}

#[test]
fn after_a_second_conflict_the_reconcile_fails() {
    let mut sim = Simulation::new(&json!({}));
    sim.fail(WriteStatus, Failure::Conflict);
    sim.fail(WriteStatus, Failure::Conflict);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus, ReadTask, WriteStatus]);
    assert_eq!(sim.created, []);
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 0)), "the next reconcile succeeds");
}

#[test]
fn a_status_whose_answer_is_lost_is_read_and_not_written_a_second_time() {
    let mut sim = Simulation::new(&json!({}));
    sim.lose_answer(WriteStatus);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    let requests = [ListPreviousPods, WriteStatus, ReadTask, CreatePod, ConfirmTask, RemoveSchedulingGate];
    assert_eq!(sim.take_requests(), requests);
    assert_eq!((sim.writes, sim.created.as_slice()), (1, &[(1, 0)][..]));
}

#[test]
fn a_settled_iteration_whose_answer_is_lost_is_counted_once() {
    for failure in [None, Some(Failure::Lost)] {
        let mut sim = Simulation::new(&json!({}));
        sim.reconcile();
        sim.end(&worked());
        match failure {
            None => sim.lose_answer(WriteStatus),
            Some(failure) => sim.fail(WriteStatus, failure),
        }
        assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
        assert_eq!((sim.iterations(), sim.active()), (1, Some((2, 0))));
    }
}

#[test]
fn a_status_that_may_not_have_been_written_is_read_before_it_is_written_again() {
    for failure in ambiguous() {
        let mut sim = Simulation::new(&json!({}));
        sim.fail(WriteStatus, failure.clone());
        assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None), "{failure:?}");
        assert_eq!(sim.take_requests()[..4], [ListPreviousPods, WriteStatus, ReadTask, WriteStatus]);
    }
}

#[test]
fn a_status_that_the_server_rejects_is_not_tried_again_in_this_reconcile() {
    for failure in [server_error(), Failure::Other, Failure::Rejected { code: 422, message: String::new() }] {
        let mut sim = Simulation::new(&json!({}));
        sim.fail(WriteStatus, failure.clone());
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed, "{failure:?}");
        assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus]);
    }
}

#[test]
fn a_task_that_is_gone_when_its_status_is_written_is_left_alone() {
    let mut sim = Simulation::new(&json!({}));
    sim.before(WriteStatus, Simulation::delete_task_immediately);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus]);
}

#[test]
fn a_task_that_is_gone_when_it_is_read_after_a_conflict_is_left_alone() {
    let mut sim = Simulation::new(&json!({}));
    sim.fail(WriteStatus, Failure::Conflict);
    sim.before(ReadTask, Simulation::delete_task_immediately);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus, ReadTask]);
}

#[test]
fn a_task_that_cannot_be_read_after_a_conflict_fails_the_reconcile() {
    let mut sim = Simulation::new(&json!({}));
    sim.fail(WriteStatus, Failure::Conflict);
    sim.fail(ReadTask, server_error());
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus, ReadTask]);
}

#[test]
fn an_answer_of_another_kind_fails_the_reconcile() {
    for call in [WriteStatus, ReadTask] {
        let mut sim = Simulation::new(&json!({}));
        if call == ReadTask {
            sim.fail(WriteStatus, Failure::Conflict);
        }
        sim.answer(call, Response::Done);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed, "{call:?}");
    }
    for call in [ListPreviousPods, CreatePod, ConfirmTask, RemoveSchedulingGate] {
        let mut sim = Simulation::new(&json!({}));
        sim.answer(call, Response::Events(None));
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed, "{call:?}");
    }
}

#[test]
fn the_status_is_decided_again_if_the_conflict_was_with_the_same_write_of_another_operator() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.end(&idled());
    let mut other = Simulation::new(&json!({}));
    other.iterate(&idled());
    let status = other.status();
    sim.before(WriteStatus, move |sim| sim.task_mut().status = Some(status));
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!((sim.iterations(), sim.active()), (1, Some((2, 0))), "it is counted once");
    assert_eq!(sim.created, [(1, 0), (2, 0)]);
}

// === Reads that a decision asks for ===

/// A task that has run under version 2 of the configuration, and an operator whose cache still shows version 1.
fn with_old_configuration() -> (Simulation, Configuration) {
    let mut sim = Simulation::new(&json!({}));
    sim.configure(&[("hardLimit", "5")]);
    let old = sim.cached.clone();
    sim.configure(&[("hardLimit", "2")]);
    sim.reconcile();
    sim.end(&worked());
    sim.cached = old.clone();
    sim.take_requests();
    (sim, old)
}

#[test]
fn an_old_configuration_is_read_once_before_anything_is_written() {
    let (mut sim, _) = with_old_configuration();
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests()[..2], [ReadConfiguration, WriteStatus]);
    assert_eq!(sim.status().max_iterations, Some(2));
}

#[test]
fn a_configuration_that_cannot_be_read_fails_the_reconcile_before_anything_is_written() {
    for failure in [server_error(), Failure::Lost, Failure::NotFound] {
        let (mut sim, _) = with_old_configuration();
        let writes = sim.writes;
        sim.fail(ReadConfiguration, failure);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
        assert_eq!((sim.take_requests(), sim.writes), (vec![ReadConfiguration], writes));
    }
}

#[test]
fn a_configuration_that_was_read_counts_as_the_newest_only_until_the_task_is_read_again() {
    let (mut sim, _) = with_old_configuration();
    sim.fail(WriteStatus, Failure::Conflict);
    // Another operator applies a newer configuration meanwhile.
    sim.before(ReadTask, |sim| {
        let thresholds = sim.task_mut().status.as_mut().unwrap().thresholds.as_mut().unwrap();
        thresholds.config_version = Some("3".to_owned());
        sim.real.version = Some("3".to_owned());
    });
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    let requests = [ReadConfiguration, WriteStatus, ReadTask, ReadConfiguration, WriteStatus];
    assert_eq!(sim.take_requests()[..5], requests);
    assert_eq!(sim.status().thresholds.unwrap().config_version.as_deref(), Some("3"));
}

#[test]
fn previous_pods_are_listed_until_none_runs() {
    let mut sim = Simulation::new(&json!({}));
    sim.leave_previous_pod("x-0badcafe-7-0");
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_secs(5))));
    assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus]);
    assert_eq!(sim.waits_for(), Some(WaitReason::PreviousPodRunning));
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_secs(5))));
    assert_eq!(sim.take_requests(), [ListPreviousPods]);
    sim.remove_pod("x-0badcafe-7-0");
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), FIRST_START);
}

#[test]
fn previous_pods_that_cannot_be_listed_fail_the_reconcile_before_anything_is_written() {
    let mut sim = Simulation::new(&json!({}));
    sim.fail(ListPreviousPods, server_error());
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert_eq!((sim.take_requests(), sim.writes), (vec![ListPreviousPods], 0));
}

/// A pod that has been on a node for 10 s and says nothing.
fn silent() -> Simulation {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    sim.reconcile();
    sim.now = crate::support::after(10);
    sim.take_requests();
    let message = "secret \"goal\" not found".to_owned();
    sim.events = Some(Obstacle { reason: WaitReason::PromptMissing, message });
    sim
}

#[test]
fn the_events_of_a_silent_pod_are_read_before_the_decision() {
    let mut sim = silent();
    sim.reconcile_once();
    assert_eq!(sim.take_requests(), [ReadEvents, WriteStatus]);
    assert_eq!(sim.waits_for(), Some(WaitReason::PromptMissing));
}

#[test]
fn without_an_answer_about_events_the_decision_is_taken_without_them() {
    for answer in [Response::Failed(server_error()), Response::Events(None), Response::Done] {
        let mut sim = silent();
        sim.answer(ReadEvents, answer);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_secs(10))));
        assert_eq!((sim.take_requests(), sim.waits_for()), (vec![ReadEvents], None));
    }
}

#[test]
fn a_pod_that_ends_while_its_events_are_read_is_settled() {
    let mut sim = silent();
    sim.before(ReadEvents, |sim| sim.end(&worked()));
    sim.reconcile_once();
    assert_eq!((sim.iterations(), sim.active()), (1, Some((2, 0))));
}

// === The end of a reconcile ===

#[test]
fn a_reconcile_whose_decisions_never_come_to_an_end_gives_up() {
    let (mut sim, old) = with_old_configuration();
    for _ in 0..100 {
        let stale = crate::support::simulation::Handle::new(old.clone());
        sim.answer(ReadConfiguration, Response::Configuration(stale));
    }
    assert_eq!(sim.reconcile_once(), SyncOutcome::NotConverged);
    assert_eq!(sim.take_requests(), [ReadConfiguration; 12]);
}

#[test]
fn a_reconcile_that_takes_too_long_decides_nothing_new_and_resumes_after_a_second() {
    let late = |sim: &mut Simulation| sim.now = sim.late_from.unwrap();
    let mut sim = Simulation::new(&json!({}));
    sim.late_from = Some(crate::support::after(60));
    sim.before(ListPreviousPods, late);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_secs(1))));
    assert_eq!((sim.take_requests(), sim.writes), (vec![ListPreviousPods], 0));
}

#[test]
fn a_reconcile_that_takes_too_long_begins_no_action_and_resumes_after_a_second() {
    let mut sim = Simulation::new(&json!({}));
    sim.late_from = Some(crate::support::after(60));
    sim.before(WriteStatus, |sim| sim.now = sim.late_from.unwrap());
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_secs(1))));
    assert_eq!((sim.take_requests(), sim.created.len()), (vec![ListPreviousPods, WriteStatus], 0));
    sim.late_from = None;
    sim.pass(1);
    assert_eq!(sim.created, [(1, 0)]);
}

#[test]
fn a_reconcile_that_is_late_after_a_conflict_fails() {
    let mut sim = Simulation::new(&json!({}));
    sim.late_from = Some(crate::support::after(60));
    sim.reconcile();
    sim.end(&worked());
    // Another client overtakes the patch, and a pod that was never bound is deleted afterwards.
    sim.create_late_pod("late");
    sim.fail(RemoveFinalizer, Failure::Conflict);
    sim.before(DeletePod, |sim| sim.now = sim.late_from.unwrap());
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed, "it is tried again");
}

#[test]
fn a_reconcile_rests_no_longer_than_the_decision_asks_for() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_secs(10))));
    assert_eq!(sim.requeue_at, Some(crate::support::after(10)));
}
