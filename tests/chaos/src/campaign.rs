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
use crate::report::{Report, details};
use crate::runner;
use crate::world::World;

/// Which plans are carried out.
#[derive(Clone, Debug)]
pub struct Range {
    /// Where their choices come from.
    pub seed: u64,
    /// The first one's number.
    pub from: u64,
    /// How many.
    pub plans: u64,
    /// How many at the same time.
    pub jobs: u64,
}

/// How they are carried out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Breaks the operator in this way.
    pub mutation: Option<Mutation>,
    /// The details of every plan are printed.
    pub details: bool,
    /// The plans of [`regressions`] come first.
    pub regressions: bool,
}

/// The most plans whose details are printed: a bad bug shows in every plan.
const MOST_DETAILS: usize = 12;
/// Progress is printed whenever this many plans are done.
const PROGRESS_EVERY: u64 = 250;

/// Carries out all plans.
pub async fn run(world: &World, program: &Program, range: &Range, options: &Options) -> Result<Report> {
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(range.from));
    let regressions = if options.regressions { regressions::all() } else { Vec::new() };
    let most = range.plans + u64::try_from(regressions.len()).unwrap_or(0);
    let regressions = Arc::new(Mutex::new(regressions));
    let end = range.from + range.plans;
    let report = Arc::new(Mutex::new(Report::default()));
    // With the process id, so that what an aborted run leaves is in no other run's way.
    let namespaces: Vec<String> =
        (0..range.jobs.min(most)).map(|worker| format!("chaos-{}-{worker}", std::process::id())).collect();
    for name in &namespaces {
        world.namespace(name).await?;
    }
    let mut workers = JoinSet::new();
    for namespace in namespaces.clone() {
        let (world, program, range) = (world.clone(), program.clone(), range.clone());
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
                let result = match runner::run(&world, &program, &namespace, plan, options.mutation).await {
                    Ok(result) => result,
                    Err(error) => {
                        eprintln!("plan {number} could not be carried out: {error:#}");
                        report.lock().trouble(range.seed, number, &error);
                        continue;
                    }
                };
                let mut report = report.lock();
                report.add(&result);
                let bad = report.violated.len() + report.troubled.len();
                let is_bad = !result.violations.is_empty() || !result.problems.is_empty();
                if options.details || (is_bad && bad <= MOST_DETAILS) {
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
                        "{} plans in {} s, {bad} of them failed",
                        report.plans,
                        started.elapsed().as_secs()
                    );
                }
            }
        });
    }
    loop {
        tokio::select! {
            why = world.history.broken() => bail!("{why}"),
            ended = workers.join_next() => match ended {
                Some(result) => result??,
                None => break,
            },
        }
    }
    for name in &namespaces {
        world.drop_namespace(name).await?;
    }
    let mut report = std::mem::take(&mut *report.lock());
    report.took = started.elapsed();
    Ok(report)
}
