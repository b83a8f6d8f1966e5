use agentloop_contract::report::Error;

use super::*;

#[test]
fn every_pattern_compiles() {
    assert_eq!((CONSTANTS.len(), FAILINGS.len()), (CONSTANT.len(), FAILING.len()));
}

/// The corpus: `= name` begins a pair of equal errors, `! name` a pair of different errors, and `--` separates the two
/// outputs.
const CORPUS: &str = include_str!("pairs.txt");

fn of(output: &str) -> Error {
    let lines: Vec<String> =
        output.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    error(&lines).expect("an error")
}

#[test]
fn pairs_of_outputs_are_the_same_error_if_a_person_would_say_so() {
    let (mut same, mut different, mut wrong) = (0, 0, Vec::new());
    for pair in CORPUS.split("\n\n").filter(|pair| !pair.trim().is_empty() && !pair.starts_with('#')) {
        let (head, outputs) = pair.trim_start().split_once('\n').expect("a head");
        let (one, other) = outputs.split_once("\n--\n").unwrap_or_else(|| panic!("no -- in {head}"));
        let (one, other) = (of(one), of(other));
        let expected = head.starts_with('=');
        if expected {
            same += 1;
        } else {
            different += 1;
        }
        if (one.signature == other.signature) != expected {
            wrong.push(format!("{head}: {:?} | {:?}", one.summary, other.summary));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(same >= 25 && different >= 35, "{same} and {different}");
}

#[test]
fn the_cause_is_named_even_if_the_last_line_is_always_the_same() {
    assert_eq!(line(&["cannot connect", "make: *** [Makefile:4: test] Error 1"]), Some("cannot connect"));
    assert_eq!(
        line(&["make: *** [Makefile:4: test] Error 1", " "]),
        Some("make: *** [Makefile:4: test] Error 1")
    );
    assert_eq!(
        line(&["make: *** No rule to make target 'x'.  Stop."]),
        Some("make: *** No rule to make target 'x'.  Stop.")
    );
    assert_eq!(
        line(&["Error: boom", "    at f (/x/a.js:1:2)", "  code: 'E',", "}", "", "Node.js v20.20.2"]),
        Some("Error: boom")
    );
    assert_eq!(line(&[]), None);
}
