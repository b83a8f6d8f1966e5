//! Tests the checker: runs every mutation of the operator with plans that reveal it.

use std::collections::BTreeSet;
use std::sync::Arc;

use agentloop_test_support::invariants::Invariant;
use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::mutations::{ALL, Mutation};
use crate::operator::Program;
use crate::plan::{InjectedFault, Moment, Plan, PlanKind, PlannedFault, UserAction};
use crate::runner;
use crate::testbed::Testbed;

/// The seed of the plans below.
const SEED: u64 = 1;

/// The plans that reveal each mutation.
const REVEALED_BY: &[(Mutation, &[u64])] = &[
    (Mutation::NoSchedulingGate, &[31, 131, 80]),
    (Mutation::NoFinalizer, &[FORGOTTEN]),
    (Mutation::EarlyFinalizerRemoval, &[1]),
    (Mutation::KeepFinalizer, &[0]),
    (Mutation::NoResourceVersion, &[140, 86]),
    (Mutation::CountTwice, &[1]),
    (Mutation::StaleConfirmation, &[7, 53]),
    (Mutation::IgnorePreviousPods, &[397, 797]),
    (Mutation::HideContainers, &[11]),
    (Mutation::IgnoreSuspend, &[59]),
    (Mutation::ForgetStreak, &[370]),
    (Mutation::AdoptForeignPod, &[108]),
    (Mutation::WrongPhase, &[67]),
    (Mutation::KeepWriting, &[62]),
];

/// Stands for a hand-written plan: a pod is deleted by force while its agent runs, and the operator is killed before
/// it learns of that.
const FORGOTTEN: u64 = u64::MAX;

fn plan(number: u64) -> Plan {
    let mut plan = Plan::of(SEED, if number == FORGOTTEN { 0 } else { number });
    if number == FORGOTTEN {
        let at = Moment::Running(1);
        plan.kind = PlanKind::DeletedPod;
        for fault in [
            InjectedFault::DelayWatches(1500),
            InjectedFault::User(UserAction::DeletePod(true)),
            InjectedFault::Kill,
        ] {
            plan.faults.push(PlannedFault { at, fault });
        }
    }
    plan
}

/// Parses the name of a mutation.
pub fn mutation(name: &str) -> Result<Mutation, String> {
    let found = ALL.iter().find(|(_, known, _)| *known == name);
    found.map(|(mutation, ..)| *mutation).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|(_, name, _)| *name).collect();
        format!("must be one of {}", names.join(", "))
    })
}

/// Breaks the operator in every way, or only in one, and prints which plan violated which invariants. Returns false if
/// a mutation was not detected.
pub async fn run(testbed: &Testbed, program: &Program, jobs: u64, only: Option<&str>) -> Result<bool> {
    let slots = Arc::new(Semaphore::new(usize::try_from(jobs).unwrap_or(8)));
    let mut running = JoinSet::new();
    for (mutation, name, _) in ALL.iter().filter(|(_, name, _)| only.is_none_or(|only| only == *name)) {
        let plans = REVEALED_BY.iter().find(|(known, _)| known == mutation).map(|(_, plans)| *plans);
        for number in plans.unwrap_or_default() {
            let (testbed, program, slots) = (testbed.clone(), program.clone(), slots.clone());
            running.spawn(async move {
                let _slot = slots.acquire_owned().await?;
                let namespace = format!("mutation-{}-{name}-{number}", std::process::id());
                testbed.namespace(&namespace).await?;
                let plan = plan(*number);
                let result = runner::run(&testbed, &program, &namespace, plan, Some(*mutation)).await?;
                testbed.drop_namespace(&namespace).await?;
                let found: BTreeSet<Invariant> =
                    result.violations.iter().map(|found| found.invariant).collect();
                let took = result.took.as_secs();
                eprintln!("{name}, plan {number}: {found:?} after {took} s");
                anyhow::Ok((*name, *number, result.plan.kind, found))
            });
        }
    }
    let mut lines = Vec::new();
    while let Some(result) = running.join_next().await {
        lines.push(result??);
    }
    lines.sort_by_key(|(name, number, ..)| (*name, *number));
    let mut passed = true;
    for (_, name, expected) in ALL.iter().filter(|(_, name, _)| only.is_none_or(|only| only == *name)) {
        let mut detected = false;
        for (_, number, kind, found) in lines.iter().filter(|(of, ..)| of == name) {
            let violated: Vec<&str> = found.iter().map(|invariant| invariant.name()).collect();
            detected |= expected.iter().any(|expected| found.contains(expected));
            let number = if *number == FORGOTTEN { "own plan".to_owned() } else { format!("plan {number}") };
            println!("{name:<20} {number:>9} ({}): {}", kind.as_str(), violated.join(", "));
        }
        if !detected {
            println!(
                "{name:<20} NOT DETECTED: no violation of {} was reported",
                expected.iter().map(|invariant| invariant.name()).collect::<Vec<_>>().join(", ")
            );
            passed = false;
        }
    }
    Ok(passed)
}
