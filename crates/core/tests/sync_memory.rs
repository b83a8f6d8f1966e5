//! What the operator remembers of its own writes while its caches lag.

use crate::support::{
    Simulation, after, idled, kubelet,
    simulation::{
        Call::{
            AddFinalizer, ConfirmTask, CreatePod, DeletePod, ReadPod, RemoveFinalizer, RemoveSchedulingGate,
            WriteStatus,
        },
        Handle, server_error,
    },
    worked,
};
use agentloop_core::sync::{Failure, Memory, Response, SyncOutcome};
use serde_json::json;

/// The first iteration's pod has started, while the caches show nothing of it.
fn with_frozen_caches() -> Simulation {
    let mut sim = Simulation::new(&json!({}));
    sim.freeze_caches();
    sim.reconcile();
    sim.take_requests();
    sim
}

/// The same, except that the cache follows the task.
fn with_frozen_pod_cache() -> Simulation {
    let mut sim = Simulation::new(&json!({}));
    sim.freeze_pod_cache();
    sim.reconcile();
    sim.take_requests();
    sim
}

/// The versions of pods that are remembered.
fn versions(sim: &Simulation) -> Vec<u64> {
    sim.memory.pods().map(|pod| pod.version).collect()
}

fn version(pod: &k8s_openapi::api::core::v1::Pod) -> u64 {
    pod.metadata.resource_version.as_ref().unwrap().parse().unwrap()
}

#[test]
fn a_new_memory_is_empty() {
    let memory = Memory::<crate::support::simulation::Simulated>::default();
    assert!(memory.is_empty() && !memory.has_answers());
    assert_eq!(memory.pods().count(), 0);
}

#[test]
fn an_answer_that_is_newer_than_the_cache_counts() {
    let mut sim = with_frozen_caches();
    assert_eq!(sim.created, [(1, 0)]);
    assert!(sim.memory.has_answers() && !sim.memory.is_empty());
    sim.reconcile_once();
    assert_eq!(sim.take_requests(), [], "its own writes are known");
}

#[test]
fn an_answer_is_forgotten_once_the_cache_has_caught_up() {
    let mut sim = with_frozen_caches();
    sim.thaw_caches();
    sim.reconcile_once();
    assert!(!sim.memory.has_answers());
    assert!(!sim.memory.is_empty(), "that the pod was started is not forgotten");
}

#[test]
fn the_cache_counts_once_it_is_newer_than_the_answer() {
    let mut sim = with_frozen_caches();
    sim.thaw_caches();
    sim.end(&worked());
    sim.edit(&json!({ "maxIterations": 1 }));
    sim.reconcile_once();
    assert_eq!(sim.iterations(), 1);
}

#[test]
fn only_the_old_answers_are_forgotten() {
    let mut sim = with_frozen_caches();
    sim.memory.forget_answers(|time| *time < after(0));
    let (task, pods) = sim.memory.answers();
    assert!(task.is_some());
    assert_eq!(pods.count(), 1);
    sim.memory.forget_answers(|time| *time <= after(0));
    let (task, pods) = sim.memory.answers();
    assert!(task.is_none());
    assert_eq!(pods.count(), 0);
    assert!(!sim.memory.has_answers());
}

#[test]
fn an_answer_about_a_pod_alone_is_an_answer() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.reconcile();
    assert!(!sim.memory.has_answers());
    sim.pod_mut().metadata.finalizers = None;
    sim.reconcile_once();
    assert!(sim.memory.has_answers());
    assert!(sim.memory.answers().0.is_none());
}

#[test]
fn an_answer_about_the_task_alone_is_an_answer() {
    let mut sim = Simulation::new(&json!({ "suspend": true }));
    sim.reconcile_once();
    assert!(sim.memory.has_answers() && !sim.memory.is_empty());
    sim.reconcile_once();
    assert!(!sim.memory.has_answers() && sim.memory.is_empty());
}

#[test]
fn a_confirmation_that_shows_what_the_cache_shows_is_not_remembered() {
    let mut sim = Simulation::new(&json!({}));
    sim.fail(RemoveSchedulingGate, server_error());
    sim.reconcile_once();
    sim.take_requests();
    sim.reconcile_once();
    assert_eq!(sim.take_requests(), [ConfirmTask, RemoveSchedulingGate]);
    let (task, _) = sim.memory.answers();
    assert!(task.is_none(), "no event would follow that wakes the operator to forget it");
}

#[test]
fn what_is_remembered_of_a_task_says_nothing_about_another_one_of_its_name() {
    let mut sim = with_frozen_caches();
    sim.thaw_caches();
    sim.task_mut().metadata.uid = Some("another".to_owned());
    sim.task_mut().status = None;
    sim.task_mut().metadata.resource_version = Some("1".to_owned());
    sim.freeze_caches();
    sim.step();
    assert_eq!(sim.active(), None, "the previous pod runs: {:?}", sim.waits_for());
}

/// The first iteration's pod is settled and deleted, while the cache shows it as it ended.
fn with_deleted_pod() -> Simulation {
    let mut sim = Simulation::new(&json!({ "podHistoryLimit": 0 }));
    sim.reconcile();
    sim.end(&worked());
    sim.freeze_pod_cache();
    sim.take_requests();
    sim.reconcile();
    let requests = sim.take_requests();
    assert_eq!(requests.iter().filter(|call| **call == DeletePod).count(), 1, "{requests:?}");
    assert_eq!(sim.pods().len(), 1, "the next pod");
    sim
}

#[test]
fn a_deleted_pod_is_left_alone_while_the_cache_still_shows_it() {
    let mut sim = with_deleted_pod();
    sim.reconcile_once();
    assert_eq!(sim.take_requests(), []);
}

#[test]
fn that_a_pod_is_gone_is_forgotten_once_the_cache_shows_it() {
    let mut sim = with_deleted_pod();
    sim.thaw_caches();
    sim.reconcile_once();
    assert!(!sim.memory.has_answers());
}

#[test]
fn that_a_pod_is_gone_is_forgotten_after_a_while() {
    let mut sim = with_deleted_pod();
    assert!(sim.memory.has_answers());
    sim.memory.forget_answers(|_| true);
    assert!(!sim.memory.has_answers());
    sim.reconcile_once();
    assert!(sim.take_requests().contains(&DeletePod), "the cache counts");
}

#[test]
fn an_older_answer_does_not_replace_a_newer_one() {
    let mut sim = Simulation::new(&json!({}));
    assert!(sim.step());
    let name = sim.pod_name();
    let gated = sim.cached_pod(&name);
    sim.freeze_caches();
    sim.pod_mut().metadata.finalizers = None;
    let newest = sim.cached_pod(&name);
    // An API server that lags answers the start, after an up-to-date one has answered the read.
    sim.restart();
    sim.answer(RemoveSchedulingGate, Response::Pod(newest.clone()));
    sim.reconcile_once();
    assert_eq!(versions(&sim), [newest.version]);
    sim.answer(AddFinalizer, Response::Pod(gated.clone()));
    sim.fail(ConfirmTask, server_error());
    sim.reconcile_once();
    assert_eq!(versions(&sim), [newest.version], "not {}", gated.version);
}

#[test]
fn a_newer_answer_replaces_an_older_one() {
    let mut sim = with_frozen_pod_cache();
    let before = versions(&sim);
    assert_eq!(before, [version(sim.pod())], "only the newest version of each pod is kept");
    sim.run();
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile_once();
    assert!(versions(&sim) > before, "{:?} {before:?}", versions(&sim));
}

#[test]
fn a_pod_that_is_gone_is_not_remembered() {
    let mut sim = with_frozen_pod_cache();
    sim.end(&worked());
    let name = sim.pod_name();
    sim.remove_pod(&name);
    sim.edit(&json!({ "suspend": true }));
    // The memory shows the pod as it was when it started.
    sim.reconcile_once();
    assert!(sim.take_requests().contains(&DeletePod));
    assert_eq!(sim.memory.pods().count(), 0);
    assert_eq!(
        (sim.iterations(), sim.active()),
        (1, None),
        "no event follows, so the operator decides again"
    );
}

#[test]
fn a_pod_that_another_client_changed_is_not_remembered() {
    let mut sim = with_frozen_pod_cache();
    assert_eq!(sim.memory.pods().count(), 1);
    sim.edit(&json!({ "suspend": true }));
    sim.fail(DeletePod, Failure::Conflict);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert_eq!(sim.memory.pods().count(), 0);
}

#[test]
fn a_pod_that_is_about_to_go_is_not_remembered() {
    let mut sim = Simulation::new(&json!({ "podHistoryLimit": 0 }));
    sim.reconcile();
    sim.end(&worked());
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile_once();
    assert_eq!(sim.take_requests()[5..], [WriteStatus, RemoveFinalizer, DeletePod]);
    assert_eq!(sim.memory.pods().count(), 0);
    // Its deletion had begun before its finalizer was removed.
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile_once();
    assert_eq!(sim.pods().len(), 0);
    assert_eq!(sim.memory.pods().count(), 0, "it is gone with its finalizer");
}

#[test]
fn a_deleted_pod_that_stays_for_its_finalizer_is_remembered() {
    let mut sim = with_frozen_pod_cache();
    sim.run();
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile_once();
    assert_eq!(versions(&sim), [version(sim.pod())]);
    sim.take_requests();
    sim.reconcile_once();
    assert!(!sim.take_requests().contains(&DeletePod), "it is not deleted twice");
    assert!(kubelet::is_deleting(sim.pod()));
}

#[test]
fn a_created_pod_whose_label_a_webhook_removed_is_not_taken_for_the_tasks() {
    let mut other = Simulation::new(&json!({}));
    assert!(other.step());
    let name = other.pod_name();
    other.pod_mut().metadata.labels.as_mut().unwrap().remove("agentloop.dev/task-uid");
    let mut sim = Simulation::new(&json!({}));
    sim.answer(CreatePod, Response::Pod(other.cached_pod(&name)));
    sim.fail(CreatePod, server_error());
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert_eq!(sim.take_requests()[2..], [CreatePod, CreatePod], "it is not started");
}

#[test]
fn each_pod_is_remembered_by_itself() {
    let mut sim = with_frozen_caches();
    sim.thaw_caches();
    sim.end(&idled());
    sim.freeze_caches();
    sim.reconcile_once();
    assert_eq!(sim.memory.pods().count(), 2, "the settled pod and the next one");
    assert_eq!(
        sim.take_requests(),
        [WriteStatus, CreatePod, ConfirmTask, RemoveSchedulingGate, RemoveFinalizer]
    );
    sim.reconcile_once();
    assert_eq!(sim.take_requests(), []);
    let (_, pods) = sim.memory.answers();
    let mut names: Vec<String> = pods.map(|pod| pod.facts.name.clone()).collect();
    names.sort();
    let mut expected: Vec<String> = sim.pods().iter().map(kube::ResourceExt::name_any).collect();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn an_answer_can_be_replaced_by_a_smaller_copy() {
    let mut sim = with_frozen_caches();
    let name = sim.pod_name();
    let copy = sim.cached_pod(&name);
    let (task, pods) = sim.memory.answers();
    let task = task.unwrap();
    *task = Handle::new((**task).clone());
    pods.for_each(|pod| *pod = copy.clone());
    sim.reconcile_once();
    assert_eq!(sim.take_requests(), []);
}

#[test]
fn that_a_pod_was_started_is_remembered_for_its_own_attempt_only() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    // A start that fails is free, and the next attempt's pod cannot be created.
    sim.fail_to_start();
    sim.reconcile();
    sim.refusal = Some(server_error());
    sim.now = after(10);
    assert_eq!(sim.reconcile_once(), SyncOutcome::Failed);
    assert_eq!(sim.active(), Some((1, 1)));
    sim.refusal = None;
    sim.take_requests();
    sim.reconcile_once();
    let requests = sim.take_requests();
    assert!(!requests.contains(&ReadPod), "it was never started: {requests:?}");
    assert_eq!(requests[0], CreatePod);
}
