//! Points 3, 4 and 5: what other tasks and their pods cost, step by step up to many of them.

use std::time::{Duration, Instant};

use agentloop_chaos::server::tasks;
use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use http::Method;

use crate::api::{self, Content};
use crate::arms::agentloop::Operator;
use crate::arms::task;
use crate::load::kubelet::{Agent, Kubelet};
use crate::load::state::State;
use crate::measure::exposition::samples;
use crate::measure::process::Process;
use crate::parts::{Run, Window, disturbed};
use crate::records::Label;
use crate::stats::as_f64;

/// The arm in the results.
pub const ARM: &str = "agentloop";
/// What is measured with no task, and after the last one is gone.
pub const EMPTY: &str = "no task";
/// See [`EMPTY`].
pub const DELETED: &str = "after the deletion";

/// How the names of idle tasks without a history begin.
pub(super) const IDLE: &str = "idle-";
/// How the names of the others begin.
const KEPT: &str = "kept-";
/// Pods that a task keeps by default.
const RETAINED: usize = 10;
/// One of so many tasks has its retained pods.
const WITH_HISTORY: usize = 10;
/// Tasks that are created at the same time.
const TOGETHER: usize = 8;
/// The longest that one step may take.
const LIMIT: Duration = Duration::from_mins(40);
/// A process that uses less CPU than this share of the time is idle.
const IDLE_SHARE: f64 = 0.04;

/// The name of a step in the results.
pub fn step(count: usize) -> String {
    format!("{count} idle tasks")
}

/// The tasks of a step, their kubelet and their operator.
pub(super) struct Scale {
    pub(super) namespace: String,
    pub(super) kubelet: Kubelet,
    pub(super) operator: Operator,
    pub(super) tasks: usize,
}

/// Measures everything.
pub async fn run(run: &mut Run) -> Result<()> {
    let namespace = run.namespace("scale").await?;
    let kubelet = Kubelet::start(&run.world.server, &namespace, script);
    let operator = Operator::start(&run.world, "scale").await?;
    operator.ready("working").await?;
    let mut scale = Scale { namespace, kubelet, operator, tasks: 0 };
    is_idle(scale.operator.process()).await?;
    memory(run, &scale, EMPTY)?;
    for count in run.size.idle.clone() {
        scale.grow(run, count).await.with_context(|| step(count))?;
        scale.beside(run).await.with_context(|| step(count))?;
    }
    let scale = disturbed::run(run, scale).await?;
    scale.delete(run).await
}

/// Idle agents never end by themselves. One in ten tasks has iterations behind it, and so retained pods. The loops beside
/// them have agents that take no time.
fn script(name: &str, number: usize) -> Agent {
    let is_held = name.starts_with(IDLE) || (name.starts_with(KEPT) && number > RETAINED);
    if is_held { Agent::UntilReleased } else { Agent::Lasts(Duration::ZERO) }
}

/// Waits until a process does next to nothing.
pub(super) async fn is_idle(process: Process) -> Result<()> {
    const INTERVAL: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + LIMIT;
    let mut last = process.cpu_seconds()?;
    while Instant::now() < deadline {
        tokio::time::sleep(INTERVAL).await;
        let now = process.cpu_seconds()?;
        if now - last < IDLE_SHARE * INTERVAL.as_secs_f64() {
            return Ok(());
        }
        last = now;
    }
    anyhow::bail!("the operator is still busy after {} s", LIMIT.as_secs())
}

/// Records how much memory the operator takes now.
fn memory(run: &mut Run, scale: &Scale, load: &str) -> Result<()> {
    let process = scale.operator.process();
    let label = Label::new("scale", load, ARM, 1);
    run.sink.push(label.record("memory_bytes", vec![process.memory()?]))?;
    run.sink.push(label.record("tasks", vec![as_f64(scale.tasks)]))?;
    run.sink.push(label.record("pods", vec![as_f64(scale.kubelet.state(|state| state.pods()))]))
}

impl Scale {
    /// Creates tasks until there are `count`, and measures what they cost.
    async fn grow(&mut self, run: &mut Run, count: usize) -> Result<()> {
        let label = Label::new("scale", &step(count), ARM, 1);
        let new = count.saturating_sub(self.tasks);
        let window = Window::begin(&run.world, Some(self.operator.process())).await?;
        let (started, ended) = self.kubelet.state(|state| (state.started, state.ended));
        let (server, all) = (&run.world.server, tasks(&self.namespace, ""));
        let all = all.as_str();
        let create = |number: usize| async move {
            let (name, iterations) = match number % WITH_HISTORY {
                0 => (format!("{KEPT}{number}"), RETAINED + 2),
                _ => (format!("{IDLE}{number}"), RETAINED),
            };
            let body = task(&name, iterations, RETAINED);
            api::must(server, Method::POST, all, Content::Object(&body)).await
        };
        stream::iter(self.tasks..count)
            .map(create)
            .buffer_unordered(TOGETHER)
            .try_collect::<Vec<_>>()
            .await?;
        let with_history = (self.tasks..count).filter(|number| number % WITH_HISTORY == 0).count();
        let iterations = with_history * RETAINED;
        let done = |state: &mut State| {
            (state.started == started + new + iterations && state.running() >= count).then_some(())
        };
        self.kubelet.until(LIMIT, "all idle tasks have running pods", done).await?;
        self.kubelet.at_rest().await;
        let cost = window.end(&run.world).await?;
        is_idle(self.operator.process()).await?;
        self.tasks = count;
        let settled = self.kubelet.state(|state| state.ended) - ended;
        run.sink.push(label.record("starts", vec![as_f64(new)]))?;
        run.sink.push(label.record("iterations", vec![as_f64(settled)]))?;
        cost.record(&label, &mut run.sink)?;
        memory(run, self, &step(count))?;
        let mebibytes = self.operator.process().memory()? / 1024.0 / 1024.0;
        run.say(&format!("{count} idle tasks: {mebibytes:.0} MiB"));
        Ok(())
    }

    /// Runs loops beside the idle tasks, and measures what they cost.
    async fn beside(&mut self, run: &mut Run) -> Result<()> {
        let (loops, iterations) = run.size.beside;
        let label = Label::new("scale", &beside(self.tasks), ARM, 1);
        self.kubelet.state(State::take_gaps);
        let pods = self.kubelet.state(|state| state.pods());
        let window = Window::begin(&run.world, Some(self.operator.process())).await?;
        let before = self.kubelet.state(|state| state.ended);
        for number in 0..loops {
            let body = task(&format!("beside-{}-{number}", self.tasks), iterations, 1);
            let path = tasks(&self.namespace, "");
            api::must(&run.world.server, Method::POST, &path, Content::Object(&body)).await?;
        }
        let all = loops * iterations;
        let done = |state: &mut State| (state.ended >= before + all).then(|| state.last_end()).flatten();
        let last_end = self.kubelet.until(LIMIT, "all loops beside have ended", done).await?;
        let seconds = last_end.duration_since(window.since).as_secs_f64();
        self.kubelet.at_rest().await;
        let mut cost = window.end(&run.world).await?;
        cost.seconds = seconds;
        run.sink.push(label.record("iterations", vec![as_f64(all)]))?;
        run.sink.push(label.record("gap_ms", self.kubelet.state(State::take_gaps)))?;
        cost.record(&label, &mut run.sink)?;
        for number in 0..loops {
            let path = tasks(&self.namespace, &format!("beside-{}-{number}", self.tasks));
            run.world.server.delete(&path, "", None).await?;
        }
        // The garbage collector would be taken for the operator later.
        let gone = |state: &mut State| (state.pods() <= pods).then_some(());
        self.kubelet.until(LIMIT, "the pods of deleted tasks are gone", gone).await?;
        self.kubelet.at_rest().await;
        is_idle(self.operator.process()).await
    }

    /// Deletes all tasks, and measures the requests and what is left in memory.
    async fn delete(self, run: &mut Run) -> Result<()> {
        let label = Label::new("scale", DELETED, ARM, 1);
        let pods = self.kubelet.state(|state| state.pods());
        let window = Window::begin(&run.world, Some(self.operator.process())).await?;
        let before = self.operator.metrics().await?;
        run.world.delete_all(&tasks(&self.namespace, "")).await?;
        run.world.is_empty(&self.namespace).await?;
        is_idle(self.operator.process()).await?;
        let cost = window.end(&run.world).await?;
        // The garbage collector deletes pods too, so only the operator's own counters tell whose writes these were.
        let after = self.operator.metrics().await?;
        let own = |is_meant: fn(&str, &str) -> bool| written(&after, is_meant) - written(&before, is_meant);
        run.sink.push(label.record("own_deletes", vec![own(|verb, _| verb == "delete")]))?;
        // A status may be written in vain: the pods' watch may be ahead of the tasks' watch, which shows the deletion.
        let in_vain = own(|verb, result| verb != "patch_status" && result != "ok");
        run.sink.push(label.record("own_pod_writes_in_vain", vec![in_vain]))?;
        run.sink.push(label.record("deleted_pods", vec![as_f64(pods)]))?;
        cost.record(&label, &mut run.sink)?;
        let scale = Self { tasks: 0, ..self };
        memory(run, &scale, DELETED)?;
        let mebibytes = scale.operator.process().memory()? / 1024.0 / 1024.0;
        run.say(&format!("after the deletion of {pods} pods: {mebibytes:.0} MiB"));
        let complaints = scale.operator.complaints();
        run.sink.push(label.record("complaints", vec![as_f64(complaints)]))?;
        scale.operator.stop().await
    }
}

/// The operator's writes of some verbs with some results, by its own metrics.
fn written(metrics: &str, is_meant: fn(&str, &str) -> bool) -> f64 {
    let all = samples(metrics, "agentloop_writes_total");
    all.filter(|one| is_meant(one.label("verb"), one.label("result"))).fold(0.0, |sum, one| sum + one.value)
}

/// The name of the loops beside a step in the results.
pub fn beside(count: usize) -> String {
    format!("loops beside {count} idle tasks")
}
