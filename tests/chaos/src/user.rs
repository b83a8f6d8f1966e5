//! What the user does to a task and its pods.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentloop_test_support::invariants::Invariant;
use agentloop_test_support::json;
use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};

use crate::buffered::BufferedRequest;
use crate::experiment::Experiment;
use crate::history::NamespaceHistory;
use crate::plan::{FATAL, Plan, UserAction};
use crate::server::{Format, pods, tasks};

/// How long the user waits for a task to be suspended before resuming it.
const SUSPENSION: Duration = Duration::from_secs(6);

/// The plan's task as the user writes it.
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
pub async fn create(experiment: &Experiment) -> Result<()> {
    let body = task(&experiment.plan, &experiment.task);
    let path = tasks(&experiment.history.namespace, "");
    experiment
        .server
        .must(Method::POST, &path, Some((Format::Json, &body)))
        .await
        .context("creating the task")?;
    Ok(())
}

/// Deletes the plan's task.
pub async fn delete(experiment: &Experiment) -> Result<()> {
    experiment.server.delete(&tasks(&experiment.history.namespace, &experiment.task), "", None).await
}

/// Performs an action. `request` is the operator's request before which it happens, if there is one.
pub async fn act(
    experiment: &Arc<Experiment>,
    action: UserAction,
    request: Option<&BufferedRequest>,
) -> Result<()> {
    let namespace = &experiment.history.namespace;
    let path = tasks(namespace, &experiment.task);
    let spec = |patch: Value| json!({ "spec": patch });
    match action {
        UserAction::Limit(limit) => {
            experiment.server.merge(&path, &spec(json!({ "maxIterations": limit }))).await?;
        }
        UserAction::Token => {
            let count = experiment.tokens.fetch_add(1, Ordering::SeqCst);
            experiment.server.merge(&path, &spec(json!({ "resetToken": format!("token-{count}") }))).await?;
        }
        UserAction::Suspend => {
            if experiment.server.merge(&path, &spec(json!({ "suspend": true }))).await? {
                resume_later(experiment);
            }
        }
        UserAction::Delete => delete(experiment).await?,
        UserAction::Recreate => {
            delete(experiment).await?;
            create(experiment).await?;
        }
        UserAction::DeletePod(force) => {
            let newest = experiment.history.pods().into_iter().max_by_key(|pod| json::version(pod));
            if let Some(pod) = newest {
                let path = pods(namespace, json::name(&pod));
                experiment.server.delete(&path, json::uid(&pod), force.then_some(0)).await?;
            }
        }
        UserAction::ForeignPod => {
            if let Some(request) = request {
                foreign_pod(experiment, json::name(&request.body)).await?;
            }
        }
    }
    Ok(())
}

fn resume_later(experiment: &Arc<Experiment>) {
    let in_progress = experiment.begin();
    let experiment = experiment.clone();
    tokio::spawn(async move {
        let suspended = |history: &NamespaceHistory| {
            let Some(task) = history.task() else { return Some(()) };
            let suspended =
                json::text(&task, "/status/phase") == "Suspended" && !json::has(&task, "/status/active");
            suspended.then_some(())
        };
        // An active iteration whose pod was never created stays active while the task is suspended: this
        // wait times out.
        experiment.history.until(SUSPENSION, suspended).await;
        let path = tasks(&experiment.history.namespace, &experiment.task);
        if let Err(error) = experiment.server.merge(&path, &json!({ "spec": { "suspend": false } })).await {
            experiment.report_problem(&error);
        }
        drop(in_progress);
    });
}

/// Creates a foreign pod with the name that the operator is about to use. It is deleted once the operator has
/// reported the conflict.
async fn foreign_pod(experiment: &Arc<Experiment>, name: &str) -> Result<()> {
    let namespace = experiment.history.namespace.clone();
    let body = json!({
        "metadata": { "name": name, "labels": { "owner": "another-client" } },
        "spec": {
            "schedulingGates": [{ "name": "another-client/gate" }],
            "containers": [{ "name": "agent", "image": "none" }],
        },
    });
    let created =
        experiment.server.must(Method::POST, &pods(&namespace, ""), Some((Format::Json, &body))).await?;
    let in_progress = experiment.begin();
    let (experiment, path) = (experiment.clone(), pods(&namespace, name));
    tokio::spawn(async move {
        let reported = |history: &NamespaceHistory| {
            let task = history.task()?;
            (json::text(&task, "/status/reason") == "NameConflict").then_some(())
        };
        let reported = experiment.history.until(Duration::from_secs(20), reported).await;
        match experiment.server.get(&path).await {
            Ok(Some(now)) if json::version(&now) == json::version(&created) && reported.is_some() => {}
            Ok(_) if reported.is_none() => {
                experiment.report_violation(
                    Invariant::S2,
                    "a foreign pod has the name of the iteration's pod, and the status does not report it",
                );
            }
            Ok(_) => experiment.report_violation(Invariant::S2, "the operator changed a foreign pod"),
            Err(error) => experiment.report_problem(&error),
        }
        if let Err(error) = experiment.server.delete(&path, json::uid(&created), None).await {
            experiment.report_problem(&error);
        }
        drop(in_progress);
    });
    Ok(())
}
