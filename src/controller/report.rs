//! Logs, metrics and Events for what a status write changed.

use agentloop_core::api::{AgentTask, AgentTaskStatus};
use agentloop_core::decide;
use kube::Resource;
use tracing::info;

use super::context::ControllerContext;

/// Logs, counts and publishes what a status write changed.
pub(super) fn status_written(
    context: &ControllerContext,
    task: &AgentTask,
    before: Option<&AgentTaskStatus>,
    after: &AgentTaskStatus,
) {
    let metrics = &context.metrics;
    if let Some(last) = after.history.first()
        && after.iterations > before.map_or(0, |status| status.iterations)
    {
        metrics.iteration(last.outcome);
        info!(iteration = last.iteration, outcome = %last.outcome, changed = %last.changed, "iteration settled");
    }
    if let Some(stop) = &after.stop
        && before.and_then(|status| status.stop.as_ref()) != Some(stop)
    {
        metrics.stop(stop.phase, stop.reason);
    }
    let started = after.active.as_ref().filter(|active| {
        before.and_then(|status| status.active.as_ref()).is_none_or(|known| known.pod_name != active.pod_name)
    });
    if let Some(active) = started {
        info!(
            iteration = active.iteration,
            attempt = active.attempt,
            pod = active.pod_name,
            "iteration started"
        );
    }
    for record in decide::events_of_change(before, after) {
        info!(reason = record.reason, "{}", record.message);
        context.events.publish(task.object_ref(&()), record);
    }
}
