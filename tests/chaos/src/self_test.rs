//! Tests the checker: every mutation of the operator, with plans that show it.

use std::collections::BTreeSet;
use std::sync::Arc;

use agentloop_test_support::invariants::Invariant;
use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::mutations::{ALL, Mutation};
use crate::operator::Program;
use crate::plan::{Fault, Moment, Plan, PlanKind, PlannedFault, UserAction};
use crate::runner;
use crate::world::World;

/// The seed of the plans below.
const SEED: u64 = 1;

/// The plans that show each mutation.
const SHOWN_BY: &[(Mutation, &[u64])] = &[
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
        for fault in [Fault::DelayWatches(1500), Fault::User(UserAction::DeletePod(true)), Fault::Kill] {
            plan.faults.push(PlannedFault { at, fault });
        }
    }
    plan
}

/// Parses the name of a mutation.
pub fn mutation(word: &str) -> Result<Mutation, String> {
    let known = ALL.iter().find(|(_, name, _)| *name == word);
    known.map(|(mutation, ..)| *mutation).ok_or_else(|| {
        let words: Vec<&str> = ALL.iter().map(|(_, word, _)| *word).collect();
        format!("one of {}", words.join(", "))
    })
}

/// Breaks the operator in each way, or in one, and prints which plan violated which invariants. Returns false if a
/// mutation was not detected.
pub async fn run(world: &World, program: &Program, jobs: u64, only: Option<&str>) -> Result<bool> {
    let slots = Arc::new(Semaphore::new(usize::try_from(jobs).unwrap_or(8)));
    let mut running = JoinSet::new();
    for (mutation, word, wanted) in ALL.iter().filter(|(_, word, _)| only.is_none_or(|only| only == *word)) {
        let shown = SHOWN_BY.iter().find(|(known, _)| known == mutation).map(|(_, plans)| *plans);
        for number in shown.unwrap_or_default() {
            let (world, program, slots) = (world.clone(), program.clone(), slots.clone());
            running.spawn(async move {
                let _slot = slots.acquire_owned().await?;
                let namespace = format!("mutation-{}-{word}-{number}", std::process::id());
                world.namespace(&namespace).await?;
                let plan = plan(*number);
                let result = runner::run(&world, &program, &namespace, plan, Some(*mutation)).await?;
                world.drop_namespace(&namespace).await?;
                let found: BTreeSet<Invariant> =
                    result.violations.iter().map(|found| found.invariant).collect();
                let took = result.took.as_secs();
                eprintln!("{word}, plan {number}: {found:?} after {took} s");
                anyhow::Ok((*word, *wanted, *number, result.plan.kind, found))
            });
        }
    }
    let mut lines = Vec::new();
    while let Some(result) = running.join_next().await {
        lines.push(result??);
    }
    lines.sort_by_key(|(word, _, number, ..)| (*word, *number));
    let mut is_good = true;
    for (_, word, wanted) in ALL.iter().filter(|(_, word, _)| only.is_none_or(|only| only == *word)) {
        let mut seen = false;
        for (_, _, number, kind, found) in lines.iter().filter(|(of, ..)| of == word) {
            let broken: Vec<&str> = found.iter().map(|invariant| invariant.name()).collect();
            seen |= wanted.iter().any(|wanted| found.contains(wanted));
            let number = if *number == FORGOTTEN { "hand-made".to_owned() } else { format!("plan {number}") };
            println!("{word:<20} {number:>9} ({}): {}", kind.as_str(), broken.join(", "));
        }
        if !seen {
            println!(
                "{word:<20} NOT DETECTED: no violation of {} was reported",
                wanted.iter().map(|invariant| invariant.name()).collect::<Vec<_>>().join(", ")
            );
            is_good = false;
        }
    }
    Ok(is_good)
}
