//! The chart in the hands of tools that render it and apply the result, with no Helm in the cluster.

use agentloop_e2e::{Cluster, PATIENCE, eventually};
use anyhow::{Result, ensure};
use serde_json::Value;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/agentloop");

async fn get(cluster: &Cluster, namespace: &str, of: &str) -> Result<Vec<Value>> {
    let said = cluster.kubectl(&["-n", namespace, "get", of, "-o", "json"]).await?.good()?;
    let list: Value = serde_json::from_str(&said)?;
    Ok(list.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default())
}

fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// Renders the chart in this way, applies it, and checks that the operator is at work once every Job that
/// came with it has ended.
async fn stays_at_work(cluster: &Cluster, namespace: &str, how: &[&str]) -> Result<()> {
    let watched = format!("watch.namespaces={{{namespace}}}");
    let mut arguments = vec!["template", "rendered", CHART, "--namespace", namespace];
    arguments.extend(["--set", "crds.install=false", "--set", "rbac.aggregate=false", "--set", &watched]);
    arguments.extend(how);
    let rendered = cluster.helm(&arguments).await?.good()?;
    cluster.kubectl_with(&["-n", namespace, "apply", "-f", "-"], &rendered).await?.good()?;
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
        ensure!(replicas == [Some(1); 2], "replicas asked for and ready: {replicas:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_operator_that_was_rendered_and_applied_stays_at_work() -> Result<()> {
    let cluster = Cluster::connect().await?;
    // Without a cluster at hand, as most tools do it, and with one, when the uninstall Job is rendered too.
    for (namespace, how) in
        [("e2e-rendered-alone", &[][..]), ("e2e-rendered-here", &["--dry-run=server"][..])]
    {
        cluster.kubectl(&["delete", "namespace", namespace, "--ignore-not-found"]).await?.good()?;
        cluster.kubectl(&["create", "namespace", namespace]).await?.good()?;
        stays_at_work(&cluster, namespace, how).await?;
        cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?.good()?;
    }
    Ok(())
}
