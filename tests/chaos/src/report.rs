//! The report at the end of a campaign, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use agentloop_test_support::json;
use serde_json::{Value, json};

use crate::history::{ObjectKind, RecordedWrite};
use crate::plan::PlanKind;
use crate::runner::PlanResult;

/// The totals over all plans of a campaign.
#[derive(Default)]
pub struct CampaignReport {
    /// Plans of each kind.
    pub kinds: BTreeMap<PlanKind, u64>,
    /// Plans of each kind in which no fault happened.
    pub unfired: BTreeMap<PlanKind, u64>,
    /// Faults that happened, by name.
    pub fired: BTreeMap<&'static str, u64>,
    /// Plans.
    pub plans: u64,
    /// The operators' writes, without Events and Leases.
    pub writes: u64,
    /// How often an operator was started.
    pub starts: u64,
    /// Agents that were executed.
    pub executions: u64,
    /// Iterations that were charged.
    pub iterations: u64,
    /// Writes in the recorded history.
    pub recorded: u64,
    /// Plans with a violation.
    pub violated: Vec<Value>,
    /// Plans that could not be carried out.
    pub troubled: Vec<Value>,
    /// How long it took.
    pub took: Duration,
}

impl CampaignReport {
    /// Adds one plan's result.
    pub fn add(&mut self, result: &PlanResult) {
        let plan = &result.plan;
        self.plans += 1;
        *self.kinds.entry(plan.kind).or_default() += 1;
        let count = |fired: &mut BTreeMap<&'static str, u64>, name| *fired.entry(name).or_default() += 1;
        for (planned, fired) in plan.faults.iter().zip(&result.fired) {
            if *fired {
                count(&mut self.fired, planned.fault.as_str());
            }
        }
        for run in &result.runs {
            if let Some(pod_fault) = plan.pod_fault(run.iteration, run.attempt) {
                count(&mut self.fired, pod_fault.as_str());
            }
        }
        if !plan.faults.is_empty() && !result.fired.contains(&true) {
            *self.unfired.entry(plan.kind).or_default() += 1;
        }
        self.writes += u64::from(result.writes);
        self.starts += u64::from(result.starts);
        let executed = result.runs.iter().filter(|run| run.executed).count();
        self.executions += u64::try_from(executed).unwrap_or(0);
        let counted = result
            .runs
            .iter()
            .filter(|run| run.end.as_ref().is_some_and(crate::ground_truth::RunEnd::is_charged));
        self.iterations += u64::try_from(counted.count()).unwrap_or(0);
        self.recorded += u64::try_from(result.recorded.len()).unwrap_or(0);
        if !result.violations.is_empty() {
            let violations: Vec<String> = result
                .violations
                .iter()
                .map(|found| format!("{}: {}", found.invariant, found.what))
                .collect();
            self.violated.push(json!({ "seed": plan.seed, "plan": plan.number, "kind": plan.kind.as_str(), "violations": violations }));
        }
        if !result.problems.is_empty() {
            self.troubled
                .push(json!({ "seed": plan.seed, "plan": plan.number, "problems": result.problems }));
        }
    }

    /// Counts a plan that could not be carried out at all.
    pub fn add_failed_plan(&mut self, seed: u64, number: u64, error: &anyhow::Error) {
        self.plans += 1;
        self.troubled.push(json!({ "seed": seed, "plan": number, "problems": [format!("{error:#}")] }));
    }

    /// The report as JSON.
    pub fn to_json(&self) -> Value {
        let kinds = |counts: &BTreeMap<PlanKind, u64>| -> Value {
            counts
                .iter()
                .map(|(kind, count)| (kind.as_str().to_owned(), json!(count)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        json!({
            "plans": self.plans,
            "plansByKind": kinds(&self.kinds),
            "plansWithoutTheirFault": kinds(&self.unfired),
            "faults": self.fired,
            "operatorStarts": self.starts,
            "operatorWrites": self.writes,
            "historyWrites": self.recorded,
            "executions": self.executions,
            "iterations": self.iterations,
            "violations": self.violated,
            "troubles": self.troubled,
            "seconds": self.took.as_secs(),
        })
    }
}

impl fmt::Display for CampaignReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:>7}  plans, in {} s", self.plans, self.took.as_secs())?;
        for (kind, count) in &self.kinds {
            let unfired = match self.unfired.get(kind) {
                Some(unfired) => {
                    format!(" (in {unfired} of them, the moment of the fault was never reached)")
                }
                None => String::new(),
            };
            writeln!(out, "{count:>15}  {}{unfired}", kind.as_str())?;
        }
        writeln!(out, "{:>7}  faults that happened", self.fired.values().sum::<u64>())?;
        for (name, count) in &self.fired {
            writeln!(out, "{count:>15}  {name}")?;
        }
        writeln!(out, "{:>7}  starts of the operator", self.starts)?;
        writeln!(out, "{:>7}  writes of the operator, without Events and Leases", self.writes)?;
        writeln!(out, "{:>7}  recorded writes that were checked", self.recorded)?;
        writeln!(out, "{:>7}  agents executed", self.executions)?;
        writeln!(out, "{:>7}  iterations that were charged", self.iterations)?;
        writeln!(out, "{:>7}  plans that could not be carried out", self.troubled.len())?;
        write!(out, "{:>7}  plans with a violation", self.violated.len())
    }
}

/// Everything that is known about a plan.
pub fn details(result: &PlanResult) -> String {
    use fmt::Write;
    let mut text = String::new();
    let _ = write!(text, "{}", result.plan);
    let first = result.recorded.first().map_or(0, |write| write.version);
    for write in &result.recorded {
        let marks = result.violations.iter().filter(|found| found.version == write.version);
        let _ = writeln!(text, "  {:>5}  {}", write.version - first, line(write));
        for found in marks {
            let _ = writeln!(text, "         ^^ {}: {}", found.invariant, found.what);
        }
    }
    for run in &result.runs {
        let what = run.end.as_ref().map_or("still runs".to_owned(), |end| format!("{end:?}"));
        let executed = if run.executed { "executed" } else { "bound" };
        let _ = writeln!(text, "  {executed}: iteration {}, attempt {}: {what}", run.iteration, run.attempt);
    }
    let fired = result.fired.iter().filter(|fired| **fired).count();
    let _ = writeln!(
        text,
        "  {fired} of {} faults happened; {} writes of the operator",
        result.fired.len(),
        result.writes
    );
    for problem in &result.problems {
        let _ = writeln!(text, "PROBLEM {problem}");
    }
    for found in &result.violations {
        let _ = writeln!(text, "VIOLATION {}: {}", found.invariant, found.what);
    }
    let _ = writeln!(
        text,
        "to repeat it: make chaos SEED={} FROM={} PLANS=1",
        result.plan.seed, result.plan.number
    );
    text
}

fn line(write: &RecordedWrite) -> String {
    let object = &write.object;
    let name = json::name(object);
    if write.gone {
        return format!("{:?} {name} is gone", write.kind);
    }
    match write.kind {
        ObjectKind::Task => {
            let active = object.pointer("/status/active").map(|active| {
                format!(" active {}.{}", json::number(active, "/iteration"), json::number(active, "/attempt"))
            });
            let stop = json::text(object, "/status/stop/phase");
            format!(
                "task {name} g{} {} {}/{}{}{}{} limit {}{}",
                json::number(object, "/metadata/generation"),
                json::text(object, "/status/phase"),
                json::number(object, "/status/iterations"),
                json::number(object, "/status/maxIterations"),
                active.unwrap_or_default(),
                if stop.is_empty() { "" } else { " stopped" },
                if json::has(object, "/status/waiting") { " waiting" } else { "" },
                json::number(object, "/spec/maxIterations"),
                if json::has(object, "/spec/suspend") { " suspend" } else { "" },
            )
        }
        ObjectKind::Pod => {
            let mut flags = vec![json::text(object, "/status/phase").to_owned()];
            for (pointer, flag) in [
                ("/spec/schedulingGates/0", "gated"),
                ("/spec/nodeName", "bound"),
                ("/metadata/deletionTimestamp", "deleting"),
                ("/metadata/finalizers/0", "finalizer"),
                ("/status/containerStatuses/0/state/running", "runs"),
                ("/status/containerStatuses/0/state/terminated", "terminated"),
            ] {
                if json::has(object, pointer) {
                    flags.push(flag.to_owned());
                }
            }
            format!("pod {name} {}", flags.join(", "))
        }
    }
}
