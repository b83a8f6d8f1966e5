//! One pod, from its binding to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentloop_chaos::server::{AdminClient, pods};
use agentloop_contract::report::{Change, End, MAX_BYTES, Report};
use agentloop_test_support::pods as reported;
use anyhow::{Context, Result, bail};
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{self, sleep};

use super::Pod;
use super::kubelet::{Agent, Shared};
use crate::api::{self, Content};
use crate::world::NODE;

/// How often a request is tried, and how long it waits between: long enough for a restart of the API server.
const TRIES: u32 = 600;
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// Runs one pod: it is bound, runs as long as its agent, and ends with a report.
pub(super) async fn run(shared: &Shared, pod: &Pod, agent: Agent, stop: Arc<Notify>) -> Result<()> {
    let path = pods(&shared.namespace, &pod.metadata.name);
    let uid = &pod.metadata.uid;
    if !pod.is_bound() {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": pod.metadata.name, "uid": uid },
            "target": { "apiVersion": "v1", "kind": "Node", "name": NODE },
        });
        if !insist(&shared.server, Method::POST, &format!("{path}/binding"), Content::Object(&binding))
            .await?
        {
            return Ok(());
        }
    }
    let started = Timestamp::now();
    let status = format!("{path}/status");
    let running = status_patch(uid, &reported::status("Running", &reported::running(started)));
    if !insist(&shared.server, Method::PATCH, &status, Content::Merge(&running)).await? {
        return Ok(());
    }
    shared.change(|state| state.runs(uid, Instant::now()));
    match agent {
        Agent::Lasts(time) if time.is_zero() => {}
        Agent::Lasts(time) => {
            // A deletion ends it earlier.
            let _ = time::timeout(time, stop.notified()).await;
        }
        Agent::UntilReleased => stop.notified().await,
    }
    let message = report(pod.report_key()).context("the report does not fit")?;
    let state = reported::terminated(0, "Completed", Some(&message), started, Timestamp::now());
    let ended = status_patch(uid, &reported::status("Succeeded", &state));
    if !insist(&shared.server, Method::PATCH, &status, Content::Merge(&ended)).await? {
        return Ok(());
    }
    if shared.change(|state| state.ends(uid, Instant::now())) {
        remove(&shared.server, &path, uid).await?;
    }
    Ok(())
}

/// Removes a pod whose deletion has begun, as the kubelet does once nothing of it runs.
pub(super) async fn remove(server: &AdminClient, path: &str, uid: &str) -> Result<()> {
    let now = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": { "uid": uid },
    });
    insist(server, Method::DELETE, path, Content::Object(&now)).await.map(drop)
}

fn status_patch(uid: &str, status: &Value) -> Value {
    json!({ "metadata": { "uid": uid }, "status": status })
}

/// The report of an agent that changed something, signed as the runner does.
pub(super) fn report(key: Option<&str>) -> Option<String> {
    let report = Report { exit_code: Some(0), changed: Change::Changed, ..Report::of(End::Exited) };
    report.encode(MAX_BYTES, key.map(str::as_bytes))
}

/// Sends a request until the server takes it. Returns false if the pod is gone or another one has its name.
async fn insist(server: &AdminClient, method: Method, path: &str, content: Content<'_>) -> Result<bool> {
    let mut last = String::new();
    for _ in 0..TRIES {
        match api::send(server, method.clone(), path, content).await {
            Ok((status, _)) if status.is_success() => return Ok(true),
            Ok((StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY, _)) => return Ok(false),
            // A binding that was made although its answer was lost, or a pod that is being deleted.
            Ok((StatusCode::CONFLICT, _)) if method != Method::PATCH => return Ok(method == Method::DELETE),
            Ok((status, bytes)) => last = format!("{status}: {}", String::from_utf8_lossy(&bytes)),
            Err(error) => last = format!("{error:#}"),
        }
        sleep(BETWEEN_TRIES).await;
    }
    bail!("{method} {path} failed {TRIES} times, at last: {last}")
}
