//! Searches a scenario to its bounds.

use std::time::{Duration, Instant};

use agentloop_test_support::invariants::Invariant;
use stateright::{Checker, HasDiscoveries, Model};

use crate::fair;
use crate::model::SearchModel;
use crate::scenario::Scenario;
use crate::trace;
use crate::variants::Variant;

/// What a search found.
#[derive(Debug)]
pub struct SearchResult {
    /// Distinct states.
    pub states: usize,
    /// Transitions to the farthest of them.
    pub depth: usize,
    /// All states within the scenario's bounds were visited: the search did not end because of its own limit.
    pub is_complete: bool,
    /// How long it took.
    pub duration: Duration,
    /// The invariant that is violated, and the counterexample as text.
    pub violation: Option<(Invariant, String)>,
}

/// Searches breadth first, on so many threads, to the first violation, the end, or `most` states.
pub fn search(scenario: &Scenario, variant: Variant, threads: usize, most: Option<usize>) -> SearchResult {
    let since = Instant::now();
    let model = SearchModel::new(scenario.clone(), variant);
    // One thread finds each state first on its shortest path, which a bound on the depth needs.
    let threads = if scenario.max_depth > 0 { 1 } else { threads };
    let mut builder = model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    if let Some(most) = most {
        builder = builder.target_state_count(most);
    }
    if scenario.max_depth > 0 {
        // The first state counts.
        builder = builder.target_max_depth(scenario.max_depth + 1);
    }
    let checker = builder.spawn_bfs().join();
    let violation = checker.discoveries().into_values().next().map(|found| {
        let model = checker.model();
        let last = found.last_state().clone();
        let before = fair::prefix(&model.system).0;
        let mut path: Vec<_> =
            before.into_iter().map(|(state, transition)| (state, Some(transition))).collect();
        path.extend(found.into_vec());
        let violation = last.violation.or_else(|| {
            let (invariant, text, more) = model.ends_well(&last).err()?;
            path.pop();
            path.extend(more);
            Some((invariant, text))
        });
        let (invariant, text) = violation.unwrap_or((Invariant::L1, "it could not be reproduced"));
        (invariant, trace::text(&path, invariant, text))
    });
    SearchResult {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        is_complete: violation.is_none() && most.is_none_or(|most| checker.state_count() < most),
        duration: since.elapsed(),
        violation,
    }
}
