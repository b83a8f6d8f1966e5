//! Checks the invariants of docs/protocol.md against the API's own history.
//!
//! It has only two sources: what the API server recorded, write by write, and what the agents really did. From these it
//! keeps its own count, and compares every status with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentloop_test_support::invariants::Invariant;
use agentloop_test_support::json;
use serde_json::Value;

use crate::ground_truth::{AgentRun, RunEnd};
use crate::history::{ObjectKind, RecordedWrite};

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant.
    pub invariant: Invariant,
    /// How it was violated.
    pub what: String,
    /// The version of the write that violated it; 0 if there is no such write.
    pub version: u64,
}

impl Violation {
    /// A violation that was found outside the history.
    pub fn new(invariant: Invariant, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into(), version: 0 }
    }
}

/// The highest limit that a task can have: the operator's default, because no plan configures another.
const HARD_LIMIT: i64 = 50;
/// The finalizer that keeps a pod until it is settled.
const FINALIZER: &str = "agentloop.dev/settle";
/// The scheduling gate that keeps a pod from starting until its iteration is confirmed as active.
const SCHEDULING_GATE: &str = "agentloop.dev/start";

/// What the checker has counted for one task.
#[derive(Default)]
struct TaskTally {
    /// The task as it was last written; `None` once it is deleted.
    now: Option<Arc<Value>>,
    activated: BTreeSet<(i64, i64)>,
    no_change: i64,
    same_error: i64,
    error: Option<String>,
    /// The stop that the last settled iteration requires.
    verdict: Option<&'static str>,
}

/// Checks one plan.
pub struct Checker<'a> {
    runs: &'a [AgentRun],
    tasks: BTreeMap<String, TaskTally>,
    pods: BTreeMap<String, Arc<Value>>,
    violations: Vec<Violation>,
    at: u64,
}

/// All violations in the history of a plan.
pub fn check(history: &[RecordedWrite], runs: &[AgentRun]) -> Vec<Violation> {
    let mut checker =
        Checker { runs, tasks: BTreeMap::new(), pods: BTreeMap::new(), violations: Vec::new(), at: 0 };
    for write in history {
        checker.at = write.version;
        match write.kind {
            ObjectKind::Task => checker.task(write),
            ObjectKind::Pod => checker.pod(write),
        }
    }
    checker.at = 0;
    checker.executions();
    checker.violations
}

/// Whether a task is at rest: it has stopped, the status is that of the current spec, and nothing runs.
pub fn is_at_rest(task: &Value) -> bool {
    let is_current =
        json::number(task, "/status/observedGeneration") == json::number(task, "/metadata/generation");
    is_current && json::has(task, "/status/stop") && !json::has(task, "/status/active") && !is_suspended(task)
}

fn is_suspended(task: &Value) -> bool {
    task.pointer("/spec/suspend").and_then(Value::as_bool).unwrap_or_default()
}

fn has_ended(pod: &Value) -> bool {
    let deleting = json::has(pod, "/metadata/deletionTimestamp");
    let bound = json::has(pod, "/spec/nodeName");
    matches!(json::text(pod, "/status/phase"), "Succeeded" | "Failed") || (deleting && !bound)
}

fn is_gated(pod: &Value) -> bool {
    json::list(pod, "/spec/schedulingGates").iter().any(|gate| json::text(gate, "/name") == SCHEDULING_GATE)
}

fn has_finalizer(pod: &Value) -> bool {
    json::list(pod, "/metadata/finalizers").iter().any(|name| name == FINALIZER)
}

fn owner(pod: &Value) -> &str {
    json::text(pod, "/metadata/ownerReferences/0/uid")
}

fn label(pod: &Value, name: &str) -> i64 {
    json::text(pod, &format!("/metadata/labels/agentloop.dev~1{name}")).parse().unwrap_or(0)
}

fn place(pod: &Value) -> (i64, i64) {
    (label(pod, "iteration"), label(pod, "attempt"))
}

fn active(task: &Value) -> Option<(i64, i64)> {
    json::has(task, "/status/active").then(|| {
        (json::number(task, "/status/active/iteration"), json::number(task, "/status/active/attempt"))
    })
}

fn limit(task: &Value) -> i64 {
    task.pointer("/spec/maxIterations").and_then(Value::as_i64).unwrap_or(10).min(HARD_LIMIT)
}

impl Checker<'_> {
    fn report(&mut self, invariant: Invariant, what: impl Into<String>) {
        self.violations.push(Violation { invariant, what: what.into(), version: self.at });
    }

    fn task(&mut self, write: &RecordedWrite) {
        let uid = json::uid(&write.object).to_owned();
        let mut count = self.tasks.remove(&uid).unwrap_or_default();
        let before = count.now.take();
        if !write.gone {
            let none = Value::Null;
            let old = before.as_deref().unwrap_or(&none);
            if old.pointer("/status") != write.object.pointer("/status") {
                self.status(&uid, &mut count, old, &write.object);
            }
            count.now = Some(write.object.clone());
        }
        self.tasks.insert(uid, count);
    }

    /// One write of a status.
    fn status(&mut self, uid: &str, count: &mut TaskTally, before: &Value, after: &Value) {
        let iterations = |task: &Value| json::number(task, "/status/iterations");
        let grown = iterations(after) - iterations(before);
        if grown != 0 && grown != 1 {
            self.report(
                Invariant::S4,
                format!("iterations changed from {} to {}", iterations(before), iterations(after)),
            );
        }
        let token = |task: &Value| json::text(task, "/status/lastHandledResetToken").to_owned();
        let new_token = token(before) != token(after);
        if new_token {
            (count.no_change, count.same_error, count.error) = (0, 0, None);
            count.verdict = count.verdict.filter(|verdict| *verdict == "Succeeded");
        }
        let settled = active(before).filter(|current| active(after) != Some(*current));
        match settled {
            Some(current) => self.settled(uid, count, current, grown == 1),
            None if grown != 0 => self.report(Invariant::S4, "an iteration was counted that was not active"),
            None => {}
        }
        self.streaks(count, after);
        if let Some(current) = active(after).filter(|current| active(before) != Some(*current)) {
            self.became_active(count, before, after, current, new_token);
        }
        self.stop(count, before, after);
        self.limit_phase(after);
        if json::text(before, "/status/phase") == "Succeeded"
            && json::text(after, "/status/phase") != "Succeeded"
        {
            self.report(Invariant::S5, "the task left Succeeded");
        }
    }

    /// An iteration was settled. Whether it is charged must match how its agent ended, and its pod must have ended.
    fn settled(&mut self, uid: &str, count: &mut TaskTally, (iteration, attempt): (i64, i64), charged: bool) {
        let is_its = |run: &&AgentRun| {
            run.task == uid && i64::from(run.iteration) == iteration && i64::from(run.attempt) == attempt
        };
        let end = self.runs.iter().rfind(is_its).map(|run| run.end.clone());
        let live = self
            .pods
            .values()
            .any(|pod| owner(pod) == uid && place(pod) == (iteration, attempt) && !has_ended(pod));
        if live {
            self.report(
                Invariant::S4,
                format!("iteration {iteration}, attempt {attempt} was settled before its pod had ended"),
            );
        }
        let Some(end) = end else {
            if charged {
                self.report(
                    Invariant::S4,
                    format!("iteration {iteration}, attempt {attempt} was charged but never ran"),
                );
            }
            return;
        };
        let end = end.unwrap_or(RunEnd::Cut);
        if charged != end.is_charged() {
            let how = if charged { "charged" } else { "not charged" };
            self.report(
                Invariant::S4,
                format!("iteration {iteration}, attempt {attempt} was {how}, but its agent ended as {end:?}"),
            );
        }
        if !charged {
            return;
        }
        count.verdict = None;
        match &end {
            RunEnd::Ended { changed, error, ready, fatal } => {
                count.no_change = if *changed { 0 } else { count.no_change + 1 };
                count.add_error(error.map(|error| format!("error {error}")));
                if *ready {
                    count.verdict = Some("Succeeded");
                } else if *fatal {
                    count.verdict = Some("Failed");
                }
            }
            RunEnd::Killed => count.add_error(Some("killed".to_owned())),
            RunEnd::Interrupted | RunEnd::Cut | RunEnd::Refused | RunEnd::NeverStarted => {}
        }
    }

    fn streaks(&mut self, count: &TaskTally, after: &Value) {
        for (name, expected) in
            [("consecutiveNoChange", count.no_change), ("consecutiveSameError", count.same_error)]
        {
            let actual = json::number(after, &format!("/status/breaker/{name}"));
            if actual != expected {
                self.report(Invariant::S4, format!("{name} is {actual} but should be {expected}"));
            }
        }
    }

    fn became_active(
        &mut self,
        count: &mut TaskTally,
        before: &Value,
        after: &Value,
        current: (i64, i64),
        new_token: bool,
    ) {
        let (iteration, attempt) = current;
        let what = format!("iteration {iteration}, attempt {attempt} became active");
        let done = json::number(after, "/status/iterations");
        if iteration != done + 1 {
            self.report(Invariant::S2, format!("{what} after {done} iterations"));
        }
        if count.activated.iter().any(|earlier| *earlier >= current) {
            self.report(Invariant::S2, format!("{what}, but it or a later one was active before"));
        }
        count.activated.insert(current);
        if iteration > limit(after) {
            self.report(Invariant::S3, format!("{what} with a limit of {}", limit(after)));
        }
        if is_suspended(after) {
            self.report(Invariant::S5, format!("{what} while the task is suspended"));
        }
        if json::has(after, "/status/stop") {
            self.report(Invariant::S5, format!("{what} although the task has stopped"));
        }
        if json::has(before, "/status/stop") && !new_token {
            let phase = json::text(before, "/status/stop/phase");
            let same = json::number(before, "/status/stop/generation")
                == json::number(after, "/metadata/generation");
            if same || matches!(phase, "Succeeded" | "Failed") {
                self.report(Invariant::S5, format!("{what} after the stop {phase}, which was not lifted"));
            }
        }
        if let Some(stop) = count.calls_for(after) {
            self.report(Invariant::S5, format!("{what}, but the task should have stopped as {stop}"));
        }
    }

    /// A stop must be the one that the rules require.
    fn stop(&mut self, count: &TaskTally, before: &Value, after: &Value) {
        if !json::has(after, "/status/stop")
            || before.pointer("/status/stop") == after.pointer("/status/stop")
        {
            return;
        }
        let phase = json::text(after, "/status/stop/phase").to_owned();
        match count.calls_for(after) {
            Some(expected) if expected == phase => {}
            expected => {
                let expected = expected.unwrap_or("nothing");
                self.report(
                    Invariant::S5,
                    format!("the task stopped as {phase}, but the rules require {expected}"),
                );
            }
        }
    }

    /// S6: the phase is IterationLimitReached exactly when it must be.
    fn limit_phase(&mut self, after: &Value) {
        let Some(max) = after.pointer("/status/maxIterations").and_then(Value::as_i64) else { return };
        let other = matches!(json::text(after, "/status/stop/phase"), "CircuitOpen" | "Failed" | "Succeeded");
        let reached = json::number(after, "/status/iterations") >= max;
        let is_due = reached && !other && !is_suspended(after) && active(after).is_none();
        let phase = json::text(after, "/status/phase");
        if (phase == "IterationLimitReached") != is_due {
            self.report(
                Invariant::S6,
                format!("the phase is {phase} after {} of {max}", json::number(after, "/status/iterations")),
            );
        }
    }

    fn pod(&mut self, write: &RecordedWrite) {
        let pod = &write.object;
        let before = self.pods.remove(json::uid(pod));
        let is_new = before.is_none();
        if !write.gone {
            self.pods.insert(json::uid(pod).to_owned(), pod.clone());
            let was_gated = before.as_deref().is_none_or(is_gated);
            if was_gated && !is_gated(pod) && (!has_ended(pod) || !is_new) {
                self.gate_removed(pod);
            }
        }
        let had_finalizer = before.as_deref().is_some_and(has_finalizer);
        if had_finalizer && (write.gone || !has_finalizer(pod)) {
            self.finalizer_removed(before.as_deref().unwrap_or(pod));
        }
        self.only_one_runs(pod);
    }

    fn task_of(&self, pod: &Value) -> Option<Arc<Value>> {
        self.tasks.get(owner(pod)).and_then(|count| count.now.clone())
    }

    /// A pod lost the scheduling gate. Its iteration must be the active one.
    fn gate_removed(&mut self, pod: &Value) {
        let Some(task) = self.task_of(pod) else { return };
        if active(&task) != Some(place(pod)) {
            let (iteration, attempt) = place(pod);
            let what = format!(
                "the pod of iteration {iteration}, attempt {attempt} lost its scheduling gate, but the active one is {:?}",
                active(&task)
            );
            self.report(Invariant::S2, what);
        }
    }

    /// A pod lost the finalizer. Its iteration must be settled in the status by then, unless the task is gone.
    fn finalizer_removed(&mut self, pod: &Value) {
        let Some(task) = self.task_of(pod) else { return };
        let deleting = json::has(&task, "/metadata/deletionTimestamp");
        if !deleting && active(&task) == Some(place(pod)) {
            let (iteration, attempt) = place(pod);
            self.report(
                Invariant::S4,
                format!(
                    "the pod of iteration {iteration}, attempt {attempt} lost its finalizer before it was settled"
                ),
            );
        }
    }

    /// S1, for all tasks of one name together, because they may share a workspace.
    fn only_one_runs(&mut self, pod: &Value) {
        let name = json::text(pod, "/metadata/labels/agentloop.dev~1task").to_owned();
        let live = self.pods.values().filter(|pod| {
            json::text(pod, "/metadata/labels/agentloop.dev~1task") == name
                && !is_gated(pod)
                && !has_ended(pod)
        });
        let live: Vec<&str> = live.map(|pod| json::name(pod)).collect();
        if live.len() > 1 {
            let what = format!("several pods may run: {}", live.join(", "));
            self.report(Invariant::S1, what);
        }
    }

    /// S1 and S2, checked against the agents that were really executed.
    fn executions(&mut self) {
        let mut done: BTreeMap<(&str, i32), Vec<&AgentRun>> = BTreeMap::new();
        for run in self.runs.iter().filter(|run| run.executed) {
            let (iteration, attempt) = (run.iteration, run.attempt);
            if let Some(other) = &run.beside {
                let what = format!(
                    "the agent of iteration {iteration}, attempt {attempt} was executed while that of {other} ran"
                );
                self.violations.push(Violation::new(Invariant::S1, what));
            }
            let earlier = done.entry((run.task.as_str(), iteration)).or_default();
            if let Some(before) = earlier.iter().find(|run| run.end.as_ref().is_none_or(RunEnd::is_charged)) {
                let what = format!(
                    "iteration {iteration} was executed again, as attempt {attempt}: attempt {} was {:?}",
                    before.attempt, before.end
                );
                self.violations.push(Violation::new(Invariant::S2, what));
            } else if earlier.iter().any(|run| run.attempt == attempt) {
                self.violations.push(Violation::new(
                    Invariant::S2,
                    format!("iteration {iteration}, attempt {attempt} was executed twice"),
                ));
            }
            earlier.push(run);
        }
        let mut last: BTreeMap<&str, i32> = BTreeMap::new();
        for (task, iteration) in done.keys() {
            let before = last.insert(task, *iteration).unwrap_or(0);
            // An iteration that never ran may have been charged: on a lost node, nothing proves that it did not run.
            let charged = self.runs.iter().any(|run| run.task == *task && run.iteration == before + 1);
            if *iteration != before + 1 && !charged {
                let what = format!("iteration {iteration} was executed after iteration {before}");
                self.violations.push(Violation::new(Invariant::S2, what));
            }
        }
    }
}

impl TaskTally {
    fn add_error(&mut self, error: Option<String>) {
        self.same_error = match (&error, &self.error) {
            (None, _) => 0,
            (Some(error), Some(last)) if error == last => self.same_error + 1,
            (Some(_), _) => 1,
        };
        self.error = error;
    }

    /// The stop that the rules require: the first that applies.
    fn calls_for(&self, task: &Value) -> Option<&'static str> {
        let threshold = |name: &str, otherwise| {
            task.pointer(&format!("/spec/breaker/{name}")).and_then(Value::as_i64).unwrap_or(otherwise)
        };
        if let Some(verdict) = self.verdict {
            return Some(verdict);
        }
        if self.same_error >= threshold("sameErrorThreshold", 5)
            || self.no_change >= threshold("noChangeThreshold", 3)
        {
            return Some("CircuitOpen");
        }
        (json::number(task, "/status/iterations") >= limit(task)).then_some("IterationLimitReached")
    }
}
