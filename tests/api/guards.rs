//! Each write has its guard.

use agentloop_contract::names::{ANNOTATION_CONTEXT, ANNOTATION_PROMPT, FINALIZER_SETTLE, GATE_START};
use agentloop_core::api::AgentTask;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::namespace::{TestNamespace, uid};

const OTHER_UID: &str = "00000000-0000-4000-8000-000000000000";
const OTHER_FINALIZER: &str = "example.com/other";
const OTHER_GATE: &str = "example.com/other";

#[tokio::test]
async fn a_pod_with_another_uid_is_neither_started_nor_deleted_nor_loses_its_finalizer() {
    let ns = TestNamespace::new().await;
    let pod = ns.pod(json!({ "name": "p", "finalizers": [FINALIZER_SETTLE] }), &[GATE_START]).await;
    let started = ns.writer.remove_scheduling_gate(&ns.name, "p", OTHER_UID).await.expect_err("another pod");
    let changed = ns.writer.remove_finalizer(&ns.name, "p", OTHER_UID, true).await.expect_err("another pod");
    let deleted = ns.writer.delete_pod(&ns.name, "p", OTHER_UID).await.expect_err("another pod");
    for error in [started, changed, deleted] {
        assert!(error.is_conflict(), "{error}");
    }
    let after = ns.api::<Pod>().get("p").await.expect("the pod");
    assert_eq!(after.metadata.resource_version, pod.metadata.resource_version);
    ns.writer.remove_finalizer(&ns.name, "p", &uid(&pod), true).await.expect("removed");
    ns.end().await;
}

#[tokio::test]
async fn starting_removes_our_scheduling_gate_and_no_other() {
    let ns = TestNamespace::new().await;
    let pod = ns.pod(json!({ "name": "p" }), &[OTHER_GATE, GATE_START]).await;
    for _ in 0..2 {
        let started = ns.writer.remove_scheduling_gate(&ns.name, "p", &uid(&pod)).await.expect("started");
        let gates = started.spec.and_then(|spec| spec.scheduling_gates).unwrap_or_default();
        assert_eq!(gates.iter().map(|gate| gate.name.as_str()).collect::<Vec<_>>(), [OTHER_GATE]);
    }
    ns.end().await;
}

#[tokio::test]
async fn our_finalizer_is_removed_and_no_other() {
    let ns = TestNamespace::new().await;
    let metadata = json!({ "name": "p", "finalizers": [OTHER_FINALIZER, FINALIZER_SETTLE] });
    let pod = ns.pod(metadata, &[]).await;
    for _ in 0..2 {
        let changed = ns.writer.remove_finalizer(&ns.name, "p", &uid(&pod), false).await.expect("removed");
        assert_eq!(changed.finalizers(), [OTHER_FINALIZER]);
    }
    let none = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    ns.api::<Pod>().patch("p", &PatchParams::default(), &none).await.expect("the finalizer is removed");
    ns.end().await;
}

#[tokio::test]
async fn only_a_pod_that_has_ended_loses_its_prompt_and_context_with_the_finalizer() {
    let ns = TestNamespace::new().await;
    let notes = json!({ ANNOTATION_PROMPT: "do it", ANNOTATION_CONTEXT: "{}", "example.com/kept": "yes" });
    for (name, has_ended) in [("runs", false), ("ended", true)] {
        let metadata = json!({ "name": name, "annotations": notes, "finalizers": [FINALIZER_SETTLE] });
        let pod = ns.pod(metadata, &[]).await;
        let changed = ns.writer.remove_finalizer(&ns.name, name, &uid(&pod), has_ended).await;
        let changed = changed.expect("removed");
        assert!(changed.finalizers().is_empty());
        let notes = changed.annotations();
        assert_eq!(notes.contains_key(ANNOTATION_PROMPT), !has_ended, "{name}");
        assert_eq!(notes.contains_key(ANNOTATION_CONTEXT), !has_ended, "{name}");
        assert!(notes.contains_key("example.com/kept"), "{name}");
    }
    ns.end().await;
}

#[tokio::test]
async fn a_status_is_written_only_if_the_version_is_the_one_that_was_read() {
    let ns = TestNamespace::with_tasks().await;
    let task = ns.task("t", json!({ "iterations": 0 })).await;
    let read = task.resource_version().expect("a version");
    let suspend = Patch::Merge(json!({ "spec": { "suspend": true } }));
    let now = ns.api::<AgentTask>().patch("t", &PatchParams::default(), &suspend).await.expect("suspended");

    let late = ns.writer.task_status(&ns.name, "t", &read, &json!({ "iterations": 1 })).await;
    assert!(late.expect_err("too late").is_conflict());

    let version = now.resource_version().expect("a version");
    let written = ns.writer.task_status(&ns.name, "t", &version, &json!({ "iterations": 1 })).await;
    assert_eq!(written.expect("in time").status.map(|status| status.iterations), Some(1));
    ns.end().await;
}

#[tokio::test]
async fn errors_are_distinguished() {
    let ns = TestNamespace::with_tasks().await;
    let pod = ns.pod(json!({ "name": "p" }), &[]).await;
    let mut same_name = pod.clone();
    same_name.metadata.resource_version = None;
    same_name.metadata.uid = None;
    let same_name = serde_json::to_value(&same_name).expect("a pod is JSON");
    let exists = ns.writer.create_raw::<Pod>(&ns.name, &same_name).await.expect_err("the name is taken");
    assert!(exists.already_exists(), "{exists}");
    let missing = ns.writer.delete_pod(&ns.name, "no-such-pod", OTHER_UID).await.expect_err("no such pod");
    assert!(missing.is_not_found(), "{missing}");
    let task = ns.task("t", json!({ "iterations": 5 })).await;
    let version = task.resource_version().expect("a version");
    let back = ns.writer.task_status(&ns.name, "t", &version, &json!({ "iterations": 3 })).await;
    assert_eq!(back.expect_err("the count never falls").reason(), "invalid");
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    ns.api::<Pod>().delete("p", &now).await.expect("deleted");
    ns.end().await;
}
