//! The two ways to inject the runner into a pod.

use agentloop_e2e::{DONE, PATIENCE, TaskManifest, TaskSnapshot, TestNamespace, iterations};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Runs a task to its end with this injection. Returns whether its pod has an image volume and whether it has an init
/// container.
async fn ways(ns: &TestNamespace, name: &str, injection: &str) -> Result<(bool, bool)> {
    ns.operator.install(&["--set", &format!("runner.injection={injection}")]).await?;
    ns.create(&TaskManifest::new(name, &["prompt", "change", "ready-at=2"]).pvc()).await?;
    let snapshot = ns.until_state(name, iterations(2), DONE).await?;
    ns.exactly(&snapshot, 2)?;
    let pods = ns.history.of(snapshot.uid());
    let spec = pods.last().and_then(|pod| pod.pod.spec.as_ref()).context("the pod has no spec")?;
    let by_volume = spec.volumes.iter().flatten().any(|volume| volume.image.is_some());
    Ok((by_volume, spec.init_containers.iter().flatten().next().is_some()))
}

/// As in all of these tests, the namespace enforces the restricted pod security standard.
#[tokio::test]
async fn the_runner_is_injected_by_an_image_volume_or_an_init_container_as_configured() -> Result<()> {
    TestNamespace::own("injection", &[])
        .await?
        .run(async |ns| {
            ensure!(ways(ns, "volume", "image-volume").await? == (true, false), "not only an image volume");
            ensure!(ways(ns, "init", "init-container").await? == (false, true), "not only an init container");
            Ok(())
        })
        .await
}

/// A user in the range of the policy below. OpenShift has such a range for each namespace.
const USER: i64 = 1_000_680_001;

/// A task that leaves its user to the pod.
fn fitting(name: &str, resources: Value) -> TaskManifest {
    let user = json!({ "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER });
    let context = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    TaskManifest::new(name, &["change", "ready"])
        .max(1)
        .with("template/spec/securityContext", user)
        .with("template/spec/containers/0/securityContext", context)
        .with("template/spec/containers/0/resources", resources)
}

async fn fits(ns: &TestNamespace, task: &TaskManifest) -> Result<TaskSnapshot> {
    ns.create(task).await?;
    let settled = |now: &TaskSnapshot| now.iterations() > 0 || now.reason() == "PodRejected";
    let snapshot = ns.until(task.name(), iterations(1), "has stopped", settled).await?;
    ensure!(snapshot.state() == DONE, "{snapshot}");
    ns.exactly(&snapshot, 1)?;
    Ok(snapshot)
}

async fn stays_guaranteed(ns: &TestNamespace) -> Result<()> {
    let all = json!({ "cpu": "100m", "memory": "64Mi" });
    let snapshot = fits(ns, &fitting("guaranteed", json!({ "requests": all, "limits": all }))).await?;
    let pods = ns.history.of(snapshot.uid());
    let class = pods.first().and_then(|pod| pod.pod.status.as_ref()?.qos_class.clone());
    ensure!(class.as_deref() == Some("Guaranteed"), "the pod is {class:?}");
    Ok(())
}

async fn passes_a_limit_range(ns: &TestNamespace) -> Result<()> {
    let limits = json!([{
        "type": "Container",
        "min": { "cpu": "100m", "memory": "64Mi" },
        "maxLimitRequestRatio": { "cpu": "2", "memory": "1" },
    }]);
    let range = json!({ "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "floor" }, "spec": { "limits": limits } });
    ns.apply(&range).await?.success()?;
    let resources = json!({
        "requests": { "cpu": "100m", "memory": "64Mi" },
        "limits": { "cpu": "200m", "memory": "64Mi" },
    });
    let passed = fits(ns, &fitting("floor", resources)).await;
    ns.kubectl(&["delete", "limitrange", "floor"]).await?.success()?;
    passed.map(drop)
}

async fn passes_a_range_of_users(ns: &TestNamespace) -> Result<()> {
    let of = |field: &str| {
        let user = "c.securityContext.runAsUser";
        let within = format!("({user} >= 1000680000 && {user} <= 1000689999)");
        format!("object.spec.{field}.all(c, !has(c.securityContext) || !has({user}) || {within})")
    };
    let rule =
        format!("(!has(object.spec.initContainers) || {}) && {}", of("initContainers"), of("containers"));
    let validation = json!({ "expression": rule, "message": "runAsUser is out of the range" });
    let refused = TaskManifest::new("refused", &[]);
    ns.with_admission_policy(validation, &refused, async || {
        fits(ns, &fitting("range", json!({ "requests": { "cpu": "5m" } }))).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn the_init_container_fits_if_the_template_fits_and_changes_no_class_of_service() -> Result<()> {
    TestNamespace::own("fits", &["--set", "runner.injection=init-container"])
        .await?
        .run(async |ns| {
            // All three run, even if one of them fails.
            let all = [
                stays_guaranteed(ns).await,
                passes_a_limit_range(ns).await,
                passes_a_range_of_users(ns).await,
            ];
            let wrong: Vec<String> =
                all.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
            ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_pod_that_waits_for_a_wrong_image_of_the_runner_is_replaced_once_an_upgrade_names_the_right_one()
-> Result<()> {
    TestNamespace::own("wrong-runner", &["--set", "runner.image.tag=no-such-tag"])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("waits", &["change", "ready"]).max(1)).await?;
            ns.until("waits", PATIENCE, "waits for the image", |now| {
                now.state() == "Waiting/ImagePullFailed" && now.message().contains("no-such-tag")
            })
            .await?;
            ns.operator.install(&[]).await?;
            let snapshot = ns.until_state("waits", iterations(1), DONE).await?;
            ensure!(snapshot.iterations() == 1, "waiting was charged: {snapshot}");
            ns.ran(&snapshot, &[1])
        })
        .await
}
