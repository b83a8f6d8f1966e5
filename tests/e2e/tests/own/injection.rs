//! The two ways to bring the runner into a pod.

use agentloop_e2e::{PATIENCE, Task, TaskSnapshot, TestNamespace, eventually, iterations};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const DONE: &str = "Succeeded/Completed";

/// Runs a task to its end with this injection, and returns how its pod got the runner: by an image volume, by an init
/// container.
async fn ways(ns: &TestNamespace, name: &str, injection: &str) -> Result<(bool, bool)> {
    ns.operator.install(&["--set", &format!("runner.injection={injection}")]).await?;
    ns.create(&Task::new(name, &["prompt", "change", "ready-at=2"]).pvc()).await?;
    let snapshot = ns.until_state(name, iterations(2), DONE).await?;
    ns.exactly(&snapshot, 2)?;
    let pods = ns.history.of(snapshot.uid());
    let spec = pods.last().and_then(|pod| pod.pod.spec.as_ref()).context("the pod has no spec")?;
    let by_volume = spec.volumes.iter().flatten().any(|volume| volume.image.is_some());
    Ok((by_volume, spec.init_containers.iter().flatten().next().is_some()))
}

/// Its namespace enforces the restricted level, as all of these tests' do.
#[tokio::test]
async fn the_runner_comes_as_an_image_volume_or_by_an_init_container_as_it_was_set() -> Result<()> {
    TestNamespace::own("injection", &[])
        .await?
        .run(async |ns| {
            ensure!(ways(ns, "volume", "image-volume").await? == (true, false), "no image volume alone");
            ensure!(ways(ns, "init", "init-container").await? == (false, true), "no init container alone");
            Ok(())
        })
        .await
}

/// In the range of the policy below, as a namespace of OpenShift has one.
const USER: i64 = 1_000_680_001;

/// A task that leaves its user to the pod.
fn fitting(name: &str, resources: Value) -> Task {
    let user = json!({ "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER });
    let context = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    Task::new(name, &["change", "ready"])
        .max(1)
        .with("template/spec/securityContext", user)
        .with("template/spec/containers/0/securityContext", context)
        .with("template/spec/containers/0/resources", resources)
}

async fn fits(ns: &TestNamespace, task: &Task) -> Result<TaskSnapshot> {
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
    ns.apply(&range).await?.good()?;
    let resources = json!({
        "requests": { "cpu": "100m", "memory": "64Mi" },
        "limits": { "cpu": "200m", "memory": "64Mi" },
    });
    let passed = fits(ns, &fitting("floor", resources)).await;
    ns.kubectl(&["delete", "limitrange", "floor"]).await?.good()?;
    passed.map(drop)
}

async fn passes_a_range_of_users(ns: &TestNamespace) -> Result<()> {
    let name = ns.namespace.clone();
    let of = |field: &str| {
        let user = "c.securityContext.runAsUser";
        let within = format!("({user} >= 1000680000 && {user} <= 1000689999)");
        format!("object.spec.{field}.all(c, !has(c.securityContext) || !has({user}) || {within})")
    };
    let rule =
        format!("(!has(object.spec.initContainers) || {}) && {}", of("initContainers"), of("containers"));
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": name },
        "spec": {
            "matchConstraints": { "resourceRules": [
                { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] },
            ] },
            "validations": [{ "expression": rule, "message": "runAsUser is out of the range" }],
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
    // A policy takes effect a moment later: a dry run of what it refuses shows when.
    let refused = Task::new("refused", &[]);
    let probe = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "probe" },
        "spec": refused.manifest().pointer("/spec/template/spec"),
    });
    let passed = async {
        eventually(PATIENCE, "the policy is in force", async || {
            let create = ["-n", &ns.namespace, "create", "--dry-run=server", "-f", "-"];
            let tried = ns.cluster.kubectl_with(&create, &probe.to_string()).await;
            let said = tried.map_err(|error| error.to_string())?.text;
            if said.contains("out of the range") { Ok(()) } else { Err(said) }
        })
        .await?;
        fits(ns, &fitting("range", json!({ "requests": { "cpu": "5m" } }))).await
    }
    .await;
    let delete = ["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", &name];
    ns.cluster.kubectl(&delete).await?.good()?;
    passed.map(drop)
}

#[tokio::test]
async fn the_init_container_fits_if_the_template_fits_and_changes_no_class_of_service() -> Result<()> {
    TestNamespace::own("fits", &["--set", "runner.injection=init-container"])
        .await?
        .run(async |ns| {
            // Try each, even if one before it failed.
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
            ns.create(&Task::new("waits", &["change", "ready"]).max(1)).await?;
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
