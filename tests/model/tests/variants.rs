//! The searches can find violations: without any one guard of the protocol, they do.

use agentloop_model::{Variant, cases, search};

#[test]
fn each_guard_that_is_removed_violates_an_invariant_that_is_named() {
    let mut missed = Vec::new();
    for case in cases() {
        let result = search(&case.scenario, case.variant, 2, None);
        println!("{:?}: {} states, {:.1} s", case.variant, result.states, result.duration.as_secs_f64());
        match result.violation {
            Some((invariant, trace)) if case.violates.contains(&invariant) => println!("{trace}"),
            Some((invariant, trace)) => {
                missed.push(format!("{:?}: {} was violated\n{trace}", case.variant, invariant.name()));
            }
            None => missed.push(format!("{:?}: nothing was violated", case.variant)),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn the_same_searches_find_no_violation_by_the_operator_as_it_is() {
    for case in cases() {
        let result = search(&case.scenario, Variant::Unbroken, 2, Some(60_000));
        let violation = result.violation.map_or(String::new(), |(_, trace)| trace);
        assert!(violation.is_empty(), "{:?}: {violation}", case.variant);
        assert!(result.states > 10, "{:?}: only {} states", case.variant, result.states);
    }
}
