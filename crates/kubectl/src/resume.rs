//! Which patch resumes a task.

use std::str::FromStr;

use agentloop_core::api::{AgentTask, AgentTaskStatus, MAX_ITERATIONS, Phase, StopReason};
use agentloop_core::resume::{SpecChange, doubled_limit, hard_limit, needed_limit, next_token};

use crate::text;

/// A requested limit of iterations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// This number.
    Is(i32),
    /// This many more than the limit in force, or than were counted if that is more.
    More(i32),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, limit): (&str, fn(i32) -> Self) = match text.strip_prefix('+') {
            Some(number) => (number, Self::More),
            None => (text, Self::Is),
        };
        match number.parse() {
            Ok(number @ 1..=MAX_ITERATIONS) => Ok(limit(number)),
            _ => Err(format!("must be a number from 1 to {MAX_ITERATIONS}, or +N for N more than now")),
        }
    }
}

/// What `resume` does with one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The change of its spec.
    pub change: SpecChange,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The change that resumes a task, or why there is none.
pub fn plan(task: &AgentTask, max: Option<Limit>, reset: bool) -> Result<Plan, String> {
    let status = task.status.clone().unwrap_or_default();
    let said = || text::line(status.message.as_deref().unwrap_or_default());
    let stop = status.stop.as_ref();
    if stop.is_some_and(|stop| stop.phase == Phase::Succeeded) {
        return Err(format!("it succeeded, which is final: create another task to continue ({})", said()));
    }
    if stop.is_some_and(|stop| {
        matches!(stop.phase, Phase::Other(_)) || matches!(stop.reason, StopReason::Other(_))
    }) {
        return Err(said());
    }
    let mut change = SpecChange { suspend: task.spec.suspend.then_some(false), ..SpecChange::default() };
    change.max_iterations = max.map(|max| number(&status, max)).transpose()?;
    match stop.map(|stop| stop.phase) {
        Some(Phase::CircuitOpen | Phase::Failed) => {
            change.reset_token = Some(next_token(task, &status));
            change.max_iterations = change.max_iterations.or_else(|| needed_limit(&status));
        }
        Some(Phase::IterationLimitReached) if max.is_none() => {
            change.max_iterations = Some(doubled_limit(&status).ok_or_else(said)?);
        }
        _ => {}
    }
    if reset {
        change.reset_token = Some(next_token(task, &status));
    }
    if change == SpecChange::default() {
        let phase = status.phase.unwrap_or(Phase::Pending);
        return Err(format!("it is {phase}, so there is nothing to resume: {}", said()));
    }
    let warnings = warnings(task, &status, &change)?;
    Ok(Plan { change, warnings })
}

fn number(status: &AgentTaskStatus, max: Limit) -> Result<i32, String> {
    let count = status.iterations;
    let number = match max {
        Limit::Is(number) => number,
        Limit::More(more) => status.max_iterations.unwrap_or(count).max(count).saturating_add(more),
    };
    if number <= count {
        return Err(format!(
            "--max {number} would not resume it: {count} iterations are counted already, and the limit counts from the \
             first; try --max +{}",
            count.max(1)
        ));
    }
    if number > MAX_ITERATIONS {
        return Err(format!("no task can have more than {MAX_ITERATIONS} iterations"));
    }
    Ok(number)
}

fn warnings(task: &AgentTask, status: &AgentTaskStatus, change: &SpecChange) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    let (hard, count) = (hard_limit(status), status.iterations);
    let raise = "an administrator can raise hardLimit in the operator's configuration";
    if let Some(max) = change.max_iterations.filter(|max| *max > hard) {
        if count >= hard {
            return Err(format!(
                "the hard limit of {hard} is reached, so --max {max} has no effect: {raise}"
            ));
        }
        warnings.push(format!("the hard limit of {hard} applies, not {max}: {raise}"));
    }
    if task.metadata.generation > status.observed_generation && status.observed_generation.is_some() {
        warnings.push(
            "the operator has not yet seen the last change of this task; its status may be outdated"
                .to_owned(),
        );
    }
    let limit = change.max_iterations.or(status.max_iterations);
    if change.reset_token.is_some() && limit.is_some_and(|limit| count >= limit.min(hard)) {
        let cure = if count >= hard { raise.to_owned() } else { format!("add --max +{}", count.max(1)) };
        warnings.push(format!("{count} iterations are counted, and the limit does not allow more: {cure}"));
    }
    Ok(warnings)
}

/// What will happen, in words.
pub fn effect(change: &SpecChange) -> String {
    let mut effects = Vec::new();
    if change.suspend == Some(false) {
        effects.push("not suspended".to_owned());
    }
    if change.reset_token.is_some() {
        effects.push("streaks at zero".to_owned());
    }
    if let Some(max) = change.max_iterations {
        effects.push(format!("at most {max} iterations"));
    }
    effects.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn task(spec: &Value, status: &Value) -> AgentTask {
        let mut task = json!({
            "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask",
            "metadata": { "name": "x", "namespace": "dev", "generation": 2 },
            "spec": { "template": { "spec": { "containers": [{ "name": "a", "image": "i", "command": ["c"] }] } } },
            "status": status,
        });
        for (key, value) in spec.as_object().cloned().unwrap_or_default() {
            task["spec"][key] = value;
        }
        serde_json::from_value(task).expect("a task")
    }

    fn stopped(phase: &str, reason: &str, iterations: i32, limit: i32) -> Value {
        let from = |value: i32| json!({ "value": value, "from": "Default" });
        json!({
            "phase": phase, "reason": reason, "message": "why", "iterations": iterations, "maxIterations": limit,
            "stop": { "phase": phase, "reason": reason, "generation": 2 },
            "breaker": { "consecutiveNoChange": 3 },
            "thresholds": {
                "maxIterations": from(limit), "hardLimit": from(50), "noChange": from(3), "sameError": from(5),
                "iterationTimeoutSeconds": from(3600),
            },
        })
    }

    fn patch(spec: &Value, status: &Value, max: Option<&str>, reset: bool) -> Result<Value, String> {
        let max = max.map(|max| max.parse().expect("a limit"));
        plan(&task(spec, status), max, reset).map(|plan| plan.change.patch()["spec"].clone())
    }

    #[test]
    fn each_stop_gets_the_patch_that_lifts_it() {
        let limit = || stopped("IterationLimitReached", "IterationLimit", 10, 10);
        let breaker = || stopped("CircuitOpen", "NoChange", 4, 10);
        let failed = || stopped("Failed", "Unauthenticated", 4, 10);
        for (spec, status, max, reset, expected) in [
            (json!({}), limit(), None, false, json!({ "maxIterations": 20 })),
            (json!({}), limit(), Some("+5"), false, json!({ "maxIterations": 15 })),
            (json!({}), limit(), Some("12"), true, json!({ "maxIterations": 12, "resetToken": "after-10" })),
            (json!({}), breaker(), None, false, json!({ "resetToken": "after-4" })),
            (
                json!({}),
                breaker(),
                Some("+5"),
                false,
                json!({ "resetToken": "after-4", "maxIterations": 15 }),
            ),
            (
                json!({ "resetToken": "after-4" }),
                breaker(),
                None,
                false,
                json!({ "resetToken": "after-4-again" }),
            ),
            (json!({}), failed(), None, false, json!({ "resetToken": "after-4" })),
            (
                json!({ "suspend": true }),
                json!({ "phase": "Suspended" }),
                None,
                false,
                json!({ "suspend": false }),
            ),
            (
                json!({ "suspend": true }),
                limit(),
                None,
                false,
                json!({ "suspend": false, "maxIterations": 20 }),
            ),
            (
                json!({}),
                json!({ "phase": "Running", "maxIterations": 10, "iterations": 2 }),
                Some("+5"),
                false,
                json!({ "maxIterations": 15 }),
            ),
        ] {
            assert_eq!(patch(&spec, &status, max, reset), Ok(expected), "{status}");
        }
    }

    #[test]
    fn a_breaker_that_opened_at_the_limit_needs_both() {
        let status = stopped("CircuitOpen", "NoChange", 10, 10);
        assert_eq!(
            patch(&json!({}), &status, None, false),
            Ok(json!({ "resetToken": "after-10", "maxIterations": 20 }))
        );
    }

    #[test]
    fn what_cannot_be_resumed_says_why() {
        for (status, max, words) in [
            (stopped("Succeeded", "Completed", 4, 10), Some("+5"), "which is final"),
            (stopped("BudgetReached", "CostBudget", 4, 10), None, "why"),
            (
                json!({ "phase": "Running", "message": "iteration 3" }),
                None,
                "it is Running, so there is nothing",
            ),
            (stopped("IterationLimitReached", "IterationLimit", 50, 50), None, "why"),
            (stopped("IterationLimitReached", "IterationLimit", 50, 50), Some("+5"), "the hard limit of 50"),
            (stopped("IterationLimitReached", "IterationLimit", 10, 10), Some("7"), "would not resume it"),
        ] {
            let refused = patch(&json!({}), &status, max, false).expect_err(words);
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn a_limit_above_the_hard_limit_is_a_warning_if_iterations_are_left() {
        let status = stopped("IterationLimitReached", "IterationLimit", 10, 10);
        let plan = plan(&task(&json!({}), &status), Some(Limit::Is(80)), false).expect("a plan");
        assert_eq!(plan.change.max_iterations, Some(80));
        assert!(plan.warnings[0].contains("the hard limit of 50 applies"), "{:?}", plan.warnings);
    }

    #[test]
    fn streaks_at_zero_do_not_help_at_the_limit_and_the_warning_says_what_does() {
        let words = |iterations, limit| {
            let status = stopped("CircuitOpen", "NoChange", iterations, limit);
            plan(&task(&json!({}), &status), None, false).expect("a plan").warnings.join("; ")
        };
        assert!(
            words(50, 50)
                .contains("50 iterations are counted, and the limit does not allow more: an administrator")
        );
        assert_eq!(words(10, 10), "", "the limit is raised too");
        let running = json!({ "phase": "Running", "iterations": 10, "maxIterations": 10 });
        let reset = plan(&task(&json!({}), &running), None, true).expect("a plan");
        assert!(reset.warnings[0].ends_with("add --max +10"), "{:?}", reset.warnings);
    }

    #[test]
    fn a_status_of_an_earlier_generation_is_a_warning() {
        let mut status = stopped("CircuitOpen", "NoChange", 4, 10);
        status["observedGeneration"] = json!(1);
        let plan = plan(&task(&json!({}), &status), None, false).expect("a plan");
        assert!(plan.warnings[0].contains("not yet seen"), "{:?}", plan.warnings);
    }
}
