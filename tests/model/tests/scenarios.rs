//! The scenarios of `make model`, as far as a minute reaches.

use agentloop_model::{Variant, all, search};

/// Steps of each scenario.
const STEPS: usize = 150_000;

#[test]
fn the_first_states_of_each_scenario_break_nothing() {
    for scenario in all() {
        let found = search(&scenario, Variant::Sound, 2, Some(STEPS));
        let violation = found.violation.map_or(String::new(), |(_, trace)| trace);
        assert!(violation.is_empty(), "{}:\n{violation}", scenario.name);
        assert!(found.states > 1000, "{}: only {} states", scenario.name, found.states);
    }
}
