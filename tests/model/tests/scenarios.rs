//! The scenarios of `make model`, as far as a minute reaches.

use agentloop_model::{Variant, all, search};

/// States of each scenario.
const MOST: usize = 110_000;

#[test]
fn the_first_states_of_each_scenario_violate_nothing() {
    for scenario in all() {
        let result = search(&scenario, Variant::Unbroken, 2, Some(MOST));
        let violation = result.violation.map_or(String::new(), |(_, trace)| trace);
        assert!(violation.is_empty(), "{}:\n{violation}", scenario.name);
        assert!(result.states > 1000, "{}: only {} states", scenario.name, result.states);
    }
}
