//! Pods whose task is gone.

use std::time::Duration;

use crate::support::{
    Simulation, kubelet,
    simulation::{
        CachedPod,
        Call::{DeletePod, ReadTask, RemoveFinalizer},
        Handle, server_error,
    },
    worked,
};
use agentloop_core::sync::{Failure, ORPHAN_CHECK_INTERVAL, OrphanStep};
use agentloop_test_support::invariants::Invariant;
use kube::ResourceExt;
use serde_json::json;

const REST: OrphanStep<crate::support::simulation::Simulated> = OrphanStep::Done(None);

/// A task whose first iteration's pod runs, and that pod.
fn running() -> (Simulation, Handle<CachedPod>) {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.take_requests();
    let name = sim.pod_name();
    let pod = sim.cached_pod(&name);
    (sim, pod)
}

/// The same pod has ended, and its task is gone.
fn orphaned() -> (Simulation, Handle<CachedPod>) {
    let (mut sim, pod) = running();
    sim.end(&worked());
    sim.delete_task_immediately();
    let ended = sim.cached_pod(&pod.facts.name);
    (sim, ended)
}

#[test]
fn after_the_deletion_of_a_task_nothing_is_left() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(3, &worked());
    sim.run();
    sim.delete_task_immediately();
    sim.reconcile();
    assert_eq!(sim.pods().len(), 1, "the running pod waits for its kubelet");
    sim.stop_deleted_pods();
    sim.reconcile();
    assert_eq!(sim.pods().len(), 0, "{}", Invariant::S8);
}

#[test]
fn a_pod_whose_task_is_there_is_left_alone_and_checked_again_while_it_has_the_finalizer() {
    let (mut sim, pod) = running();
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Done(Some(ORPHAN_CHECK_INTERVAL)));
    assert_eq!(sim.take_requests(), [ReadTask]);
    assert_eq!(ORPHAN_CHECK_INTERVAL, Duration::from_secs(30));
    sim.pod_mut().metadata.finalizers = None;
    let without = sim.cached_pod(&pod.facts.name);
    assert_eq!(sim.clean_up_orphan(&without), REST);
}

#[test]
fn a_running_pod_without_its_task_is_deleted_and_keeps_its_finalizer_until_it_has_ended() {
    let (mut sim, pod) = running();
    sim.delete_task_immediately();
    assert_eq!(sim.clean_up_orphan(&pod), REST);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod]);
    sim.stop_deleted_pods();
    let ended = sim.cached_pod(&pod.facts.name);
    assert_eq!(sim.clean_up_orphan(&ended), REST);
    assert_eq!(sim.take_requests(), [ReadTask, RemoveFinalizer]);
    assert_eq!(sim.pods().len(), 0);
}

#[test]
fn an_ended_pod_without_its_task_is_deleted_and_loses_its_finalizer() {
    let (mut sim, pod) = orphaned();
    assert_eq!(sim.clean_up_orphan(&pod), REST);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod, RemoveFinalizer]);
    assert_eq!(sim.pods().len(), 0);
}

#[test]
fn a_pod_whose_task_was_created_again_under_its_name_has_no_task() {
    let (mut sim, pod) = running();
    sim.task_mut().metadata.uid = Some("another".to_owned());
    sim.clean_up_orphan(&pod);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod]);
}

#[test]
fn nothing_is_done_if_no_one_knows_whether_the_task_is_there() {
    for failure in
        [server_error(), Failure::Lost, Failure::TimedOut(15), Failure::NotFound, Failure::Conflict]
    {
        let (mut sim, pod) = orphaned();
        sim.fail(ReadTask, failure.clone());
        assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Failed, "{failure:?}");
        assert_eq!(sim.take_requests(), [ReadTask]);
    }
    let (mut sim, pod) = orphaned();
    sim.answer(ReadTask, agentloop_core::sync::Response::Done);
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Failed, "an answer of another kind");
    assert_eq!(sim.take_requests(), [ReadTask]);
}

#[test]
fn a_pod_that_is_gone_needs_nothing_more() {
    let (mut sim, pod) = orphaned();
    let name = pod.facts.name.clone();
    sim.before(DeletePod, move |sim| sim.remove_pod(&name));
    assert_eq!(sim.clean_up_orphan(&pod), REST);
}

#[test]
fn a_conflict_keeps_nothing_else_from_being_done_and_is_tried_again() {
    let (mut sim, pod) = orphaned();
    sim.fail(DeletePod, Failure::Conflict);
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Failed);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod, RemoveFinalizer]);
    assert_eq!(sim.clean_up_orphan(&pod), REST);
}

#[test]
fn after_any_other_failure_nothing_more_is_asked() {
    for failure in [server_error(), Failure::Lost, Failure::TimedOut(5)] {
        let (mut sim, pod) = orphaned();
        sim.fail(DeletePod, failure);
        assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Failed);
        assert_eq!(sim.take_requests(), [ReadTask, DeletePod]);
    }
}

#[test]
fn a_deletion_whose_answer_is_lost_is_completed_by_the_next_try() {
    let (mut sim, pod) = orphaned();
    sim.lose_answer(DeletePod);
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Failed);
    assert_eq!(sim.clean_up_orphan(&pod), REST);
    assert_eq!(sim.pods().len(), 0);
}

#[test]
fn a_pod_is_left_to_the_release_that_served_its_task_for_a_minute() {
    let (mut sim, pod) = orphaned();
    sim.served_by = Some("other/agentloop".to_owned());
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Done(Some(Duration::from_mins(1))));
    assert_eq!(sim.take_requests(), [ReadTask]);
    assert_eq!(sim.pods()[0].name_any(), pod.facts.name);
    assert!(!kubelet::is_deleting(&sim.pods()[0]));
}
