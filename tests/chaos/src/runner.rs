//! Carries out one plan, from an empty namespace to an empty namespace.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::{self, Instant};

use crate::breaks::Break;
use crate::director::Director;
use crate::history::{Scene, Seen};
use crate::judge::{self, Violation};
use crate::operator::Program;
use crate::plan::Plan;
use crate::server::{pods, tasks};
use crate::truth::Run;
use crate::world::World;
use crate::{json as look, kubelet, user};

/// How long nothing may be done and nothing written before a task is at rest: retries of the operator's are at
/// most 30 s apart. A busy machine is slow, which breaks no promise.
const REST: Duration = Duration::from_secs(90);
/// After the last deed it must come to rest in this time, however busy it looks.
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
pub struct Outcome {
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
    pub history: Vec<Seen>,
    /// Every agent that ran.
    pub runs: Vec<Run>,
    /// How long it took.
    pub took: Duration,
}

/// Carries out a plan in a namespace that is its own meanwhile.
pub async fn run(
    world: &World,
    program: &Program,
    namespace: &str,
    plan: Plan,
    breakage: Option<Break>,
) -> Result<Outcome> {
    let started = Instant::now();
    let scene = world.history.scene(namespace);
    scene.drain();
    let folder = tempfile::tempdir().context("a folder for kubeconfigs")?;
    let director = Director::new(plan, world.server.clone(), scene.clone(), breakage);
    let pods_run = kubelet::run(&director);
    let proxies = director.open(program, folder.path()).await?;
    let lived = life(&director).await;
    director.end().await?;
    drop(proxies);
    let history = scene.drain();
    drop(pods_run);
    if lived.is_err() {
        sweep(&director).await?;
    }
    lived?;
    let runs = director.truths.all();
    let mut violations = judge::judge(&director.plan, &history, &runs);
    violations.extend(director.accusations());
    if !violations.is_empty() {
        sweep(&director).await?;
    }
    Ok(Outcome {
        violations,
        problems: director.problems(),
        fired: director.fired(),
        writes: director.writes(),
        starts: director.operators().iter().map(|operator| operator.starts()).sum(),
        history,
        runs,
        took: started.elapsed(),
        plan: director.plan.clone(),
    })
}

async fn life(director: &Arc<Director>) -> Result<()> {
    user::create(director).await?;
    if !comes_to_rest(director).await? {
        return Ok(());
    }
    if !falls_quiet(director).await {
        director.accuse(
            "L2",
            format!(
                "tasks or pods are still written {} s after the end",
                bound(director, QUIETEN, BROKEN_QUIETEN).as_secs()
            ),
        );
    }
    user::delete(director).await?;
    leaves_nothing(director).await;
    Ok(())
}

/// The longest that something is waited for: where the operator is whole, and where it is broken.
fn bound(director: &Director, whole: Duration, broken: Duration) -> Duration {
    if director.breakage.is_some() { broken } else { whole }
}

/// L1: false where it does not.
async fn comes_to_rest(director: &Arc<Director>) -> Result<bool> {
    let scene = &director.scene;
    let rest = bound(director, REST, BROKEN_REST);
    let livelock = bound(director, LIVELOCK, BROKEN_REST);
    let mut stops = 0;
    let (mut deadline, mut last) = (Instant::now() + rest, Instant::now() + livelock);
    let mut count = scene.count();
    let was_there = |scene: &Scene| scene.task_named(&director.task).map(drop);
    scene.until(rest, was_there).await;
    loop {
        let rests = |scene: &Scene| {
            let there = scene.task_named(&director.task);
            let rests = match &there {
                None => director.plan.ends_in_deletion(),
                Some(task) => judge::is_at_rest(task),
            };
            (rests && director.is_idle()).then(|| there.map(|task| look::version(&task)))
        };
        if let Some(version) = scene.until(LOOK, rests).await {
            stops += 1;
            if version.is_none() || !director.stopped(stops).await? {
                return Ok(true);
            }
            // What the user changed just now is yet to be seen.
            let changed = |scene: &Scene| {
                let now = scene.task_named(&director.task).map(|task| look::version(&task));
                (now != version).then_some(())
            };
            scene.until(rest, changed).await;
            (deadline, last) = (Instant::now() + rest, Instant::now() + livelock);
        }
        director.revive().await?;
        if !director.is_idle() {
            (deadline, last) = (Instant::now() + rest, Instant::now() + livelock);
        }
        if scene.count() != count {
            (deadline, count) = (Instant::now() + rest, scene.count());
        }
        if Instant::now() > deadline.min(last) {
            let task = scene.task_named(&director.task);
            let status = task.as_deref().and_then(|task| task.get("status")).cloned().unwrap_or_default();
            let status = json!({
                "phase": status.get("phase"), "iterations": status.get("iterations"),
                "active": status.get("active"), "waiting": status.get("waiting"), "stop": status.get("stop"),
            });
            director.accuse(
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
async fn falls_quiet(director: &Director) -> bool {
    let deadline = Instant::now() + bound(director, QUIETEN, BROKEN_QUIETEN);
    while Instant::now() < deadline {
        let count = director.scene.count();
        time::sleep(QUIET).await;
        if director.scene.count() == count {
            return true;
        }
    }
    false
}

/// S8.
async fn leaves_nothing(director: &Director) {
    let empty = |scene: &Scene| (scene.task().is_none() && scene.pods().is_empty()).then_some(());
    let left = bound(director, LEFT, BROKEN_LEFT);
    if director.scene.until(left, empty).await.is_none() {
        if let Some(task) = director.scene.task() {
            // The operator has no part in this: tasks bear no finalizer.
            let path = tasks(&director.scene.namespace, look::name(&task));
            let there = director.server.get(&path).await.map(|found| found.is_some());
            director.problem(&format!("the task was deleted and is still seen; a read finds it: {there:?}"));
            return;
        }
        let pods = director.scene.pods();
        let names: Vec<String> = pods
            .iter()
            .map(|pod| {
                format!("{} {}", look::name(pod), pod.pointer("/metadata/finalizers").unwrap_or(&json!([])))
            })
            .collect();
        director.accuse(
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
async fn sweep(director: &Director) -> Result<()> {
    let (server, scene) = (&director.server, &director.scene);
    let none = json!({ "metadata": { "finalizers": null } });
    if let Some(task) = scene.task() {
        server.delete(&tasks(&scene.namespace, look::name(&task)), "", None).await?;
    }
    for pod in scene.pods() {
        let path = pods(&scene.namespace, look::name(&pod));
        server.merge(&path, &none).await?;
        server.delete(&path, "", Some(0)).await?;
    }
    let empty = |scene: &Scene| (scene.task().is_none() && scene.pods().is_empty()).then_some(());
    scene.until(LEFT, empty).await;
    Ok(())
}
