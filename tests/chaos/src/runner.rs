//! Carries out one plan, from an empty namespace to an empty namespace.

use std::sync::Arc;
use std::time::Duration;

use agentloop_test_support::invariants::Invariant;
use agentloop_test_support::json;
use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::{self, Instant};

use crate::checker::{self, Violation};
use crate::experiment::Experiment;
use crate::ground_truth::AgentRun;
use crate::history::{NamespaceHistory, RecordedWrite};
use crate::mutations::Mutation;
use crate::operator::Program;
use crate::plan::Plan;
use crate::server::{pods, tasks};
use crate::testbed::Testbed;
use crate::{kubelet, launch, nemesis, user};

/// The longest time without any write before a task is at rest. The operator's retries are at most 30 s apart, and a busy
/// machine may be slow.
const REST: Duration = Duration::from_secs(90);
/// The task must come to rest within this time after the last fault, however many writes there are.
const LIVELOCK: Duration = Duration::from_mins(10);
/// A task is quiet if nothing is written for this long.
const QUIET: Duration = Duration::from_millis(900);
/// How long it may take until the task is quiet.
const QUIETEN: Duration = Duration::from_secs(20);
/// How long a task's pods may exist after its deletion.
const LEFT: Duration = Duration::from_mins(1);
/// The same if the operator is broken on purpose: a long wait would not help then.
const BROKEN_REST: Duration = Duration::from_secs(30);
const BROKEN_LEFT: Duration = Duration::from_secs(10);
const BROKEN_QUIETEN: Duration = Duration::from_secs(6);
/// How often it checks for operators that have exited.
const RESTART_INTERVAL: Duration = Duration::from_millis(500);

/// The result of a plan.
pub struct PlanResult {
    /// The plan.
    pub plan: Plan,
    /// The violations; empty if there are none.
    pub violations: Vec<Violation>,
    /// What could not be carried out for reasons other than the operator.
    pub problems: Vec<String>,
    /// Which of its faults happened.
    pub fired: Vec<bool>,
    /// The operators' writes.
    pub writes: u32,
    /// How often operators were started.
    pub starts: u32,
    /// Every write that the API server recorded.
    pub recorded: Vec<RecordedWrite>,
    /// Every agent that ran.
    pub runs: Vec<AgentRun>,
    /// How long it took.
    pub took: Duration,
}

/// Carries out a plan in a namespace that no other plan uses meanwhile.
pub async fn run(
    testbed: &Testbed,
    program: &Program,
    namespace: &str,
    plan: Plan,
    mutation: Option<Mutation>,
) -> Result<PlanResult> {
    let started = Instant::now();
    let history = testbed.history.namespace(namespace);
    history.drain();
    let folder = tempfile::tempdir().context("a folder for kubeconfigs")?;
    let experiment = Experiment::new(plan, testbed.server.clone(), history.clone(), mutation);
    let pods_run = kubelet::run(&experiment);
    let proxies = launch::operators(&experiment, program, folder.path(), namespace).await?;
    let lived = life(&experiment).await;
    experiment.kill_operators().await?;
    drop(proxies);
    let recorded = history.drain();
    drop(pods_run);
    if lived.is_err() {
        clean_up(&experiment).await?;
    }
    lived?;
    let runs = experiment.ground_truth.all();
    let mut violations = checker::check(&recorded, &runs);
    violations.extend(experiment.violations());
    if !violations.is_empty() {
        clean_up(&experiment).await?;
    }
    Ok(PlanResult {
        violations,
        problems: experiment.problems(),
        fired: experiment.schedule.happened(),
        writes: experiment.schedule.writes(),
        starts: experiment.operators().iter().map(|operator| operator.starts()).sum(),
        recorded,
        runs,
        took: started.elapsed(),
        plan: experiment.plan.clone(),
    })
}

async fn life(experiment: &Arc<Experiment>) -> Result<()> {
    user::create(experiment).await?;
    if !comes_to_rest(experiment).await? {
        return Ok(());
    }
    if !falls_quiet(experiment).await {
        experiment.report_violation(
            Invariant::L2,
            format!(
                "tasks or pods are still written {} s after the end",
                bound(experiment, QUIETEN, BROKEN_QUIETEN).as_secs()
            ),
        );
    }
    user::delete(experiment).await?;
    leaves_nothing(experiment).await;
    Ok(())
}

/// The longest wait with an intact operator, or with a broken one.
fn bound(experiment: &Experiment, intact: Duration, broken: Duration) -> Duration {
    if experiment.mutator.is_some() { broken } else { intact }
}

/// L1. Returns false if the task does not come to rest.
async fn comes_to_rest(experiment: &Arc<Experiment>) -> Result<bool> {
    let history = &experiment.history;
    let rest = bound(experiment, REST, BROKEN_REST);
    let livelock = bound(experiment, LIVELOCK, BROKEN_REST);
    let mut stops = 0;
    let (mut deadline, mut last) = (Instant::now() + rest, Instant::now() + livelock);
    let mut count = history.count();
    let was_there = |history: &NamespaceHistory| history.task_named(&experiment.task).map(drop);
    history.until(rest, was_there).await;
    loop {
        let rests = |history: &NamespaceHistory| {
            let there = history.task_named(&experiment.task);
            let rests = match &there {
                None => experiment.plan.ends_in_deletion(),
                Some(task) => checker::is_at_rest(task),
            };
            (rests && experiment.is_idle()).then(|| there.map(|task| json::version(&task)))
        };
        if let Some(version) = history.until(RESTART_INTERVAL, rests).await {
            stops += 1;
            if version.is_none() || !nemesis::task_stopped(experiment, stops).await? {
                return Ok(true);
            }
            // The history does not show yet what the user changed.
            let changed = |history: &NamespaceHistory| {
                let now = history.task_named(&experiment.task).map(|task| json::version(&task));
                (now != version).then_some(())
            };
            history.until(rest, changed).await;
            (deadline, last) = (Instant::now() + rest, Instant::now() + livelock);
        }
        experiment.restart_exited_operators().await?;
        if !experiment.is_idle() {
            (deadline, last) = (Instant::now() + rest, Instant::now() + livelock);
        }
        if history.count() != count {
            (deadline, count) = (Instant::now() + rest, history.count());
        }
        if Instant::now() > deadline.min(last) {
            let task = history.task_named(&experiment.task);
            let status = task.as_deref().and_then(|task| task.get("status")).cloned().unwrap_or_default();
            let status = json!({
                "phase": status.get("phase"), "iterations": status.get("iterations"),
                "active": status.get("active"), "waiting": status.get("waiting"), "stop": status.get("stop"),
            });
            experiment.report_violation(
                Invariant::L1,
                format!(
                    "the task is not at rest, and nothing has happened for {} s: {status}",
                    rest.as_secs()
                ),
            );
            return Ok(false);
        }
    }
}

/// L2, over a short time. Returns false if the task is not quiet.
async fn falls_quiet(experiment: &Experiment) -> bool {
    let deadline = Instant::now() + bound(experiment, QUIETEN, BROKEN_QUIETEN);
    while Instant::now() < deadline {
        let count = experiment.history.count();
        time::sleep(QUIET).await;
        if experiment.history.count() == count {
            return true;
        }
    }
    false
}

/// S8.
async fn leaves_nothing(experiment: &Experiment) {
    let empty = |history: &NamespaceHistory| history.is_empty().then_some(());
    let left = bound(experiment, LEFT, BROKEN_LEFT);
    if experiment.history.until(left, empty).await.is_none() {
        if let Some(task) = experiment.history.task() {
            // The operator cannot be the cause, because tasks have no finalizer.
            let path = tasks(&experiment.history.namespace, json::name(&task));
            let exists = experiment.server.get(&path).await.map(|found| found.is_some());
            experiment.report_problem(&format!(
                "the watch still shows the deleted task; whether a read finds it: {exists:?}"
            ));
            return;
        }
        let pods = experiment.history.pods();
        let names: Vec<String> = pods
            .iter()
            .map(|pod| {
                format!("{} {}", json::name(pod), pod.pointer("/metadata/finalizers").unwrap_or(&json!([])))
            })
            .collect();
        experiment.report_violation(
            Invariant::S8,
            format!(
                "{} s after the task's deletion these pods are left: {}",
                left.as_secs(),
                names.join(", ")
            ),
        );
    }
}

/// Removes what a failed plan left, so that the namespace is empty for the next plan.
async fn clean_up(experiment: &Experiment) -> Result<()> {
    let (server, history) = (&experiment.server, &experiment.history);
    let none = json!({ "metadata": { "finalizers": null } });
    if let Some(task) = history.task() {
        server.delete(&tasks(&history.namespace, json::name(&task)), "", None).await?;
    }
    for pod in history.pods() {
        let path = pods(&history.namespace, json::name(&pod));
        server.merge(&path, &none).await?;
        server.delete(&path, "", Some(0)).await?;
    }
    let empty = |history: &NamespaceHistory| history.is_empty().then_some(());
    history.until(LEFT, empty).await;
    Ok(())
}
