//! One reconcile, request by request: how pods are created, adopted, started, stopped and freed.

use std::time::Duration;

use crate::support::{
    Simulation, idled, invalid_pod, kubelet, quota_exceeded,
    simulation::{
        Call::{
            AddFinalizer, ConfirmTask, CreatePod, DeletePod, DeleteTask, ListPreviousPods, ReadPod, ReadTask,
            RemoveFinalizer, RemoveSchedulingGate, WriteStatus,
        },
        server_error,
    },
    worked,
};
use agentloop_core::{
    api::{IterationOutcome, WaitReason},
    sync::{Failure, SyncOutcome},
};
use kube::ResourceExt;
use serde_json::json;

const START: [crate::support::simulation::Call; 2] = [ConfirmTask, RemoveSchedulingGate];

fn new() -> Simulation {
    Simulation::new(&json!({}))
}

/// The first iteration is active, and its pod has been created but not started, by an operator that then crashed.
fn created() -> Simulation {
    let mut sim = new();
    assert!(sim.step());
    assert!(kubelet::is_gated(sim.pod()));
    sim.restart();
    sim.take_requests();
    sim
}

/// The first iteration's pod has started.
fn started() -> Simulation {
    let mut sim = new();
    sim.reconcile();
    sim.take_requests();
    sim
}

// === Create ===

#[test]
fn a_pod_whose_creation_was_not_answered_is_found_by_the_next_reconcile() {
    let mut sim = new();
    sim.lose_answer(CreatePod);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus, CreatePod], "nothing more is asked");
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), START);
    assert_eq!(sim.created, [(1, 0)]);
}

#[test]
fn a_pod_that_was_created_before_is_adopted() {
    let mut sim = new();
    sim.freeze_caches();
    sim.lose_answer(CreatePod);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    sim.take_requests();
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests()[..2], [CreatePod, ReadPod]);
    assert_eq!(sim.created, [(1, 0)]);
    assert!(!kubelet::is_gated(sim.pod()), "it is started");
}

#[test]
fn a_pod_of_another_owner_that_has_the_name_is_waited_for_and_never_touched() {
    let mut sim = new();
    sim.before(CreatePod, |sim| {
        let name = sim.pod_name();
        sim.leave_previous_pod(&name);
    });
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_secs(10))));
    let requests = [ListPreviousPods, WriteStatus, CreatePod, ReadPod, WriteStatus];
    assert_eq!(sim.take_requests(), requests);
    assert_eq!(sim.waits_for(), Some(WaitReason::NameConflict));
    let name = sim.pod_name();
    let expected = format!("pod {name} exists and does not belong to this task");
    assert_eq!(sim.status().waiting.unwrap().message, Some(expected));
    sim.remove_pod(&name);
    sim.pass(10);
    assert_eq!(sim.created, [(1, 0)]);
}

#[test]
fn a_pod_of_the_task_whose_labels_were_edited_is_not_adopted() {
    let mut sim = created();
    sim.pod_mut().labels_mut().remove("agentloop.dev/task-uid");
    sim.reconcile();
    assert_eq!(sim.waits_for(), Some(WaitReason::NameConflict));
    assert!(kubelet::is_gated(sim.pod()));
    assert_eq!(sim.created.len(), 1);
}

#[test]
fn a_pod_that_is_gone_again_when_it_is_read_for_adoption_is_created_once_more() {
    let mut sim = new();
    sim.fail(CreatePod, Failure::Exists);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    let requests =
        [ListPreviousPods, WriteStatus, CreatePod, ReadPod, CreatePod, ConfirmTask, RemoveSchedulingGate];
    assert_eq!(sim.take_requests(), requests);
}

#[test]
fn a_pod_that_comes_and_goes_fails_the_reconcile() {
    let mut sim = new();
    sim.fail(CreatePod, Failure::Exists);
    sim.fail(CreatePod, Failure::Exists);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    let requests = [ListPreviousPods, WriteStatus, CreatePod, ReadPod, CreatePod, ReadPod];
    assert_eq!(sim.take_requests(), requests);
}

#[test]
fn a_pod_that_cannot_be_read_for_adoption_fails_the_reconcile() {
    for failure in [server_error(), Failure::Lost, Failure::TimedOut(15)] {
        let mut sim = new();
        sim.fail(CreatePod, Failure::Exists);
        sim.fail(ReadPod, failure);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
        assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus, CreatePod, ReadPod]);
    }
}

#[test]
fn a_pod_that_the_server_rejects_is_waited_for_with_the_servers_message() {
    let broken = Failure::Unbuildable("spec.template: it has no containers".to_owned());
    for (failure, reason, message) in [
        (quota_exceeded(), WaitReason::QuotaExceeded, "exceeded quota: full"),
        (invalid_pod(), WaitReason::PodRejected, "Pod \"x-1-0\" is invalid: because"),
        (broken, WaitReason::PodRejected, "spec.template: it has no containers"),
        (
            Failure::TimedOut(5),
            WaitReason::PodRejected,
            "the API server did not answer within 5 s; an admission webhook",
        ),
        (
            Failure::Rejected { code: 500, message: "failed calling webhook \"a.b\"".to_owned() },
            WaitReason::PodRejected,
            "failed calling webhook",
        ),
    ] {
        let mut sim = new();
        sim.fail(CreatePod, failure);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_secs(10))), "{message}");
        assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus, CreatePod, WriteStatus]);
        assert_eq!(sim.waits_for(), Some(reason));
        let shown = sim.status().waiting.unwrap().message.unwrap();
        assert!(shown.contains(message), "{shown}");
        sim.pass(10);
        assert_eq!(sim.created, [(1, 0)]);
    }
}

#[test]
fn an_error_of_the_server_is_no_refusal_and_is_not_shown() {
    for failure in [server_error(), Failure::Other, Failure::NotFound, Failure::Conflict] {
        let mut sim = new();
        sim.fail(CreatePod, failure.clone());
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed, "{failure:?}");
        assert_eq!(sim.take_requests(), [ListPreviousPods, WriteStatus, CreatePod]);
        assert_eq!(sim.waits_for(), None);
    }
}

/// What a namespace answers that was just created.
fn no_account_yet() -> Failure {
    let message = "pods \"x-1-0\" is forbidden: error looking up service account team/default: serviceaccount \"default\" not found";
    Failure::Rejected { code: 403, message: message.to_owned() }
}

#[test]
fn a_new_namespace_is_tried_again_every_half_second_and_nothing_is_shown() {
    let mut sim = new();
    sim.refusal = Some(no_account_yet());
    for second in [0, 10, 29] {
        sim.now = crate::support::after(second);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_millis(500))));
        assert_eq!((sim.waits_for(), sim.writes), (None, 1));
    }
    sim.now = crate::support::after(30);
    sim.reconcile_once();
    assert_eq!(sim.waits_for(), Some(WaitReason::PodRejected), "it is not new any longer");
}

#[test]
fn each_new_namespace_has_half_a_minute_of_its_own() {
    let mut sim = new();
    sim.refusal = Some(no_account_yet());
    sim.reconcile_once();
    sim.refusal = None;
    sim.reconcile();
    sim.end(&worked());
    sim.refusal = Some(no_account_yet());
    sim.now = crate::support::after(3600);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_millis(500))));
    assert_eq!((sim.active(), sim.waits_for()), (Some((2, 0)), None));
}

// === Start ===

#[test]
fn a_start_is_confirmed_by_a_read_of_the_task() {
    let mut sim = created();
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), START);
}

#[test]
fn the_newer_status_of_another_operator_prevents_the_start() {
    let mut sim = created();
    sim.freeze_caches();
    // Another operator has settled this iteration and started the next one.
    let pod = sim.pod_name();
    sim.before(ConfirmTask, |sim| {
        let task = sim.task_mut();
        let status = task.status.as_mut().unwrap();
        let active = status.active.as_mut().unwrap();
        (active.attempt, status.next_attempt) = (1, 1);
        active.pod_name.push_str("-next");
    });
    sim.reconcile_once();
    let requests = sim.take_requests();
    assert_eq!(requests[0], ConfirmTask);
    let is_gated =
        |name: &str| sim.pods().iter().find(|pod| pod.name_any() == name).is_none_or(kubelet::is_gated);
    assert!(is_gated(&pod), "{requests:?}");
}

#[test]
fn a_task_that_is_suspended_or_deleted_at_the_last_moment_does_not_start() {
    let events: [fn(&mut Simulation); 2] =
        [|sim| sim.edit(&json!({ "suspend": true })), |sim| sim.delete_task()];
    for event in events {
        let mut sim = created();
        sim.before(ConfirmTask, event);
        sim.reconcile_once();
        let requests = sim.take_requests();
        assert!(requests.contains(&DeletePod), "it is decided again: {requests:?}");
        assert!(!requests.contains(&RemoveSchedulingGate));
    }
}

#[test]
fn a_task_that_is_gone_does_not_start() {
    let mut sim = created();
    sim.before(ConfirmTask, Simulation::delete_task_immediately);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), [ConfirmTask]);
}

#[test]
fn without_the_confirming_read_nothing_starts() {
    for failure in [server_error(), Failure::Lost, Failure::TimedOut(15), Failure::Conflict] {
        let mut sim = created();
        sim.fail(ConfirmTask, failure.clone());
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed, "{failure:?}");
        assert_eq!(sim.take_requests(), [ConfirmTask]);
        assert!(kubelet::is_gated(sim.pod()));
    }
}

#[test]
fn a_confirming_read_that_shows_an_edited_spec_starts_and_is_remembered() {
    let mut sim = created();
    sim.freeze_caches();
    sim.before(ConfirmTask, |sim| sim.edit(&json!({ "maxIterations": 20 })));
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), START);
    sim.reconcile_once();
    assert_eq!(sim.take_requests(), [WriteStatus], "no conflict: the newest version is known");
    assert_eq!(sim.status().max_iterations, Some(20));
}

#[test]
fn a_start_whose_answer_is_lost_has_started() {
    let mut sim = created();
    sim.lose_answer(RemoveSchedulingGate);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert!(matches!(sim.reconcile_once(), SyncOutcome::Done(_)));
    assert_eq!(sim.take_requests(), START);
    assert!(!kubelet::is_gated(sim.pod()));
}

// === A pod that was started and is gone ===

/// Another client removes the finalizer and the pod.
fn vanish(sim: &mut Simulation) {
    sim.expect_charge(true);
    let name = sim.pod_name();
    sim.remove_pod(&name);
}

#[test]
fn a_started_pod_that_is_gone_is_read_and_charged() {
    let mut sim = started();
    vanish(&mut sim);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), [ReadPod, WriteStatus, CreatePod, ConfirmTask, RemoveSchedulingGate]);
    assert_eq!(sim.status().history[0].outcome, IterationOutcome::PodLost);
    assert_eq!(sim.active(), Some((2, 0)));
}

#[test]
fn a_pod_that_was_about_to_start_and_is_gone_is_charged() {
    let mut sim = created();
    sim.fail(RemoveSchedulingGate, Failure::Lost);
    sim.reconcile_once();
    vanish(&mut sim);
    sim.reconcile();
    assert_eq!((sim.iterations(), sim.active()), (1, Some((2, 0))));
}

#[test]
fn a_started_pod_that_the_cache_does_not_show_is_read_and_kept() {
    let mut sim = started();
    sim.reconcile();
    let pod = sim.pod().clone();
    let name = sim.pod_name();
    sim.remove_pod(&name);
    sim.freeze_caches();
    sim.pods_mut().push(pod);
    assert!(matches!(sim.reconcile_once(), SyncOutcome::Done(_)));
    assert_eq!(sim.take_requests(), [ReadPod]);
    assert_eq!((sim.iterations(), sim.active()), (0, Some((1, 0))));
    sim.reconcile_once();
    assert_eq!(sim.take_requests(), [], "what was read is remembered");
}

#[test]
fn a_started_pod_whose_name_another_owners_pod_has_is_gone() {
    let mut sim = started();
    let name = sim.pod_name();
    vanish(&mut sim);
    sim.leave_previous_pod(&name);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests()[..2], [ReadPod, WriteStatus]);
    assert_eq!((sim.iterations(), sim.active()), (1, Some((2, 0))));
}

#[test]
fn a_started_pod_that_no_longer_points_to_its_task_is_waited_for() {
    let mut sim = started();
    sim.run();
    sim.pod_mut().labels_mut().remove("agentloop.dev/task-uid");
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_secs(10))));
    assert_eq!(sim.take_requests(), [ReadPod, WriteStatus]);
    assert_eq!((sim.iterations(), sim.waits_for()), (0, Some(WaitReason::NameConflict)));
    let message = sim.status().waiting.unwrap().message.unwrap();
    let name = sim.pod_name();
    assert!(message.starts_with(&format!("pod {name} belonged to this task until")), "{message}");
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(Some(Duration::from_secs(10))));
    assert_eq!(sim.take_requests(), [], "it is not read all the time");
}

#[test]
fn a_started_pod_that_cannot_be_read_is_not_charged() {
    for failure in [server_error(), Failure::Lost] {
        let mut sim = started();
        vanish(&mut sim);
        sim.fail(ReadPod, failure);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
        assert_eq!((sim.take_requests(), sim.iterations()), (vec![ReadPod], 0));
    }
}

// === Finalizers and deletions ===

#[test]
fn a_pod_that_lost_its_finalizer_has_it_again_before_it_is_started() {
    let mut sim = created();
    sim.pod_mut().metadata.finalizers = None;
    assert_eq!(sim.reconcile_once(), SyncOutcome::Done(None));
    assert_eq!(sim.take_requests(), [AddFinalizer, ConfirmTask, RemoveSchedulingGate]);
}

#[test]
fn a_pod_whose_finalizer_cannot_be_added_is_not_started() {
    for failure in [Failure::Conflict, server_error()] {
        let mut sim = created();
        sim.pod_mut().metadata.finalizers = None;
        sim.fail(AddFinalizer, failure);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
        assert_eq!(sim.take_requests(), [AddFinalizer]);
        assert!(kubelet::is_gated(sim.pod()));
    }
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
    sim.late_gated_pod();
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
    sim.late_gated_pod();
    sim.fail(RemoveFinalizer, Failure::Conflict);
    sim.fail(RemoveFinalizer, Failure::Conflict);
    sim.fail(RemoveFinalizer, Failure::Conflict);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert_eq!(sim.pods().len(), 3, "the late pod still has its finalizer");
}

#[test]
fn a_refusal_is_decided_on_once() {
    let mut sim = started();
    sim.end(&idled());
    sim.late_gated_pod();
    sim.refusal = Some(quota_exceeded());
    // Time passes before the second decision.
    sim.before(DeletePod, |sim| sim.now = crate::support::after(3));
    sim.reconcile_once();
    let requests = sim.take_requests();
    let writes = requests.iter().filter(|call| **call == WriteStatus).count();
    assert_eq!(writes, 2, "the settled iteration and the wait: {requests:?}");
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
fn a_status_conflict_uses_up_the_only_retry() {
    let mut sim = new();
    sim.fail(WriteStatus, Failure::Conflict);
    sim.fail(CreatePod, Failure::Exists);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    let requests = [ListPreviousPods, WriteStatus, ReadTask, WriteStatus, CreatePod, ReadPod];
    assert_eq!(sim.take_requests(), requests);
}
