//! What blocks an iteration from outside: the task is Waiting with the cause, is never charged, and resumes afterwards.

use agentloop_e2e::{PATIENCE, Task, TaskSnapshot, TestNamespace, iterations};
use anyhow::{Result, ensure};
use serde_json::json;

const DONE: &str = "Succeeded/Completed";

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

/// Waits until the task is done, by one iteration that ran once.
async fn then_done(ns: &TestNamespace, name: &str) -> Result<()> {
    let snapshot = ns.until_state(name, iterations(4), DONE).await?;
    ensure!(snapshot.iterations() == 1, "waiting was charged: {snapshot}");
    ns.ran(&snapshot, &[1])
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_waited_for_and_another_image_resumes_the_loop() -> Result<()> {
    TestNamespace::shared("image")
        .await?
        .run(async |ns| {
            let task = Task::new("pull", &["change", "ready"]).pvc();
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
async fn a_prompt_that_is_not_there_is_waited_for() -> Result<()> {
    TestNamespace::shared("prompt-key")
        .await?
        .run(async |ns| {
            let from = json!({ "configMapKeyRef": { "name": "goals", "key": "first" } });
            let task = Task::new("asks", &["prompt", "change", "ready"]).pvc();
            ns.create(&task.with("prompt", json!(null)).with("promptFrom", from)).await?;
            waits(ns, "asks", "PromptMissing", "goals").await?;
            ns.kubectl(&["create", "configmap", "goals", "--from-literal=second=x"]).await?.good()?;
            waits(ns, "asks", "PromptMissing", "first").await?;
            ns.kubectl(&["patch", "configmap", "goals", "-p", r#"{"data":{"first":"Do it."}}"#])
                .await?
                .good()?;
            // The kubelet tries again within two minutes.
            then_done(ns, "asks").await
        })
        .await
}

#[tokio::test]
async fn a_quota_without_room_is_waited_for() -> Result<()> {
    TestNamespace::shared("quota")
        .await?
        .run(async |ns| {
            ns.kubectl(&["create", "quota", "none", "--hard=pods=0"]).await?.good()?;
            ns.create(&Task::new("crowded", &["change", "ready"])).await?;
            waits(ns, "crowded", "QuotaExceeded", "none").await?;
            ns.kubectl(&["delete", "quota", "none"]).await?.good()?;
            then_done(ns, "crowded").await
        })
        .await
}

#[tokio::test]
async fn a_pod_that_a_policy_refuses_is_waited_for_until_the_policy_lets_it_in() -> Result<()> {
    TestNamespace::shared("refused").await?.run(async |ns| {
        let name = ns.namespace.clone();
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": name },
            "spec": {
                "matchConstraints": { "resourceRules": [
                    { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] },
                ] },
                "validations": [{ "expression": "false", "message": "no agents on Sundays" }],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": name },
            "spec": {
                "policyName": name,
                "validationActions": ["Deny"],
                "matchResources": { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } },
            },
        });
        let manifest = json!({ "apiVersion": "v1", "kind": "List", "items": [policy, binding] }).to_string();
        ns.cluster.kubectl_with(&["apply", "-f", "-"], &manifest).await?.good()?;
        // A policy takes effect a moment later: a dry run shows when.
        let task = Task::new("monday", &["change", "ready"]);
        let probe = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "probe" },
            "spec": task.manifest().pointer("/spec/template/spec"),
        });
        agentloop_e2e::eventually(PATIENCE, "the policy is in force", async || {
            let create = ["-n", &ns.namespace, "create", "--dry-run=server", "-f", "-"];
            let tried = ns.cluster.kubectl_with(&create, &probe.to_string()).await;
            let said = tried.map_err(|error| error.to_string())?.text;
            if said.contains("Sundays") { Ok(()) } else { Err(said) }
        })
        .await?;
        ns.create(&task).await?;
        let snapshot = waits(ns, "monday", "PodRejected", "no agents on Sundays").await;
        let delete = ["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", &name];
        ns.cluster.kubectl(&delete).await?.good()?;
        snapshot?;
        then_done(ns, "monday").await
    })
    .await
}

#[tokio::test]
async fn a_pod_that_fits_no_node_is_waited_for_and_started_once_it_fits() -> Result<()> {
    TestNamespace::shared("no-node")
        .await?
        .run(async |ns| {
            let task = Task::new("picky", &["change", "ready"]);
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
async fn a_claim_that_is_not_there_is_waited_for() -> Result<()> {
    TestNamespace::shared("no-claim").await?.run(async |ns| {
        let task = Task::new("homeless", &["change", "ready"]);
        ns.create(&task.with("workspace/persistentVolumeClaim", json!({ "claimName": "later" }))).await?;
        waits(ns, "homeless", "VolumePending", "later").await?;
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "later" },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "16Mi" } } },
        });
        ns.apply(&claim).await?.good()?;
        then_done(ns, "homeless").await
    })
    .await
}

#[tokio::test]
async fn a_pod_that_ends_before_its_agent_starts_is_tried_again_uncharged() -> Result<()> {
    TestNamespace::shared("init").await?.run(async |ns| {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "kept" },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "16Mi" } } },
        });
        ns.apply(&claim).await?.good()?;
        let task = Task::new("flaky", &["change", "ready"]);
        let mut init = task.manifest().pointer("/spec/template/spec/containers/0").cloned().unwrap_or_default();
        init["name"] = json!("prepare");
        init["command"] = json!(["/bin/sh", "-c", "test -e /workspace/tried || { touch /workspace/tried; exit 3; }"]);
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
            let stuck = Task::new("stuck", &["ready"])
                .with("template/spec/nodeSelector", json!({ "no-such": "node" }));
            ns.create(&stuck).await?;
            waits(ns, "stuck", "Unschedulable", "node").await?;
            ns.patch("stuck", json!({ "suspend": true })).await?;
            let snapshot = ns
                .until("stuck", PATIENCE, "is suspended with nothing in flight", |now| {
                    now.state() == "Suspended" && now.active_pod().is_none()
                })
                .await?;
            ensure!(snapshot.iterations() == 0, "it was charged: {snapshot}");
            ns.patch("stuck", json!({ "suspend": false })).await?;
            waits(ns, "stuck", "Unschedulable", "node").await?;
            ns.delete("stuck").await
        })
        .await
}
