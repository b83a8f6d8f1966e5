//! One reconcile, request by request: when a pod is started, and what follows if a started pod is gone.

use std::time::Duration;

use crate::support::{
    Simulation, kubelet,
    simulation::{
        Call::{AddFinalizer, ConfirmTask, CreatePod, DeletePod, ReadPod, RemoveSchedulingGate, WriteStatus},
        server_error,
    },
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
fn an_iteration_that_is_orphaned_at_the_last_moment_does_not_start_and_is_charged() {
    let mut sim = created();
    sim.before(ConfirmTask, |sim| {
        sim.task_mut().status.as_mut().unwrap().active.as_mut().unwrap().orphaned = true;
        sim.expect_charge(true);
    });
    sim.reconcile_once();
    assert_eq!(sim.take_requests()[..2], [ConfirmTask, DeletePod]);
    assert_eq!((sim.iterations(), sim.active()), (1, Some((2, 0))));
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

// === Finalizers ===

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
