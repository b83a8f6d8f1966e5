//! Carries out one plan, from an empty namespace to an empty namespace.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::{self, Instant};

use crate::checker::{self, Violation};
use crate::ground_truth::AgentRun;
use crate::history::{NamespaceHistory, RecordedWrite};
use crate::mutations::Mutation;
use crate::nemesis::Nemesis;
use crate::operator::Program;
use crate::plan::Plan;
use crate::server::{pods, tasks};
use crate::world::World;
use crate::{json as look, kubelet, user};

/// How long nothing may be done and nothing written before a task is at rest: retries of the operator's are at
/// most 30 s apart. A busy machine is slow, which breaks no promise.
const REST: Duration = Duration::from_secs(90);
/// After the last fault it must come to rest in this time, however busy it looks.
const LIVELOCK: Duration = Duration::from_mins(10);
/// How long nothing may be written to be called quiet.
const QUIET: Duration = Duration::from_millis(900);
/// How long it may take until it is.
const QUIETEN: Duration = Duration::from_secs(20);
/// How long after its deletion a task's pods may be there.
const LEFT: Duration = Duration::from_mins(1);
/// The same where the operator is broken on purpose: nobody waits long for what is not to come.
const BROKEN_REST: Duration = Duration::from_secs(30);
const BROKEN_LEFT: Duration = Duration::from_secs(10);
const BROKEN_QUIETEN: Duration = Duration::from_secs(6);
/// How often operators that have ended by themselves are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// What came of a plan.
pub struct PlanResult {
    /// The plan.
    pub plan: Plan,
    /// What was broken; empty where all is well.
    pub violations: Vec<Violation>,
    /// What of the plan could not be carried out, through no fault of the operator's.
    pub problems: Vec<String>,
    /// Which of its steps happened.
    pub fired: Vec<bool>,
    /// The operators' writes.
    pub writes: u32,
    /// How often operators were started.
    pub starts: u32,
    /// Every write that the API server saw.
    pub recorded: Vec<RecordedWrite>,
    /// Every agent that ran.
    pub runs: Vec<AgentRun>,
    /// How long it took.
    pub took: Duration,
}

/// Carries out a plan in a namespace that is its own meanwhile.
pub async fn run(
    world: &World,
    program: &Program,
    namespace: &str,
    plan: Plan,
    mutation: Option<Mutation>,
) -> Result<PlanResult> {
    let started = Instant::now();
    let history = world.history.namespace(namespace);
    history.drain();
    let folder = tempfile::tempdir().context("a folder for kubeconfigs")?;
    let nemesis = Nemesis::new(plan, world.server.clone(), history.clone(), mutation);
    let pods_run = kubelet::run(&nemesis);
    let proxies = nemesis.open(program, folder.path()).await?;
    let lived = life(&nemesis).await;
    nemesis.end().await?;
    drop(proxies);
    let recorded = history.drain();
    drop(pods_run);
    if lived.is_err() {
        sweep(&nemesis).await?;
    }
    lived?;
    let runs = nemesis.ground_truth.all();
    let mut violations = checker::check(&recorded, &runs);
    violations.extend(nemesis.accusations());
    if !violations.is_empty() {
        sweep(&nemesis).await?;
    }
    Ok(PlanResult {
        violations,
        problems: nemesis.problems(),
        fired: nemesis.fired(),
        writes: nemesis.writes(),
        starts: nemesis.operators().iter().map(|operator| operator.starts()).sum(),
        recorded,
        runs,
        took: started.elapsed(),
        plan: nemesis.plan.clone(),
    })
}

async fn life(nemesis: &Arc<Nemesis>) -> Result<()> {
    user::create(nemesis).await?;
    if !comes_to_rest(nemesis).await? {
        return Ok(());
    }
    if !falls_quiet(nemesis).await {
        nemesis.accuse(
            "L2",
            format!(
                "tasks or pods are still written {} s after the end",
                bound(nemesis, QUIETEN, BROKEN_QUIETEN).as_secs()
            ),
        );
    }
    user::delete(nemesis).await?;
    leaves_nothing(nemesis).await;
    Ok(())
}

/// The longest that something is waited for: where the operator is whole, and where it is broken.
fn bound(nemesis: &Nemesis, whole: Duration, broken: Duration) -> Duration {
    if nemesis.mutation.is_some() { broken } else { whole }
}

/// L1: false where it does not.
async fn comes_to_rest(nemesis: &Arc<Nemesis>) -> Result<bool> {
    let history = &nemesis.history;
    let rest = bound(nemesis, REST, BROKEN_REST);
    let livelock = bound(nemesis, LIVELOCK, BROKEN_REST);
    let mut stops = 0;
    let (mut deadline, mut last) = (Instant::now() + rest, Instant::now() + livelock);
    let mut count = history.count();
    let was_there = |history: &NamespaceHistory| history.task_named(&nemesis.task).map(drop);
    history.until(rest, was_there).await;
    loop {
        let rests = |history: &NamespaceHistory| {
            let there = history.task_named(&nemesis.task);
            let rests = match &there {
                None => nemesis.plan.ends_in_deletion(),
                Some(task) => checker::is_at_rest(task),
            };
            (rests && nemesis.is_idle()).then(|| there.map(|task| look::version(&task)))
        };
        if let Some(version) = history.until(LOOK, rests).await {
            stops += 1;
            if version.is_none() || !nemesis.stopped(stops).await? {
                return Ok(true);
            }
            // What the user changed just now is yet to be seen.
            let changed = |history: &NamespaceHistory| {
                let now = history.task_named(&nemesis.task).map(|task| look::version(&task));
                (now != version).then_some(())
            };
            history.until(rest, changed).await;
            (deadline, last) = (Instant::now() + rest, Instant::now() + livelock);
        }
        nemesis.revive().await?;
        if !nemesis.is_idle() {
            (deadline, last) = (Instant::now() + rest, Instant::now() + livelock);
        }
        if history.count() != count {
            (deadline, count) = (Instant::now() + rest, history.count());
        }
        if Instant::now() > deadline.min(last) {
            let task = history.task_named(&nemesis.task);
            let status = task.as_deref().and_then(|task| task.get("status")).cloned().unwrap_or_default();
            let status = json!({
                "phase": status.get("phase"), "iterations": status.get("iterations"),
                "active": status.get("active"), "waiting": status.get("waiting"), "stop": status.get("stop"),
            });
            nemesis.accuse(
                "L1",
                format!(
                    "the task is not at rest, and nothing has happened for {} s: {status}",
                    rest.as_secs()
                ),
            );
            return Ok(false);
        }
    }
}

/// L2, for a moment: false where it does not.
async fn falls_quiet(nemesis: &Nemesis) -> bool {
    let deadline = Instant::now() + bound(nemesis, QUIETEN, BROKEN_QUIETEN);
    while Instant::now() < deadline {
        let count = nemesis.history.count();
        time::sleep(QUIET).await;
        if nemesis.history.count() == count {
            return true;
        }
    }
    false
}

/// S8.
async fn leaves_nothing(nemesis: &Nemesis) {
    let empty =
        |history: &NamespaceHistory| (history.task().is_none() && history.pods().is_empty()).then_some(());
    let left = bound(nemesis, LEFT, BROKEN_LEFT);
    if nemesis.history.until(left, empty).await.is_none() {
        if let Some(task) = nemesis.history.task() {
            // The operator has no part in this: tasks bear no finalizer.
            let path = tasks(&nemesis.history.namespace, look::name(&task));
            let there = nemesis.server.get(&path).await.map(|found| found.is_some());
            nemesis.problem(&format!("the task was deleted and is still seen; a read finds it: {there:?}"));
            return;
        }
        let pods = nemesis.history.pods();
        let names: Vec<String> = pods
            .iter()
            .map(|pod| {
                format!("{} {}", look::name(pod), pod.pointer("/metadata/finalizers").unwrap_or(&json!([])))
            })
            .collect();
        nemesis.accuse(
            "S8",
            format!(
                "{} s after the task's deletion these pods are left: {}",
                left.as_secs(),
                names.join(", ")
            ),
        );
    }
}

/// Removes what a plan left that went wrong, so that the next one finds the namespace empty.
async fn sweep(nemesis: &Nemesis) -> Result<()> {
    let (server, history) = (&nemesis.server, &nemesis.history);
    let none = json!({ "metadata": { "finalizers": null } });
    if let Some(task) = history.task() {
        server.delete(&tasks(&history.namespace, look::name(&task)), "", None).await?;
    }
    for pod in history.pods() {
        let path = pods(&history.namespace, look::name(&pod));
        server.merge(&path, &none).await?;
        server.delete(&path, "", Some(0)).await?;
    }
    let empty =
        |history: &NamespaceHistory| (history.task().is_none() && history.pods().is_empty()).then_some(());
    history.until(LEFT, empty).await;
    Ok(())
}
