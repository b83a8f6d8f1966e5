//! One reconcile, request by request: how pods are deleted and lose their finalizers, and what a refused action prevents.

use crate::support::{
    Simulation, idled, kubelet, quota_exceeded,
    simulation::{
        Call::{
            AddFinalizer, ConfirmTask, CreatePod, DeletePod, DeleteTask, RemoveFinalizer,
            RemoveSchedulingGate, WriteStatus,
        },
        server_error,
    },
    worked,
};
use agentloop_core::{
    decide::{Action, PodRef},
    sync::{Failure, SyncOutcome},
};
use serde_json::json;

/// The first iteration's pod has started.
fn started() -> Simulation {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.take_requests();
    sim
}

/// The second iteration's pod is created but has lost its finalizer; the first one's is settled, has its finalizer, and
/// is beyond the history.
fn with_settled_pod() -> Simulation {
    let mut sim = Simulation::new(&json!({ "podHistoryLimit": 0 }));
    sim.reconcile();
    sim.end(&worked());
    assert!(sim.step());
    sim.restart();
    assert_eq!((sim.active(), sim.pods().len()), (Some((2, 0)), 2));
    sim.pod_mut().metadata.finalizers = None;
    sim.take_requests();
    sim
}

#[test]
fn after_a_refused_action_other_pods_are_still_deleted_and_lose_their_finalizers() {
    for failure in [Failure::Conflict, server_error(), Failure::Other] {
        let mut sim = with_settled_pod();
        sim.fail(AddFinalizer, failure);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
        assert_eq!(sim.take_requests(), [AddFinalizer, RemoveFinalizer, DeletePod]);
        assert_eq!(sim.pods().len(), 1, "the settled pod is gone");
        assert!(kubelet::is_gated(sim.pod()), "the active one is not started");
    }
}

#[test]
fn a_pod_whose_finalizer_could_not_be_removed_is_not_deleted() {
    let mut sim = with_settled_pod();
    sim.fail(RemoveFinalizer, Failure::Conflict);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert_eq!(sim.take_requests(), [AddFinalizer, ConfirmTask, RemoveSchedulingGate, RemoveFinalizer]);
}

#[test]
fn after_a_request_without_an_answer_nothing_more_is_asked() {
    for failure in
        [Failure::Lost, Failure::TimedOut(5), Failure::Rejected { code: 504, message: String::new() }]
    {
        for call in [AddFinalizer, RemoveSchedulingGate, RemoveFinalizer] {
            let mut sim = with_settled_pod();
            sim.fail(call, failure.clone());
            assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
            assert_eq!(sim.take_requests().last(), Some(&call));
        }
    }
}

#[test]
fn what_is_gone_needs_nothing_more() {
    for call in [AddFinalizer, RemoveSchedulingGate, RemoveFinalizer, DeletePod] {
        let mut sim = with_settled_pod();
        sim.fail(call, Failure::NotFound);
        assert!(matches!(sim.reconcile_once(), SyncOutcome::Done(_)), "{call:?}");
    }
}

#[test]
fn a_pod_that_was_never_bound_is_settled_in_the_reconcile_that_deletes_it() {
    let mut sim = started();
    sim.edit(&json!({ "suspend": true }));
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), [WriteStatus, DeletePod, WriteStatus, RemoveFinalizer]);
    assert_eq!((sim.iterations(), sim.active()), (0, None));
}

#[test]
fn a_bound_pod_that_is_deleted_is_settled_when_its_kubelet_has_stopped_it() {
    let mut sim = started();
    sim.run();
    sim.reconcile();
    sim.take_requests();
    sim.edit(&json!({ "suspend": true }));
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), [WriteStatus, DeletePod]);
    assert_eq!(sim.active(), Some((1, 0)));
}

#[test]
fn a_conflict_of_one_action_does_not_hide_what_another_one_found() {
    // The late pod's deletion ends it, so its finalizer is removed in a second round.
    let mut sim = started();
    sim.end(&idled());
    sim.create_late_pod("late");
    sim.fail(RemoveFinalizer, Failure::Conflict);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed, "the conflict is tried again later");
    let requests = sim.take_requests();
    assert_eq!(requests.iter().filter(|call| **call == RemoveFinalizer).count(), 3, "{requests:?}");
    assert_eq!(sim.pods().len(), 2, "the late pod is gone");
}

#[test]
fn a_second_round_with_a_conflict_is_the_last_one() {
    let mut sim = started();
    sim.end(&idled());
    sim.create_late_pod("late");
    sim.fail(RemoveFinalizer, Failure::Conflict);
    sim.fail(RemoveFinalizer, Failure::Conflict);
    // Each deletion of a pod that was never bound would be followed by another round.
    sim.before(DeletePod, |sim| sim.create_late_pod("later"));
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    let later = sim.cached_pod("later");
    assert!(later.facts.deletion.is_some() && later.facts.has_finalizer, "there is no third round");
}

#[test]
fn a_round_with_an_error_is_the_last_one() {
    let mut sim = started();
    sim.end(&idled());
    sim.create_late_pod("late");
    sim.fail(RemoveFinalizer, server_error());
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    let late = sim.cached_pod("late");
    assert!(late.facts.deletion.is_some() && late.facts.has_finalizer, "there is no second round");
}

#[test]
fn a_refusal_is_decided_on_once() {
    let mut sim = started();
    sim.end(&idled());
    sim.refusal = Some(quota_exceeded());
    // The deletion of a late pod leads to another round, in which some time has passed.
    sim.before(CreatePod, |sim| sim.create_late_pod("late"));
    sim.before(DeletePod, |sim| sim.now = crate::support::after(3));
    sim.reconcile_once();
    let requests = sim.take_requests();
    let writes = requests.iter().filter(|call| **call == WriteStatus).count();
    assert_eq!(writes, 2, "the settled iteration and the wait: {requests:?}");
    assert_eq!(requests.last(), Some(&RemoveFinalizer));
}

// === The task ===

/// A task that has succeeded, and whose time to live is over.
fn expired() -> Simulation {
    let mut sim = Simulation::new(&json!({ "ttlSecondsAfterSucceeded": 60 }));
    sim.iterate(&crate::support::done());
    sim.now = crate::support::after(60);
    sim.take_requests();
    sim
}

#[test]
fn a_task_whose_time_to_live_is_over_is_deleted() {
    let mut sim = expired();
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), [DeleteTask]);
    assert!(sim.is_task_gone());
}

#[test]
fn a_task_that_changed_meanwhile_is_not_deleted() {
    let mut sim = expired();
    sim.before(DeleteTask, |sim| sim.edit(&json!({ "ttlSecondsAfterSucceeded": null })));
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed, "it is decided again later");
    sim.reconcile();
    assert!(!sim.is_task_gone());
}

#[test]
fn a_task_that_is_gone_already_needs_no_deletion() {
    let mut sim = expired();
    sim.fail(DeleteTask, Failure::NotFound);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
}

#[test]
fn a_deletion_of_the_task_that_fails_is_tried_again() {
    for failure in [server_error(), Failure::Lost] {
        let mut sim = expired();
        sim.fail(DeleteTask, failure);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    }
}

#[test]
fn after_a_refused_action_only_other_pods_may_be_deleted_or_lose_their_finalizers() {
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
