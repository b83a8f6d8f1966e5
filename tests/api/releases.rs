//! Two releases that watch the same namespace.

use agentloop_contract::names::FINALIZER_SETTLE;
use agentloop_core::api::{AgentTask, AgentTaskStatus, Phase};
use agentloop_core::decide::served::{Release, Serving};
use agentloop_operator::metrics::Metrics;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::kubelet::{AgentWork, Kubelet, TestOperator, bind, end, run};
use crate::namespace::{TestNamespace, eventually};
use crate::uninstall::uninstalled;

/// The release in the namespace of this name.
fn release(name: &str, take_over: &[&str]) -> Serving {
    Serving {
        release: Release::new(name, "agentloop"),
        take_over: take_over.iter().map(|name| name.parse().expect("a release")).collect(),
    }
}

fn operator(ns: &TestNamespace, serving: &Serving) -> (TestOperator, Metrics) {
    let metrics = Metrics::new();
    let seen = metrics.clone();
    let serving = serving.clone();
    let operator = TestOperator::set_up(ns, |setup| {
        setup.serving = serving;
        setup.metrics = metrics;
    });
    (operator, seen)
}

fn elsewhere(metrics: &Metrics) -> bool {
    !metrics.encode().expect("text").contains("agentloop_tasks_of_other_releases 0\n")
}

async fn served_by_another(ns: &TestNamespace, task: &str) -> String {
    eventually("an Event that says who serves it", || async {
        let all = ns.api::<Event>().list(&ListParams::default()).await.expect("Events").items;
        let found = all.into_iter().find(|event| {
            event.reason.as_deref() == Some("ServedByAnother")
                && event.regarding.as_ref().and_then(|of| of.name.as_deref()) == Some(task)
        });
        found.and_then(|event| event.note)
    })
    .await
}

async fn version(ns: &TestNamespace, task: &str) -> Option<String> {
    ns.api::<AgentTask>().get(task).await.expect("the task").resource_version()
}

fn served_by(status: &AgentTaskStatus) -> Option<&str> {
    status.served_by.as_deref()
}

/// A task of release `a`, whose first iteration is running; returns its pod. The release has disappeared.
async fn left_behind(ns: &TestNamespace, name: &str) -> String {
    let (first, _) = operator(ns, &release("a", &[]));
    ns.create(name, json!({ "maxIterations": 3 })).await;
    let pod = ns.started_pod(name).await.name_any();
    bind(&ns.api(), &pod).await;
    run(&ns.api(), &pod).await;
    ns.until(name, "its release", |s| served_by(s) == Some("a/agentloop")).await;
    first.kill();
    pod
}

#[tokio::test]
async fn of_two_releases_one_serves_the_task_and_the_other_writes_nothing() {
    let ns = TestNamespace::with_tasks().await;
    let (_first, of_first) = operator(&ns, &release("a", &[]));
    let (_second, of_second) = operator(&ns, &release("b", &[]));
    let kubelet = Kubelet::start(
        &ns,
        |iteration| if iteration == 3 { AgentWork::ready() } else { AgentWork::changed() },
    );
    ns.create("shared", json!({ "maxIterations": 5 })).await;
    let status = ns.until_phase("shared", Phase::Succeeded).await;
    assert_eq!(kubelet.ran(), [(1, 0), (2, 0), (3, 0)]);
    assert_eq!(kubelet.created(), 3, "no pod was created twice");
    let winner = served_by(&status).expect("a name").to_owned();
    assert!(["a/agentloop", "b/agentloop"].contains(&winner.as_str()), "{winner}");
    let note = served_by_another(&ns, "shared").await;
    assert!(note.contains(&winner) && note.contains(&format!("takeOver=[{winner}]")), "{note}");
    let of_loser = if winner.starts_with('a') { &of_second } else { &of_first };
    eventually("the other counts it", || async { elsewhere(of_loser).then_some(()) }).await;
    assert!(!of_loser.encode().expect("text").contains("agentloop_writes_total{verb=\"create\""));

    // There are no more writes: neither operator reacts to the other's.
    let before = version(&ns, "shared").await;
    let marker = ns.create("marker", json!({ "suspend": true })).await;
    ns.until_phase(&marker.name_any(), Phase::Suspended).await;
    assert_eq!(version(&ns, "shared").await, before);
    ns.end().await;
}

#[tokio::test]
async fn a_release_that_disappeared_keeps_its_tasks_until_the_value_in_the_event_is_set() {
    let ns = TestNamespace::with_tasks().await;
    let pod = left_behind(&ns, "orphan").await;
    let (second, _) = operator(&ns, &release("b", &[]));
    let note = served_by_another(&ns, "orphan").await;
    let value = note.split_once("takeOver=[").and_then(|(_, rest)| rest.split_once(']')).expect("a value").0;
    assert_eq!(value, "a/agentloop");
    let before = version(&ns, "orphan").await;
    end(&ns.api(), &pod, &AgentWork::changed()).await;
    ns.create("new", json!({ "suspend": true })).await;
    let new = ns.until_phase("new", Phase::Suspended).await;
    assert_eq!(served_by(&new), Some("b/agentloop"), "it serves all other tasks");
    assert_eq!(version(&ns, "orphan").await, before);
    let held = ns.api::<Pod>().get(&pod).await.expect("the pod");
    assert_eq!(held.finalizers(), [FINALIZER_SETTLE]);
    second.kill();

    let (_third, _) = operator(&ns, &release("b", &[value]));
    let _kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    let status = ns.until_phase("orphan", Phase::Succeeded).await;
    assert_eq!(served_by(&status), Some("b/agentloop"));
    assert_eq!(status.iterations, 2, "the first one was counted, and the loop continued");

    // If the first release comes back, it no longer serves the task.
    let before = version(&ns, "orphan").await;
    let (_first, of_first) = operator(&ns, &release("a", &[]));
    eventually("the first release counts it", || async { elsewhere(&of_first).then_some(()) }).await;
    assert_eq!(version(&ns, "orphan").await, before);
    ns.end().await;
}

#[tokio::test]
async fn after_an_uninstall_another_release_serves_the_task_without_a_value() {
    let ns = TestNamespace::with_tasks().await;
    let pod = left_behind(&ns, "moved").await;
    // Tasks of other releases stay as they are, and so do their pods.
    ns.task(
        "theirs",
        json!({ "servedBy": "z/agentloop", "iterations": 2, "maxIterations": 10,
        "active": { "iteration": 3, "attempt": 0, "podName": "theirs-3-0", "generation": 1 } }),
    )
    .await;
    let theirs = ns.api::<AgentTask>().get("theirs").await.expect("the task");
    let labels = json!({ "agentloop.dev/task-uid": theirs.uid() });
    ns.pod(json!({ "name": "theirs-3-0", "labels": labels, "finalizers": [FINALIZER_SETTLE] }), &[]).await;

    let lines = uninstalled(&ns, release("a", &[])).await;
    assert!(
        lines.iter().any(|line| line.contains("release z/agentloop") && line.starts_with("1 AgentTask")),
        "{lines:#?}"
    );
    let status = ns.status("moved").await;
    assert_eq!(served_by(&status), None);
    assert_eq!(status.active.map(|active| active.orphaned), Some(true));
    assert_eq!(served_by(&ns.status("theirs").await), Some("z/agentloop"));
    assert_eq!(version(&ns, "theirs").await, theirs.resource_version());
    let held = ns.api::<Pod>().get("theirs-3-0").await.expect("the pod");
    assert_eq!(held.finalizers(), [FINALIZER_SETTLE]);

    end(&ns.api(), &pod, &AgentWork::changed()).await;
    let (_second, _) = operator(&ns, &release("b", &[]));
    let status = ns.until("moved", "the next iteration", |s| s.iterations == 1).await;
    assert_eq!(served_by(&status), Some("b/agentloop"));

    let uid = held.uid().expect("a uid");
    ns.writer.remove_finalizer(&ns.name, "theirs-3-0", &uid, false).await.expect("the finalizer is removed");
    ns.end().await;
}

#[tokio::test]
async fn an_uninstall_also_frees_tasks_that_would_be_taken_over() {
    let ns = TestNamespace::with_tasks().await;
    left_behind(&ns, "late").await;
    uninstalled(&ns, release("b", &["a/agentloop"])).await;
    assert_eq!(served_by(&ns.status("late").await), None);
    ns.end().await;
}

#[tokio::test]
async fn the_pods_of_a_deleted_task_of_a_release_that_is_gone_are_removed_in_the_end() {
    let ns = TestNamespace::with_tasks().await;
    let pod = left_behind(&ns, "deleted").await;
    end(&ns.api(), &pod, &AgentWork::changed()).await;
    let (_second, _) = operator(&ns, &release("b", &[]));
    served_by_another(&ns, "deleted").await;
    ns.api::<AgentTask>().delete("deleted", &DeleteParams::default()).await.expect("deleted");
    let since = tokio::time::Instant::now();
    let gone = || async { ns.api::<Pod>().get_opt(&pod).await.expect("an answer").is_none() };
    while !gone().await {
        assert!(since.elapsed().as_secs() < 150, "the pod is still there");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert!(since.elapsed().as_secs() >= 55, "its own release had time to remove it: {:?}", since.elapsed());
    ns.end().await;
}

/// Changes who serves a task, as a release does when it takes the task over.
async fn rename(ns: &TestNamespace, task: &str, name: &str) {
    let patch = Patch::Merge(json!({ "status": { "servedBy": name } }));
    ns.api::<AgentTask>().patch_status(task, &PatchParams::default(), &patch).await.expect("written");
}

#[tokio::test]
async fn a_task_that_another_release_takes_over_during_an_iteration_is_left_to_it() {
    let ns = TestNamespace::with_tasks().await;
    let (_first, of_first) = operator(&ns, &release("a", &[]));
    ns.create("taken", json!({})).await;
    let pod = ns.started_pod("taken").await.name_any();
    bind(&ns.api(), &pod).await;
    run(&ns.api(), &pod).await;
    rename(&ns, "taken", "b/agentloop").await;
    eventually("it is counted", || async { elsewhere(&of_first).then_some(()) }).await;
    let before = version(&ns, "taken").await;
    end(&ns.api(), &pod, &AgentWork::ready()).await;
    ns.create("marker", json!({ "suspend": true })).await;
    ns.until_phase("marker", Phase::Suspended).await;
    assert_eq!(version(&ns, "taken").await, before);
    let held = ns.api::<Pod>().get(&pod).await.expect("the pod");
    assert_eq!(held.finalizers(), [FINALIZER_SETTLE]);
    ns.end().await;
}
