//! What a person does to a task and its pods.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};

use crate::history::NamespaceHistory;
use crate::json as look;
use crate::nemesis::Nemesis;
use crate::plan::{FATAL, Plan, UserAction};
use crate::proxy::BufferedRequest;
use crate::server::{Format, pods, tasks};

/// How long a person waits to see a task suspended before letting it go on.
const SUSPENSION: Duration = Duration::from_secs(6);

/// The plan's task as a person writes it.
pub fn task(plan: &Plan, name: &str) -> Value {
    json!({
        "apiVersion": "agentloop.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": { "name": name },
        "spec": {
            "maxIterations": plan.task.limit,
            "breaker": {
                "noChangeThreshold": plan.task.no_change,
                "sameErrorThreshold": plan.task.same_error,
            },
            "podHistoryLimit": plan.task.history_limit,
            "failOnExitCodes": [FATAL],
            "template": { "spec": { "containers": [
                { "name": "agent", "image": "none", "command": ["/bin/agent"] },
            ] } },
        },
    })
}

/// Creates the plan's task.
pub async fn create(nemesis: &Nemesis) -> Result<()> {
    let body = task(&nemesis.plan, &nemesis.task);
    let path = tasks(&nemesis.history.namespace, "");
    nemesis
        .server
        .must(Method::POST, &path, Some((Format::Json, &body)))
        .await
        .context("creating the task")?;
    Ok(())
}

/// Deletes it.
pub async fn delete(nemesis: &Nemesis) -> Result<()> {
    nemesis.server.delete(&tasks(&nemesis.history.namespace, &nemesis.task), "", None).await
}

/// Does something; `sent` is the request that the operator is about to make, where there is one.
pub async fn act(nemesis: &Arc<Nemesis>, act: UserAction, sent: Option<&BufferedRequest>) -> Result<()> {
    let namespace = &nemesis.history.namespace;
    let path = tasks(namespace, &nemesis.task);
    let spec = |patch: Value| json!({ "spec": patch });
    match act {
        UserAction::Limit(limit) => {
            nemesis.server.merge(&path, &spec(json!({ "maxIterations": limit }))).await?;
        }
        UserAction::Token => {
            let count = nemesis.tokens.fetch_add(1, Ordering::SeqCst);
            nemesis.server.merge(&path, &spec(json!({ "resetToken": format!("token-{count}") }))).await?;
        }
        UserAction::Suspend => {
            if nemesis.server.merge(&path, &spec(json!({ "suspend": true }))).await? {
                go_on_later(nemesis);
            }
        }
        UserAction::Delete => delete(nemesis).await?,
        UserAction::Recreate => {
            delete(nemesis).await?;
            create(nemesis).await?;
        }
        UserAction::DeletePod(force) => {
            let newest = nemesis.history.pods().into_iter().max_by_key(|pod| look::version(pod));
            if let Some(pod) = newest {
                let path = pods(namespace, look::name(&pod));
                nemesis.server.delete(&path, look::uid(&pod), force.then_some(0)).await?;
            }
        }
        UserAction::ForeignPod => {
            if let Some(sent) = sent {
                foreign_pod(nemesis, look::name(&sent.body)).await?;
            }
        }
    }
    Ok(())
}

fn go_on_later(nemesis: &Arc<Nemesis>) {
    let busy = nemesis.busy();
    let nemesis = nemesis.clone();
    tokio::spawn(async move {
        let suspended = |history: &NamespaceHistory| {
            let Some(task) = history.task() else { return Some(()) };
            let is = look::text(&task, "/status/phase") == "Suspended" && !look::has(&task, "/status/active");
            is.then_some(())
        };
        // A claim whose pod was never made stays while it is suspended: that is waited for in vain.
        nemesis.history.until(SUSPENSION, suspended).await;
        let path = tasks(&nemesis.history.namespace, &nemesis.task);
        if let Err(error) = nemesis.server.merge(&path, &json!({ "spec": { "suspend": false } })).await {
            nemesis.problem(&error);
        }
        drop(busy);
    });
}

/// A pod of the name that the operator is about to use, which is none of its business. It goes once the
/// operator has told that it is in the way.
async fn foreign_pod(nemesis: &Arc<Nemesis>, name: &str) -> Result<()> {
    let namespace = nemesis.history.namespace.clone();
    let body = json!({
        "metadata": { "name": name, "labels": { "somebody": "else" } },
        "spec": {
            "schedulingGates": [{ "name": "somebody/else" }],
            "containers": [{ "name": "agent", "image": "none" }],
        },
    });
    let made = nemesis.server.must(Method::POST, &pods(&namespace, ""), Some((Format::Json, &body))).await?;
    let busy = nemesis.busy();
    let (nemesis, path) = (nemesis.clone(), pods(&namespace, name));
    tokio::spawn(async move {
        let told = |history: &NamespaceHistory| {
            let task = history.task()?;
            (look::text(&task, "/status/reason") == "NameConflict").then_some(())
        };
        let told = nemesis.history.until(Duration::from_secs(20), told).await;
        match nemesis.server.get(&path).await {
            Ok(Some(now)) if look::version(&now) == look::version(&made) && told.is_some() => {}
            Ok(_) if told.is_none() => {
                nemesis.accuse("S2", "a pod of somebody else's is in the way, and nobody says so");
            }
            Ok(_) => nemesis.accuse("S2", "the operator has touched a pod of somebody else's"),
            Err(error) => nemesis.problem(&error),
        }
        if let Err(error) = nemesis.server.delete(&path, look::uid(&made), None).await {
            nemesis.problem(&error);
        }
        drop(busy);
    });
    Ok(())
}
