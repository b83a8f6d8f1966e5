//! Whole loops: how far they run, what stops them, and what resumes them.

use crate::support::{
    Simulation, after, done, exited, failed_with, idled, rate_limited, timed_out, unauthenticated, worked,
};
use agentloop_contract::report::{Change, Error, Report};
use agentloop_core::api::{IterationOutcome, Phase, StopReason};
use serde_json::json;

fn stuck(error: &str) -> Report {
    Report { error: Some(Error::new(error)), ..worked() }
}

#[test]
fn ten_iterations_by_default_and_not_one_more() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(10, &worked());
    assert_eq!(sim.phase(), Phase::IterationLimitReached);
    assert_eq!(sim.created, (1..=10).map(|n| (n, 0)).collect::<Vec<_>>());
    assert_eq!(sim.status().progress.as_deref(), Some("10/10"));
    sim.pass(7 * 24 * 3600);
    assert_eq!(sim.created.len(), 10);
    assert_eq!(sim.condition("Stopped"), ("True".into(), "IterationLimitReached".into()));
    assert_eq!(sim.condition("Stalled").0, "False");
}

#[test]
fn raising_ten_to_twenty_gives_exactly_ten_more() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 10 }));
    sim.iterate_times(10, &worked());
    sim.edit(&json!({ "maxIterations": 20 }));
    sim.iterate_times(10, &worked());
    assert_eq!(sim.created, (1..=20).map(|n| (n, 0)).collect::<Vec<_>>());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 20));
    sim.pass(3600);
    assert_eq!(sim.created.len(), 20);
}

#[test]
fn an_edit_that_does_not_raise_the_limit_starts_nothing() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 2 }));
    sim.iterate_times(2, &worked());
    sim.edit(&json!({ "prompt": "try harder" }));
    sim.reconcile();
    sim.edit(&json!({ "maxIterations": 1 }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.created.len()), (Phase::IterationLimitReached, 2));
    assert!(sim.message().contains("the limit was lowered below the count"), "{}", sim.message());
}

#[test]
fn an_ordinary_iteration_takes_one_write_of_the_status() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    let before = sim.writes;
    sim.iterate_times(5, &worked());
    assert_eq!(sim.writes - before, 5);
}

#[test]
fn done_on_the_last_allowed_iteration_is_done() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 3 }));
    sim.iterate_times(2, &idled());
    sim.iterate(&Report { changed: Change::Unchanged, ..done() });
    assert_eq!(sim.phase(), Phase::Succeeded);
    let status = sim.status();
    assert_eq!((status.iterations, status.breaker.consecutive_no_change), (3, 3));
    assert!(status.completion_time.is_some());
    sim.edit(&json!({ "maxIterations": 50, "resetToken": "again" }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.created.len()), (Phase::Succeeded, 3));
}

#[test]
fn the_hard_limit_binds_whatever_the_task_asks_for() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 60 }));
    sim.configure(&[("hardLimit", "4"), ("noChangeThreshold", "100")]);
    sim.iterate_times(4, &worked());
    assert_eq!((sim.phase(), sim.created.len()), (Phase::IterationLimitReached, 4));
    assert_eq!(sim.status().max_iterations, Some(4));
    assert_eq!(sim.condition("LimitClamped").0, "True");
}

#[test]
fn a_limit_that_escaped_validation_never_means_unlimited() {
    for limit in [0, -1, i32::MIN] {
        let mut sim = Simulation::new(&json!({ "maxIterations": limit }));
        sim.iterate(&worked());
        assert_eq!((sim.phase(), sim.created.len()), (Phase::IterationLimitReached, 1), "{limit}");
    }
}

#[test]
fn a_lowered_configuration_stops_a_loop_after_its_active_iteration() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(4, &worked());
    sim.configure(&[("defaultMaxIterations", "3")]);
    sim.reconcile();
    assert_eq!(sim.active(), Some((5, 0)), "the active iteration continues");
    assert_eq!(sim.status().max_iterations, Some(10), "the limit under which it was started");
    sim.iterate(&worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 5));
    assert_eq!(sim.status().max_iterations, Some(3));
}

#[test]
fn a_limit_that_is_edited_while_an_iteration_runs_is_shown_immediately() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.edit(&json!({ "maxIterations": 20 }));
    sim.reconcile();
    assert_eq!((sim.active(), sim.status().max_iterations), (Some((1, 0)), Some(20)));
}

#[test]
fn a_raised_configuration_resumes_no_stopped_loop() {
    let mut sim = Simulation::new(&json!({}));
    sim.configure(&[("defaultMaxIterations", "2")]);
    sim.iterate_times(2, &worked());
    let stopped = sim.status();
    sim.configure(&[("defaultMaxIterations", "40")]);
    sim.restart();
    sim.reconcile();
    assert_eq!(sim.status(), stopped, "limit and thresholds are frozen while stopped");
    sim.edit(&json!({ "prompt": "continue" }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((3, 0)), "a changed spec applies the rules again");
}

#[test]
fn three_iterations_without_a_change_open_the_circuit() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&idled());
    sim.iterate(&worked());
    sim.iterate_times(2, &idled());
    assert_eq!(sim.phase(), Phase::Running, "a change in between resets the streak");
    sim.iterate(&idled());
    assert_eq!((sim.phase(), sim.reason().as_str()), (Phase::CircuitOpen, "NoChange"));
    assert_eq!(sim.status().stop.unwrap().reason, StopReason::NoChange);
    assert_eq!(sim.condition("Stopped"), ("True".into(), "CircuitOpen".into()));
    assert_eq!(sim.condition("Stalled").0, "True");
    sim.pass(24 * 3600);
    assert_eq!(sim.created.len(), 5);
}

#[test]
fn five_iterations_with_the_same_error_open_the_circuit_even_if_files_change() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(2, &stuck("test a fails"));
    sim.iterate(&stuck("09:59: test b fails"));
    assert_eq!(sim.status().breaker.consecutive_same_error, 1, "another error starts again at 1");
    for minute in 0..4 {
        sim.iterate(&stuck(&format!("10:0{minute}: test b fails")));
    }
    assert_eq!((sim.phase(), sim.reason().as_str()), (Phase::CircuitOpen, "SameError"));
    assert_eq!(sim.iterations(), 7);
}

#[test]
fn an_iteration_without_an_error_ends_the_streak_of_the_same_error() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 50 }));
    for _ in 0..3 {
        sim.iterate_times(4, &stuck("test a fails"));
        sim.iterate(&worked());
        assert_eq!(sim.status().breaker.consecutive_same_error, 0);
    }
    assert_eq!(sim.phase(), Phase::Running);
}

#[test]
fn a_threshold_above_the_streak_closes_the_circuit() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(3, &idled());
    sim.edit(&json!({ "breaker": { "noChangeThreshold": 3 } }));
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::CircuitOpen, "3 is not above the streak");
    sim.edit(&json!({ "breaker": { "noChangeThreshold": 5 } }));
    sim.iterate(&idled());
    assert_eq!((sim.phase(), sim.status().breaker.consecutive_no_change), (Phase::Running, 4));
    sim.iterate(&idled());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::CircuitOpen, 5));
}

#[test]
fn a_new_token_closes_the_circuit_and_resets_the_streaks() {
    for (report, times) in [(idled(), 3), (stuck("test a fails"), 5)] {
        let mut sim = Simulation::new(&json!({}));
        sim.iterate_times(times, &report);
        assert_eq!(sim.phase(), Phase::CircuitOpen);
        sim.edit(&json!({ "resetToken": "one" }));
        sim.reconcile();
        let status = sim.status();
        assert_eq!(status.breaker, agentloop_core::api::BreakerStatus::default());
        assert_eq!(sim.active().unwrap().0, i32::try_from(times).unwrap() + 1, "the count stays");
        sim.iterate_times(times, &report);
        assert_eq!((sim.phase(), sim.iterations()), (Phase::CircuitOpen, 2 * i32::try_from(times).unwrap()));
        sim.edit(&json!({ "resetToken": null }));
        sim.reconcile();
        sim.edit(&json!({ "resetToken": "one" }));
        sim.reconcile();
        assert_eq!(sim.phase(), Phase::CircuitOpen, "the same token twice does nothing");
    }
}

#[test]
fn a_token_lifts_the_circuit_but_not_the_limit() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 3 }));
    sim.iterate_times(3, &idled());
    assert_eq!(sim.phase(), Phase::CircuitOpen, "the breaker comes before the limit");
    sim.edit(&json!({ "resetToken": "one" }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.created.len()), (Phase::IterationLimitReached, 3));
}

#[test]
fn a_threshold_that_is_lowered_below_the_streak_applies_when_the_iteration_ends() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(2, &idled());
    sim.edit(&json!({ "breaker": { "noChangeThreshold": 1 }, "prompt": null }));
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Running);
    sim.iterate(&worked());
    assert_eq!(sim.phase(), Phase::Running, "the streak is over");
    sim.iterate(&idled());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::CircuitOpen, 4));
}

#[test]
fn only_a_new_token_resumes_a_failed_task() {
    let bad_exit = Report { exit_code: Some(42), ..worked() };
    for (report, cause) in [(bad_exit, "ExitCode"), (unauthenticated(), "Unauthenticated")] {
        let mut sim = Simulation::new(&json!({ "failOnExitCodes": [42] }));
        sim.iterate(&report);
        assert_eq!((sim.phase(), sim.reason().as_str()), (Phase::Failed, cause));
        sim.edit(&json!({ "maxIterations": 40, "breaker": { "noChangeThreshold": 9 } }));
        sim.reconcile();
        sim.edit(&json!({ "suspend": true }));
        sim.reconcile();
        assert_eq!(sim.phase(), Phase::Suspended);
        sim.edit(&json!({ "suspend": false }));
        sim.reconcile();
        assert_eq!((sim.phase(), sim.created.len()), (Phase::Failed, 1));
        assert_eq!(sim.requeue_at, None, "time alone fixes nothing");
        sim.edit(&json!({ "resetToken": "fixed" }));
        sim.reconcile();
        assert_eq!(sim.active(), Some((2, 0)));
    }
}

#[test]
fn done_takes_precedence_over_a_refused_credential_and_that_over_the_breaker() {
    let mut sim = Simulation::new(&json!({ "breaker": { "sameErrorThreshold": 1 } }));
    sim.iterate(&Report { provider_refused: unauthenticated().provider_refused, ..done() });
    assert_eq!(sim.phase(), Phase::Succeeded);
    let mut sim = Simulation::new(&json!({ "breaker": { "sameErrorThreshold": 1 }, "maxIterations": 1 }));
    sim.iterate(&unauthenticated());
    assert_eq!(sim.phase(), Phase::Failed);
    let mut sim = Simulation::new(&json!({
        "breaker": { "sameErrorThreshold": 1, "noChangeThreshold": 1 }, "maxIterations": 1,
    }));
    sim.iterate(&Report { changed: Change::Unchanged, ..stuck("e") });
    assert_eq!(sim.reason(), "SameError");
}

#[test]
fn a_timeout_is_charged_and_counts_as_an_error_and_as_its_change() {
    let mut sim = Simulation::new(&json!({ "breaker": { "noChangeThreshold": 2 } }));
    sim.iterate_times(4, &timed_out(Change::Changed));
    let status = sim.status();
    assert_eq!((status.iterations, status.breaker.consecutive_no_change), (4, 0));
    assert_eq!(status.breaker.consecutive_same_error, 4);
    assert_eq!(status.history[0].outcome, IterationOutcome::TimedOut);
    sim.iterate(&timed_out(Change::Unchanged));
    assert_eq!((sim.phase(), sim.reason().as_str()), (Phase::CircuitOpen, "SameError"));
}

#[test]
fn agents_that_are_killed_without_a_report_are_charged_and_open_the_circuit() {
    let mut sim = Simulation::new(&json!({}));
    for _ in 0..5 {
        sim.reconcile();
        sim.end_silently(137, "OOMKilled");
        sim.reconcile();
    }
    let status = sim.status();
    assert_eq!((status.phase, status.iterations), (Some(Phase::CircuitOpen), 5));
    assert_eq!(status.history[0].error.as_deref(), Some("OOMKilled (exit code 137)"));
    assert_eq!(status.breaker.consecutive_no_change, 0, "nothing is known about the workspace");
}

#[test]
fn the_breaker_recognizes_the_same_error_if_its_signature_is_long() {
    let mut sim = Simulation::new(&json!({}));
    let error = Error { signature: "s".repeat(190), summary: "test a fails".to_owned() };
    sim.iterate_times(5, &Report { error: Some(error), ..worked() });
    assert_eq!(sim.phase(), Phase::CircuitOpen);
}

#[test]
fn the_history_is_newest_first_and_ten_long() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 12 }));
    sim.iterate_times(12, &worked());
    let history: Vec<i32> = sim.status().history.iter().map(|entry| entry.iteration).collect();
    assert_eq!(history, (3..=12).rev().collect::<Vec<_>>());
}

#[test]
fn the_newest_entry_of_the_history_keeps_its_whole_text_and_older_ones_the_beginning() {
    let gate = agentloop_contract::completion_gate::CompletionGate {
        reason: Some("r".repeat(300)),
        progress: Some("half of it".to_owned()),
        blockers: vec!["one".to_owned(), "two".to_owned()],
        ..Default::default()
    };
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(2, &Report { gate: Some(gate), ..worked() });
    let history = sim.status().history;
    let words = |place: usize| {
        let gate = history[place].gate.clone().unwrap();
        (gate.reason.unwrap().len(), gate.progress, gate.blockers)
    };
    let (newest, older) = (words(0), words(1));
    assert_eq!((newest.1.as_deref(), newest.2.len()), (Some("half of it"), 2));
    assert!(older.0 < newest.0, "{older:?}");
    assert_eq!((older.1, older.2), (None, vec!["one".to_owned()]));
    for entry in &history {
        assert!(entry.start_time.as_ref().unwrap().0 >= after(-60), "{entry:?}");
        assert!(entry.completion_time >= entry.start_time, "{entry:?}");
    }
}

#[test]
fn usage_is_added_up_over_all_iterations() {
    let usage = agentloop_contract::report::Usage {
        input_tokens: Some(1000),
        output_tokens: Some(10),
        cost_usd: Some("0.10".to_owned()),
        ..Default::default()
    };
    let mut sim = Simulation::new(&json!({ "maxIterations": 12 }));
    sim.iterate_times(12, &Report { usage: Some(usage), ..worked() });
    let sum = sim.status().usage.unwrap();
    let last = sim.status().history.first().and_then(|entry| entry.usage.clone()).unwrap();
    assert_eq!((last.input_tokens, last.output_tokens), (Some(1000), Some(10)));
    assert_eq!(
        (sum.input_tokens, sum.output_tokens, sum.cost_usd.as_deref()),
        (Some(12_000), Some(120), Some("1.2"))
    );
}

#[test]
fn only_the_verify_command_completes_a_verified_task() {
    use agentloop_contract::report::Verified;
    let verified = |passed| Verified {
        passed,
        exit_code: Some(i32::from(!passed)),
        timed_out: false,
        last_lines: vec![],
    };
    let spec = json!({ "completion": { "policy": "Verify", "verify": { "command": ["true"] } } });
    let mut sim = Simulation::new(&spec);
    sim.iterate(&Report { verify: Some(verified(false)), ..done() });
    assert_eq!(sim.phase(), Phase::Running, "what the agent reports does not count");
    sim.iterate(&Report { verify: Some(verified(true)), ..failed_with("x") });
    assert_eq!(sim.phase(), Phase::Succeeded);
    let mut sim = Simulation::new(&json!({ "completion": { "policy": "ExitCode" } }));
    sim.iterate(&exited(Change::Unchanged));
    assert_eq!(sim.phase(), Phase::Succeeded);
}

#[test]
fn a_refusal_that_changed_something_is_charged_and_keeps_the_error_streak() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(2, &stuck("a"));
    sim.iterate(&idled());
    sim.iterate(&stuck("a"));
    sim.iterate(&rate_limited(Change::Changed, None));
    let status = sim.status();
    assert_eq!((status.iterations, status.breaker.consecutive_same_error), (5, 1));
    assert_eq!(status.history[0].outcome, IterationOutcome::ProviderRefused);
    assert_eq!((sim.phase(), sim.reason().as_str()), (Phase::Waiting, "RateLimited"));
    assert_eq!(sim.active(), None);
    assert!((60..=90).contains(&sim.seconds_until_retry()), "{}", sim.seconds_until_retry());
}
