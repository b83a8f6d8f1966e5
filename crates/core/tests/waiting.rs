//! What holds a loop: starts that fail, a provider that refuses, a configuration that is refused.

use crate::support::{Simulation, after, idled, invalid_pod, kubelet, quota_exceeded, rate_limited, worked};
use agentloop_contract::report::{Change, Report, Usage};
use agentloop_core::{
    api::{IterationOutcome, Phase, WaitReason},
    facts::Obstacle,
    settings::Configuration,
};
use jiff::SignedDuration;
use serde_json::json;

#[test]
fn a_pod_that_never_started_costs_nothing_and_is_tried_again_ever_later() {
    let mut sim = Simulation::new(&json!({}));
    let mut delays = Vec::new();
    sim.reconcile();
    for attempt in 0..8 {
        assert_eq!(sim.active(), Some((1, attempt)));
        sim.fail_to_start();
        sim.reconcile();
        assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::StartFailed)));
        assert_eq!(sim.active(), None, "nothing is claimed while it waits");
        delays.push(sim.seconds_until_retry());
        let held = sim.seconds_until_retry();
        sim.pass(held - 1);
        assert_eq!(sim.active(), None);
        sim.pass(1);
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!((sim.iterations(), sim.active()), (0, Some((1, 8))), "attempts only grow");
    sim.iterate(&worked());
    assert_eq!(sim.active(), Some((2, 0)));
}

#[test]
fn a_wait_is_shown_in_whole_seconds_and_never_ends_before_its_time() {
    for (milliseconds, shown) in [(0, 10), (1, 11), (999, 11)] {
        let mut sim = Simulation::new(&json!({}));
        sim.reconcile();
        sim.fail_to_start();
        sim.now += SignedDuration::from_millis(milliseconds);
        let due = sim.now + SignedDuration::from_secs(10);
        sim.reconcile();
        let until = sim.status().waiting.and_then(|waiting| waiting.retry_time).unwrap().0;
        assert_eq!(until, after(shown));
        assert!(until >= due && sim.requeue_at == Some(until), "{until}");
    }
}

/// Each delay is as long as that, or at most half a minute longer.
#[track_caller]
fn assert_growing(delays: &[i64], least: &[i64]) {
    let is_right = |(delay, least): (&i64, &i64)| (*least..=least + 30).contains(delay);
    assert!(
        delays.len() == least.len() && delays.iter().zip(least).all(is_right),
        "{delays:?}, not {least:?}"
    );
}

#[test]
fn a_provider_that_refuses_and_changed_nothing_is_not_charged_and_waits_twice_as_long_each_time() {
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
fn a_named_time_lengthens_the_delay_and_never_shortens_it() {
    for until in [0, -5, 1, 6, 59] {
        let mut sim = Simulation::new(&json!({}));
        let refused = |sim: &Simulation| {
            rate_limited(Change::Unchanged, Some(sim.now + SignedDuration::from_secs(until)))
        };
        let mut delays = Vec::new();
        for _ in 0..3 {
            let report = refused(&sim);
            sim.iterate(&report);
            let held = sim.seconds_until_retry();
            delays.push(held);
            sim.pass(held);
        }
        assert_growing(&delays, &[60, 120, 240]);
    }
}

#[test]
fn a_provider_that_names_a_time_is_taken_at_its_word_for_a_day_at_most() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&rate_limited(Change::Unchanged, Some(after(5000))));
    let held = sim.seconds_until_retry();
    assert_growing(&[held], &[5000]);
    sim.pass(held - 1);
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
fn a_delay_that_a_named_time_could_overflow_ends_within_the_calendar() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&rate_limited(Change::Unchanged, Some(jiff::Timestamp::MAX)));
    assert_growing(&[sim.seconds_until_retry()], &[24 * 3600]);
}

#[test]
fn only_so_many_refused_attempts_of_an_iteration_are_free() {
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
fn no_attempt_is_free_where_the_setting_says_so() {
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
fn charged_refusals_wait_longer_each_time_too_until_the_provider_serves() {
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
fn a_new_reset_token_forgets_how_often_the_provider_refused_but_not_what_was_free() {
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
fn a_provider_that_fails_is_waited_out_under_a_reason_of_its_own() {
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
fn what_free_attempts_cost_is_added_up() {
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
fn tasks_that_are_refused_together_do_not_come_back_together() {
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
fn an_uncharged_retry_checks_the_limit_and_the_pause_again() {
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
fn a_restart_forgets_no_wait() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&rate_limited(Change::Unchanged, None));
    sim.restart();
    sim.pass(59);
    assert_eq!((sim.active(), sim.phase()), (None, Phase::Waiting));
}

#[test]
fn a_pod_that_cannot_start_is_left_to_the_kubelet_and_shown_as_waiting() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    let state = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image" } });
    kubelet::set_status(sim.pod_mut(), "Pending", &state, &state);
    sim.pass(3600);
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::ImagePullFailed)));
    assert_eq!(sim.active(), Some((1, 0)), "it is not deleted");
    sim.run();
    sim.reconcile();
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Running, None));
}

#[test]
fn events_tell_the_obstacle_where_the_status_is_silent() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Running);
    assert_eq!(sim.requeue_at, Some(sim.now + SignedDuration::from_secs(10)), "it looks again");
    let message = "secret \"goal\" not found".to_owned();
    sim.events = Some(Obstacle { reason: WaitReason::PromptMissing, message });
    sim.pass(10);
    assert_eq!(sim.waits_for(), Some(WaitReason::PromptMissing));
    assert_eq!(sim.condition("Stalled").0, "True");
}

#[test]
fn a_pod_that_has_not_started_is_replaced_when_its_template_changes() {
    let mut sim = Simulation::new(&json!({ "prompt": "do" }));
    sim.reconcile();
    kubelet::bind(sim.pod_mut());
    sim.edit(&json!({ "maxIterations": 20 }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 0)), "the limit is not what a pod is made from");
    sim.edit(&json!({ "prompt": "do better" }));
    sim.reconcile();
    sim.stop_deleted_pods();
    sim.reconcile();
    assert_eq!((sim.active(), sim.iterations()), (Some((1, 1)), 0), "at once, and uncharged");
    sim.run();
    sim.edit(&json!({ "prompt": "do best" }));
    sim.reconcile();
    assert!(!kubelet::is_deleting(sim.pod()), "an agent that runs is left alone");
}

#[test]
fn a_webhook_that_takes_the_hash_away_makes_no_storm_of_pods() {
    let mut sim = Simulation::new(&json!({}));
    assert!(sim.step(), "the claim and its pod");
    kubelet::change(sim.pod_mut(), &json!({ "metadata": { "annotations": null } }));
    sim.reconcile();
    assert_eq!((sim.created.len(), sim.waits_for()), (1, Some(WaitReason::StartFailed)));
    assert_eq!(sim.seconds_until_retry(), 10);
}

#[test]
fn a_pod_that_a_webhook_made_unfit_never_starts() {
    let mut sim = Simulation::new(&json!({}));
    assert!(sim.step());
    kubelet::change(sim.pod_mut(), &json!({ "spec": { "restartPolicy": "OnFailure" } }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::PodRejected)));
    assert!(sim.message().contains("an admission webhook changed the pod's restartPolicy"));
    assert_eq!((sim.created.len(), sim.seconds_until_retry()), (1, 10));
    assert!(sim.ran.is_empty());
}

#[test]
fn a_pod_that_the_server_refuses_is_tried_again_ever_later() {
    let mut sim = Simulation::new(&json!({}));
    sim.refusal = Some(quota_exceeded());
    sim.reconcile();
    assert_eq!((sim.active(), sim.waits_for()), (Some((1, 0)), Some(WaitReason::QuotaExceeded)));
    let mut delays = vec![sim.seconds_until_retry()];
    for _ in 0..8 {
        sim.pass_wait();
        delays.push(sim.seconds_until_retry());
    }
    assert!(delays.is_sorted() && delays[0] == 10 && delays[8] == 300, "{delays:?}");
    sim.refusal = None;
    sim.pass(299);
    assert!(sim.created.is_empty());
    sim.pass(1);
    assert_eq!((sim.created.as_slice(), sim.phase()), ([(1, 0)].as_slice(), Phase::Running));
}

#[test]
fn a_refused_pod_is_tried_at_once_when_the_spec_changes() {
    let mut sim = Simulation::new(&json!({}));
    sim.refusal = Some(invalid_pod());
    sim.reconcile();
    assert_eq!(sim.condition("Stalled").0, "True");
    sim.refusal = None;
    sim.edit(&json!({ "template": { "metadata": { "labels": { "team": "a" } } } }));
    sim.reconcile();
    assert_eq!(sim.created, [(1, 0)]);
}

#[test]
fn the_first_claim_waits_for_a_pod_of_an_earlier_task_of_this_name() {
    let mut sim = Simulation::new(&json!({}));
    sim.leave_previous_pod("x-0badcafe-7-0");
    sim.reconcile();
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::PreviousPodRunning)));
    assert!(sim.message().contains("x-0badcafe-7-0"));
    let writes = sim.writes;
    sim.pass(5);
    assert_eq!((sim.writes, sim.active()), (writes, None));
    assert!(sim.requeue_at.is_some(), "it looks again");
    sim.remove_pod("x-0badcafe-7-0");
    sim.pass(5);
    assert_eq!(sim.active(), Some((1, 0)));
}

#[test]
fn a_refused_configuration_holds_only_tasks_that_know_no_thresholds() {
    let mut sim = Simulation::new(&json!({}));
    sim.configure(&[("hardLimit", "20"), ("defaultMaxIterations", "4")]);
    sim.iterate(&worked());
    sim.configure(&[("hardLimt", "2")]);
    sim.restart();
    sim.iterate_times(3, &worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 4));

    let mut sim = Simulation::new(&json!({ "maxIterations": 5 }));
    sim.configure(&[("hardLimt", "2")]);
    sim.reconcile();
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::ConfigInvalid)));
    assert!(sim.message().contains("hardLimt"), "{}", sim.message());
    assert!(sim.created.is_empty());
    sim.configure(&[("hardLimit", "2")]);
    sim.iterate_times(2, &worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 2));
}

#[test]
fn under_a_refused_configuration_a_raised_limit_is_still_bound_by_the_known_hard_limit() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 2 }));
    sim.configure(&[("hardLimit", "3")]);
    sim.iterate_times(2, &worked());
    sim.configure(&[("hardLimit", "many")]);
    sim.restart();
    sim.edit(&json!({ "maxIterations": 40 }));
    sim.iterate(&worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 3));
}

#[test]
fn an_operator_with_an_older_configuration_reads_it_before_it_claims() {
    let mut sim = Simulation::new(&json!({}));
    sim.configure(&[("hardLimit", "5")]);
    let old = sim.cached.clone();
    sim.configure(&[("hardLimit", "2")]);
    sim.iterate(&worked());
    sim.cached = old;
    sim.iterate(&worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 2));
    assert_eq!(sim.status().thresholds.unwrap().config_version.as_deref(), Some("2"));
}

#[test]
fn a_configuration_that_was_deleted_is_read_to_be_sure_and_then_the_defaults_hold() {
    let mut sim = Simulation::new(&json!({}));
    sim.configure(&[("defaultMaxIterations", "2")]);
    sim.iterate(&worked());
    sim.cached = Configuration::absent();
    sim.iterate(&worked());
    assert_eq!(sim.phase(), Phase::IterationLimitReached, "a cache that lags removes no limit");

    let mut sim = Simulation::new(&json!({}));
    sim.configure(&[("defaultMaxIterations", "20")]);
    sim.iterate(&worked());
    sim.cached = Configuration::absent();
    sim.real = Configuration::absent();
    sim.iterate(&worked());
    assert_eq!(sim.status().max_iterations, Some(10));
}

#[test]
fn paused_means_no_new_pod_anywhere_and_running_ones_run_on() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.configure(&[("paused", "yes please")]);
    sim.reconcile();
    assert_eq!((sim.phase(), sim.active()), (Phase::Running, Some((1, 0))));
    sim.end(&worked());
    sim.reconcile();
    assert_eq!((sim.waits_for(), sim.active(), sim.iterations()), (Some(WaitReason::Paused), None, 1));
    sim.configure(&[]);
    sim.reconcile();
    assert_eq!((sim.phase(), sim.active()), (Phase::Running, Some((2, 0))));
}

#[test]
fn paused_holds_a_claim_that_has_no_pod_and_a_pod_that_is_gated() {
    let mut sim = Simulation::new(&json!({}));
    sim.refusal = Some(quota_exceeded());
    sim.reconcile();
    sim.refusal = None;
    sim.configure(&[("paused", "true")]);
    sim.reconcile();
    sim.pass(3600);
    assert_eq!((sim.created.len(), sim.waits_for()), (0, Some(WaitReason::Paused)));

    let mut sim = Simulation::new(&json!({}));
    assert!(sim.step(), "the first iteration is active and has its pod");
    sim.restart();
    sim.configure(&[("paused", "true")]);
    sim.reconcile();
    assert!(kubelet::is_gated(sim.pod()));
    sim.configure(&[("paused", "false")]);
    sim.reconcile();
    assert!(!kubelet::is_gated(sim.pod()));
}

#[test]
fn waits_and_refusals_leave_the_streaks_as_they_were() {
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
