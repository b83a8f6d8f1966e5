//! The kubelet stops a pod because of what the pod does: this is an error of the iteration, with its cause.

use agentloop_e2e::{PATIENCE, TaskManifest, TaskSnapshot, TestNamespace, iterations};
use anyhow::{Context, Result, ensure};
use serde_json::json;

const SAME_ERROR: &str = "CircuitOpen/SameError";

/// A task that stops after the same error twice in a row.
fn impatient(task: TaskManifest) -> TaskManifest {
    task.max(3).with("breaker", json!({ "sameErrorThreshold": 2 }))
}

/// Checks that a task stops after two iterations, and that both name this cause.
async fn stops_for(ns: &TestNamespace, name: &str, cause: &str) -> Result<()> {
    let continued = |now: &TaskSnapshot| now.number("/status/active/iteration") == 3;
    let snapshot = ns
        .until(name, iterations(2), "has stopped", |now| now.state() == SAME_ERROR || continued(now))
        .await?;
    let errors = snapshot.history("error");
    ensure!(snapshot.state() == SAME_ERROR, "{snapshot}; its errors: {errors:?}");
    let names = |error: &String| error.to_lowercase().contains(cause);
    ensure!(errors.len() == 2 && errors.iter().all(names), "{errors:?}");
    ns.exactly(&snapshot, 2)
}

#[tokio::test]
async fn an_agent_that_a_liveness_probe_stops_has_that_error_until_the_circuit_opens() -> Result<()> {
    TestNamespace::shared("liveness")
        .await?
        .run(async |ns| {
            let probe = json!({
                "exec": { "command": ["/bin/false"] },
                "initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 1,
            });
            let task = impatient(TaskManifest::new("probed", &["change", "idle"]).pvc());
            ns.create(&task.with("template/spec/containers/0/livenessProbe", probe)).await?;
            stops_for(ns, "probed", "livenessprobe").await
        })
        .await
}

/// The test writes the eviction that a kubelet would write. The local cluster's kubelet cannot evict, because it does not
/// know its disk.
#[tokio::test]
async fn a_pod_that_is_evicted_for_its_own_disk_usage_has_that_error_until_the_circuit_opens() -> Result<()> {
    TestNamespace::shared("own-disk")
        .await?
        .run(async |ns| {
            ns.create(&impatient(TaskManifest::new("hoards", &["change", "idle"]).pvc())).await?;
            for iteration in 1..=2 {
                let snapshot = ns.until_running("hoards", iteration).await?;
                let pod = snapshot.active_pod().context("nothing runs")?.to_owned();
                let evicted = json!({ "status": {
                    "phase": "Failed",
                    "reason": "Evicted",
                    "message": "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
                } });
                let evicted = evicted.to_string();
                let patch = ["patch", "pod", &pod, "--subresource=status", "--type=merge", "-p", &evicted];
                ns.kubectl(&patch).await?.success()?;
            }
            stops_for(ns, "hoards", "ephemeral").await
        })
        .await
}

#[tokio::test]
async fn a_task_that_waits_for_a_sidecar_that_never_gets_ready_names_it() -> Result<()> {
    TestNamespace::shared("sidecar-unready")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("waits", &["change", "ready"]);
            let mut proxy =
                task.manifest().pointer("/spec/template/spec/containers/0").cloned().unwrap_or_default();
            proxy["name"] = json!("proxy");
            proxy["command"] = json!(["/bin/sleep", "3600"]);
            proxy["restartPolicy"] = json!("Always");
            proxy["startupProbe"] =
                json!({ "exec": { "command": ["/bin/false"] }, "periodSeconds": 1, "failureThreshold": 2 });
            ns.create(&task.with("template/spec/initContainers", json!([proxy]))).await?;
            let waits = |now: &TaskSnapshot| now.phase() == "Waiting" && now.message().contains("proxy");
            let snapshot = ns.until("waits", PATIENCE, "waits for proxy", waits).await?;
            ensure!(snapshot.iterations() == 0, "it was charged: {snapshot}");
            ns.ran(&snapshot, &[])
        })
        .await
}
