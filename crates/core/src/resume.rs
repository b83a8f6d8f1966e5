//! The changes of a spec that resume a stopped task. The messages of stops print them as commands.

use serde::Serialize;

use crate::api::{AgentTask, AgentTaskStatus, MAX_ITERATIONS};

/// A change of a task's spec, as a merge patch of it. Fields that are absent stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecChange {
    /// `spec.suspend`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// `spec.resetToken`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_token: Option<String>,
    /// `spec.breaker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerChange>,
    /// `spec.maxIterations`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_iterations: Option<i32>,
}

/// A change of `spec.breaker`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerChange {
    /// `spec.breaker.noChangeThreshold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_change_threshold: Option<i32>,
    /// `spec.breaker.sameErrorThreshold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_error_threshold: Option<i32>,
}

impl SpecChange {
    /// The merge patch of the whole object.
    pub fn patch(&self) -> serde_json::Value {
        serde_json::json!({ "spec": self })
    }

    /// The merge patch as text, with the fields in a fixed order.
    pub fn patch_text(&self) -> String {
        // A struct of numbers and strings can always be written.
        format!("{{\"spec\":{}}}", serde_json::to_string(self).unwrap_or_default())
    }
}

/// A value for `resetToken` that differs from the current one and from the last one that was handled.
pub fn next_token(task: &AgentTask, status: &AgentTaskStatus) -> String {
    let token = format!("after-{}", status.iterations);
    let used = [&task.spec.reset_token, &status.last_handled_reset_token];
    if used.iter().any(|used| used.as_deref() == Some(token.as_str())) {
        format!("{token}-again")
    } else {
        token
    }
}

/// The maximum for the limit of this task.
pub fn hard_limit(status: &AgentTaskStatus) -> i32 {
    status.thresholds.as_ref().map_or(MAX_ITERATIONS, |thresholds| thresholds.hard_limit.value)
}

/// Twice the count, if the hard limit allows more iterations than were counted.
pub fn doubled_limit(status: &AgentTaskStatus) -> Option<i32> {
    let next = status.iterations.saturating_mul(2).min(hard_limit(status));
    (next > status.iterations).then_some(next)
}

/// A higher limit, if the count has reached the one in force and the hard limit allows more.
pub fn needed_limit(status: &AgentTaskStatus) -> Option<i32> {
    let thresholds = status.thresholds.as_ref()?;
    doubled_limit(status).filter(|_| status.iterations >= thresholds.effective_limit())
}

/// Sets the streaks to zero, and lifts the limit too if it is reached.
pub fn reset(task: &AgentTask, status: &AgentTaskStatus) -> SpecChange {
    SpecChange {
        reset_token: Some(next_token(task, status)),
        max_iterations: needed_limit(status),
        ..SpecChange::default()
    }
}

/// Raises every threshold whose streak has reached it, and the limit too if it is reached.
pub fn raised_thresholds(status: &AgentTaskStatus) -> SpecChange {
    let thresholds = status.thresholds.as_ref();
    let raised = |streak: i32, threshold: Option<i32>| {
        let reached = threshold.is_some_and(|threshold| streak >= threshold);
        reached.then(|| streak.saturating_mul(2).min(MAX_ITERATIONS))
    };
    let streaks = &status.breaker;
    SpecChange {
        breaker: Some(BreakerChange {
            no_change_threshold: raised(streaks.consecutive_no_change, thresholds.map(|t| t.no_change.value)),
            same_error_threshold: raised(
                streaks.consecutive_same_error,
                thresholds.map(|t| t.same_error.value),
            ),
        }),
        max_iterations: needed_limit(status),
        ..SpecChange::default()
    }
}
