//! Something outside blocks an iteration: the task is Waiting and names the cause, is never charged, and resumes
//! afterwards.

use agentloop_e2e::{DONE, PATIENCE, TaskManifest, TaskSnapshot, TestNamespace, iterations, pvc};
use anyhow::{Result, ensure};
use serde_json::json;

/// Waits until the task waits for this reason, and checks that it reports the cause and was not charged.
async fn waits(ns: &TestNamespace, name: &str, reason: &str, cause: &str) -> Result<TaskSnapshot> {
    let what = format!("waits: {reason}, {cause}");
    let snapshot = ns
        .until(name, PATIENCE, &what, |now| {
            now.state() == format!("Waiting/{reason}") && now.message().contains(cause)
        })
        .await?;
    ensure!(snapshot.iterations() == 0, "it was charged: {snapshot}");
    Ok(snapshot)
}

/// Waits until the task is done after one iteration that ran once.
async fn then_done(ns: &TestNamespace, name: &str) -> Result<()> {
    let snapshot = ns.until_state(name, iterations(4), DONE).await?;
    ensure!(snapshot.iterations() == 1, "waiting was charged: {snapshot}");
    ns.ran(&snapshot, &[1])
}

#[tokio::test]
async fn a_task_waits_for_an_image_that_cannot_be_pulled_and_another_image_resumes_it() -> Result<()> {
    TestNamespace::shared("image")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("pull", &["change", "ready"]).pvc();
            let broken =
                task.clone().with("template/spec/containers/0/image", json!("localhost/no-such-image:1"));
            ns.create(&broken).await?;
            waits(ns, "pull", "ImagePullFailed", "no-such-image").await?;
            let template = task.manifest().pointer("/spec/template").cloned().unwrap_or_default();
            ns.patch("pull", json!({ "template": template })).await?;
            then_done(ns, "pull").await
        })
        .await
}

#[tokio::test]
async fn a_task_waits_for_a_prompt_that_does_not_exist() -> Result<()> {
    TestNamespace::shared("prompt-key")
        .await?
        .run(async |ns| {
            let from = json!({ "configMapKeyRef": { "name": "goals", "key": "first" } });
            let task = TaskManifest::new("asks", &["prompt", "change", "ready"]).pvc();
            ns.create(&task.with("prompt", json!(null)).with("promptFrom", from)).await?;
            waits(ns, "asks", "PromptMissing", "goals").await?;
            ns.kubectl(&["create", "configmap", "goals", "--from-literal=second=x"]).await?.success()?;
            waits(ns, "asks", "PromptMissing", "first").await?;
            ns.kubectl(&["patch", "configmap", "goals", "-p", r#"{"data":{"first":"Do it."}}"#])
                .await?
                .success()?;
            // The kubelet retries within two minutes.
            then_done(ns, "asks").await
        })
        .await
}

#[tokio::test]
async fn a_task_waits_for_room_in_a_quota() -> Result<()> {
    TestNamespace::shared("quota")
        .await?
        .run(async |ns| {
            ns.kubectl(&["create", "quota", "none", "--hard=pods=0"]).await?.success()?;
            ns.create(&TaskManifest::new("crowded", &["change", "ready"])).await?;
            waits(ns, "crowded", "QuotaExceeded", "none").await?;
            ns.kubectl(&["delete", "quota", "none"]).await?.success()?;
            then_done(ns, "crowded").await
        })
        .await
}

#[tokio::test]
async fn a_task_whose_pod_a_policy_refuses_waits_until_the_policy_admits_it() -> Result<()> {
    TestNamespace::shared("refused")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("monday", &["change", "ready"]);
            let validation = json!({ "expression": "false", "message": "no agents on Sundays" });
            ns.with_admission_policy(validation, &task, async || {
                ns.create(&task).await?;
                waits(ns, "monday", "PodRejected", "no agents on Sundays").await.map(drop)
            })
            .await?;
            then_done(ns, "monday").await
        })
        .await
}

#[tokio::test]
async fn a_task_whose_pod_fits_no_node_waits_and_starts_once_it_fits() -> Result<()> {
    TestNamespace::shared("no-node")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("picky", &["change", "ready"]);
            let picky =
                task.clone().with("template/spec/nodeSelector", json!({ "agentloop.dev/no-such": "node" }));
            ns.create(&picky).await?;
            waits(ns, "picky", "Unschedulable", "node").await?;
            ns.patch("picky", json!({ "template": { "spec": { "nodeSelector": null } } })).await?;
            then_done(ns, "picky").await
        })
        .await
}

#[tokio::test]
async fn a_task_waits_for_a_pvc_that_does_not_exist() -> Result<()> {
    TestNamespace::shared("no-pvc")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("homeless", &["change", "ready"]);
            ns.create(&task.with("workspace/persistentVolumeClaim", json!({ "claimName": "later" }))).await?;
            waits(ns, "homeless", "VolumePending", "later").await?;
            ns.apply(&pvc("later")).await?.success()?;
            then_done(ns, "homeless").await
        })
        .await
}

#[tokio::test]
async fn a_pod_that_ends_before_its_agent_starts_is_retried_without_a_charge() -> Result<()> {
    TestNamespace::shared("init")
        .await?
        .run(async |ns| {
            ns.apply(&pvc("kept")).await?.success()?;
            let task = TaskManifest::new("flaky", &["change", "ready"]);
            let mut init =
                task.manifest().pointer("/spec/template/spec/containers/0").cloned().unwrap_or_default();
            init["name"] = json!("prepare");
            init["command"] =
                json!(["/bin/sh", "-c", "test -e /workspace/tried || { touch /workspace/tried; exit 3; }"]);
            init["volumeMounts"] = json!([{ "name": "workspace", "mountPath": "/workspace" }]);
            let task = task
                .with("workspace/persistentVolumeClaim", json!({ "claimName": "kept" }))
                .with("template/spec/initContainers", json!([init]));
            ns.create(&task).await?;
            waits(ns, "flaky", "StartFailed", "prepare").await?;
            then_done(ns, "flaky").await
        })
        .await
}

#[tokio::test]
async fn a_task_that_waits_can_be_suspended_and_deleted() -> Result<()> {
    TestNamespace::shared("wait-delete")
        .await?
        .run(async |ns| {
            let stuck = TaskManifest::new("stuck", &["ready"])
                .with("template/spec/nodeSelector", json!({ "no-such": "node" }));
            ns.create(&stuck).await?;
            waits(ns, "stuck", "Unschedulable", "node").await?;
            ns.patch("stuck", json!({ "suspend": true })).await?;
            let snapshot = ns.until_suspended("stuck").await?;
            ensure!(snapshot.iterations() == 0, "it was charged: {snapshot}");
            ns.patch("stuck", json!({ "suspend": false })).await?;
            waits(ns, "stuck", "Unschedulable", "node").await?;
            ns.delete("stuck").await
        })
        .await
}
