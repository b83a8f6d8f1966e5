//! Runs many tasks through many iterations with one operator, and looks for growth.
//!
//! In the first half the operator is disturbed constantly and killed occasionally. In the second half it is never
//! killed, so that the memory of one process can be measured. At the end only the expected pods, Events and Leases may
//! be left, and nothing may be written anymore.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use agentloop_test_support::json;
use anyhow::{Context, Result, bail};
use fastrand::Rng;
use http::Method;
use serde_json::Value;
use tokio::time::{self, Instant};

use crate::experiment::Experiment;
use crate::history::NamespaceHistory;
use crate::operator::{OperatorProcess, Program};
use crate::plan::{
    AgentWork, InjectedFault, Meanwhile, Moment, Plan, PlanKind, PlannedFault, PlannedTask, RequestKind,
    Until,
};
use crate::server::{Format, tasks};
use crate::testbed::Testbed;
use crate::{kubelet, launch, user};

/// How many tasks are in one namespace.
const TASKS_PER_NAMESPACE: u32 = 50;
/// How many settled pods of each task are kept: the default.
const KEPT_PODS: i32 = 10;
/// The interval between creations, so that the tasks do not start in one burst.
const CREATION_INTERVAL: Duration = Duration::from_millis(20);
/// How long nothing may be written at the end.
const SILENCE: Duration = Duration::from_secs(20);
/// How long it waits for the next counted iteration before it gives up.
const MAX_STANDSTILL: Duration = Duration::from_mins(5);
/// The maximum number of Events of one task: the start, a few waits, the stop.
const MAX_EVENTS: usize = 12;
/// The maximum memory at the end, in percent of the memory in the middle.
const MAX_GROWTH: u64 = 150;
/// How often the operator is killed in the first half. Each kill costs the time until a Lease expires.
const KILLS: u32 = 4;

/// The size of the test.
#[derive(Clone, Copy, Debug)]
pub struct EnduranceSize {
    /// The seed of the faults.
    pub seed: u64,
    /// How many tasks.
    pub tasks: u32,
    /// How many iterations each task has.
    pub iterations: i32,
}

impl EnduranceSize {
    fn all(self) -> u64 {
        u64::from(self.tasks) * u64::try_from(self.iterations).unwrap_or(0)
    }

    /// The task and the faults as a plan. Each fault happens at a certain number of the operator's writes.
    fn plan(self) -> Plan {
        let mut rng = Rng::with_seed(self.seed);
        // Status, creation, scheduling gate, finalizer, and the deletion of an older pod.
        let writes = u32::try_from(self.all() * 5).unwrap_or(u32::MAX);
        let (half, end) = (writes / 2, writes - writes / 10);
        let mut faults = Vec::new();
        for kill in 1..=KILLS {
            faults.push(PlannedFault {
                at: Moment::After(RequestKind::Write, half / (KILLS + 1) * kill),
                fault: InjectedFault::Kill,
            });
        }
        for _ in 0..writes / 100 {
            let n = rng.u32(1..end.max(2));
            let (before, after) =
                (Moment::Before(RequestKind::Write, n), Moment::After(RequestKind::Write, n));
            faults.push(match rng.u32(..9) {
                0 => PlannedFault { at: after, fault: InjectedFault::Lose },
                1 => PlannedFault { at: before, fault: InjectedFault::Refuse(409) },
                2 => PlannedFault { at: before, fault: InjectedFault::Refuse(429) },
                3 => PlannedFault { at: before, fault: InjectedFault::Refuse(500) },
                4 => PlannedFault { at: before, fault: InjectedFault::Refuse(503) },
                5 => PlannedFault { at: after, fault: InjectedFault::CutWatches },
                6 => PlannedFault { at: before, fault: InjectedFault::Stall },
                7 => PlannedFault {
                    at: before,
                    fault: InjectedFault::Defer(Until::Millis(3000), Meanwhile::Cut),
                },
                _ => PlannedFault { at: after, fault: InjectedFault::CutNetwork(1000) },
            });
        }
        let works = (0..self.iterations).map(|_| AgentWork::Changed).collect();
        Plan {
            seed: self.seed,
            number: 0,
            kind: PlanKind::Mixed,
            task: PlannedTask {
                limit: self.iterations,
                no_change: 99,
                same_error: 99,
                history_limit: KEPT_PODS,
            },
            works,
            pod_faults: BTreeMap::new(),
            operators: 1,
            lease: true,
            clock: 0,
            faults,
        }
    }
}

/// The result.
pub struct EnduranceResult {
    /// The figures.
    pub text: String,
    /// The failures.
    pub failures: Vec<String>,
}

/// One namespace with its kubelet.
struct TestedNamespace {
    experiment: Arc<Experiment>,
    _pods: tokio::task::JoinSet<()>,
}

/// Runs the test.
pub async fn run(testbed: &Testbed, program: &Program, size: EnduranceSize) -> Result<EnduranceResult> {
    let started = Instant::now();
    let plan = size.plan();
    let names: Vec<String> = (0..size.tasks.div_ceil(TASKS_PER_NAMESPACE))
        .map(|n| format!("endurance-{}-{n}", std::process::id()))
        .collect();
    let mut namespaces = Vec::new();
    for name in &names {
        testbed.namespace(name).await?;
        let quiet = Plan { faults: Vec::new(), ..plan.clone() };
        let experiment =
            Experiment::new(quiet, testbed.server.clone(), testbed.history.namespace(name), None);
        namespaces.push(TestedNamespace { _pods: kubelet::run(&experiment), experiment });
    }
    let folder = tempfile::tempdir().context("a folder for kubeconfigs")?;
    let history = testbed.history.namespace(names.first().context("no tasks")?);
    let chief = Experiment::new(plan, testbed.server.clone(), history, None);
    let _proxies = launch::operators(&chief, program, folder.path(), &names.join(",")).await?;
    let operator = chief.operators().first().cloned().context("no operator")?;

    let creating = create(testbed, &names, size);
    let (created, marks) = tokio::join!(creating, watch(&chief, &operator, &namespaces, size, started));
    created?;
    let marks = marks?;
    let mut failures = Vec::new();
    silence(&namespaces, &mut failures).await;
    let mut text = String::new();
    report_memory(&marks, &mut text, &mut failures);
    report_faults(&chief, &mut text);
    check(&namespaces, size, &mut text, &mut failures);
    report_leftovers(testbed, &names, size, &mut text, &mut failures).await?;
    let _ =
        writeln!(text, "{:>8}  writes of the operator, without Events and Leases", chief.schedule.writes());
    for name in &names {
        let all = testbed.server.must(Method::DELETE, &tasks(name, ""), None).await;
        all.context("deleting the tasks")?;
    }
    for tested in &namespaces {
        let empty = |history: &NamespaceHistory| history.is_empty().then_some(());
        if tested.experiment.history.until(MAX_STANDSTILL, empty).await.is_none() {
            failures.push(format!(
                "S8: {} pods are left after the deletion of all tasks",
                tested.experiment.history.pods().len()
            ));
        }
    }
    chief.kill_operators().await?;
    for name in &names {
        testbed.drop_namespace(name).await?;
    }
    let _ = write!(text, "{:>8}  seconds", started.elapsed().as_secs());
    Ok(EnduranceResult { text, failures })
}

async fn create(testbed: &Testbed, names: &[String], size: EnduranceSize) -> Result<()> {
    let plan = size.plan();
    for (number, name) in (0..size.tasks).zip(names.iter().cycle()) {
        let task = user::task(&plan, &format!("task-{number}"));
        testbed.server.must(Method::POST, &tasks(name, ""), Some((Format::Json, &task))).await?;
        time::sleep(CREATION_INTERVAL).await;
    }
    Ok(())
}

/// The operator's memory after this many iterations.
struct Mark {
    done: u64,
    kilobytes: u64,
    starts: u32,
}

/// Waits until all tasks have ended, and measures the operator's memory twenty times on the way.
async fn watch(
    chief: &Experiment,
    operator: &OperatorProcess,
    namespaces: &[TestedNamespace],
    size: EnduranceSize,
    started: Instant,
) -> Result<Vec<Mark>> {
    let (mut marks, mut last, mut since) = (Vec::new(), 0, Instant::now());
    loop {
        time::sleep(Duration::from_secs(1)).await;
        operator.restart_if_exited().await?;
        let mut done = 0;
        let mut at_rest = 0;
        for tested in namespaces {
            // The writes are not checked here, and would fill the memory if they were kept.
            tested.experiment.history.drain();
            for task in tested.experiment.history.tasks() {
                done += u64::try_from(json::number(&task, "/status/iterations")).unwrap_or(0);
                at_rest += u32::from(crate::checker::is_at_rest(&task));
            }
        }
        if done > last {
            (last, since) = (done, Instant::now());
        } else if since.elapsed() > MAX_STANDSTILL {
            let (seconds, all) = (MAX_STANDSTILL.as_secs(), size.all());
            bail!(
                "L1: no iteration was counted for {seconds} s, at {done} of {all}{}",
                stragglers(namespaces)
            );
        }
        let step = (size.all() / 20).max(1);
        let due = marks.last().map_or(step, |mark: &Mark| (mark.done / step + 1) * step);
        if done >= due {
            let kilobytes = memory(operator).await.unwrap_or(0);
            eprintln!(
                "{done} of {} iterations after {} s, {kilobytes} KiB",
                size.all(),
                started.elapsed().as_secs()
            );
            marks.push(Mark { done, kilobytes, starts: operator.starts() });
        }
        if at_rest == size.tasks && chief.is_idle() {
            return Ok(marks);
        }
    }
}

/// The tasks that do not progress, and what the kubelets could not do.
fn stragglers(namespaces: &[TestedNamespace]) -> String {
    let mut text = String::new();
    for tested in namespaces {
        let history = &tested.experiment.history;
        for task in history.tasks().iter().filter(|task| !crate::checker::is_at_rest(task)) {
            let (name, status) = (json::name(task), task.pointer("/status").cloned().unwrap_or_default());
            let _ = write!(text, "\n{}/{name}: {status}", history.namespace);
            let uid = json::uid(task);
            let is_its = |pod: &&Arc<Value>| json::text(pod, "/metadata/ownerReferences/0/uid") == uid;
            for pod in history.pods().iter().filter(is_its) {
                let _ = write!(text, "\n  {pod}");
            }
        }
        for problem in tested.experiment.problems() {
            let _ = write!(text, "\n{}: {problem}", history.namespace);
        }
    }
    text
}

async fn memory(operator: &OperatorProcess) -> Option<u64> {
    let status = tokio::fs::read_to_string(format!("/proc/{}/status", operator.pid().await?)).await.ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn report_memory(marks: &[Mark], text: &mut String, failures: &mut Vec<String>) {
    let _ = writeln!(text, "the operator's memory:");
    for mark in marks {
        let _ = writeln!(
            text,
            "{:>8}  KiB after {} iterations (start {})",
            mark.kilobytes, mark.done, mark.starts
        );
    }
    // Only the last process is compared, and only after it has read every task.
    let Some(last) = marks.last() else { return };
    let of_last: Vec<&Mark> =
        marks.iter().filter(|mark| mark.starts == last.starts && mark.kilobytes > 0).collect();
    let Some(middle) = of_last.get(of_last.len() / 4) else { return };
    let percent = last.kilobytes * 100 / middle.kilobytes.max(1);
    let _ = writeln!(
        text,
        "{percent:>8}  percent at the end of what it was after {} iterations, in the same process",
        middle.done
    );
    if percent > MAX_GROWTH {
        failures.push(format!("the operator's memory has grown to {percent} percent"));
    }
}

fn report_faults(chief: &Experiment, text: &mut String) {
    let mut fired: BTreeMap<&str, u32> = BTreeMap::new();
    for (planned, _) in chief.plan.faults.iter().zip(chief.schedule.happened()).filter(|(_, fired)| *fired) {
        *fired.entry(planned.fault.as_str()).or_default() += 1;
    }
    let _ = writeln!(text, "faults that happened:");
    for (name, count) in fired {
        let _ = writeln!(text, "{count:>8}  {name}");
    }
}

/// L2.
async fn silence(namespaces: &[TestedNamespace], failures: &mut Vec<String>) {
    // Deferred requests may still arrive, and their pods must be cleaned up.
    time::sleep(SILENCE).await;
    for tested in namespaces {
        tested.experiment.history.drain();
    }
    time::sleep(SILENCE).await;
    let count: usize = namespaces.iter().map(|tested| tested.experiment.history.count()).sum();
    if count > 0 {
        failures.push(format!("L2: {count} writes to tasks and pods after the end"));
    }
}

/// Checks that every task is at its limit, and that every iteration was executed once.
fn check(namespaces: &[TestedNamespace], size: EnduranceSize, text: &mut String, failures: &mut Vec<String>) {
    let mut executed = 0;
    for tested in namespaces {
        let mut runs: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for run in tested.experiment.ground_truth.all().iter().filter(|run| run.executed) {
            executed += 1;
            if !runs.entry(run.task.clone()).or_default().insert(run.iteration) {
                failures.push(format!("S2: iteration {} of a task was executed again", run.iteration));
            }
        }
        for task in tested.experiment.history.tasks() {
            let (name, phase) = (json::name(&task), json::text(&task, "/status/phase"));
            let count = json::number(&task, "/status/iterations");
            if phase != "IterationLimitReached" || count != i64::from(size.iterations) {
                failures.push(format!("L1: {name} is {phase} after {count} iterations"));
            }
            let ran = runs.get(json::uid(&task)).map_or(0, BTreeSet::len);
            if i64::try_from(ran).unwrap_or(0) != count {
                failures.push(format!("S4: {name} counts {count} iterations, but {ran} were executed"));
            }
        }
    }
    let _ = writeln!(text, "{executed:>8}  agents executed, of {} iterations", size.all());
}

/// Counts the objects that are left at the end.
async fn report_leftovers(
    testbed: &Testbed,
    names: &[String],
    size: EnduranceSize,
    text: &mut String,
    failures: &mut Vec<String>,
) -> Result<()> {
    let (mut pods, mut finalizers, mut leases) = (0, 0, 0);
    let mut events: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        for pod in testbed.history.namespace(name).pods() {
            pods += 1;
            finalizers += usize::from(json::has(&pod, "/metadata/finalizers/0"));
        }
        let path = format!("/apis/events.k8s.io/v1/namespaces/{name}/events");
        for event in json::list(&testbed.server.must(Method::GET, &path, None).await?, "/items") {
            if json::text(event, "/regarding/kind") == "AgentTask" {
                *events.entry(json::text(event, "/regarding/name").to_owned()).or_default() += 1;
            }
        }
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{name}/leases");
        leases += json::list(&testbed.server.must(Method::GET, &path, None).await?, "/items").len();
    }
    let max = events.values().max().copied().unwrap_or(0);
    let _ = writeln!(text, "{pods:>8}  pods, {finalizers} of them with a finalizer");
    let _ = writeln!(text, "{:>8}  Events, at most {max} of one task", events.values().sum::<usize>());
    let _ = writeln!(text, "{leases:>8}  Leases");
    let kept = usize::try_from(size.tasks).unwrap_or(0) * usize::try_from(KEPT_PODS).unwrap_or(1);
    for (has_failed, what) in [
        (pods > kept, format!("there are {pods} pods, but only {kept} should be left")),
        (finalizers > 0, format!("{finalizers} pods still have a finalizer at the end")),
        (leases != 1, format!("there are {leases} Leases, not one")),
        (max > MAX_EVENTS, format!("a task has {max} Events")),
    ] {
        if has_failed {
            failures.push(what);
        }
    }
    Ok(())
}
