//! The targets, and what was measured against each.

use crate::arms::Arm;
use crate::parts::disturbed::{CONFIGURED, LEADER_LOSS, MEANWHILE, RELIST, RESTART};
use crate::parts::kubelet::{self, Sequence};
use crate::parts::loops::{ONE, PACED, SATURATED};
use crate::parts::runner;
use crate::parts::scale::{ARM, DELETED, EMPTY, beside, step};
use crate::records::Records;
use crate::stats::{percentile, ratio};

/// What a target demands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// This much or less.
    AtMost(f64),
    /// This much or more.
    AtLeast(f64),
}

/// One line of the table of targets.
#[derive(Clone, Debug)]
pub struct Row {
    /// The point that it belongs to.
    pub point: u32,
    /// What is compared.
    pub what: String,
    /// The value, and its unit.
    pub value: Option<f64>,
    /// See [`Row::value`].
    pub unit: &'static str,
    /// What it is divided by; `None` if the value itself is compared.
    pub reference: Option<f64>,
    /// The target.
    pub bound: Bound,
    /// A count does not depend on how fast or busy the machine is: it fails the run if it exceeds its bound.
    pub is_count: bool,
}

impl Row {
    fn absolute(point: u32, what: &str, value: Option<f64>, unit: &'static str, bound: Bound) -> Self {
        Self { point, what: what.to_owned(), value, unit, reference: None, bound, is_count: false }
    }

    fn relative(
        point: u32,
        what: &str,
        value: Option<f64>,
        unit: &'static str,
        reference: Option<f64>,
        bound: Bound,
    ) -> Self {
        // Without the reference there is nothing to compare.
        let value = reference.and(value);
        Self { reference, ..Self::absolute(point, what, value, unit, bound) }
    }

    fn count(self) -> Self {
        Self { is_count: true, ..self }
    }

    /// The number that is compared with the target.
    pub fn compared(&self) -> Option<f64> {
        match self.reference {
            Some(reference) => ratio(self.value?, reference),
            None => self.value,
        }
    }

    /// Whether the target is reached; `None` if it was not measured.
    pub fn is_reached(&self) -> Option<bool> {
        let compared = self.compared()?;
        Some(match self.bound {
            Bound::AtMost(most) => compared <= most,
            Bound::AtLeast(least) => compared >= least,
        })
    }

    /// A count that exceeds its bound.
    pub fn fails(&self) -> bool {
        self.is_count && self.is_reached() == Some(false)
    }
}

const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// The memory that 10,000 tasks may take, beyond what the empty operator takes.
const MAX_BYTES: f64 = 96.0 * MEBIBYTE / 10_000.0;

/// Requests that an operator may make once at its start.
const START: Bound = Bound::AtMost(20.0);

/// Eight, and a little for what others write meanwhile: the raw writer is charged with it too.
const PUTS: Bound = Bound::AtMost(8.05);

/// All targets with what was measured.
pub fn rows(records: &Records) -> Vec<Row> {
    let points = [gaps, rates, cpu, memory, restarts, requests, runner, on_a_kubelet];
    points.iter().flat_map(|rows| rows(records)).collect()
}

fn agentloop() -> &'static str {
    Arm::Agentloop.name()
}

fn raw() -> &'static str {
    Arm::Raw { confirms: true }.name()
}

fn job() -> &'static str {
    Arm::Job { tuned: true }.name()
}

fn gaps(records: &Records) -> Vec<Row> {
    let gap = |load, arm, percent| records.percentile(load, arm, "gap_ms", percent);
    let row = |load, percent, most| {
        let what = format!("gap p{percent:.0}, {load}, against the raw writer with GET");
        let (ours, floor) = (gap(load, agentloop(), percent), gap(load, raw(), percent));
        Row::relative(1, &what, ours, "ms", floor, Bound::AtMost(most))
    };
    vec![row(ONE, 50.0, 1.25), row(ONE, 99.0, 1.5), row(PACED, 50.0, 1.5), row(PACED, 99.0, 1.5)]
}

fn rates(records: &Records) -> Vec<Row> {
    let rate = |arm| records.per(SATURATED, arm, "iterations", "seconds");
    let row = |against: &str, arm, least| {
        let what = format!("iterations per second, saturated, against {against}");
        Row::relative(2, &what, rate(agentloop()), "/s", rate(arm), Bound::AtLeast(least))
    };
    vec![row("the raw writer with GET", raw(), 0.95), row("the tuned Job controller", job(), 1.0)]
}

fn cpu(records: &Records) -> Vec<Row> {
    let each = |arm| records.per(SATURATED, arm, "contender_cpu_s", "iterations").map(|cpu| cpu * 1000.0);
    let per_step: Vec<f64> =
        steps(records).into_iter().filter_map(|count| cpu_beside(records, count)).collect();
    let [least, most] = [0.0, 100.0].map(|percent| percentile(&per_step, percent));
    vec![
        Row::absolute(
            3,
            "operator CPU per iteration, saturated",
            each(agentloop()),
            "ms",
            Bound::AtMost(2.0),
        ),
        Row::relative(
            3,
            "operator CPU per iteration, saturated, against the tuned Job controller",
            each(agentloop()),
            "ms",
            each(job()),
            Bound::AtMost(1.0),
        ),
        Row::relative(
            3,
            "operator CPU per iteration beside idle tasks, the most against the least",
            most,
            "ms",
            least,
            Bound::AtMost(1.2),
        ),
    ]
}

/// The numbers of idle tasks that were measured.
pub fn steps(records: &Records) -> Vec<usize> {
    let loads = records.loads("scale");
    let counts = loads.iter().filter_map(|load| load.strip_suffix(" idle tasks")?.parse().ok());
    counts.filter(|count| *count > 0).collect()
}

/// CPU per iteration of the loops beside so many idle tasks, in ms.
pub fn cpu_beside(records: &Records, count: usize) -> Option<f64> {
    Some(records.per(&beside(count), ARM, "contender_cpu_s", "iterations")? * 1000.0)
}

/// Bytes in memory for each task beyond the first step, pods included.
pub fn bytes_per_task(records: &Records) -> Option<f64> {
    let steps = steps(records);
    let (last, first) = (*steps.last()?, *steps.get(steps.len().checked_sub(2)?)?);
    let of = |count, metric| records.value(&step(count), ARM, metric);
    let bytes = of(last, "memory_bytes")? - of(first, "memory_bytes")?;
    ratio(bytes.max(0.0), of(last, "tasks")? - of(first, "tasks")?)
}

fn memory(records: &Records) -> Vec<Row> {
    let most = steps(records).last().copied().unwrap_or_default();
    let of = |load: &str, metric| Some(records.value(load, ARM, metric)? / MEBIBYTE);
    let at_most = of(&step(most), "memory_bytes").filter(|_| most >= 10_000);
    let relist = |metric| of(RELIST, metric);
    vec![
        Row::absolute(
            4,
            "memory with 10,000 tasks, 10,000 live and 10,000 retained pods",
            at_most,
            "MiB",
            Bound::AtMost(96.0),
        ),
        Row::absolute(
            4,
            "memory per task with its pods",
            bytes_per_task(records),
            "bytes",
            Bound::AtMost(MAX_BYTES.round()),
        )
        .count(),
        Row::relative(
            4,
            "memory after all tasks are deleted, against the start",
            of(DELETED, "memory_bytes"),
            "MiB",
            of(EMPTY, "memory_bytes"),
            Bound::AtMost(1.5),
        ),
        Row::relative(
            4,
            "memory during a relist, against before",
            relist("memory_peak_bytes"),
            "MiB",
            relist("memory_before_bytes"),
            Bound::AtMost(1.5),
        ),
    ]
}

fn restarts(records: &Records) -> Vec<Row> {
    let value = |load, metric| records.value(load, ARM, metric);
    let followed = records.percentile(MEANWHILE, ARM, "followed_ms", 100.0);
    let none = Bound::AtMost(0.0);
    vec![
        Row::absolute(
            5,
            "a restart: ready, and all tasks reconciled",
            value(RESTART, "reconciled_ms"),
            "ms",
            Bound::AtMost(5000.0),
        ),
        Row::absolute(5, "a restart: writes", value(RESTART, "writes"), "", none).count(),
        Row::absolute(5, "a restart: requests, none of them per task", value(RESTART, "requests"), "", START)
            .count(),
        Row::absolute(
            5,
            "pods that ended while the operator was down: the last is followed, after the caches are full",
            followed,
            "ms",
            Bound::AtMost(1000.0),
        ),
        Row::absolute(5, "a changed ConfigMap: writes", value(CONFIGURED, "writes"), "", none).count(),
        Row::absolute(
            5,
            "the leader is killed: next action (its Lease lives for 15 s)",
            value(LEADER_LOSS, "next_action_ms"),
            "ms",
            Bound::AtMost(16_000.0),
        ),
    ]
}

fn requests(records: &Records) -> Vec<Row> {
    let each = |metric| records.per(ONE, agentloop(), metric, "iterations");
    let deleted = records.per(DELETED, ARM, "own_deletes", "deleted_pods");
    let deleted_in_vain = records.value(DELETED, ARM, "own_pod_writes_in_vain");
    let in_vain = |load, arm| records.value(load, arm, "pod_writes_in_vain");
    let early = records.value(ONE, agentloop(), "cleaned_early_share");
    let none = Bound::AtMost(0.0);
    vec![
        Row::absolute(6, "requests per iteration", each("requests"), "", Bound::AtMost(6.0)).count(),
        Row::absolute(6, "writes to etcd per iteration", each("etcd_puts"), "", PUTS).count(),
        Row::absolute(6, "DELETEs of pods per iteration", each("pod_deletes"), "", Bound::AtMost(1.0))
            .count(),
        Row::absolute(6, "pods cleaned up before the next one was started, share", early, "", none).count(),
        Row::absolute(6, "writes to pods in vain, one loop", in_vain(ONE, agentloop()), "", none).count(),
        Row::absolute(
            6,
            "writes to pods in vain, saturated loops",
            in_vain(SATURATED, agentloop()),
            "",
            none,
        )
        .count(),
        Row::absolute(6, "all tasks deleted: DELETEs for each pod", deleted, "", Bound::AtMost(1.0)).count(),
        Row::absolute(6, "all tasks deleted: writes to pods in vain", deleted_in_vain, "", none).count(),
    ]
}

fn runner(records: &Records) -> Vec<Row> {
    let start = |arm| records.percentile(runner::START, arm, "ms", 50.0);
    let added = start("runner").zip(start("alone")).map(|(inside, alone)| inside - alone);
    let rate = |arm| records.per(runner::OUTPUT, arm, "mebibytes", "seconds");
    let peak = records.value(runner::OUTPUT, "runner", "memory_peak_bytes").map(|bytes| bytes / MEBIBYTE);
    let took = |arm| records.value(runner::FINGERPRINT, arm, "ms");
    // Each run takes two fingerprints: before the agent and after it.
    let first = took("hash").zip(took("git status")).map(|(hash, status)| hash + status);
    let second = took("git status").map(|status| 2.0 * status);
    vec![
        Row::absolute(7, "time that the runner adds to a start, p50", added, "ms", Bound::AtMost(5.0)),
        Row::relative(
            7,
            "output through the runner, against the same agent piped into cat",
            rate("runner"),
            "MiB/s",
            rate("alone"),
            Bound::AtLeast(0.9),
        ),
        Row::absolute(7, "the runner's memory with much output", peak, "MiB", Bound::AtMost(8.0)),
        Row::relative(
            7,
            "first run on a repository, against hashing its files once and one git status",
            took("first run"),
            "ms",
            first,
            Bound::AtMost(1.2),
        ),
        Row::relative(
            7,
            "second run on a repository, against git status twice",
            took("second run"),
            "ms",
            second,
            Bound::AtMost(1.0),
        ),
    ]
}

fn on_a_kubelet(records: &Records) -> Vec<Row> {
    let took = |sequence: Sequence| Some(records.value(kubelet::LOAD, sequence.name(), "ms")? / 1000.0);
    let row = |ours: Sequence, against: Sequence, most| {
        let what = format!("ten {}: {}, against {}", kubelet::LOAD, ours.name(), against.name());
        Row::relative(8, &what, took(ours), "s", took(against), Bound::AtMost(most))
    };
    vec![
        row(Sequence::ImageVolume, Sequence::Job, 0.67),
        row(Sequence::ImageVolume, Sequence::Bare, 1.05),
        row(Sequence::InitContainer, Sequence::Job, 1.05),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Label;

    #[test]
    fn only_a_count_over_its_bound_fails_the_run() {
        let slow = Row::absolute(1, "a time", Some(9.0), "ms", Bound::AtMost(1.0));
        assert_eq!((slow.is_reached(), slow.fails()), (Some(false), false));
        let many = Row::absolute(6, "a count", Some(9.0), "", Bound::AtMost(1.0)).count();
        assert!(many.fails());
        let few = Row { value: Some(1.0), ..many.clone() };
        assert!(!few.fails());
        let unmeasured = Row { value: None, ..many };
        assert_eq!((unmeasured.is_reached(), unmeasured.fails()), (None, false));
    }

    #[test]
    fn a_ratio_is_compared_and_needs_both_sides() {
        let row = Row::relative(2, "a rate", Some(19.0), "/s", Some(20.0), Bound::AtLeast(0.95));
        assert_eq!(row.is_reached(), Some(true));
        let alone = Row::relative(2, "a rate", Some(19.0), "/s", None, Bound::AtLeast(0.95));
        assert_eq!(alone.is_reached(), None);
    }

    #[test]
    fn bytes_per_task_are_the_growth_between_the_last_two_steps() {
        let mut records = Records::default();
        for (count, bytes) in [(10, 1e6), (100, 2e6), (1000, 11e6)] {
            let label = Label::new("scale", &step(count), ARM, 1);
            records.0.push(label.record("memory_bytes", vec![bytes]));
            let tasks = crate::stats::as_f64(count);
            records.0.push(label.record("tasks", vec![tasks]));
        }
        assert_eq!(steps(&records), [10, 100, 1000]);
        assert_eq!(bytes_per_task(&records), Some(10_000.0));
    }
}
