//! The searches can see: each guard of the protocol, taken away, is missed.

use agentloop_model::{Variant, cases, search};

#[test]
fn each_guard_that_is_taken_away_breaks_an_invariant_that_is_named() {
    let mut missed = Vec::new();
    for case in cases() {
        let found = search(&case.scenario, case.variant, 2, None);
        println!("{:?}: {} states, {:.1} s", case.variant, found.states, found.took.as_secs_f64());
        match found.violation {
            Some((invariant, trace)) if case.violates.contains(&invariant) => println!("{trace}"),
            Some((invariant, trace)) => {
                missed.push(format!("{:?}: {} was broken\n{trace}", case.variant, invariant.name()));
            }
            None => missed.push(format!("{:?}: nothing was broken", case.variant)),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn the_same_searches_find_nothing_wrong_with_the_operator_as_it_is() {
    for case in cases() {
        let found = search(&case.scenario, Variant::Sound, 2, Some(60_000));
        let violation = found.violation.map_or(String::new(), |(_, trace)| trace);
        assert!(violation.is_empty(), "{:?}: {violation}", case.variant);
        assert!(found.states > 10, "{:?}: only {} states", case.variant, found.states);
    }
}
