//! Points 1, 2, 3 and 6: all arms under the same loads, round by round.

use std::time::Duration;

use agentloop_chaos::server::tasks;
use agentloop_test_support::json;
use anyhow::{Context, Result};
use serde_json::Value;

use crate::arms::recorded::Recorded;
use crate::arms::{Arm, Contender};
use crate::load::kubelet::{Agent, Kubelet, QUIET};
use crate::measure::counters::Cost;
use crate::parts::{Curve, Run, Window};
use crate::records::Label;
use crate::stats::as_f64;

/// The names of the loads in the results.
pub const ONE: &str = "one loop";
/// See [`ONE`].
pub const PACED: &str = "paced loops";
/// See [`ONE`].
pub const SATURATED: &str = "saturated loops";

/// Iterations before a measured one, so that each deletes a pod.
const WARM_UP: usize = 3;
/// By then a status has as long a history as it ever gets.
const FULL_HISTORY: usize = 13;
/// The longest that one load may take.
const LIMIT: Duration = Duration::from_mins(20);
/// How often the contender's process is sampled.
const SAMPLING: Duration = Duration::from_millis(250);
/// The Job controller with its default limits creates so few pods that it gets fewer to create.
const DEFAULT_JOBS_SHARE: usize = 5;

const NO_TIME: Agent = Agent::Lasts(Duration::ZERO);

/// Measures everything.
pub async fn run(run: &mut Run) -> Result<()> {
    let recorded = record(run).await.context("recording the operator's status writes")?;
    run.say(&format!("the operator's status patch has {} bytes", recorded.patch_bytes()));
    let about = Label::new("loops", "recorded", "agentloop", 1);
    run.sink.push(about.record("status_patch_bytes", vec![as_f64(recorded.patch_bytes())]))?;
    for round in 1..=run.size.rounds {
        // Another one begins in each round.
        let mut arms = Arm::ALL;
        arms.rotate_left(usize::try_from(round - 1).unwrap_or_default() % Arm::ALL.len());
        for load in [ONE, PACED, SATURATED] {
            for arm in arms {
                if arm == (Arm::Job { tuned: false }) && (load != SATURATED || round > 1) {
                    continue;
                }
                let turn = Turn { load, arm, label: Label::new("loops", load, arm.name(), round) };
                turn.run(run, &recorded).await.with_context(|| format!("{load}, {}", arm.name()))?;
            }
        }
    }
    Ok(())
}

/// Lets the operator run one loop, and keeps two of its statuses.
async fn record(run: &mut Run) -> Result<Recorded> {
    let namespace = run.namespace("recorded").await?;
    let kubelet = Kubelet::start(&run.world.server, &namespace, |_, number| {
        if number >= FULL_HISTORY { Agent::UntilReleased } else { NO_TIME }
    });
    let contender = Arm::Agentloop.start(&run.world, &namespace, None).await?;
    contender.create_loop("loop", FULL_HISTORY + 5).await?;
    let mut statuses = Vec::new();
    for number in [FULL_HISTORY, FULL_HISTORY + 1] {
        is_held(&kubelet, number).await?;
        let task = run.world.server.get(&tasks(&namespace, "loop")).await?.context("the task")?;
        statuses.push(task.pointer("/status").cloned().unwrap_or_default());
        kubelet.state(|state| state.release("loop"));
    }
    let pods: Value =
        crate::api::read(&run.world.server, &agentloop_chaos::server::pods(&namespace, "")).await?;
    if let (Some(pod), Some(status)) = (json::list(&pods, "/items").last(), statuses.last()) {
        std::fs::write(run.world.logs.join("pod.json"), pod.to_string())?;
        std::fs::write(run.world.logs.join("status.json"), status.to_string())?;
    }
    contender.end().await?;
    let [earlier, later] = statuses.as_slice() else { anyhow::bail!("two statuses are needed") };
    Recorded::new(earlier, later)
}

/// Waits until the loop's agent of this number runs, and until everything around it is done.
async fn is_held(kubelet: &Kubelet, number: usize) -> Result<()> {
    let what = format!("the agent of iteration {number} runs");
    let runs = |state: &mut crate::load::state::State| {
        (state.started == number && state.running() == 1).then_some(())
    };
    kubelet.until(LIMIT, &what, runs).await?;
    kubelet.at_rest().await;
    Ok(())
}

/// One arm under one load, in one round.
struct Turn {
    load: &'static str,
    arm: Arm,
    label: Label,
}

impl Turn {
    async fn run(&self, run: &mut Run, recorded: &Recorded) -> Result<()> {
        let namespace = run.namespace(self.arm.name().trim_end_matches("+get")).await?;
        let (kubelet, cost) = match self.load {
            ONE => self.one(run, recorded, &namespace).await?,
            PACED => self.many(run, recorded, &namespace, run.size.paced).await?,
            _ => self.many(run, recorded, &namespace, self.saturated(run)).await?,
        };
        let gaps = kubelet.state(crate::load::state::State::take_gaps);
        let p50 = crate::stats::percentile(&gaps, 50.0).unwrap_or_default();
        run.say(&format!(
            "round {}, {}, {}: gap p50 {p50:.1} ms, {:.1} s",
            self.label.round, self.load, self.label.arm, cost.seconds
        ));
        run.sink.push(self.label.record("gap_ms", gaps))?;
        cost.record(&self.label, &mut run.sink)
    }

    fn saturated(&self, run: &Run) -> (usize, usize) {
        let (loops, iterations) = run.size.saturated;
        if self.arm == (Arm::Job { tuned: false }) {
            return (loops, iterations.div_ceil(DEFAULT_JOBS_SHARE));
        }
        (loops, iterations)
    }

    /// One loop, from an agent that waits to another: exactly this many iterations are measured.
    async fn one(&self, run: &mut Run, recorded: &Recorded, namespace: &str) -> Result<(Kubelet, Cost)> {
        let is_job = matches!(self.arm, Arm::Job { .. });
        let iterations = if is_job { run.size.one_job } else { run.size.one_loop };
        let last = WARM_UP + iterations;
        let kubelet = Kubelet::start(&run.world.server, namespace, move |_, number| {
            if number == WARM_UP || number == last { Agent::UntilReleased } else { NO_TIME }
        });
        let contender = self.arm.start(&run.world, namespace, Some(recorded)).await?;
        contender.create_loop("loop", last + 1).await?;
        is_held(&kubelet, WARM_UP).await?;
        kubelet.state(crate::load::state::State::take_gaps);
        let window = Window::begin(&run.world, contender.process()).await?;
        kubelet.state(|state| state.release("loop"));
        let curve = self.sampled(&kubelet, &contender, is_held(&kubelet, last)).await?;
        let mut cost = window.end(&run.world).await?;
        // It ended when the last agent ran, and not after the wait for silence.
        cost.seconds -= QUIET.as_secs_f64();
        // Before the end of the loop, whose last pod nothing follows.
        let cleaned_early = kubelet.state(|state| state.cleaned_early());
        run.sink.push(self.label.record("cleaned_early_share", vec![cleaned_early]))?;
        self.finish(run, contender, curve, iterations).await?;
        Ok((kubelet, cost))
    }

    /// Many loops, from their creation to the end of the last pod.
    async fn many(
        &self,
        run: &mut Run,
        recorded: &Recorded,
        namespace: &str,
        (loops, iterations): (usize, usize),
    ) -> Result<(Kubelet, Cost)> {
        let (is_paced, size) = (self.load == PACED, run.size.clone());
        let kubelet = Kubelet::start(&run.world.server, namespace, move |name, number| {
            if is_paced { Agent::Lasts(size.agent_time(name, number)) } else { NO_TIME }
        });
        let contender = self.arm.start(&run.world, namespace, Some(recorded)).await?;
        let window = Window::begin(&run.world, contender.process()).await?;
        let since = window.since;
        for number in 0..loops {
            contender.create_loop(&format!("loop-{number}"), iterations).await?;
        }
        let all = loops * iterations;
        let mut seconds = 0.0;
        let ended = async {
            let last_end = kubelet
                .until(LIMIT, "all iterations have ended", |state| {
                    (state.ended >= all).then(|| state.last_end()).flatten()
                })
                .await?;
            kubelet.at_rest().await;
            seconds = last_end.duration_since(since).as_secs_f64();
            Ok(())
        };
        let curve = self.sampled(&kubelet, &contender, ended).await?;
        let mut cost = window.end(&run.world).await?;
        cost.seconds = seconds;
        self.finish(run, contender, curve, all).await?;
        Ok((kubelet, cost))
    }

    /// Waits for `done`, and samples the contender's process meanwhile.
    async fn sampled(
        &self,
        kubelet: &Kubelet,
        contender: &Contender,
        done: impl Future<Output = Result<()>>,
    ) -> Result<Curve> {
        let mut curve = Curve::new();
        tokio::pin!(done);
        loop {
            if let Some(process) = contender.process() {
                curve.sample(process, kubelet.state(|state| state.ended))?;
            }
            tokio::select! {
                done = &mut done => { done?; return Ok(curve); }
                () = tokio::time::sleep(SAMPLING) => {}
            }
        }
    }

    async fn finish(
        &self,
        run: &mut Run,
        contender: Contender,
        curve: Curve,
        iterations: usize,
    ) -> Result<()> {
        run.sink.push(self.label.record("iterations", vec![as_f64(iterations)]))?;
        curve.record(&self.label, &mut run.sink)?;
        contender.end().await
    }
}
