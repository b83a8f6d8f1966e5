//! What holds a loop: starts that fail, a provider that refuses, a configuration that is refused.

use crate::support::{World, after, idled, kubelet, rate_limited, worked};
use agentloop_contract::report::{Change, Report, Usage};
use agentloop_core::{
    api::{IterationOutcome, Phase, WaitReason},
    facts::Obstacle,
    settings::Configuration,
};
use jiff::SignedDuration;
use serde_json::json;

fn obstacle(reason: WaitReason) -> Obstacle {
    Obstacle { reason, message: "because".to_owned() }
}

#[test]
fn a_pod_that_never_started_costs_nothing_and_is_tried_again_ever_later() {
    let mut world = World::new(&json!({}));
    let mut delays = Vec::new();
    world.go();
    for attempt in 0..8 {
        assert_eq!(world.active(), Some((1, attempt)));
        world.fail_to_start();
        world.go();
        assert_eq!((world.phase(), world.waits_for()), (Phase::Waiting, Some(WaitReason::StartFailed)));
        assert_eq!(world.active(), None, "nothing is claimed while it waits");
        delays.push(world.held_for());
        let held = world.held_for();
        world.pass(held - 1);
        assert_eq!(world.active(), None);
        world.pass(1);
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!((world.iterations(), world.active()), (0, Some((1, 8))), "attempts only grow");
    world.iterate(&worked());
    assert_eq!(world.active(), Some((2, 0)));
}

#[test]
fn a_wait_is_shown_in_whole_seconds_and_never_ends_before_its_time() {
    for (milliseconds, shown) in [(0, 10), (1, 11), (999, 11)] {
        let mut world = World::new(&json!({}));
        world.go();
        world.fail_to_start();
        world.now += SignedDuration::from_millis(milliseconds);
        let due = world.now + SignedDuration::from_secs(10);
        world.go();
        let until = world.status().waiting.and_then(|waiting| waiting.retry_time).unwrap().0;
        assert_eq!(until, after(shown));
        assert!(until >= due && world.again == Some(until), "{until}");
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
    let mut world = World::new(&json!({ "maxIterations": 1 }));
    world.iterate(&rate_limited(Change::Unchanged, None));
    let mut delays = vec![world.held_for()];
    for _ in 0..6 {
        let held = world.held_for();
        world.pass(held);
        world.iterate(&rate_limited(Change::Unchanged, None));
        delays.push(world.held_for());
    }
    assert_growing(&delays, &[60, 120, 240, 480, 960, 1800, 1800]);
    assert_eq!((world.iterations(), world.status().history.len()), (0, 0));
    world.pass(1830);
    world.iterate(&worked());
    assert_eq!((world.phase(), world.iterations()), (Phase::IterationLimitReached, 1));
}

#[test]
fn a_named_time_lengthens_the_delay_and_never_shortens_it() {
    for until in [0, -5, 1, 6, 59] {
        let mut world = World::new(&json!({}));
        let refused = |world: &World| {
            rate_limited(Change::Unchanged, Some(world.now + SignedDuration::from_secs(until)))
        };
        let mut delays = Vec::new();
        for _ in 0..3 {
            let report = refused(&world);
            world.iterate(&report);
            let held = world.held_for();
            delays.push(held);
            world.pass(held);
        }
        assert_growing(&delays, &[60, 120, 240]);
    }
}

#[test]
fn a_provider_that_names_a_time_is_taken_at_its_word_for_a_day_at_most() {
    let mut world = World::new(&json!({}));
    world.iterate(&rate_limited(Change::Unchanged, Some(after(5000))));
    let held = world.held_for();
    assert_growing(&[held], &[5000]);
    world.pass(held - 1);
    assert_eq!(world.active(), None);
    world.pass(1);
    assert_eq!(world.active(), Some((1, 1)));
    world.iterate(&rate_limited(Change::Unchanged, Some(after(99 * 24 * 3600))));
    assert_growing(&[world.held_for()], &[24 * 3600]);
    world.edit(&json!({ "template": { "metadata": { "labels": { "key": "another" } } } }));
    world.go();
    assert_eq!(world.active(), Some((1, 2)), "a changed spec ends the wait");
    world.iterate(&rate_limited(Change::Unchanged, Some(after(1))));
    assert_growing(&[world.held_for()], &[240]);
}

#[test]
fn a_delay_that_a_named_time_could_overflow_ends_within_the_calendar() {
    let mut world = World::new(&json!({}));
    world.iterate(&rate_limited(Change::Unchanged, Some(jiff::Timestamp::MAX)));
    assert_growing(&[world.held_for()], &[24 * 3600]);
}

#[test]
fn only_so_many_refused_attempts_of_an_iteration_are_free() {
    let mut world = World::new(&json!({ "maxIterations": 2 }));
    world.configure(&[("freeAttempts", "3")]);
    for attempt in 0..3 {
        world.iterate(&rate_limited(Change::Unchanged, None));
        assert_eq!((world.iterations(), world.status().next_attempt), (0, attempt + 1));
        let held = world.held_for();
        world.pass(held);
    }
    world.end_charged(&rate_limited(Change::Unchanged, None));
    let status = world.status();
    assert_eq!((status.iterations, status.history[0].outcome), (1, IterationOutcome::ProviderRefused));
    assert_eq!((status.free_attempts, status.breaker.consecutive_no_change), (0, 0));
    assert_growing(&[world.held_for()], &[480]);
    for _ in 0..3 {
        let held = world.held_for();
        world.pass(held);
        world.iterate(&rate_limited(Change::Unchanged, None));
    }
    assert_eq!(world.iterations(), 1, "the next iteration has free attempts of its own");
}

#[test]
fn no_attempt_is_free_where_the_setting_says_so() {
    let mut world = World::new(&json!({ "maxIterations": 2 }));
    world.configure(&[("freeAttempts", "0")]);
    world.go();
    world.end_charged(&rate_limited(Change::Unchanged, None));
    assert_eq!((world.iterations(), world.waits_for()), (1, Some(WaitReason::RateLimited)));
}

#[test]
fn twenty_refused_attempts_are_free_by_default_and_failed_starts_are_not_among_them() {
    let mut world = World::new(&json!({ "maxIterations": 1 }));
    for attempt in 0..20 {
        if attempt % 5 == 0 {
            world.go();
            world.fail_to_start();
            world.go();
            let held = world.held_for();
            world.pass(held);
        }
        world.iterate(&rate_limited(Change::Unchanged, None));
        let held = world.held_for();
        world.pass(held);
    }
    assert_eq!((world.iterations(), world.status().free_attempts), (0, 20));
    world.end_charged(&rate_limited(Change::Unchanged, None));
    assert_eq!((world.phase(), world.iterations()), (Phase::IterationLimitReached, 1));
}

#[test]
fn charged_refusals_wait_longer_each_time_too_until_the_provider_serves() {
    let mut world = World::new(&json!({}));
    let mut delays = Vec::new();
    for change in [Change::Changed, Change::Unchanged, Change::Unknown, Change::Changed] {
        world.iterate(&rate_limited(change, None));
        delays.push(world.held_for());
        let held = world.held_for();
        world.pass(held);
    }
    assert_growing(&delays, &[60, 120, 240, 480]);
    world.run();
    world.delete_pod();
    world.kubelets_obey();
    world.go();
    world.iterate(&rate_limited(Change::Changed, None));
    assert_growing(&[world.held_for()], &[960]);
    let held = world.held_for();
    world.pass(held);
    world.iterate(&worked());
    world.iterate(&rate_limited(Change::Changed, None));
    assert_growing(&[world.held_for()], &[60]);
}

#[test]
fn a_new_reset_token_forgets_how_often_the_provider_refused_but_not_what_was_free() {
    let mut world = World::new(&json!({}));
    for _ in 0..3 {
        world.iterate(&rate_limited(Change::Unchanged, None));
        let held = world.held_for();
        world.pass(held);
    }
    world.edit(&json!({ "resetToken": "again" }));
    world.go();
    assert_eq!((world.status().refusals, world.status().free_attempts), (0, 3));
}

#[test]
fn a_provider_that_fails_is_waited_out_under_a_reason_of_its_own() {
    for change in [Change::Unchanged, Change::Changed] {
        let mut report = rate_limited(change, None);
        report.provider_refused.as_mut().unwrap().unavailable = true;
        let mut world = World::new(&json!({}));
        world.iterate(&report);
        assert_eq!(world.waits_for(), Some(WaitReason::ProviderUnavailable));
        assert!(world.message().contains("the model provider is unavailable"), "{}", world.message());
        assert_growing(&[world.held_for()], &[60]);
    }
}

#[test]
fn what_free_attempts_cost_is_added_up() {
    let mut world = World::new(&json!({}));
    let usage = Usage { input_tokens: Some(7), cost_usd: Some("0.25".to_owned()), ..Usage::default() };
    let report = Report { usage: Some(usage), ..rate_limited(Change::Unchanged, None) };
    for _ in 0..2 {
        world.iterate(&report);
        let held = world.held_for();
        world.pass(held);
    }
    let usage = world.status().usage.unwrap();
    assert_eq!((usage.input_tokens, usage.cost_usd.as_deref()), (Some(14), Some("0.5")));
    assert_eq!(world.iterations(), 0);
}

#[test]
fn tasks_that_are_refused_together_do_not_come_back_together() {
    let delay = |uid: &str| {
        let mut world = World::new(&json!({}));
        world.task.metadata.uid = Some(uid.to_owned());
        world.iterate(&rate_limited(Change::Unchanged, None));
        world.held_for()
    };
    let delays: std::collections::BTreeSet<i64> = (0..20).map(|n| delay(&format!("uid-{n}"))).collect();
    assert!(delays.len() > 5, "{delays:?}");
    assert!(delays.iter().all(|delay| (60..=90).contains(delay)), "{delays:?}");
}

#[test]
fn an_uncharged_retry_checks_the_limit_and_the_pause_again() {
    let mut world = World::new(&json!({}));
    world.iterate_times(3, &worked());
    world.iterate(&rate_limited(Change::Unchanged, None));
    world.configure(&[("hardLimit", "3")]);
    world.go();
    world.pass(90);
    assert_eq!((world.phase(), world.iterations()), (Phase::IterationLimitReached, 3));

    let mut world = World::new(&json!({}));
    world.iterate(&rate_limited(Change::Unchanged, None));
    world.configure(&[("paused", "true")]);
    world.go();
    world.pass(90);
    assert_eq!(world.waits_for(), Some(WaitReason::Paused));
    world.configure(&[]);
    world.go();
    assert_eq!(world.active(), Some((1, 1)));
}

#[test]
fn a_restart_forgets_no_wait() {
    let mut world = World::new(&json!({}));
    world.iterate(&rate_limited(Change::Unchanged, None));
    world.restart();
    world.pass(59);
    assert_eq!((world.active(), world.phase()), (None, Phase::Waiting));
}

#[test]
fn a_pod_that_cannot_start_is_left_to_the_kubelet_and_shown_as_waiting() {
    let mut world = World::new(&json!({}));
    world.go();
    kubelet::bind(world.pod());
    let state = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image" } });
    kubelet::set_status(world.pod(), "Pending", &state, &state);
    world.pass(3600);
    assert_eq!((world.phase(), world.waits_for()), (Phase::Waiting, Some(WaitReason::ImagePullFailed)));
    assert_eq!(world.active(), Some((1, 0)), "it is not deleted");
    world.run();
    world.go();
    assert_eq!((world.phase(), world.waits_for()), (Phase::Running, None));
}

#[test]
fn events_tell_the_obstacle_where_the_status_is_silent() {
    let mut world = World::new(&json!({}));
    world.go();
    kubelet::bind(world.pod());
    world.go();
    assert_eq!(world.phase(), Phase::Running);
    assert_eq!(world.again, Some(world.now + SignedDuration::from_secs(10)), "it looks again");
    world.events = Some(obstacle(WaitReason::PromptMissing));
    world.pass(10);
    assert_eq!(world.waits_for(), Some(WaitReason::PromptMissing));
    assert_eq!(world.condition("Stalled").0, "True");
}

#[test]
fn a_pod_that_has_not_started_is_replaced_when_its_template_changes() {
    let mut world = World::new(&json!({ "prompt": "do" }));
    world.go();
    kubelet::bind(world.pod());
    world.edit(&json!({ "maxIterations": 20 }));
    world.go();
    assert_eq!(world.active(), Some((1, 0)), "the limit is not what a pod is made from");
    world.edit(&json!({ "prompt": "do better" }));
    world.go();
    world.kubelets_obey();
    world.go();
    assert_eq!((world.active(), world.iterations()), (Some((1, 1)), 0), "at once, and uncharged");
    world.run();
    world.edit(&json!({ "prompt": "do best" }));
    world.go();
    assert!(!kubelet::is_deleting(world.pod()), "an agent that runs is left alone");
}

#[test]
fn a_webhook_that_takes_the_hash_away_makes_no_storm_of_pods() {
    let mut world = World::new(&json!({}));
    assert!(world.turn(), "the claim and its pod");
    kubelet::change(world.pod(), &json!({ "metadata": { "annotations": null } }));
    world.go();
    assert_eq!((world.created.len(), world.waits_for()), (1, Some(WaitReason::StartFailed)));
    assert_eq!(world.held_for(), 10);
}

#[test]
fn a_pod_that_a_webhook_made_unfit_never_starts() {
    let mut world = World::new(&json!({}));
    assert!(world.turn());
    kubelet::change(world.pod(), &json!({ "spec": { "restartPolicy": "OnFailure" } }));
    world.go();
    assert_eq!((world.phase(), world.waits_for()), (Phase::Waiting, Some(WaitReason::PodRejected)));
    assert!(world.message().contains("an admission webhook changed the pod's restartPolicy"));
    assert_eq!((world.created.len(), world.held_for()), (1, 10));
    assert!(world.ran.is_empty());
}

#[test]
fn a_pod_that_the_server_refuses_is_tried_again_ever_later() {
    let mut world = World::new(&json!({}));
    world.refusal = Some(obstacle(WaitReason::QuotaExceeded));
    world.go();
    assert_eq!((world.active(), world.waits_for()), (Some((1, 0)), Some(WaitReason::QuotaExceeded)));
    let mut delays = vec![world.held_for()];
    for _ in 0..8 {
        let held = world.held_for();
        world.pass(held);
        delays.push(world.held_for());
    }
    assert!(delays.is_sorted() && delays[0] == 10 && delays[8] == 300, "{delays:?}");
    world.refusal = None;
    world.pass(299);
    assert!(world.created.is_empty());
    world.pass(1);
    assert_eq!((world.created.as_slice(), world.phase()), ([(1, 0)].as_slice(), Phase::Running));
}

#[test]
fn a_refused_pod_is_tried_at_once_when_the_spec_changes() {
    let mut world = World::new(&json!({}));
    world.refusal = Some(obstacle(WaitReason::PodRejected));
    world.go();
    assert_eq!(world.condition("Stalled").0, "True");
    world.refusal = None;
    world.edit(&json!({ "template": { "metadata": { "labels": { "team": "a" } } } }));
    world.go();
    assert_eq!(world.created, [(1, 0)]);
}

#[test]
fn the_first_claim_waits_for_a_pod_of_an_earlier_task_of_this_name() {
    let mut world = World::new(&json!({}));
    world.previous_pod = Some("x-0badcafe-7-0".to_owned());
    world.go();
    assert_eq!((world.phase(), world.waits_for()), (Phase::Waiting, Some(WaitReason::PreviousPodRunning)));
    assert!(world.message().contains("x-0badcafe-7-0"));
    let writes = world.writes;
    world.pass(5);
    assert_eq!((world.writes, world.active()), (writes, None));
    assert!(world.again.is_some(), "it looks again");
    world.previous_pod = None;
    world.pass(5);
    assert_eq!(world.active(), Some((1, 0)));
}

#[test]
fn a_refused_configuration_holds_only_tasks_that_know_no_thresholds() {
    let mut world = World::new(&json!({}));
    world.configure(&[("hardLimit", "20"), ("defaultMaxIterations", "4")]);
    world.iterate(&worked());
    world.configure(&[("hardLimt", "2")]);
    world.restart();
    world.iterate_times(3, &worked());
    assert_eq!((world.phase(), world.iterations()), (Phase::IterationLimitReached, 4));

    let mut world = World::new(&json!({ "maxIterations": 5 }));
    world.configure(&[("hardLimt", "2")]);
    world.go();
    assert_eq!((world.phase(), world.waits_for()), (Phase::Waiting, Some(WaitReason::ConfigInvalid)));
    assert!(world.message().contains("hardLimt"), "{}", world.message());
    assert!(world.created.is_empty());
    world.configure(&[("hardLimit", "2")]);
    world.iterate_times(2, &worked());
    assert_eq!((world.phase(), world.iterations()), (Phase::IterationLimitReached, 2));
}

#[test]
fn under_a_refused_configuration_a_raised_limit_is_still_bound_by_the_known_hard_limit() {
    let mut world = World::new(&json!({ "maxIterations": 2 }));
    world.configure(&[("hardLimit", "3")]);
    world.iterate_times(2, &worked());
    world.configure(&[("hardLimit", "many")]);
    world.restart();
    world.edit(&json!({ "maxIterations": 40 }));
    world.iterate(&worked());
    assert_eq!((world.phase(), world.iterations()), (Phase::IterationLimitReached, 3));
}

#[test]
fn an_operator_with_an_older_configuration_reads_it_before_it_claims() {
    let mut world = World::new(&json!({}));
    world.configure(&[("hardLimit", "5")]);
    let old = world.cached.clone();
    world.configure(&[("hardLimit", "2")]);
    world.iterate(&worked());
    world.cached = old;
    world.iterate(&worked());
    assert_eq!((world.phase(), world.iterations()), (Phase::IterationLimitReached, 2));
    assert_eq!(world.status().thresholds.unwrap().config_version.as_deref(), Some("2"));
}

#[test]
fn a_configuration_that_was_deleted_is_read_to_be_sure_and_then_the_defaults_hold() {
    let mut world = World::new(&json!({}));
    world.configure(&[("defaultMaxIterations", "2")]);
    world.iterate(&worked());
    world.cached = Configuration::absent();
    world.iterate(&worked());
    assert_eq!(world.phase(), Phase::IterationLimitReached, "a cache that lags removes no limit");

    let mut world = World::new(&json!({}));
    world.configure(&[("defaultMaxIterations", "20")]);
    world.iterate(&worked());
    world.cached = Configuration::absent();
    world.real = Configuration::absent();
    world.iterate(&worked());
    assert_eq!(world.status().max_iterations, Some(10));
}

#[test]
fn paused_means_no_new_pod_anywhere_and_running_ones_run_on() {
    let mut world = World::new(&json!({}));
    world.go();
    world.run();
    world.configure(&[("paused", "yes please")]);
    world.go();
    assert_eq!((world.phase(), world.active()), (Phase::Running, Some((1, 0))));
    world.end(&worked());
    world.go();
    assert_eq!((world.waits_for(), world.active(), world.iterations()), (Some(WaitReason::Paused), None, 1));
    world.configure(&[]);
    world.go();
    assert_eq!((world.phase(), world.active()), (Phase::Running, Some((2, 0))));
}

#[test]
fn paused_holds_a_claim_that_has_no_pod_and_a_pod_that_is_gated() {
    let mut world = World::new(&json!({}));
    world.refusal = Some(obstacle(WaitReason::QuotaExceeded));
    world.go();
    world.refusal = None;
    world.configure(&[("paused", "true")]);
    world.go();
    world.pass(3600);
    assert_eq!((world.created.len(), world.waits_for()), (0, Some(WaitReason::Paused)));

    let mut world = World::new(&json!({}));
    assert!(world.turn(), "claimed and created");
    world.configure(&[("paused", "true")]);
    world.go();
    assert!(kubelet::is_gated(world.pod()));
    world.configure(&[("paused", "false")]);
    world.go();
    assert!(!kubelet::is_gated(world.pod()));
}

#[test]
fn waits_and_refusals_leave_the_streaks_as_they_were() {
    let mut world = World::new(&json!({}));
    world.iterate_times(2, &idled());
    world.iterate(&rate_limited(Change::Unchanged, None));
    world.pass(90);
    world.fail_to_start();
    world.go();
    assert_eq!(world.status().breaker.consecutive_no_change, 2);
    let held = world.held_for();
    world.pass(held);
    assert_eq!(world.active(), Some((3, 2)));
    world.iterate(&idled());
    assert_eq!(world.phase(), Phase::CircuitOpen);
}
