//! `agentloop uninstall`.

use std::time::Duration;

use agentloop_contract::names::{FINALIZER_SETTLE, LABEL_TASK_UID};
use agentloop_core::api::AgentTask;
use agentloop_core::decide::served::Serving;
use agentloop_operator::client::Clients;
use agentloop_operator::lease::Election;
use agentloop_operator::lease::decide::Timings;
use agentloop_operator::metrics::Metrics;
use agentloop_operator::namespaces::Namespaces;
use agentloop_operator::uninstall::{Error, Hook};
use agentloop_operator::write::Writer;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::kubelet::{bind, serving};
use crate::namespace::{PATIENCE, TestNamespace, eventually, object, uid};

const OPERATOR: &str = "agentloop";
const OTHER_FINALIZER: &str = "example.com/other";

fn hook(ns: &TestNamespace, timeout: Duration) -> Hook {
    Hook {
        clients: ns.clients.clone(),
        writer: ns.writer.clone(),
        namespace: ns.name.clone(),
        deployment: OPERATOR.to_owned(),
        lease: OPERATOR.to_owned(),
        serving: serving(&ns.name, &[]),
        helm_release: None,
        namespaces: Namespaces::Only([ns.name.clone()].into()),
        timeout,
        deadline: Instant::now() + timeout,
    }
}

async fn run(ns: &TestNamespace, timeout: Duration) -> (Vec<String>, Result<(), Error>) {
    let mut lines = Vec::new();
    let result = hook(ns, timeout).run(&mut |line| lines.push(line)).await;
    (lines, result)
}

/// Uninstalls this release, whose operator is already gone, and returns what the hook printed.
pub async fn uninstalled(ns: &TestNamespace, serving: Serving) -> Vec<String> {
    let mut lines = Vec::new();
    let hook = Hook { serving, ..hook(ns, PATIENCE) };
    hook.run(&mut |line| lines.push(line)).await.unwrap_or_else(|error| panic!("{error}"));
    lines
}

/// Uninstalls a running operator, through these clients.
pub async fn uninstall_through(ns: &TestNamespace, clients: Clients) {
    deployment_with_a_pod(ns).await;
    let writer = Writer::new(clients.write.clone(), Metrics::new());
    let hook = Hook { clients, writer, ..hook(ns, PATIENCE) };
    hook.run(&mut |_| {}).await.unwrap_or_else(|error| panic!("{error}"));
}

async fn deployment_with_a_pod(ns: &TestNamespace) {
    let deployment: Deployment = object(json!({
        "metadata": { "name": OPERATOR },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app": OPERATOR } },
            "template": {
                "metadata": { "labels": { "app": OPERATOR } },
                "spec": { "containers": [{ "name": "controller", "image": "none" }] },
            },
        },
    }));
    ns.api().create(&PostParams::default(), &deployment).await.expect("a deployment");
    let of_it = ListParams::default().labels("app=agentloop");
    eventually("the operator's pod", || async {
        let pods = ns.api::<Pod>().list(&of_it).await.expect("pods");
        (!pods.items.is_empty()).then_some(())
    })
    .await;
}

async fn orphaned(ns: &TestNamespace, task: &str) -> Option<bool> {
    let task = ns.api::<AgentTask>().get(task).await.expect("the task");
    Some(task.status?.active?.orphaned)
}

async fn pod_of(ns: &TestNamespace, name: &str, task: &AgentTask, finalizers: &[&str]) {
    let metadata = json!({
        "name": name,
        "finalizers": finalizers,
        "labels": { LABEL_TASK_UID: uid(task) },
    });
    ns.pod(metadata, &[]).await;
}

async fn finalizers(ns: &TestNamespace, pod: &str) -> Vec<String> {
    ns.api::<Pod>().get(pod).await.expect("the pod").finalizers().to_vec()
}

fn active(pod: &str) -> serde_json::Value {
    json!({
        "iterations": 2, "maxIterations": 10,
        "active": { "iteration": 3, "attempt": 1, "podName": pod, "generation": 1 },
    })
}

#[tokio::test]
async fn every_finalizer_is_removed_and_a_second_run_changes_nothing() {
    let ns = TestNamespace::with_tasks().await;
    deployment_with_a_pod(&ns).await;
    // The hook's own pod has the release's labels, and must not wait for itself.
    ns.pod(json!({ "name": "hook", "labels": { "app": OPERATOR } }), &[]).await;
    let busy = ns.task("busy", active("busy-1")).await;
    ns.task("idle", json!({ "iterations": 2 })).await;
    ns.task("fresh", serde_json::Value::Null).await;
    pod_of(&ns, "busy-1", &busy, &[OTHER_FINALIZER, FINALIZER_SETTLE]).await;
    pod_of(&ns, "busy-0", &busy, &[FINALIZER_SETTLE]).await;
    let other = json!({ "name": "foreign", "finalizers": [OTHER_FINALIZER] });
    ns.pod(other, &[]).await;

    let (lines, result) = run(&ns, PATIENCE).await;
    result.unwrap_or_else(|error| panic!("{error}"));
    let sentence =
        format!("AgentTask {}/busy has iteration 3 (attempt 1) in flight: its pod busy-1", ns.name);
    assert!(lines.iter().any(|line| line.starts_with(&sentence)), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("idle") || line.contains("fresh")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("2 pod(s) without our finalizer")), "{lines:#?}");

    assert_eq!(orphaned(&ns, "busy").await, Some(true));
    assert_eq!(finalizers(&ns, "busy-1").await, [OTHER_FINALIZER]);
    assert!(finalizers(&ns, "busy-0").await.is_empty());
    assert_eq!(finalizers(&ns, "foreign").await, [OTHER_FINALIZER]);
    let of_it = ListParams::default().labels("app=agentloop");
    let left = ns.api::<Pod>().list(&of_it).await.expect("pods");
    assert_eq!(left.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["hook"]);
    assert!(ns.api::<Lease>().get_opt(OPERATOR).await.expect("an answer").is_none(), "the lease is removed");

    let before = ns.api::<AgentTask>().get("busy").await.expect("the task").resource_version();
    let (lines, result) = run(&ns, PATIENCE).await;
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(lines.iter().any(|line| line.starts_with("0 pod(s) without our finalizer")), "{lines:#?}");
    assert_eq!(ns.api::<AgentTask>().get("busy").await.expect("the task").resource_version(), before);

    for pod in ["busy-1", "foreign"] {
        let none = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        ns.api::<Pod>().patch(pod, &PatchParams::default(), &none).await.expect("the finalizer is removed");
    }
    ns.end().await;
}

#[tokio::test]
async fn finalizers_are_removed_even_if_the_deployment_is_already_gone() {
    let ns = TestNamespace::with_tasks().await;
    let busy = ns.task("busy", active("busy-1")).await;
    pod_of(&ns, "busy-1", &busy, &[FINALIZER_SETTLE]).await;
    let (lines, result) = run(&ns, PATIENCE).await;
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(lines.iter().any(|line| line.contains("no operator to stop")), "{lines:#?}");
    assert_eq!(orphaned(&ns, "busy").await, Some(true));
    assert!(finalizers(&ns, "busy-1").await.is_empty());
    ns.end().await;
}

#[tokio::test]
async fn a_job_that_was_applied_with_everything_else_does_nothing() {
    let ns = TestNamespace::with_tasks().await;
    deployment_with_a_pod(&ns).await;
    let busy = ns.task("busy", active("busy-1")).await;
    pod_of(&ns, "busy-1", &busy, &[FINALIZER_SETTLE]).await;
    let replicas = async || {
        let deployment = ns.api::<Deployment>().get(OPERATOR).await.expect("the deployment");
        deployment.spec.replicas
    };
    let marked = |release: &str, namespace: &str| {
        Patch::Merge(json!({ "metadata": { "annotations": {
            "meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace } } }))
    };
    let as_helms = async || {
        let mut lines = Vec::new();
        let hook = Hook { helm_release: Some("loops".to_owned()), ..hook(&ns, PATIENCE) };
        hook.run(&mut |line| lines.push(line)).await.unwrap_or_else(|error| panic!("{error}"));
        lines
    };
    // No release, another release, and a release with the same name in another namespace.
    let marks = [("", ""), ("other", ns.name.as_str()), ("loops", "elsewhere")];
    for (release, namespace) in marks {
        if !release.is_empty() {
            let patch = marked(release, namespace);
            ns.api::<Deployment>().patch(OPERATOR, &PatchParams::default(), &patch).await.expect("marked");
        }
        let lines = as_helms().await;
        assert!(lines.len() == 1 && lines[0].starts_with("Nothing to do"), "{lines:#?}");
        assert!(lines[0].contains("--set uninstallJob=always"), "{lines:#?}");
        assert_eq!(replicas().await, Some(1));
        assert_eq!(orphaned(&ns, "busy").await, Some(false));
        assert_eq!(finalizers(&ns, "busy-1").await, [FINALIZER_SETTLE]);
    }

    let helms = marked("loops", &ns.name);
    ns.api::<Deployment>().patch(OPERATOR, &PatchParams::default(), &helms).await.expect("marked");
    as_helms().await;
    assert_eq!(replicas().await, Some(0));
    assert_eq!(orphaned(&ns, "busy").await, Some(true));
    assert!(finalizers(&ns, "busy-1").await.is_empty());

    // A user deleted the Deployment by hand before the uninstall.
    ns.api::<Deployment>().delete(OPERATOR, &DeleteParams::default()).await.expect("deleted");
    assert!(as_helms().await.iter().any(|line| line.contains("no operator to stop")));
    ns.end().await;
}

#[tokio::test]
async fn if_the_operator_does_not_stop_the_hook_fails_before_it_removes_any_finalizer() {
    let ns = TestNamespace::with_tasks().await;
    deployment_with_a_pod(&ns).await;
    // As on a lost node: the pod is being deleted, but stays.
    let of_it = ListParams::default().labels("app=agentloop");
    let pod = ns.api::<Pod>().list(&of_it).await.expect("pods").items.remove(0).name_any();
    // Otherwise the pod garbage collector deletes it.
    bind(&ns.api(), &pod).await;
    let keep = Patch::Merge(json!({ "metadata": { "finalizers": [OTHER_FINALIZER] } }));
    ns.api::<Pod>().patch(&pod, &PatchParams::default(), &keep).await.expect("the finalizer is added");
    let busy = ns.task("busy", active("busy-1")).await;
    pod_of(&ns, "busy-1", &busy, &[FINALIZER_SETTLE]).await;

    let (_, result) = run(&ns, Duration::from_secs(2)).await;
    let words = result.expect_err("the operator still runs").to_string();
    assert!(words.contains(&pod), "{words}");
    assert_eq!(orphaned(&ns, "busy").await, Some(false));
    assert_eq!(finalizers(&ns, "busy-1").await, [FINALIZER_SETTLE]);

    let none = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    ns.api::<Pod>().patch(&pod, &PatchParams::default(), &none).await.expect("the finalizer is removed");
    ns.force_delete(&pod).await;
    let (_, result) = run(&ns, PATIENCE).await;
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(finalizers(&ns, "busy-1").await.is_empty());
    ns.end().await;
}

#[tokio::test]
async fn if_an_operator_outside_the_deployment_has_the_lease_the_hook_fails() {
    let ns = TestNamespace::with_tasks().await;
    let timings = Timings { duration: Duration::from_mins(10), ..Timings::default() };
    let mut stray = Election::new(ns.clients.write.clone(), &ns.name, OPERATOR, "stray", timings);
    assert!(stray.acquire(&CancellationToken::new(), |_| {}).await);
    let busy = ns.task("busy", active("busy-1")).await;
    pod_of(&ns, "busy-1", &busy, &[FINALIZER_SETTLE]).await;

    let (_, result) = run(&ns, Duration::from_secs(2)).await;
    let words = result.expect_err("the lease is held").to_string();
    assert!(words.contains("held by stray"), "{words}");
    assert_eq!(orphaned(&ns, "busy").await, Some(false));

    stray.release().await;
    let (_, result) = run(&ns, PATIENCE).await;
    result.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(orphaned(&ns, "busy").await, Some(true));
    ns.end().await;
}

#[tokio::test]
async fn without_the_crd_or_any_task_there_is_nothing_to_do() {
    let ns = TestNamespace::new().await;
    let (lines, result) = run(&ns, PATIENCE).await;
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(lines.iter().any(|line| line.starts_with("0 pod(s) without our finalizer")), "{lines:#?}");
    ns.api::<Pod>()
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .expect("deleted");
    ns.end().await;
}
