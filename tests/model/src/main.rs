//! Searches all scenarios, or those that are named, and prints what was found.

use std::fmt::Write as _;
use std::process::ExitCode;

use agentloop_model::{Case, Found, Scenario, Variant, all, cases, search};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};

/// Searches all that can happen to the operator's rules, within bounds.
#[derive(Debug, Parser)]
#[command(after_help = what_there_is())]
struct Arguments {
    /// Scenarios, or ways to break the operator; every scenario when none is named
    names: Vec<String>,
    /// End each search once it has seen so many states
    #[arg(long, value_name = "STATES")]
    most: Option<usize>,
}

fn name_of(case: &Case) -> String {
    format!("{:?}", case.variant)
}

fn what_there_is() -> String {
    let mut text = "Scenarios:\n".to_owned();
    for Scenario { name, about, .. } in all() {
        let _ = writeln!(text, "  {name:<24} {about}");
    }
    text.push_str("\nWays to break the operator:\n");
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
        let message = format!("there is no scenario and no way to break the operator named '{name}'");
        Arguments::command().error(ErrorKind::InvalidValue, message).exit();
    }
    let is_named = |wanted: &str| names.iter().any(|name| name == wanted);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (mut states, mut violations, mut cut) = (0, 0, 0);
    println!("{:<24} {:>12} {:>6} {:>8}  violation", "scenario", "states", "depth", "seconds");
    for scenario in all().iter().filter(|scenario| names.is_empty() || is_named(scenario.name)) {
        let found = search(scenario, Variant::Sound, threads, most);
        print(scenario.name, &found);
        states += found.states;
        violations += usize::from(found.violation.is_some());
        cut += usize::from(!found.is_whole && found.violation.is_none());
    }
    for case in cases().iter().filter(|case| is_named(&name_of(case))) {
        print(&name_of(case), &search(&case.scenario, case.variant, threads, most));
    }
    println!("{states} states, {violations} violations, {cut} searches cut short");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(name: &str, found: &Found) {
    let violation = match &found.violation {
        Some((invariant, _)) => invariant.name(),
        None if found.is_whole => "none",
        None => "none so far",
    };
    let seconds = found.took.as_secs_f64();
    println!("{name:<24} {:>12} {:>6} {seconds:>8.1}  {violation}", found.states, found.depth);
    if let Some((_, trace)) = &found.violation {
        println!("{trace}");
    }
}
