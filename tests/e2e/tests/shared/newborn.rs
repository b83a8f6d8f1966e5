//! A namespace that is created together with its task.

use agentloop_e2e::{TaskManifest, TestNamespace, eventually, iterations};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

/// The namespace's default `ServiceAccount` is created a moment after it.
#[tokio::test]
async fn namespaces_that_are_applied_together_with_their_tasks_get_no_warning() -> Result<()> {
    TestNamespace::shared("newborn")
        .await?
        .run(async |ns| {
            let names: Vec<String> = (1..=5).map(|number| format!("{}-{number}", ns.namespace)).collect();
            let result = async {
                for name in &names {
                    let namespace =
                        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
                    let mut task = TaskManifest::new("first", &["change", "ready"]).max(1).manifest();
                    task["metadata"]["namespace"] = json!(name);
                    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [namespace, task] });
                    ns.cluster.kubectl_with(&["apply", "-f", "-"], &list.to_string()).await?.success()?;
                }
                let get = |name: &str, of: &str| {
                    let arguments = ["-n", name, "get", of, "-o", "json"].map(str::to_owned);
                    async move {
                        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                        let json = ns.cluster.kubectl(&arguments).await?.success()?;
                        anyhow::Ok(serde_json::from_str::<Value>(&json)?)
                    }
                };
                for name in &names {
                    eventually(iterations(2), &format!("the task of {name} is done"), async || {
                        let task = get(name, "agt/first").await.map_err(|error| error.to_string())?;
                        let status = task["status"].clone();
                        if status["phase"] == "Succeeded" { Ok(()) } else { Err(status.to_string()) }
                    })
                    .await?;
                    let events = get(name, "events").await?;
                    let ours = events["items"].as_array().into_iter().flatten().filter(|event| {
                        event["involvedObject"]["kind"] == "AgentTask" && event["type"] == "Warning"
                    });
                    let warnings: Vec<String> = ours.map(|event| event["message"].to_string()).collect();
                    ensure!(warnings.is_empty(), "{name} got warnings: {warnings:?}");
                }
                Ok(())
            }
            .await;
            let delete: Vec<&str> = ["delete", "namespace", "--wait=false"]
                .into_iter()
                .chain(names.iter().map(String::as_str))
                .collect();
            ns.cluster.kubectl(&delete).await?.success()?;
            result
        })
        .await
}
