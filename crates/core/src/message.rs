//! Every sentence and command that a person reads.
//!
//! The message of a stop has its evidence and its remedy: what happened, which threshold applied and where it comes
//! from, the last error, and a command that can be pasted unchanged.

use kube::ResourceExt;

use crate::api::{
    AgentTask, AgentTaskStatus, MAX_ITERATIONS, Phase, StopReason, Threshold, ThresholdSource, Thresholds,
    WaitReason,
};
use crate::facts::RUNNERS_IMAGE;
use crate::resume::{self, SpecChange, doubled_limit, hard_limit, next_token};

/// Text from an agent or another untrusted source, between quotes that it cannot close: so no reader mistakes it for
/// text of the operator.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "'"))
}

/// The message of a task that no operator has seen. The CRD has it as the default of the status.
pub const PENDING: &str = "no operator has seen this task yet; if this persists, agentloop is not running or does not watch this namespace";

/// The message of a status.
pub fn status(task: &AgentTask, status: &AgentTaskStatus, phase: Phase) -> String {
    let is_unknown = status.stop.as_ref().is_some_and(|stop| matches!(stop.reason, StopReason::Other(_)));
    match phase {
        Phase::CircuitOpen | Phase::Failed | Phase::IterationLimitReached if is_unknown => {
            of_newer_version(status)
        }
        Phase::Pending => PENDING.to_owned(),
        Phase::Running => running(task, status),
        Phase::Waiting => waiting(task, status),
        Phase::Suspended => suspended(task, status),
        Phase::Succeeded => succeeded(status),
        Phase::IterationLimitReached => limit_reached(task, status),
        Phase::CircuitOpen => circuit_open(task, status),
        Phase::Failed => failed(task, status),
        Phase::Other(_) => of_newer_version(status),
    }
}

/// A stop with a phase or reason that this version does not know.
fn of_newer_version(status: &AgentTaskStatus) -> String {
    let what = status.stop.as_ref().map(|stop| format!(" ({}, {})", stop.phase, stop.reason));
    format!(
        "stopped by a newer version of agentloop{}, for a reason that this version does not know; the task stays stopped until the operator is upgraded to that version again",
        what.unwrap_or_default(),
    )
}

/// The message of the condition `LimitClamped`.
pub fn clamped(thresholds: &Thresholds) -> String {
    format!(
        "maxIterations is {}, but the hard limit of {} applies; an administrator can raise hardLimit in the operator's configuration",
        thresholds.max_iterations.value, thresholds.hard_limit.value,
    )
}

/// A command that patches the spec of this task.
pub fn patch(task: &AgentTask, change: &SpecChange) -> String {
    let namespace = task.namespace().unwrap_or_default();
    let name = task.name_any();
    format!("kubectl -n {namespace} patch agt/{name} --type merge -p '{}'", change.patch_text())
}

fn plural(count: i32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Where a threshold comes from.
pub fn from(threshold: Threshold) -> &'static str {
    match threshold.from {
        ThresholdSource::Spec => "from the task's spec",
        ThresholdSource::Config => "from the operator's configuration",
        ThresholdSource::Default => "agentloop's default",
        ThresholdSource::Other(_) => "from a source that this version does not know",
    }
}

fn last_error(status: &AgentTaskStatus) -> Option<&str> {
    status.history.first().and_then(|entry| entry.error.as_deref())
}

fn running(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let iteration = status.active.as_ref().map_or(status.iterations, |active| active.iteration);
    let max = status.max_iterations.unwrap_or(iteration);
    let pod = status.active.as_ref().map(|active| format!(" in pod {}", active.pod_name)).unwrap_or_default();
    format!("iteration {iteration} of at most {max}{pod}{}", started_elsewhere(task, status))
}

/// A hint if the last agent did not start in the workspace and changed nothing there: the most common mistake in a
/// first template.
fn started_elsewhere(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let folder = status.history.first().and_then(|entry| entry.started_in.as_deref());
    let workspace = &task.spec.workspace.mount_path;
    folder.map_or_else(String::new, |folder| {
        format!(
            "; the last agent started in {} instead of the workspace, and changed nothing in the workspace: set workingDir to {workspace} in spec.template",
            quoted(folder)
        )
    })
}

fn waiting(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let Some(waiting) = &status.waiting else { return String::new() };
    let iteration =
        status.active.as_ref().map_or(status.iterations.saturating_add(1), |active| active.iteration);
    let what = match waiting.reason {
        WaitReason::Unschedulable => "its pod cannot be scheduled",
        WaitReason::SchedulingGated => "its pod has another scheduling gate",
        WaitReason::ImagePullFailed => "an image cannot be pulled",
        WaitReason::QuotaExceeded => "a ResourceQuota has no room for its pod",
        WaitReason::PodRejected => "its pod was rejected",
        WaitReason::VolumePending => "a volume is not ready",
        WaitReason::PromptMissing => "the prompt in promptFrom cannot be read",
        WaitReason::StartFailed => "its pod did not start the agent",
        WaitReason::RateLimited => "the model provider refuses requests for now",
        WaitReason::ProviderUnavailable => "the model provider is unavailable",
        WaitReason::NodeLost => "its node is lost",
        WaitReason::NameConflict => "another pod has the name of its pod",
        WaitReason::PreviousPodRunning => "a pod of a previous task is still running",
        WaitReason::ConfigInvalid => "the operator's configuration is invalid",
        WaitReason::Paused => "an administrator paused all loops",
        WaitReason::Other(_) => {
            "a newer version of agentloop recorded a reason that this version does not know"
        }
    };
    // What runs in the pod can choose these texts.
    let is_untrusted = matches!(
        waiting.reason,
        WaitReason::RateLimited
            | WaitReason::ProviderUnavailable
            | WaitReason::StartFailed
            | WaitReason::Other(_)
    );
    let message = waiting
        .message
        .as_deref()
        .map(|message| if is_untrusted { format!(": {}", quoted(message)) } else { format!(": {message}") });
    let message = message.unwrap_or_default();
    let until =
        waiting.retry_time.as_ref().map(|time| format!("; next try at {}", time.0)).unwrap_or_default();
    let remedy = match waiting.reason {
        WaitReason::SchedulingGated => "; continues when that scheduling gate is removed".to_owned(),
        WaitReason::PodRejected => "; fix spec.template, or the policy or webhook that rejects it".to_owned(),
        WaitReason::QuotaExceeded => "; continues when the quota has room".to_owned(),
        WaitReason::ImagePullFailed => {
            let is_runners =
                waiting.message.as_deref().is_some_and(|message| message.starts_with(RUNNERS_IMAGE));
            let other = if is_runners {
                "another runner.image in the operator's Helm values"
            } else {
                "another image in spec.template"
            };
            format!("; continues when the image can be pulled, or with {other}")
        }
        WaitReason::PromptMissing => "; continues when the key exists".to_owned(),
        WaitReason::Paused => {
            "; continues when `paused` is removed from the operator's configuration".to_owned()
        }
        WaitReason::ConfigInvalid => "; an administrator must fix it".to_owned(),
        WaitReason::NameConflict => "; delete that pod".to_owned(),
        WaitReason::NodeLost => format!(
            "; continues when the node is back, deleted, or marked out of service; see kubectl -n {} describe pod {}",
            task.namespace().unwrap_or_default(),
            status.active.as_ref().map(|active| active.pod_name.as_str()).unwrap_or_default(),
        ),
        _ => String::new(),
    };
    format!("iteration {iteration} is waiting: {what}{message}{until}{remedy}")
}

fn suspended(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let when = match &status.active {
        Some(active) => format!("suspended during iteration {}", active.iteration),
        None => format!("suspended after {} iteration{}", status.iterations, plural(status.iterations)),
    };
    format!(
        "{when}; to resume: {}",
        patch(task, &SpecChange { suspend: Some(false), ..SpecChange::default() })
    )
}

fn succeeded(status: &AgentTaskStatus) -> String {
    let reason =
        status.history.first().and_then(|entry| entry.gate.as_ref()).and_then(|g| g.reason.as_deref());
    let said = reason.map(|reason| format!(": {}", quoted(reason))).unwrap_or_default();
    format!("done after {} iteration{}{said}", status.iterations, plural(status.iterations))
}

fn limit_reached(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let count = status.iterations;
    let limit = status.max_iterations.unwrap_or(count);
    let mut text = format!("stopped after {count} iteration{} (max: {limit})", plural(count));
    if count > limit {
        text += "; the limit was lowered below the count, which also happens when an older manifest is applied again: raise maxIterations in the manifest, or remove it";
    }
    if let Some(next) = doubled_limit(status) {
        let change = SpecChange { max_iterations: Some(next), ..SpecChange::default() };
        return format!("{text}; to resume: {}", patch(task, &change));
    }
    if count >= MAX_ITERATIONS {
        return format!(
            "{text}; no task can have more than {MAX_ITERATIONS} iterations: create another task to continue"
        );
    }
    let next = count.saturating_mul(2).min(MAX_ITERATIONS);
    // A patch with the number that is already in the spec would change nothing, and so would not resume the task.
    let asked = task.spec.max_iterations;
    let other = [next, next.saturating_add(1), next.saturating_sub(1)]
        .into_iter()
        .find(|n| Some(*n) != asked && *n > count && *n <= MAX_ITERATIONS);
    let change = SpecChange {
        max_iterations: other,
        reset_token: other.is_none().then(|| next_token(task, status)),
        ..SpecChange::default()
    };
    let command = patch(task, &change);
    let hard = hard_limit(status);
    format!(
        "{text}; the hard limit of {hard} applies: an administrator must first raise hardLimit in the operator's configuration; then, to resume: {command}"
    )
}

fn circuit_open(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let reason = status.stop.as_ref().map(|stop| stop.reason);
    let thresholds = status.thresholds.as_ref();
    let error =
        last_error(status).map(|error| format!("; last error: {}", quoted(error))).unwrap_or_default();
    // The limit may be reached as well: each command lifts both stops.
    let reset = patch(task, &resume::reset(task, status));
    let (streak, what, threshold) = if reason == Some(StopReason::SameError) {
        let streak = status.breaker.consecutive_same_error;
        (streak, "ended with the same error", thresholds.map(|t| t.same_error))
    } else {
        let streak = status.breaker.consecutive_no_change;
        (streak, "changed nothing", thresholds.map(|t| t.no_change))
    };
    let threshold = threshold.map(|t| format!(" (threshold {}, {})", t.value, from(t))).unwrap_or_default();
    let elsewhere = started_elsewhere(task, status);
    let raised = patch(task, &resume::raised_thresholds(status));
    format!(
        "stopped after {} iteration{}: the last {streak} {what}{threshold}{error}{elsewhere}; to resume with streaks at zero: {reset} or with a higher threshold: {raised}",
        status.iterations,
        plural(status.iterations),
    )
}

fn failed(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let why = match status.stop.as_ref().map(|stop| stop.reason) {
        Some(StopReason::Unauthenticated) => "the model provider refused the credential".to_owned(),
        _ => match status.history.first().and_then(|entry| entry.exit_code) {
            Some(code) => format!("the agent exited with code {code}, which is in failOnExitCodes"),
            None => "the agent failed".to_owned(),
        },
    };
    let error = last_error(status).map(|error| format!(" ({})", quoted(error))).unwrap_or_default();
    let token = next_token(task, status);
    let reset = patch(task, &SpecChange { reset_token: Some(token), ..SpecChange::default() });
    format!(
        "stopped after {} iteration{}: {why}{error}; fix the cause, then, to resume: {reset}",
        status.iterations,
        plural(status.iterations),
    )
}
