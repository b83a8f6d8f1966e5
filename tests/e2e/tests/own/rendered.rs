//! The chart as tools use it that render it and apply the result, without a Helm release in the cluster.

use agentloop_e2e::{Cluster, PATIENCE, eventually};
use anyhow::{Result, ensure};
use serde_json::Value;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/agentloop");

async fn get(cluster: &Cluster, namespace: &str, of: &str) -> Result<Vec<Value>> {
    let json = cluster.kubectl(&["-n", namespace, "get", of, "-o", "json"]).await?.success()?;
    let list: Value = serde_json::from_str(&json)?;
    Ok(list.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default())
}

fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// Renders the chart with these arguments, applies it, and checks that the operator still works after every Job of the
/// chart has ended.
async fn stays_at_work(cluster: &Cluster, namespace: &str, how: &[&str]) -> Result<()> {
    let watched = format!("watch.namespaces={{{namespace}}}");
    let mut arguments = vec!["template", "rendered", CHART, "--namespace", namespace];
    arguments.extend(["--set", "crds.install=false", "--set", "rbac.aggregate=false", "--set", &watched]);
    arguments.extend(how);
    let rendered = cluster.helm(&arguments).await?.success()?;
    cluster.kubectl_with(&["-n", namespace, "apply", "-f", "-"], &rendered).await?.success()?;
    eventually(PATIENCE, "the operator is ready, and every Job has ended", async || {
        let text = |error: anyhow::Error| format!("{error:#}");
        let jobs = get(cluster, namespace, "jobs").await.map_err(text)?;
        let deployments = get(cluster, namespace, "deployments").await.map_err(text)?;
        let scaled = deployments.first().and_then(|one| number(one, "/spec/replicas"));
        let ready = deployments.iter().all(|one| number(one, "/status/readyReplicas") == Some(1));
        let ended = jobs.iter().all(|job| job.pointer("/status/completionTime").is_some());
        let settled = ended && (ready && scaled.is_some() || scaled == Some(0));
        if settled { Ok(()) } else { Err(format!("{} Jobs, {scaled:?} replicas", jobs.len())) }
    })
    .await?;
    let deployments = get(cluster, namespace, "deployments").await?;
    ensure!(deployments.len() == 1, "{} Deployments", deployments.len());
    for one in &deployments {
        let replicas = ["/spec/replicas", "/status/readyReplicas"].map(|of| number(one, of));
        ensure!(replicas == [Some(1); 2], "requested and ready replicas: {replicas:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_operator_that_was_rendered_and_applied_stays_at_work() -> Result<()> {
    let cluster = Cluster::connect().await?;
    // Without access to a cluster, as most tools render it, and with access, when the uninstall Job is rendered too.
    for (namespace, how) in
        [("e2e-rendered-alone", &[][..]), ("e2e-rendered-here", &["--dry-run=server"][..])]
    {
        cluster.kubectl(&["delete", "namespace", namespace, "--ignore-not-found"]).await?.success()?;
        cluster.kubectl(&["create", "namespace", namespace]).await?.success()?;
        stays_at_work(&cluster, namespace, how).await?;
        cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?.success()?;
    }
    Ok(())
}
