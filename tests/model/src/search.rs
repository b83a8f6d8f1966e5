//! Searches a scenario to its bounds.

use std::time::{Duration, Instant};

use agentloop_test_support::invariants::Invariant;
use stateright::{Checker, HasDiscoveries, Model};

use crate::model::World;
use crate::scenarios::Scenario;
use crate::trace;
use crate::variants::Variant;

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// Distinct states.
    pub states: usize,
    /// Steps to the farthest of them.
    pub depth: usize,
    /// All states within the scenario's bounds were seen: it did not end for having seen as many as it may.
    pub is_whole: bool,
    /// How long it took.
    pub took: Duration,
    /// The invariant that is violated, and how it comes about, step by step.
    pub violation: Option<(Invariant, String)>,
}

/// Searches breadth first, on as many threads, to the first violation, the end, or as many steps.
pub fn search(scenario: &Scenario, variant: Variant, threads: usize, most: Option<usize>) -> Found {
    let since = Instant::now();
    let world = World::new(scenario.clone(), variant);
    // By one thread a state is first seen on its shortest way, which a bound on steps needs.
    let threads = if scenario.steps > 0 { 1 } else { threads };
    let mut builder = world.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    if let Some(most) = most {
        builder = builder.target_state_count(most);
    }
    if scenario.steps > 0 {
        // The first state counts.
        builder = builder.target_max_depth(scenario.steps + 1);
    }
    let checker = builder.spawn_bfs().join();
    let violation = checker.discoveries().into_values().next().map(|path| {
        let world = checker.model();
        let last = path.last_state().clone();
        let mut steps: Vec<_> =
            world.opening().0.into_iter().map(|(state, step)| (state, Some(step))).collect();
        steps.extend(path.into_vec());
        let broken = last.broken.or_else(|| {
            let (invariant, words, more) = world.rests(&last).err()?;
            steps.pop();
            steps.extend(more);
            Some((invariant, words))
        });
        let (invariant, words) = broken.unwrap_or((Invariant::L1, "it could not be told again"));
        (invariant, trace::tell(&steps, invariant, words))
    });
    Found {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        is_whole: violation.is_none() && most.is_none_or(|most| checker.state_count() < most),
        took: since.elapsed(),
        violation,
    }
}
