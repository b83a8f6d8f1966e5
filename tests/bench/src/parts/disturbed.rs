//! Points 4 and 5: a lost watch, a changed ConfigMap, a restart and the loss of the leader, with many tasks.

use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;

use super::scale::{ARM, IDLE, Scale, is_idle};
use crate::arms::agentloop::Operator;
use crate::load::state::{State, milliseconds};
use crate::measure::exposition::sum;
use crate::parts::{Run, Window};
use crate::records::Label;
use crate::stats::as_f64;

/// The names in the results.
pub const CONFIGURED: &str = "a changed ConfigMap";
/// See [`CONFIGURED`].
pub const RELIST: &str = "a restart of the API server";
/// See [`CONFIGURED`].
pub const RESTART: &str = "a restart";
/// See [`CONFIGURED`].
pub const MEANWHILE: &str = "a restart while pods ended";
/// See [`CONFIGURED`].
pub const LEADER_LOSS: &str = "the loss of the leader";

/// The longest that the operator may take for any of them.
const LIMIT: Duration = Duration::from_mins(10);
/// How long after a change its work must have begun.
const REACTION: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);
const METRICS_POLL: Duration = Duration::from_millis(100);

/// Disturbs the operator in every way, and returns the tasks with the operator that serves them then.
pub(super) async fn run(run: &mut Run, scale: Scale) -> Result<Scale> {
    changed_configuration(run, &scale).await?;
    let scale = restart(run, scale, 0, RESTART).await?;
    // One in ten tasks has another name.
    let ended = run.size.ended_meanwhile.min(scale.tasks * 9 / 10);
    let scale = restart(run, scale, ended, MEANWHILE).await?;
    let scale = if run.size.leader_loss { leader_loss(run, scale).await? } else { scale };
    relist(run, scale).await
}

fn label(load: &str) -> Label {
    Label::new("scale", load, ARM, 1)
}

async fn changed_configuration(run: &mut Run, scale: &Scale) -> Result<()> {
    let window = Window::begin(&run.world, Some(scale.operator.process())).await?;
    run.world.configure("2").await?;
    tokio::time::sleep(REACTION).await;
    is_idle(scale.operator.process()).await?;
    let cost = window.end(&run.world).await?;
    run.say(&format!("{CONFIGURED}: {:.2} CPU seconds", cost.contender_cpu.unwrap_or_default()));
    cost.record(&label(CONFIGURED), &mut run.sink)
}

/// Ends agents while the operator is down, and starts it again.
async fn restart(run: &mut Run, scale: Scale, ended: usize, load: &str) -> Result<Scale> {
    let Scale { namespace, kubelet, operator, tasks } = scale;
    operator.stop().await?;
    let before = kubelet.state(|state| state.ended);
    for number in (1..).filter(|number| number % 10 != 0).take(ended) {
        kubelet.state(|state| state.release(&format!("{IDLE}{number}")));
    }
    kubelet
        .until(LIMIT, "the agents have ended", |state| (state.ended >= before + ended).then_some(()))
        .await?;
    kubelet.at_rest().await;
    kubelet.state(State::take_gaps);

    let window = Window::begin(&run.world, None).await?;
    let (since, begin) = (Instant::now(), Timestamp::now());
    let operator = Operator::start(&run.world, "restarted").await?;
    let ready = operator.ready("working");
    let followed = async {
        let mut at = Vec::new();
        while at.len() < ended {
            let waiting = kubelet.state(|state| state.waiting(IDLE));
            at.resize(ended.saturating_sub(waiting), milliseconds(since.elapsed()));
            tokio::time::sleep(POLL).await;
        }
        at
    };
    let reconciled = async {
        while sum(&operator.metrics().await?, "controller_runtime_reconcile_total") < as_f64(tasks) {
            tokio::time::sleep(METRICS_POLL).await;
        }
        Result::<_>::Ok(since.elapsed())
    };
    let all = async {
        let (ready, followed, reconciled) = tokio::join!(ready, followed, reconciled);
        ready?;
        Result::<_>::Ok((followed, reconciled?))
    };
    let (followed, reconciled) = tokio::time::timeout(LIMIT, all).await??;
    kubelet.at_rest().await;
    is_idle(operator.process()).await?;
    let mut cost = window.end(&run.world).await?;
    cost.contender_cpu = Some(operator.process().cpu_seconds()?);
    let synced = operator.logged("caches have synced");
    let synced = synced.map_or(0.0, |at| at.duration_since(begin).as_secs_f64() * 1000.0);
    let label = label(load);
    let followed: Vec<f64> = followed.into_iter().map(|at| (at - synced).max(0.0)).collect();
    run.say(&format!(
        "{load}: caches full after {synced:.0} ms, all reconciled after {:.0} ms, {:.2} CPU seconds, {:.0} writes",
        milliseconds(reconciled),
        cost.contender_cpu.unwrap_or_default(),
        cost.writes()
    ));
    run.sink.push(label.record("synced_ms", vec![synced]))?;
    run.sink.push(label.record("reconciled_ms", vec![milliseconds(reconciled)]))?;
    run.sink.push(label.record("followed_ms", followed))?;
    run.sink.push(label.record("tasks", vec![as_f64(tasks)]))?;
    cost.record(&label, &mut run.sink)?;
    Ok(Scale { namespace, kubelet, operator, tasks })
}

/// Kills the leader beside another operator that stands by, and ends an agent then.
async fn leader_loss(run: &mut Run, scale: Scale) -> Result<Scale> {
    let Scale { namespace, kubelet, operator, tasks } = scale;
    let second = Operator::start(&run.world, "second").await?;
    second.ready("standing by").await?;
    kubelet.state(State::take_gaps);
    let since = Instant::now();
    operator.kill().await?;
    let started = kubelet.state(|state| state.started);
    kubelet.state(|state| state.release(&format!("{IDLE}1")));
    kubelet.until(LIMIT, "the pod is followed", |state| (state.started > started).then_some(())).await?;
    let taken = milliseconds(since.elapsed());
    run.say(&format!("{LEADER_LOSS}: the next action after {taken:.0} ms"));
    run.sink.push(label(LEADER_LOSS).record("next_action_ms", vec![taken]))?;
    is_idle(second.process()).await?;
    Ok(Scale { namespace, kubelet, operator: second, tasks })
}

/// Restarts the API server, so that everything is listed again.
async fn relist(run: &mut Run, scale: Scale) -> Result<Scale> {
    let Scale { namespace, kubelet, operator, tasks } = scale;
    operator.stop().await?;
    let operator = Operator::start_without_lease(&run.world, "relist").await?;
    operator.ready("working").await?;
    let process = operator.process();
    is_idle(process).await?;
    let before = process.memory()?;
    process.reset_peak()?;
    run.world.restart_api_server().await?;
    tokio::time::sleep(REACTION).await;
    // Something must happen, or a watch could simply continue.
    run.world.configure("3").await?;
    tokio::time::sleep(REACTION).await;
    is_idle(process).await?;
    kubelet.at_rest().await;
    let (peak, after) = (process.peak_memory()?, process.memory()?);
    let label = label(RELIST);
    run.say(&format!("{RELIST}: {:.0} MiB at most, {:.0} before", mebibytes(peak), mebibytes(before)));
    run.sink.push(label.record("memory_before_bytes", vec![before]))?;
    run.sink.push(label.record("memory_peak_bytes", vec![peak]))?;
    run.sink.push(label.record("memory_bytes", vec![after]))?;
    Ok(Scale { namespace, kubelet, operator, tasks })
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / 1024.0 / 1024.0
}
