//! A provider that refuses: which attempts are free, and how long the next one waits.

use crate::support::{Simulation, after, idled, rate_limited, worked};
use agentloop_contract::report::{Change, Report, Usage};
use agentloop_core::api::{IterationOutcome, Phase, WaitReason};
use jiff::SignedDuration;
use serde_json::json;

/// Each delay is as long as this, or at most half a minute longer.
#[track_caller]
fn assert_growing(delays: &[i64], least: &[i64]) {
    let is_right = |(delay, least): (&i64, &i64)| (*least..=least + 30).contains(delay);
    assert!(
        delays.len() == least.len() && delays.iter().zip(least).all(is_right),
        "{delays:?}, not {least:?}"
    );
}

#[test]
fn a_refusal_that_changed_nothing_is_free_and_each_one_doubles_the_wait() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 1 }));
    sim.iterate(&rate_limited(Change::Unchanged, None));
    let mut delays = vec![sim.seconds_until_retry()];
    for _ in 0..6 {
        sim.pass_wait();
        sim.iterate(&rate_limited(Change::Unchanged, None));
        delays.push(sim.seconds_until_retry());
    }
    assert_growing(&delays, &[60, 120, 240, 480, 960, 1800, 1800]);
    assert_eq!((sim.iterations(), sim.status().history.len()), (0, 0));
    sim.pass(1830);
    sim.iterate(&worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 1));
}

#[test]
fn a_time_that_the_provider_names_lengthens_the_wait_and_never_shortens_it() {
    for until in [0, -5, 1, 6, 59] {
        let mut sim = Simulation::new(&json!({}));
        let refused = |sim: &Simulation| {
            rate_limited(Change::Unchanged, Some(sim.now + SignedDuration::from_secs(until)))
        };
        let mut delays = Vec::new();
        for _ in 0..3 {
            let report = refused(&sim);
            sim.iterate(&report);
            let delay = sim.seconds_until_retry();
            delays.push(delay);
            sim.pass(delay);
        }
        assert_growing(&delays, &[60, 120, 240]);
    }
}

#[test]
fn a_time_that_the_provider_names_is_respected_for_a_day_at_most() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&rate_limited(Change::Unchanged, Some(after(5000))));
    let delay = sim.seconds_until_retry();
    assert_growing(&[delay], &[5000]);
    sim.pass(delay - 1);
    assert_eq!(sim.active(), None);
    sim.pass(1);
    assert_eq!(sim.active(), Some((1, 1)));
    sim.iterate(&rate_limited(Change::Unchanged, Some(after(99 * 24 * 3600))));
    assert_growing(&[sim.seconds_until_retry()], &[24 * 3600]);
    sim.edit(&json!({ "template": { "metadata": { "labels": { "key": "another" } } } }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 2)), "a changed spec ends the wait");
    sim.iterate(&rate_limited(Change::Unchanged, Some(after(1))));
    assert_growing(&[sim.seconds_until_retry()], &[240]);
}

#[test]
fn the_latest_possible_time_does_not_overflow_the_wait() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&rate_limited(Change::Unchanged, Some(jiff::Timestamp::MAX)));
    assert_growing(&[sim.seconds_until_retry()], &[24 * 3600]);
}

#[test]
fn the_number_of_free_attempts_of_an_iteration_is_limited() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 2 }));
    sim.configure(&[("freeAttempts", "3")]);
    for attempt in 0..3 {
        sim.iterate(&rate_limited(Change::Unchanged, None));
        assert_eq!((sim.iterations(), sim.status().next_attempt), (0, attempt + 1));
        sim.pass_wait();
    }
    sim.end_charged(&rate_limited(Change::Unchanged, None));
    let status = sim.status();
    assert_eq!((status.iterations, status.history[0].outcome), (1, IterationOutcome::ProviderRefused));
    assert_eq!((status.free_attempts, status.breaker.consecutive_no_change), (0, 0));
    assert_growing(&[sim.seconds_until_retry()], &[480]);
    for _ in 0..3 {
        sim.pass_wait();
        sim.iterate(&rate_limited(Change::Unchanged, None));
    }
    assert_eq!(sim.iterations(), 1, "the next iteration has free attempts of its own");
}

#[test]
fn no_attempt_is_free_if_the_setting_is_zero() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 2 }));
    sim.configure(&[("freeAttempts", "0")]);
    sim.reconcile();
    sim.end_charged(&rate_limited(Change::Unchanged, None));
    assert_eq!((sim.iterations(), sim.waits_for()), (1, Some(WaitReason::RateLimited)));
}

#[test]
fn twenty_refused_attempts_are_free_by_default_and_failed_starts_are_not_among_them() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 1 }));
    for attempt in 0..20 {
        if attempt % 5 == 0 {
            sim.reconcile();
            sim.fail_to_start();
            sim.reconcile();
            sim.pass_wait();
        }
        sim.iterate(&rate_limited(Change::Unchanged, None));
        sim.pass_wait();
    }
    assert_eq!((sim.iterations(), sim.status().free_attempts), (0, 20));
    sim.end_charged(&rate_limited(Change::Unchanged, None));
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 1));
}

#[test]
fn charged_refusals_double_the_wait_until_the_provider_serves_again() {
    let mut sim = Simulation::new(&json!({}));
    let mut delays = Vec::new();
    for change in [Change::Changed, Change::Unchanged, Change::Unknown, Change::Changed] {
        sim.iterate(&rate_limited(change, None));
        delays.push(sim.seconds_until_retry());
        sim.pass_wait();
    }
    assert_growing(&delays, &[60, 120, 240, 480]);
    sim.run();
    sim.delete_pod();
    sim.stop_deleted_pods();
    sim.reconcile();
    sim.iterate(&rate_limited(Change::Changed, None));
    assert_growing(&[sim.seconds_until_retry()], &[960]);
    sim.pass_wait();
    sim.iterate(&worked());
    sim.iterate(&rate_limited(Change::Changed, None));
    assert_growing(&[sim.seconds_until_retry()], &[60]);
}

#[test]
fn a_new_reset_token_resets_the_refusals_but_not_the_free_attempts() {
    let mut sim = Simulation::new(&json!({}));
    for _ in 0..3 {
        sim.iterate(&rate_limited(Change::Unchanged, None));
        sim.pass_wait();
    }
    sim.edit(&json!({ "resetToken": "again" }));
    sim.reconcile();
    assert_eq!((sim.status().refusals, sim.status().free_attempts), (0, 3));
}

#[test]
fn an_unavailable_provider_has_a_wait_reason_of_its_own() {
    for change in [Change::Unchanged, Change::Changed] {
        let mut report = rate_limited(change, None);
        report.provider_refused.as_mut().unwrap().unavailable = true;
        let mut sim = Simulation::new(&json!({}));
        sim.iterate(&report);
        assert_eq!(sim.waits_for(), Some(WaitReason::ProviderUnavailable));
        assert!(sim.message().contains("the model provider is unavailable"), "{}", sim.message());
        assert_growing(&[sim.seconds_until_retry()], &[60]);
    }
}

#[test]
fn the_usage_of_free_attempts_is_added_up() {
    let mut sim = Simulation::new(&json!({}));
    let usage = Usage { input_tokens: Some(7), cost_usd: Some("0.25".to_owned()), ..Usage::default() };
    let report = Report { usage: Some(usage), ..rate_limited(Change::Unchanged, None) };
    for _ in 0..2 {
        sim.iterate(&report);
        sim.pass_wait();
    }
    let usage = sim.status().usage.unwrap();
    assert_eq!((usage.input_tokens, usage.cost_usd.as_deref()), (Some(14), Some("0.5")));
    assert_eq!(sim.iterations(), 0);
}

#[test]
fn tasks_that_are_refused_at_the_same_time_retry_at_different_times() {
    let delay = |uid: &str| {
        let mut sim = Simulation::new(&json!({}));
        sim.task_mut().metadata.uid = Some(uid.to_owned());
        sim.iterate(&rate_limited(Change::Unchanged, None));
        sim.seconds_until_retry()
    };
    let delays: std::collections::BTreeSet<i64> = (0..20).map(|n| delay(&format!("uid-{n}"))).collect();
    assert!(delays.len() > 5, "{delays:?}");
    assert!(delays.iter().all(|delay| (60..=90).contains(delay)), "{delays:?}");
}

#[test]
fn a_free_retry_checks_the_limit_and_the_pause_again() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(3, &worked());
    sim.iterate(&rate_limited(Change::Unchanged, None));
    sim.configure(&[("hardLimit", "3")]);
    sim.reconcile();
    sim.pass(90);
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 3));

    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&rate_limited(Change::Unchanged, None));
    sim.configure(&[("paused", "true")]);
    sim.reconcile();
    sim.pass(90);
    assert_eq!(sim.waits_for(), Some(WaitReason::Paused));
    sim.configure(&[]);
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 1)));
}

#[test]
fn waits_and_refusals_leave_the_streaks_unchanged() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(2, &idled());
    sim.iterate(&rate_limited(Change::Unchanged, None));
    sim.pass(90);
    sim.fail_to_start();
    sim.reconcile();
    assert_eq!(sim.status().breaker.consecutive_no_change, 2);
    sim.pass_wait();
    assert_eq!(sim.active(), Some((3, 2)));
    sim.iterate(&idled());
    assert_eq!(sim.phase(), Phase::CircuitOpen);
}
