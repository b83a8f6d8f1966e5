//! Searches all scenarios, or those that are named, and prints the results.

use std::fmt::Write as _;
use std::process::ExitCode;

use agentloop_model::{Scenario, SearchResult, Variant, VariantCase, all, cases, search};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};

/// Searches everything that can happen to the operator's rules, within bounds.
#[derive(Debug, Parser)]
#[command(after_help = names_help())]
struct Arguments {
    /// Scenarios or broken variants; all scenarios if none is named
    names: Vec<String>,
    /// End each search after so many states
    #[arg(long, value_name = "STATES")]
    most: Option<usize>,
}

fn name_of(case: &VariantCase) -> String {
    format!("{:?}", case.variant)
}

fn names_help() -> String {
    let mut text = "Scenarios:\n".to_owned();
    for Scenario { name, about, .. } in all() {
        let _ = writeln!(text, "  {name:<24} {about}");
    }
    text.push_str("\nBroken variants:\n");
    for case in cases() {
        let _ = writeln!(text, "  {}", name_of(&case));
    }
    text
}

fn main() -> ExitCode {
    let Arguments { names, most } = Arguments::parse();
    let is_known = |name: &String| {
        all().iter().any(|scenario| scenario.name == name)
            || cases().iter().any(|case| name_of(case) == *name)
    };
    if let Some(name) = names.iter().find(|name| !is_known(name)) {
        let message = format!("there is no scenario and no broken variant named '{name}'");
        Arguments::command().error(ErrorKind::InvalidValue, message).exit();
    }
    let is_named = |wanted: &str| names.iter().any(|name| name == wanted);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (mut searches, mut states, mut violations, mut cut) = (0, 0, 0, 0);
    println!("{:<32} {:>12} {:>6} {:>8}  violation", "scenario", "states", "depth", "seconds");
    for scenario in all().iter().filter(|scenario| names.is_empty() || is_named(scenario.name)) {
        let result = search(scenario, Variant::Unbroken, threads, most);
        print(scenario.name, &result);
        searches += 1;
        states += result.states;
        violations += usize::from(result.violation.is_some());
        cut += usize::from(!result.is_complete && result.violation.is_none());
    }
    for case in cases().iter().filter(|case| is_named(&name_of(case))) {
        print(&name_of(case), &search(&case.scenario, case.variant, threads, most));
    }
    println!("{searches} searches, {states} states, {violations} violations, {cut} searches cut short");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(name: &str, result: &SearchResult) {
    let violation = match &result.violation {
        Some((invariant, _)) => invariant.name(),
        None if result.is_complete => "none",
        None => "none so far",
    };
    let seconds = result.duration.as_secs_f64();
    println!("{name:<32} {:>12} {:>6} {seconds:>8.1}  {violation}", result.states, result.depth);
    if let Some((_, trace)) = &result.violation {
        println!("{trace}");
    }
}
