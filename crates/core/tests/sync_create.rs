//! One reconcile, request by request: how a pod is created, or adopted if it is there.

use std::time::Duration;

use crate::support::{
    Simulation, invalid_pod, kubelet, quota_exceeded,
    simulation::{
        Call::{
            ConfirmTask, CreatePod, ListPreviousPods, ReadPod, ReadTask, RemoveSchedulingGate, WriteStatus,
        },
        server_error,
    },
    worked,
};
use agentloop_core::{
    api::WaitReason,
    sync::{ANSWER_LIFETIME, Failure, SyncOutcome},
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
fn after_a_creation_without_an_answer_nothing_more_is_asked() {
    let mut sim = new();
    sim.reconcile();
    sim.end(&worked());
    sim.fail(CreatePod, Failure::Lost);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert_eq!(sim.take_requests().last(), Some(&CreatePod), "the settled pod keeps its finalizer");
}

#[test]
fn a_pod_that_was_created_before_is_adopted() {
    let mut sim = new();
    sim.freeze_caches();
    sim.lose_answer(CreatePod);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    sim.take_requests();
    let checks_the_cache_again = SyncOutcome::Done(Some(ANSWER_LIFETIME));
    assert_eq!(sim.reconcile_once(), checks_the_cache_again, "the cache does not show the pod");
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

#[test]
fn a_status_conflict_uses_up_the_only_retry() {
    let mut sim = new();
    sim.fail(WriteStatus, Failure::Conflict);
    sim.fail(CreatePod, Failure::Exists);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    let requests = [ListPreviousPods, WriteStatus, ReadTask, WriteStatus, CreatePod, ReadPod];
    assert_eq!(sim.take_requests(), requests);
}
