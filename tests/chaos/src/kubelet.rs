//! Simulates the scheduler, the kubelet and the garbage collector for the plan's pods.
//!
//! It binds and runs every pod that may run, as a cluster does, without checking whether it should. It records what an
//! agent did before the pod's status reports it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use agentloop_contract::completion_gate::CompletionGate;
use agentloop_contract::report::{Change, End, Error, ProviderError, ProviderErrorKind, Report};
use agentloop_test_support::json;
use agentloop_test_support::pods::{self, is_deleting, is_gated, termination_message};
use anyhow::Result;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time;

use crate::experiment::Experiment;
use crate::ground_truth::RunEnd;
use crate::history::NamespaceHistory;
use crate::nemesis;
use crate::plan::{AgentWork, FATAL, PodFault};
use crate::server::{self, Format};

/// The node that all pods are bound to. It exists, so that the garbage collector leaves its pods alone.
pub const NODE: &str = "agentloop-chaos";
/// How long an agent that is about to be stopped keeps running.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a slow agent takes to stop.
const SLOWNESS: Duration = Duration::from_millis(1500);
/// How often a request is retried, and the interval between the attempts.
const TRIES: u32 = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
/// Longer than any plan takes.
const FOREVER: Duration = Duration::from_mins(10);

/// Runs the pods of a plan until it is dropped.
pub fn run(experiment: &Arc<Experiment>) -> JoinSet<()> {
    let mut all = JoinSet::new();
    let experiment = experiment.clone();
    all.spawn(async move {
        let mut pods = JoinSet::new();
        let mut known = HashSet::new();
        let mut changes = experiment.history.changes();
        loop {
            changes.mark_unchanged();
            for pod in experiment.history.pods() {
                if known.insert(json::uid(&pod).to_owned()) {
                    let experiment = experiment.clone();
                    pods.spawn(async move {
                        if let Err(error) = simulate(&experiment, &pod).await {
                            experiment.report_problem(&error.context("the kubelet"));
                        }
                    });
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    });
    all
}

fn label(pod: &Value, name: &str) -> i32 {
    json::text(pod, &format!("/metadata/labels/agentloop.dev~1{name}")).parse().unwrap_or(0)
}

/// A pod that was bound, and that this module runs.
struct SimulatedPod<'a> {
    experiment: &'a Arc<Experiment>,
    path: String,
    uid: &'a str,
    started: Timestamp,
}

/// Simulates one pod from its creation to its end.
async fn simulate(experiment: &Arc<Experiment>, pod: &Value) -> Result<()> {
    let uid = json::uid(pod);
    let history = &experiment.history;
    let free = |history: &NamespaceHistory| match history.pod(uid) {
        None => Some(false),
        Some(pod) if is_deleting(&pod) => Some(false),
        Some(pod) => (!is_gated(&pod)).then_some(true),
    };
    if history.until(FOREVER, free).await != Some(true) {
        return Ok(());
    }
    let path = server::pods(&history.namespace, json::name(pod));
    let this = SimulatedPod { experiment, path, uid, started: Timestamp::now() };
    let (iteration, attempt) = (label(pod, "iteration"), label(pod, "attempt"));
    let task = json::text(pod, "/metadata/ownerReferences/0/uid");
    if !this.bind(json::name(pod)).await? {
        return Ok(());
    }
    experiment.ground_truth.bound(task, uid, iteration, attempt);
    let pod_fault = experiment.plan.pod_fault(iteration, attempt);
    let deleting = || history.pod(uid).is_none_or(|pod| is_deleting(&pod));
    if pod_fault == Some(PodFault::NeverStarted) || deleting() {
        this.ends(RunEnd::NeverStarted, &pods::waiting(), json!({})).await?;
        return this.finish_deletion().await;
    }
    experiment.ground_truth.executed(uid);
    if pod_fault != Some(PodFault::Late) {
        this.status(pods::status("Running", &pods::running(this.started))).await?;
    }
    if nemesis::agent_runs(experiment, iteration).await? {
        history
            .until(PATIENCE, |history| history.pod(uid).is_none_or(|pod| is_deleting(&pod)).then_some(()))
            .await;
    }
    match pod_fault {
        Some(PodFault::Evicted) => {
            let more = json!({
                "reason": "Evicted", "message": "The node was low on resource: memory.",
                "conditions": [disruption("TerminationByKubelet")],
            });
            this.ends(RunEnd::Cut, &this.terminated(137, "Error", None), more).await?;
        }
        Some(PodFault::Killed) if !deleting() => {
            this.ends(RunEnd::Killed, &this.terminated(137, "OOMKilled", None), json!({})).await?;
        }
        Some(PodFault::NodeLost) => this.is_lost().await?,
        other => {
            if other == Some(PodFault::Slow) && deleting() {
                time::sleep(SLOWNESS).await;
            }
            let (end, report) = if deleting() {
                (RunEnd::Interrupted, Report::of(End::Interrupted))
            } else {
                done(experiment.plan.work(iteration, attempt))
            };
            let code = report.container_exit_code().unwrap_or(1);
            let reason = pods::reason_for(code);
            this.ends(
                end,
                &this.terminated(code, reason, termination_message(&report, pod).as_deref()),
                json!({}),
            )
            .await?;
        }
    }
    this.finish_deletion().await
}

/// How an agent ends that does this work, and what its runner reports.
fn done(work: AgentWork) -> (RunEnd, Report) {
    let report = Report { exit_code: Some(0), changed: Change::Changed, ..Report::of(End::Exited) };
    let ended = |changed, error, ready, fatal| RunEnd::Ended { changed, error, ready, fatal };
    match work {
        AgentWork::Changed => (ended(true, None, false, false), report),
        AgentWork::Unchanged => {
            (ended(false, None, false, false), Report { changed: Change::Unchanged, ..report })
        }
        AgentWork::Error(which) => {
            let message = match which {
                1 => "the tests do not compile",
                3 => "permission denied",
                _ => "the network is unreachable",
            };
            let report = Report { exit_code: Some(1), error: Some(Error::new(message)), ..report };
            (ended(true, Some(which), false, false), report)
        }
        AgentWork::Ready => {
            let gate = Some(CompletionGate { ready: true, ..CompletionGate::default() });
            (ended(true, None, true, false), Report { gate, ..report })
        }
        AgentWork::Refused => {
            let refused =
                Some(ProviderError { kind: ProviderErrorKind::RateLimited, until: None, unavailable: false });
            let report = Report {
                exit_code: Some(1),
                changed: Change::Unchanged,
                provider_refused: refused,
                ..report
            };
            (RunEnd::Refused, report)
        }
        AgentWork::Fatal => (ended(true, None, false, true), Report { exit_code: Some(FATAL), ..report }),
    }
}

fn disruption(reason: &str) -> Value {
    json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason,
        "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    })
}

impl SimulatedPod<'_> {
    fn terminated(&self, code: i32, reason: &str, message: Option<&str>) -> Value {
        pods::terminated(code, reason, message, self.started, Timestamp::now())
    }

    /// Returns false if the pod can no longer be bound.
    async fn bind(&self, name: &str) -> Result<bool> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name, "uid": self.uid },
            "target": { "apiVersion": "v1", "kind": "Node", "name": NODE },
        });
        let refused = |pod: &Value| match json::text(pod, "/spec/nodeName") {
            "" => is_deleting(pod).then_some(false),
            _ => Some(true),
        };
        self.insist(Method::POST, "binding", (Format::Json, &binding), refused).await
    }

    async fn status(&self, status: Value) -> Result<()> {
        let body = json!({ "metadata": { "uid": self.uid }, "status": status });
        // As long as the pod exists, no refusal is permanent.
        self.insist(Method::PATCH, "status", (Format::Merge, &body), |_| None).await.map(drop)
    }

    /// Sends a request until the server accepts it, as schedulers and kubelets do. Returns false if the pod is gone.
    /// After a conflict, `refused` decides by the current pod whether the refusal is final: the server may have refused
    /// only because others were faster.
    async fn insist(
        &self,
        method: Method,
        part: &str,
        body: (Format, &Value),
        refused: impl Fn(&Value) -> Option<bool>,
    ) -> Result<bool> {
        let path = format!("{}/{part}", self.path);
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.experiment.server.send(method.clone(), &path, Some(body)).await {
                Ok((status, _)) if status.is_success() => return Ok(true),
                Ok((StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY, _)) => return Ok(false),
                Ok((StatusCode::CONFLICT, response)) => {
                    let Some(pod) = self.experiment.history.pod(self.uid) else { return Ok(false) };
                    if let Some(done) = refused(&pod) {
                        return Ok(done);
                    }
                    json::text(&response, "/message").clone_into(&mut last);
                }
                Ok((status, response)) => last = format!("{status}: {}", json::text(&response, "/message")),
                Err(error) => last = format!("{error:#}"),
            }
            time::sleep(BETWEEN_TRIES).await;
        }
        anyhow::bail!("{method} {path} failed {TRIES} times; the last error: {last}")
    }

    /// Records how the agent ended, then reports it.
    async fn ends(&self, end: RunEnd, state: &Value, more: Value) -> Result<()> {
        self.experiment.ground_truth.ended(self.uid, &end);
        let code = json::number(state, "/terminated/exitCode");
        let phase = if json::has(state, "/terminated") && code == 0 { "Succeeded" } else { "Failed" };
        let mut status = pods::status(phase, state);
        if let (Some(status), Value::Object(more)) = (status.as_object_mut(), more) {
            status.extend(more);
        }
        self.status(status).await
    }

    /// The node is unreachable: the user deletes the pod, the agent keeps running, and the garbage collector marks the
    /// pod as failed once the machine is known to be off.
    async fn is_lost(&self) -> Result<()> {
        self.experiment.server.delete(&self.path, self.uid, None).await?;
        let gone = |history: &NamespaceHistory| {
            history.pod(self.uid).is_none_or(|pod| is_deleting(&pod)).then_some(())
        };
        self.experiment.history.until(PATIENCE, gone).await;
        self.experiment.ground_truth.ended(self.uid, &RunEnd::Cut);
        self.status(json!({ "phase": "Failed", "conditions": [disruption("DeletionByPodGC")] })).await
    }

    /// Removes an ended pod once it is being deleted, as a kubelet does.
    async fn finish_deletion(&self) -> Result<()> {
        let needs_removal = |history: &NamespaceHistory| match history.pod(self.uid) {
            None => Some(false),
            Some(pod) => {
                is_deleting(&pod).then(|| json::number(&pod, "/metadata/deletionGracePeriodSeconds") > 0)
            }
        };
        if self.experiment.history.until(FOREVER, needs_removal).await == Some(true) {
            self.experiment.server.delete(&self.path, self.uid, Some(0)).await?;
        }
        Ok(())
    }
}
