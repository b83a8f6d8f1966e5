//! Searches all scenarios, or those that are named, and prints what was found.

use std::process::ExitCode;

use agentloop_model::{Found, Variant, all, cases, search};

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| named.is_empty() || named.iter().any(|wanted| wanted == name);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = std::env::var("MODEL_MOST").ok().and_then(|most| most.parse().ok());
    let (mut states, mut violations, mut cut) = (0, 0, 0);
    println!("{:<24} {:>12} {:>6} {:>8}  violation", "scenario", "states", "depth", "seconds");
    for scenario in all().iter().filter(|scenario| is_wanted(scenario.name)) {
        let found = search(scenario, Variant::Sound, threads, most);
        print(scenario.name, &found);
        states += found.states;
        violations += usize::from(found.violation.is_some());
        cut += usize::from(!found.is_whole && found.violation.is_none());
    }
    for case in cases() {
        let name = format!("{:?}", case.variant);
        if !named.is_empty() && is_wanted(&name) {
            print(&name, &search(&case.scenario, case.variant, threads, most));
        }
    }
    println!("{states} states, {violations} violations, {cut} searches cut short");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(name: &str, found: &Found) {
    let violation = match &found.violation {
        Some((rule, _)) => rule.name(),
        None if found.is_whole => "none",
        None => "none so far",
    };
    let seconds = found.took.as_secs_f64();
    println!("{name:<24} {:>12} {:>6} {seconds:>8.1}  {violation}", found.states, found.depth);
    if let Some((_, trace)) = &found.violation {
        println!("{trace}");
    }
}
