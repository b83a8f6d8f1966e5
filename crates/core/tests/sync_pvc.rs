//! One reconcile, request by request: the workspace's PVC is there, and has the right owner, before a pod mounts it.

use std::time::Duration;

use crate::support::{
    Simulation, done, kubelet, merge,
    simulation::{
        Call::{
            self, ConfirmTask, CreatePod, CreatePvc, ListPreviousPods, ReadPvc, RemoveFinalizer,
            RemoveSchedulingGate, SetPvcOwner, WriteStatus,
        },
        server_error,
    },
    worked,
};
use agentloop_core::{
    api::WaitReason,
    sync::{Failure, Response, SyncOutcome},
};
use kube::ResourceExt;
use serde_json::{Value, json};

const OWNER_GENERATION: &str = "agentloop.dev/owner-generation";

/// A task with a PVC of its own.
fn with_pvc(more: &Value) -> Simulation {
    let mut spec =
        json!({ "workspace": { "volumeClaimTemplate": { "spec": { "storageClassName": "fast" } } } });
    merge(&mut spec, more);
    Simulation::new(&spec)
}

fn is_owned(sim: &Simulation) -> bool {
    let uid = sim.task().uid();
    sim.pvc().unwrap().owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
}

fn owner_generation(sim: &Simulation) -> Option<&str> {
    sim.pvc().unwrap().annotations().get(OWNER_GENERATION).map(String::as_str)
}

fn when_deleted(sim: &mut Simulation, what: &str) {
    sim.edit(&json!({ "workspace": { "whenDeleted": what } }));
}

/// The first iteration's pod runs.
fn running() -> Simulation {
    let mut sim = with_pvc(&json!({}));
    sim.reconcile();
    sim.run();
    sim.reconcile();
    sim.take_requests();
    sim
}

#[track_caller]
fn assert_asks(sim: &mut Simulation, outcome: SyncOutcome, requests: &[Call]) {
    assert_eq!(sim.reconcile_once(), outcome);
    assert_eq!(sim.take_requests(), requests);
}

const REST: SyncOutcome = SyncOutcome::Done(None);
/// The wait for another try, and for news of a pod that does not start.
const RETRY: SyncOutcome = SyncOutcome::Done(Some(Duration::from_secs(10)));

#[test]
fn the_pvc_is_created_before_the_first_pod_and_is_not_checked_twice() {
    let mut sim = with_pvc(&json!({}));
    assert_asks(
        &mut sim,
        REST,
        &[ListPreviousPods, WriteStatus, ReadPvc, CreatePvc, CreatePod, ConfirmTask, RemoveSchedulingGate],
    );
    assert_eq!(owner_generation(&sim), Some("1"));
    assert!(!is_owned(&sim), "a workspace is kept unless the task says otherwise");
    assert_asks(&mut sim, RETRY, &[]);
}

#[test]
fn the_pvc_is_read_before_each_pod_and_created_again_if_it_is_gone() {
    let mut sim = running();
    sim.end(&worked());
    assert_asks(
        &mut sim,
        REST,
        &[WriteStatus, ReadPvc, CreatePod, ConfirmTask, RemoveSchedulingGate, RemoveFinalizer],
    );
    sim.end(&worked());
    sim.delete_pvc();
    sim.reconcile_once();
    assert_eq!(sim.take_requests()[..4], [WriteStatus, ReadPvc, CreatePvc, CreatePod]);
}

#[test]
fn a_task_without_a_pvc_asks_for_none() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    let requests = sim.take_requests();
    assert!(!requests.contains(&ReadPvc) && !requests.contains(&CreatePvc), "{requests:?}");
}

#[test]
fn the_task_owns_the_pvc_if_and_only_if_it_is_deleted_with_the_task() {
    let mut sim = running();
    for (what, generation) in [("Delete", "2"), ("Retain", "3"), ("Delete", "4")] {
        when_deleted(&mut sim, what);
        assert_asks(&mut sim, REST, &[WriteStatus, ReadPvc, SetPvcOwner]);
        assert_eq!(is_owned(&sim), what == "Delete");
        assert_eq!(owner_generation(&sim), Some(generation));
        assert_asks(&mut sim, REST, &[]);
    }
    let mut sim = with_pvc(&json!({ "workspace": { "whenDeleted": "Delete" } }));
    sim.reconcile();
    assert!(is_owned(&sim), "from the start");
}

#[test]
fn an_edit_of_anything_else_is_noted_on_the_pvc_as_well() {
    let mut sim = running();
    sim.edit(&json!({ "maxIterations": 20 }));
    assert_asks(&mut sim, REST, &[WriteStatus, ReadPvc, SetPvcOwner]);
    assert_eq!((is_owned(&sim), owner_generation(&sim)), (false, Some("2")));
}

#[test]
fn an_owner_is_set_before_the_next_pod_and_not_a_second_time_after_it() {
    let mut sim = running();
    sim.end(&worked());
    when_deleted(&mut sim, "Delete");
    assert_asks(
        &mut sim,
        REST,
        &[WriteStatus, ReadPvc, SetPvcOwner, CreatePod, ConfirmTask, RemoveSchedulingGate, RemoveFinalizer],
    );
    assert!(is_owned(&sim));
}

#[test]
fn the_owner_that_a_newer_spec_has_set_is_never_replaced() {
    let mut sim = running();
    when_deleted(&mut sim, "Delete");
    sim.before(ReadPvc, |sim| {
        sim.patch_pvc(&json!({ "annotations": { OWNER_GENERATION: "7" }, "ownerReferences": null }));
    });
    assert_asks(&mut sim, REST, &[WriteStatus, ReadPvc]);
    assert!(!is_owned(&sim));
}

#[test]
fn other_owners_of_the_pvc_stay() {
    let mut sim = running();
    let other = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": "other" });
    sim.patch_pvc(&json!({ "ownerReferences": [other] }));
    when_deleted(&mut sim, "Delete");
    sim.reconcile();
    assert_eq!(sim.pvc().unwrap().owner_references().len(), 2);
    when_deleted(&mut sim, "Retain");
    sim.reconcile();
    assert_eq!(sim.pvc().unwrap().owner_references()[0].uid, "other");
    assert!(!is_owned(&sim));
}

#[test]
fn a_pvc_that_changes_after_it_was_read_is_read_again_by_the_next_reconcile() {
    let mut sim = running();
    when_deleted(&mut sim, "Delete");
    sim.before(SetPvcOwner, |sim| sim.patch_pvc(&json!({ "labels": { "team": "a" } })));
    assert_asks(&mut sim, SyncOutcome::Failed, &[WriteStatus, ReadPvc, SetPvcOwner]);
    assert!(!is_owned(&sim));
    assert_asks(&mut sim, REST, &[ReadPvc, SetPvcOwner]);
    assert!(is_owned(&sim));
}

#[test]
fn no_pod_is_created_after_a_conflict_about_its_pvc() {
    let mut sim = running();
    sim.end(&worked());
    when_deleted(&mut sim, "Delete");
    sim.fail(SetPvcOwner, Failure::Conflict);
    assert_asks(&mut sim, SyncOutcome::Failed, &[WriteStatus, ReadPvc, SetPvcOwner, RemoveFinalizer]);
    assert_asks(&mut sim, REST, &[ReadPvc, SetPvcOwner, CreatePod, ConfirmTask, RemoveSchedulingGate]);
}

#[test]
fn a_pvc_that_is_gone_needs_no_owner() {
    let mut sim = running();
    sim.delete_pvc();
    when_deleted(&mut sim, "Delete");
    assert_asks(&mut sim, REST, &[WriteStatus, ReadPvc]);
    assert_asks(&mut sim, REST, &[]);
    let mut sim = running();
    when_deleted(&mut sim, "Delete");
    sim.before(SetPvcOwner, Simulation::delete_pvc);
    assert_asks(&mut sim, REST, &[WriteStatus, ReadPvc, SetPvcOwner]);
    assert_asks(&mut sim, REST, &[]);
}

#[test]
fn a_pvc_that_another_operator_created_first_is_used_and_its_owner_checked() {
    let mut sim = with_pvc(&json!({}));
    sim.fail(CreatePvc, Failure::Exists);
    sim.reconcile_once();
    assert_eq!(sim.take_requests()[2..5], [ReadPvc, CreatePvc, CreatePod], "the pod does not wait for it");
    let mut sim = with_pvc(&json!({}));
    sim.before(CreatePvc, |sim| sim.create_pvc(&json!({ OWNER_GENERATION: "0" })));
    sim.reconcile_once();
    assert_eq!(
        sim.take_requests()[2..],
        [ReadPvc, CreatePvc, CreatePod, ConfirmTask, RemoveSchedulingGate, ReadPvc, SetPvcOwner]
    );
    assert_eq!(owner_generation(&sim), Some("1"));
}

#[test]
fn a_pvc_that_is_rejected_is_waited_for_by_its_name_and_no_pod_is_created() {
    let quota = "persistentvolumeclaims \"x\" is forbidden: exceeded quota: storage";
    for (failure, reason, message) in [
        (Failure::Rejected { code: 403, message: quota.to_owned() }, WaitReason::QuotaExceeded, quota),
        (Failure::TimedOut(5), WaitReason::PodRejected, "the API server did not answer within 5 s"),
        (Failure::Unbuildable("it is no object".to_owned()), WaitReason::PodRejected, "it is no object"),
    ] {
        let mut sim = with_pvc(&json!({}));
        sim.fail(CreatePvc, failure);
        assert_asks(
            &mut sim,
            RETRY,
            &[ListPreviousPods, WriteStatus, ReadPvc, CreatePvc, ReadPvc, WriteStatus],
        );
        assert_eq!(sim.waits_for(), Some(reason));
        let name = agentloop_core::pod::pvc_name("x", &sim.task().uid().unwrap());
        let shown = sim.status().waiting.unwrap().message.unwrap();
        assert!(shown.starts_with(&format!("the workspace's PVC {name}: {message}")), "{shown}");
        sim.pass(10);
        assert_eq!(sim.created, [(1, 0)]);
    }
}

#[test]
fn a_pvc_in_a_new_namespace_is_tried_again_after_half_a_second() {
    let mut sim = with_pvc(&json!({}));
    let message = "namespaces \"dev\" not found".to_owned();
    sim.fail(CreatePvc, Failure::Rejected { code: 404, message });
    assert_asks(
        &mut sim,
        SyncOutcome::Done(Some(Duration::from_millis(500))),
        &[ListPreviousPods, WriteStatus, ReadPvc, CreatePvc, ReadPvc],
    );
}

#[test]
fn a_pvc_that_meets_an_error_fails_the_reconcile_and_no_pod_is_created() {
    for call in [ReadPvc, CreatePvc] {
        for failure in [server_error(), Failure::Lost, Failure::Other] {
            let mut sim = with_pvc(&json!({}));
            sim.fail(call, failure.clone());
            assert_eq!(sim.reconcile_once(), SyncOutcome::Failed, "{call:?} {failure:?}");
            assert_eq!((sim.take_requests().last(), sim.waits_for()), (Some(&call), None));
        }
        let mut sim = with_pvc(&json!({}));
        sim.answer(call, Response::Events(None));
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed, "{call:?}");
        assert_eq!(sim.take_requests().last(), Some(&call), "an answer of another kind");
    }
}

#[test]
fn an_owner_that_cannot_be_set_fails_the_reconcile_and_is_tried_again() {
    for failure in [server_error(), Failure::Lost, Failure::TimedOut(5)] {
        let mut sim = running();
        when_deleted(&mut sim, "Delete");
        sim.fail(SetPvcOwner, failure);
        assert_asks(&mut sim, SyncOutcome::Failed, &[WriteStatus, ReadPvc, SetPvcOwner]);
        assert_asks(&mut sim, REST, &[ReadPvc, SetPvcOwner]);
    }
}

#[test]
fn after_a_request_about_the_pvc_without_an_answer_nothing_more_is_asked() {
    for call in [ReadPvc, CreatePvc, SetPvcOwner] {
        let mut sim = running();
        sim.end(&worked());
        when_deleted(&mut sim, "Delete");
        if call == CreatePvc {
            sim.delete_pvc();
        }
        sim.fail(call, Failure::Lost);
        assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
        assert_eq!(sim.take_requests().last(), Some(&call), "the settled pod keeps its finalizer");
    }
}

#[test]
fn a_creation_of_the_pvc_whose_answer_is_lost_is_found_by_the_next_reconcile() {
    let mut sim = with_pvc(&json!({}));
    sim.lose_answer(CreatePvc);
    assert_asks(&mut sim, SyncOutcome::Failed, &[ListPreviousPods, WriteStatus, ReadPvc, CreatePvc]);
    assert_asks(&mut sim, REST, &[ReadPvc, CreatePod, ConfirmTask, RemoveSchedulingGate]);
}

#[test]
fn a_restarted_operator_checks_the_owner_once_for_each_generation() {
    let mut sim = running();
    sim.restart();
    assert_asks(&mut sim, REST, &[ReadPvc]);
    assert_asks(&mut sim, REST, &[]);
}

#[test]
fn a_stopped_task_still_has_its_owner_checked() {
    let mut sim = running();
    sim.end(&done());
    sim.reconcile();
    sim.take_requests();
    when_deleted(&mut sim, "Delete");
    sim.reconcile();
    assert!(is_owned(&sim));
    assert!(!kubelet::is_running(&sim.pods()[0]));
}
