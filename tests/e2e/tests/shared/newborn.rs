//! A namespace that comes with its task.

use agentloop_e2e::{Task, TestNamespace, eventually, iterations};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

/// The namespace's default `ServiceAccount` comes a moment after it.
#[tokio::test]
async fn namespaces_applied_together_with_their_tasks_see_no_warning() -> Result<()> {
    TestNamespace::shared("newborn")
        .await?
        .run(async |ns| {
            let names: Vec<String> = (1..=5).map(|number| format!("{}-{number}", ns.namespace)).collect();
            let made = async {
                for name in &names {
                    let namespace =
                        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
                    let mut task = Task::new("first", &["change", "ready"]).max(1).manifest();
                    task["metadata"]["namespace"] = json!(name);
                    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [namespace, task] });
                    ns.cluster.kubectl_with(&["apply", "-f", "-"], &list.to_string()).await?.good()?;
                }
                let get = |name: &str, of: &str| {
                    let arguments = ["-n", name, "get", of, "-o", "json"].map(str::to_owned);
                    async move {
                        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                        let said = ns.cluster.kubectl(&arguments).await?.good()?;
                        anyhow::Ok(serde_json::from_str::<Value>(&said)?)
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
                    ensure!(warnings.is_empty(), "{name} was warned: {warnings:?}");
                }
                Ok(())
            }
            .await;
            let delete: Vec<&str> = ["delete", "namespace", "--wait=false"]
                .into_iter()
                .chain(names.iter().map(String::as_str))
                .collect();
            ns.cluster.kubectl(&delete).await?.good()?;
            made
        })
        .await
}
