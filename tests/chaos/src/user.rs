//! What a person does to a task and its pods.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};

use crate::director::Director;
use crate::history::Scene;
use crate::json as look;
use crate::plan::{Act, FATAL, Plan};
use crate::proxy::Sent;
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
            "podHistoryLimit": plan.task.history,
            "failOnExitCodes": [FATAL],
            "template": { "spec": { "containers": [
                { "name": "agent", "image": "none", "command": ["/bin/agent"] },
            ] } },
        },
    })
}

/// Creates the plan's task.
pub async fn create(director: &Director) -> Result<()> {
    let body = task(&director.plan, &director.task);
    let path = tasks(&director.scene.namespace, "");
    director
        .server
        .must(Method::POST, &path, Some((Format::Json, &body)))
        .await
        .context("creating the task")?;
    Ok(())
}

/// Deletes it.
pub async fn delete(director: &Director) -> Result<()> {
    director.server.delete(&tasks(&director.scene.namespace, &director.task), "", None).await
}

/// Does something; `sent` is the request that the operator is about to make, where there is one.
pub async fn act(director: &Arc<Director>, act: Act, sent: Option<&Sent>) -> Result<()> {
    let namespace = &director.scene.namespace;
    let path = tasks(namespace, &director.task);
    let spec = |patch: Value| json!({ "spec": patch });
    match act {
        Act::Limit(limit) => {
            director.server.merge(&path, &spec(json!({ "maxIterations": limit }))).await?;
        }
        Act::Token => {
            let count = director.tokens.fetch_add(1, Ordering::SeqCst);
            director.server.merge(&path, &spec(json!({ "resetToken": format!("token-{count}") }))).await?;
        }
        Act::Suspend => {
            if director.server.merge(&path, &spec(json!({ "suspend": true }))).await? {
                go_on_later(director);
            }
        }
        Act::Delete => delete(director).await?,
        Act::Recreate => {
            delete(director).await?;
            create(director).await?;
        }
        Act::DeletePod(force) => {
            let newest = director.scene.pods().into_iter().max_by_key(|pod| look::version(pod));
            if let Some(pod) = newest {
                let path = pods(namespace, look::name(&pod));
                director.server.delete(&path, look::uid(&pod), force.then_some(0)).await?;
            }
        }
        Act::ForeignPod => {
            if let Some(sent) = sent {
                foreign_pod(director, look::name(&sent.body)).await?;
            }
        }
    }
    Ok(())
}

fn go_on_later(director: &Arc<Director>) {
    let busy = director.busy();
    let director = director.clone();
    tokio::spawn(async move {
        let suspended = |scene: &Scene| {
            let Some(task) = scene.task() else { return Some(()) };
            let is = look::text(&task, "/status/phase") == "Suspended" && !look::has(&task, "/status/active");
            is.then_some(())
        };
        // A claim whose pod was never made stays while it is suspended: that is waited for in vain.
        director.scene.until(SUSPENSION, suspended).await;
        let path = tasks(&director.scene.namespace, &director.task);
        if let Err(error) = director.server.merge(&path, &json!({ "spec": { "suspend": false } })).await {
            director.problem(&error);
        }
        drop(busy);
    });
}

/// A pod of the name that the operator is about to use, which is none of its business. It goes once the
/// operator has told that it is in the way.
async fn foreign_pod(director: &Arc<Director>, name: &str) -> Result<()> {
    let namespace = director.scene.namespace.clone();
    let body = json!({
        "metadata": { "name": name, "labels": { "somebody": "else" } },
        "spec": {
            "schedulingGates": [{ "name": "somebody/else" }],
            "containers": [{ "name": "agent", "image": "none" }],
        },
    });
    let made = director.server.must(Method::POST, &pods(&namespace, ""), Some((Format::Json, &body))).await?;
    let busy = director.busy();
    let (director, path) = (director.clone(), pods(&namespace, name));
    tokio::spawn(async move {
        let told = |scene: &Scene| {
            let task = scene.task()?;
            (look::text(&task, "/status/reason") == "NameConflict").then_some(())
        };
        let told = director.scene.until(Duration::from_secs(20), told).await;
        match director.server.get(&path).await {
            Ok(Some(now)) if look::version(&now) == look::version(&made) && told.is_some() => {}
            Ok(_) if told.is_none() => {
                director.accuse("S2", "a pod of somebody else's is in the way, and nobody says so");
            }
            Ok(_) => director.accuse("S2", "the operator has touched a pod of somebody else's"),
            Err(error) => director.problem(&error),
        }
        if let Err(error) = director.server.delete(&path, look::uid(&made), None).await {
            director.problem(&error);
        }
        drop(busy);
    });
    Ok(())
}
