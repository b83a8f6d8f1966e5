//! Pods whose task is gone.

use std::time::Duration;

use crate::support::{
    Simulation, after, kubelet,
    simulation::{
        CachedPod,
        Call::{DeletePod, ReadTask, RemoveFinalizer},
        Handle, Simulated, server_error,
    },
    worked,
};
use agentloop_core::sync::{
    ANSWER_LIFETIME, Failure, ORPHAN_CHECK_INTERVAL, OrphanMemory, OrphanStep, Response,
};
use agentloop_test_support::invariants::Invariant;
use kube::ResourceExt;
use serde_json::json;

/// Nothing is left to do until the pod changes.
const REST: OrphanStep<Simulated> = OrphanStep::Done(None);
/// The same, or until the answer that came just now is forgotten.
const WRITTEN: OrphanStep<Simulated> = OrphanStep::Done(Some(ANSWER_LIFETIME));

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

/// Whether the cleanup remembers nothing.
fn is_forgotten(sim: &Simulation) -> bool {
    sim.orphan_memories.values().all(OrphanMemory::is_empty)
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
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod]);
    sim.stop_deleted_pods();
    let ended = sim.cached_pod(&pod.facts.name);
    assert_eq!(sim.clean_up_orphan(&ended), WRITTEN);
    assert_eq!(sim.take_requests(), [ReadTask, RemoveFinalizer]);
    assert_eq!(sim.pods().len(), 0);
}

#[test]
fn an_ended_pod_without_its_task_is_deleted_and_loses_its_finalizer() {
    let (mut sim, pod) = orphaned();
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
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
    sim.answer(ReadTask, Response::Done);
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Failed, "an answer of another kind");
    sim.answer(ReadTask, Response::Pod(pod.clone()));
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Failed, "an answer of another kind");
    assert_eq!(sim.take_requests(), [ReadTask, ReadTask]);
    assert!(is_forgotten(&sim));
}

#[test]
fn a_pod_that_is_gone_needs_nothing_more() {
    let (mut sim, pod) = orphaned();
    let name = pod.facts.name.clone();
    sim.before(DeletePod, move |sim| sim.remove_pod(&name));
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod], "it has no finalizer to remove");
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
    assert_eq!(sim.take_requests(), [], "the cache still shows it");
}

#[test]
fn a_conflict_keeps_nothing_else_from_being_done_and_is_tried_again() {
    let (mut sim, pod) = orphaned();
    sim.fail(DeletePod, Failure::Conflict);
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Failed);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod, RemoveFinalizer]);
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
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
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
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

#[test]
fn the_cleanup_sends_nothing_twice_while_the_cache_shows_the_pod_as_it_was() {
    let (mut sim, pod) = orphaned();
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
    assert_eq!(sim.pods().len(), 0);
    sim.take_requests();
    sim.now = after(20);
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Done(Some(Duration::from_secs(40))));
    assert_eq!(sim.take_requests(), []);
    // A running pod is deleted only once, too.
    let (mut sim, pod) = running();
    sim.delete_task_immediately();
    sim.clean_up_orphan(&pod);
    sim.take_requests();
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
    assert_eq!(sim.take_requests(), []);
}

#[test]
fn the_answer_that_removes_the_pod_counts_although_it_has_the_version_in_the_cache() {
    let (mut sim, pod) = orphaned();
    sim.fail(RemoveFinalizer, server_error());
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Failed);
    let deleted = sim.cached_pod(&pod.facts.name);
    let version = deleted.version;
    sim.orphan_memories.clear();
    sim.take_requests();
    assert_eq!(sim.clean_up_orphan(&deleted), WRITTEN);
    assert_eq!(sim.take_requests(), [ReadTask, RemoveFinalizer]);
    assert_eq!(sim.pods().len(), 0);
    assert!(version > pod.version);
    assert_eq!(sim.clean_up_orphan(&deleted), WRITTEN);
    assert_eq!(sim.take_requests(), []);
}

#[test]
fn once_an_answer_is_old_the_cleanup_acts_on_what_the_cache_shows() {
    let (mut sim, pod) = running();
    sim.delete_task_immediately();
    sim.clean_up_orphan(&pod);
    sim.take_requests();
    sim.now = after(59);
    assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Done(Some(Duration::from_secs(1))));
    assert_eq!(sim.take_requests(), []);
    sim.now = after(60);
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod]);
    // The answer came, and its effect was lost with the server's storage.
    let (mut sim, pod) = orphaned();
    sim.answer(DeletePod, Response::Done);
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
    sim.now = after(60);
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
    assert_eq!(sim.pods().len(), 0, "{}", Invariant::S8);
}

#[test]
fn a_newer_version_in_the_cache_counts_immediately() {
    let (mut sim, pod) = running();
    sim.delete_task_immediately();
    sim.clean_up_orphan(&pod);
    sim.pod_mut().metadata.deletion_timestamp = None;
    let newer = sim.cached_pod(&pod.facts.name);
    sim.take_requests();
    assert_eq!(sim.clean_up_orphan(&newer), WRITTEN);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod]);
    // There is nothing to do for the newest version, and nothing remembered any more.
    sim.pods_mut();
    let newest = sim.cached_pod(&pod.facts.name);
    assert_eq!(sim.clean_up_orphan(&newest), REST);
    assert_eq!(sim.take_requests(), [ReadTask]);
    assert!(is_forgotten(&sim));
}

#[test]
fn after_a_failure_only_what_is_left_is_tried_again() {
    for failure in [server_error(), Failure::Conflict] {
        let (mut sim, pod) = orphaned();
        sim.fail(RemoveFinalizer, failure);
        assert_eq!(sim.clean_up_orphan(&pod), OrphanStep::Failed);
        sim.take_requests();
        assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
        assert_eq!(sim.take_requests(), [ReadTask, RemoveFinalizer]);
        assert_eq!(sim.pods().len(), 0);
    }
}

#[test]
fn what_another_client_has_done_in_the_meantime_is_not_done_again() {
    let (mut sim, pod) = orphaned();
    let name = pod.facts.name.clone();
    sim.before(DeletePod, move |sim| {
        let other = sim.pods_mut().iter_mut().find(|pod| pod.name_any() == name).unwrap();
        other.metadata.finalizers = Some(vec!["example.com/other".to_owned()]);
    });
    assert_eq!(sim.clean_up_orphan(&pod), WRITTEN);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod]);
}

#[test]
fn what_is_remembered_of_a_pod_says_nothing_about_another_one_of_its_name() {
    let (mut sim, pod) = orphaned();
    let again = sim.pods()[0].clone();
    sim.clean_up_orphan(&pod);
    sim.pods_mut().push(again);
    sim.pods_mut()[0].metadata.uid = Some("another".to_owned());
    let other = sim.cached_pod(&pod.facts.name);
    sim.take_requests();
    assert_eq!(sim.clean_up_orphan(&other), WRITTEN);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod, RemoveFinalizer]);
}

#[test]
fn only_old_answers_of_the_cleanup_are_forgotten() {
    let (mut sim, pod) = orphaned();
    assert!(OrphanMemory::<Simulated>::default().is_empty());
    sim.clean_up_orphan(&pod);
    let memory = sim.orphan_memories.get_mut(&pod.facts.uid).unwrap();
    memory.forget_answers(|time| *time < after(0));
    assert!(!memory.is_empty());
    memory.forget_answers(|time| *time <= after(0));
    assert!(memory.is_empty());
    sim.take_requests();
    sim.clean_up_orphan(&pod);
    assert_eq!(sim.take_requests(), [ReadTask, DeletePod]);
}
