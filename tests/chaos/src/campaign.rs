//! Many plans at the same time, each in a namespace of its worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::mutations::Mutation;
use crate::operator::Program;
use crate::plan::Plan;
use crate::regressions;
use crate::report::{CampaignReport, details};
use crate::runner;
use crate::testbed::Testbed;

/// Which plans are carried out.
#[derive(Clone, Debug)]
pub struct PlanRange {
    /// The seed of their random choices.
    pub seed: u64,
    /// The number of the first plan.
    pub from: u64,
    /// How many plans.
    pub plans: u64,
    /// How many run at the same time.
    pub jobs: u64,
}

/// How the plans are carried out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Breaks the operator in this way.
    pub mutation: Option<Mutation>,
    /// Whether to print the details of every plan.
    pub details: bool,
    /// Whether to carry out the plans of [`regressions`] first.
    pub regressions: bool,
}

/// The maximum number of failed plans whose details are printed: a bad bug may make every plan fail.
const MAX_DETAILS: usize = 12;
/// Progress is printed each time this many plans are done.
const PROGRESS_EVERY: u64 = 250;

/// Carries out all plans.
pub async fn run(
    testbed: &Testbed,
    program: &Program,
    range: &PlanRange,
    options: &Options,
) -> Result<CampaignReport> {
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(range.from));
    let regressions = if options.regressions { regressions::all() } else { Vec::new() };
    let total = range.plans + u64::try_from(regressions.len()).unwrap_or(0);
    let regressions = Arc::new(Mutex::new(regressions));
    let end = range.from + range.plans;
    let report = Arc::new(Mutex::new(CampaignReport::default()));
    // The names contain the process id, so that leftovers of an aborted run do not affect other runs.
    let namespaces: Vec<String> =
        (0..range.jobs.min(total)).map(|worker| format!("chaos-{}-{worker}", std::process::id())).collect();
    for name in &namespaces {
        testbed.namespace(name).await?;
    }
    let mut workers = JoinSet::new();
    for namespace in namespaces.clone() {
        let (testbed, program, range) = (testbed.clone(), program.clone(), range.clone());
        let (next, report, regressions, options) =
            (next.clone(), report.clone(), regressions.clone(), *options);
        workers.spawn(async move {
            loop {
                let first = regressions.lock().pop();
                let plan = match first {
                    Some(plan) => plan,
                    None => match next.fetch_add(1, Ordering::SeqCst) {
                        number if number < end => Plan::of(range.seed, number),
                        _ => return anyhow::Ok(()),
                    },
                };
                let number = plan.number;
                let result = match runner::run(&testbed, &program, &namespace, plan, options.mutation).await {
                    Ok(result) => result,
                    Err(error) => {
                        eprintln!("plan {number} could not be carried out: {error:#}");
                        report.lock().add_failed_plan(range.seed, number, &error);
                        continue;
                    }
                };
                let mut report = report.lock();
                report.add(&result);
                let failed = report.violated.len() + report.troubled.len();
                let has_failed = !result.violations.is_empty() || !result.problems.is_empty();
                if options.details || (has_failed && failed <= MAX_DETAILS) {
                    eprintln!("{}", details(&result));
                }
                if std::env::var_os("CHAOS_TIMES").is_some() {
                    eprintln!(
                        "{:>6} ms  {} starts {} writes  {} {}",
                        result.took.as_millis(),
                        result.starts,
                        result.writes,
                        number,
                        result.plan.kind.as_str()
                    );
                }
                if report.plans.is_multiple_of(PROGRESS_EVERY) {
                    eprintln!(
                        "{} plans in {} s, {failed} of them failed",
                        report.plans,
                        started.elapsed().as_secs()
                    );
                }
            }
        });
    }
    loop {
        tokio::select! {
            why = testbed.history.broken() => bail!("{why}"),
            ended = workers.join_next() => match ended {
                Some(result) => result??,
                None => break,
            },
        }
    }
    for name in &namespaces {
        testbed.drop_namespace(name).await?;
    }
    let mut report = std::mem::take(&mut *report.lock());
    report.took = started.elapsed();
    Ok(report)
}
