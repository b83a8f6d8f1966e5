//! Every sentence and command that a person reads.
//!
//! A stop's message carries its evidence and its cure: what happened, which threshold from where, the
//! last error, and a command that can be pasted as it stands.

use kube::ResourceExt;

use crate::api::{
    AgentTask, AgentTaskStatus, MAX_ITERATIONS, Phase, StopReason, Threshold, ThresholdSource, Thresholds,
    WaitReason,
};
use crate::facts::RUNNERS_IMAGE;

/// The words of somebody else, such as an agent, so that nobody takes them for ours: between quotes that
/// the words themselves cannot close.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "'"))
}

/// The message of a task that no operator has seen: the default of the API's schema.
pub const NOT_SEEN: &str = "no operator has seen this task yet; if this stays, agentloop does not run, or does not watch this namespace";

/// The message of a status.
pub fn status(task: &AgentTask, status: &AgentTaskStatus, phase: Phase) -> String {
    let is_unknown = status.stop.as_ref().is_some_and(|stop| matches!(stop.reason, StopReason::Other(_)));
    match phase {
        Phase::CircuitOpen | Phase::Failed | Phase::IterationLimitReached if is_unknown => {
            of_newer_version(status)
        }
        Phase::Pending => NOT_SEEN.to_owned(),
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

/// A stop that this version cannot judge.
fn of_newer_version(status: &AgentTaskStatus) -> String {
    let what = status.stop.as_ref().map(|stop| format!(" ({}, {})", stop.phase, stop.reason));
    format!(
        "stopped by a newer version of agentloop{}, for a reason that this version does not know; it holds until the operator is that version again",
        what.unwrap_or_default(),
    )
}

/// What a limit above the hard limit is told.
pub fn clamped(thresholds: &Thresholds) -> String {
    format!(
        "maxIterations {} asks for more than the hard limit: {} iterations are in force; an administrator can raise hardLimit in the operator's configuration",
        thresholds.max_iterations.value, thresholds.hard_limit.value,
    )
}

/// A merge patch of this task's spec, as a command.
fn patch(task: &AgentTask, spec: &str) -> String {
    let namespace = task.namespace().unwrap_or_default();
    let name = task.name_any();
    format!("kubectl -n {namespace} patch agt/{name} --type merge -p '{{\"spec\":{{{spec}}}}}'")
}

fn plural(count: i32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn from(threshold: Threshold) -> &'static str {
    match threshold.from {
        ThresholdSource::Spec => "from the task's spec",
        ThresholdSource::Config => "from the operator's configuration",
        ThresholdSource::Default => "agentloop's default",
        ThresholdSource::Other(_) => "from where only a newer version knows",
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

/// Where the last agent started, if that was not the workspace and it changed nothing there: a newcomer's
/// first mistake.
fn started_elsewhere(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let folder = status.history.first().and_then(|entry| entry.started_in.as_deref());
    let workspace = &task.spec.workspace.mount_path;
    folder.map_or_else(String::new, |folder| {
        format!(
            "; the last agent started in {}, not in the workspace, and changed nothing there: set workingDir to {workspace} in spec.template",
            quoted(folder)
        )
    })
}

fn waiting(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let Some(waiting) = &status.waiting else { return String::new() };
    let iteration =
        status.active.as_ref().map_or(status.iterations.saturating_add(1), |active| active.iteration);
    let what = match waiting.reason {
        WaitReason::Unschedulable => "no node takes its pod",
        WaitReason::SchedulingGated => "its pod is held by a scheduling gate of somebody else",
        WaitReason::ImagePullFailed => "an image cannot be pulled",
        WaitReason::QuotaExceeded => "a ResourceQuota leaves no room for its pod",
        WaitReason::PodRejected => "its pod is refused",
        WaitReason::VolumePending => "a volume is not ready",
        WaitReason::PromptMissing => "the prompt that promptFrom names cannot be read",
        WaitReason::StartFailed => "its pod did not start the agent",
        WaitReason::RateLimited => "the model provider refuses for now",
        WaitReason::ProviderUnavailable => "the model provider is unavailable",
        WaitReason::NodeLost => "its node is lost",
        WaitReason::NameConflict => "a pod of somebody else has its pod's name",
        WaitReason::PreviousPodRunning => "an earlier task's pod is still running",
        WaitReason::ConfigInvalid => "the operator's configuration is refused",
        WaitReason::Paused => "an administrator paused all loops",
        WaitReason::Other(_) => "for a reason that a newer version of agentloop gave",
    };
    // These may be the words of what runs in the pod.
    let is_theirs = matches!(
        waiting.reason,
        WaitReason::RateLimited
            | WaitReason::ProviderUnavailable
            | WaitReason::StartFailed
            | WaitReason::Other(_)
    );
    let message = waiting
        .message
        .as_deref()
        .map(|message| if is_theirs { format!(": {}", quoted(message)) } else { format!(": {message}") });
    let message = message.unwrap_or_default();
    let until =
        waiting.retry_time.as_ref().map(|time| format!("; next try at {}", time.0)).unwrap_or_default();
    let cure = match waiting.reason {
        WaitReason::PodRejected => "; mend spec.template, or what refuses it".to_owned(),
        WaitReason::QuotaExceeded => "; goes on once the quota has room".to_owned(),
        WaitReason::ImagePullFailed => {
            let is_runners =
                waiting.message.as_deref().is_some_and(|message| message.starts_with(RUNNERS_IMAGE));
            let other = if is_runners {
                "another runner.image in the operator's Helm values"
            } else {
                "another image in spec.template"
            };
            format!("; goes on once the image can be pulled, or with {other}")
        }
        WaitReason::PromptMissing => "; goes on once the key is there".to_owned(),
        WaitReason::Paused => "; goes on once `paused` is taken out of the configuration".to_owned(),
        WaitReason::ConfigInvalid => "; an administrator must mend it".to_owned(),
        WaitReason::NameConflict => "; delete or rename that pod".to_owned(),
        WaitReason::NodeLost => format!(
            "; goes on once the node is back, deleted, or marked out of service; see kubectl -n {} describe pod {}",
            task.namespace().unwrap_or_default(),
            status.active.as_ref().map(|active| active.pod_name.as_str()).unwrap_or_default(),
        ),
        _ => String::new(),
    };
    format!("iteration {iteration} waits: {what}{message}{until}{cure}")
}

fn suspended(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let where_ = match &status.active {
        Some(active) => format!("suspended; iteration {}, claimed before, stops first", active.iteration),
        None => format!("suspended after {} iteration{}", status.iterations, plural(status.iterations)),
    };
    format!("{where_}; to go on: {}", patch(task, "\"suspend\":false"))
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
        text += "; the limit was lowered below the count, as a manifest that is applied again does: leave maxIterations out of it, or raise it there";
    }
    let hard = status.thresholds.as_ref().map_or(MAX_ITERATIONS, |t| t.hard_limit.value);
    let most = MAX_ITERATIONS;
    let next = count.saturating_mul(2).min(hard);
    if next > count {
        let command = patch(task, &format!("\"maxIterations\":{next}"));
        return format!("{text}; to go on: {command}");
    }
    if count >= most {
        return format!("{text}; no task may have more than {most}: to go on, create another");
    }
    let next = count.saturating_mul(2).min(most);
    // The number that the spec asks for already would change nothing, and so lift nothing.
    let asked = task.spec.max_iterations;
    let other = [next, next.saturating_add(1), next.saturating_sub(1)]
        .into_iter()
        .find(|n| Some(*n) != asked && *n > count && *n <= most);
    let change = other.map_or_else(
        || format!("\"resetToken\":\"{}\"", next_token(task, status)),
        |next| format!("\"maxIterations\":{next}"),
    );
    let command = patch(task, &change);
    format!(
        "{text}; the hard limit of {hard} binds: an administrator must raise hardLimit in the operator's configuration first, then: {command}"
    )
}

/// A limit that the count has not reached, where it has reached the one in force and the hard limit
/// leaves room.
fn higher_limit(status: &AgentTaskStatus) -> Option<i32> {
    let thresholds = status.thresholds.as_ref()?;
    let count = status.iterations;
    let next = count.saturating_mul(2).min(thresholds.hard_limit.value);
    (status.iterations >= thresholds.effective_limit() && next > count).then_some(next)
}

/// The fields of `spec.breaker` that raise every threshold whose streak has reached it.
fn higher_thresholds(status: &AgentTaskStatus) -> String {
    let streaks = &status.breaker;
    let fields = [
        ("noChangeThreshold", streaks.consecutive_no_change, status.thresholds.as_ref().map(|t| t.no_change)),
        (
            "sameErrorThreshold",
            streaks.consecutive_same_error,
            status.thresholds.as_ref().map(|t| t.same_error),
        ),
    ];
    let reached = fields
        .into_iter()
        .filter(|(_, streak, threshold)| threshold.is_some_and(|threshold| *streak >= threshold.value));
    let raised = reached.map(|(field, streak, _)| {
        let next = streak.saturating_mul(2).min(MAX_ITERATIONS);
        format!("\"{field}\":{next}")
    });
    raised.collect::<Vec<_>>().join(",")
}

/// A value for `resetToken` that is another than the one in use, and than the one acted on last.
fn next_token(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let token = format!("after-{}", status.iterations);
    let used = [&task.spec.reset_token, &status.last_handled_reset_token];
    if used.iter().any(|used| used.as_deref() == Some(token.as_str())) {
        format!("{token}-again")
    } else {
        token
    }
}

fn circuit_open(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let reason = status.stop.as_ref().map(|stop| stop.reason);
    let thresholds = status.thresholds.as_ref();
    let error =
        last_error(status).map(|error| format!("; last error: {}", quoted(error))).unwrap_or_default();
    // Another rule may hold as well: each command lifts all of them.
    let limit = higher_limit(status).map(|next| format!(",\"maxIterations\":{next}")).unwrap_or_default();
    let reset = patch(task, &format!("\"resetToken\":\"{}\"{limit}", next_token(task, status)));
    let (streak, what, threshold) = if reason == Some(StopReason::SameError) {
        let streak = status.breaker.consecutive_same_error;
        (streak, "ended in the same error", thresholds.map(|t| t.same_error))
    } else {
        let streak = status.breaker.consecutive_no_change;
        (streak, "changed nothing", thresholds.map(|t| t.no_change))
    };
    let threshold = threshold.map(|t| format!(" (threshold {}, {})", t.value, from(t))).unwrap_or_default();
    let elsewhere = started_elsewhere(task, status);
    let raised = patch(task, &format!("\"breaker\":{{{}}}{limit}", higher_thresholds(status)));
    format!(
        "stopped after {} iteration{}: the last {streak} {what}{threshold}{error}{elsewhere}; to go on with streaks at zero: {reset} or with a higher threshold: {raised}",
        status.iterations,
        plural(status.iterations),
    )
}

fn failed(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let why = match status.stop.as_ref().map(|stop| stop.reason) {
        Some(StopReason::Unauthenticated) => "the model provider refused the credential".to_owned(),
        _ => match status.history.first().and_then(|entry| entry.exit_code) {
            Some(code) => format!("the agent exited with code {code}, which failOnExitCodes names"),
            None => "the agent failed".to_owned(),
        },
    };
    let error = last_error(status).map(|error| format!(" ({})", quoted(error))).unwrap_or_default();
    let reset = patch(task, &format!("\"resetToken\":\"{}\"", next_token(task, status)));
    format!(
        "stopped after {} iteration{}: {why}{error}; once that is mended, to go on: {reset}",
        status.iterations,
        plural(status.iterations),
    )
}
