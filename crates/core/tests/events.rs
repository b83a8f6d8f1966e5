//! Which changes of a status cause an Event.

use agentloop_core::{
    api::{AgentTaskStatus, Phase, WaitReason, Waiting},
    decide::{EventRecord, events_of_change},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

fn status(phase: Phase, reason: &str) -> AgentTaskStatus {
    AgentTaskStatus {
        phase: Some(phase),
        reason: Some(reason.to_owned()),
        message: Some(format!("about {reason}")),
        start_time: Some(Time(Timestamp::UNIX_EPOCH)),
        ..AgentTaskStatus::default()
    }
}

fn waiting(reason: WaitReason) -> AgentTaskStatus {
    let since = Time(Timestamp::UNIX_EPOCH);
    let waiting = Waiting { reason, message: None, start_time: since, retry_time: None };
    AgentTaskStatus { waiting: Some(waiting), ..status(Phase::Waiting, reason.as_str()) }
}

#[track_caller]
fn causes(before: Option<&AgentTaskStatus>, after: &AgentTaskStatus, warning: bool, reason: &str) {
    let message = after.message.clone().unwrap();
    assert_eq!(
        events_of_change(before, after),
        [EventRecord { warning, reason: reason.to_owned(), message }]
    );
}

#[track_caller]
fn causes_none(before: Option<&AgentTaskStatus>, after: &AgentTaskStatus) {
    assert_eq!(events_of_change(before, after), []);
}

#[test]
fn only_the_first_iteration_has_an_event() {
    let running = status(Phase::Running, "Running");
    let fresh = AgentTaskStatus { start_time: None, ..status(Phase::Pending, "Pending") };
    causes(None, &running, false, "LoopStarted");
    causes(Some(&fresh), &running, false, "LoopStarted");
    causes_none(Some(&running), &running);
    causes_none(Some(&waiting(WaitReason::ImagePullFailed)), &running);
    causes_none(None, &AgentTaskStatus::default());
    causes_none(None, &fresh);
}

#[test]
fn every_stop_has_one_event_with_its_own_reason() {
    let running = status(Phase::Running, "Running");
    for (phase, reason, warning, event) in [
        (Phase::Succeeded, "Completed", false, "LoopSucceeded"),
        (Phase::IterationLimitReached, "IterationLimit", false, "IterationLimitReached"),
        (Phase::Suspended, "Suspended", false, "LoopSuspended"),
        (Phase::CircuitOpen, "NoChange", true, "CircuitOpen"),
        (Phase::Failed, "ExitCode", true, "LoopFailed"),
    ] {
        let stopped = status(phase, reason);
        causes(Some(&running), &stopped, warning, event);
        let counted = AgentTaskStatus { iterations: 7, ..stopped.clone() };
        causes_none(Some(&stopped), &counted);
    }
}

#[test]
fn the_same_phase_for_another_reason_has_an_event() {
    causes(
        Some(&status(Phase::CircuitOpen, "NoChange")),
        &status(Phase::CircuitOpen, "SameError"),
        true,
        "CircuitOpen",
    );
    causes(
        Some(&waiting(WaitReason::ImagePullFailed)),
        &waiting(WaitReason::RateLimited),
        false,
        "RateLimited",
    );
}

#[test]
fn a_loop_that_was_stopped_or_suspended_is_resumed() {
    for before in [Phase::IterationLimitReached, Phase::CircuitOpen, Phase::Failed, Phase::Suspended] {
        causes(Some(&status(before, "before")), &status(Phase::Running, "running"), false, "LoopResumed");
    }
}

#[test]
fn a_wait_is_a_warning_only_if_a_person_must_act() {
    let running = status(Phase::Running, "Running");
    causes(Some(&running), &waiting(WaitReason::PromptMissing), true, "PromptMissing");
    causes(Some(&running), &waiting(WaitReason::RateLimited), false, "RateLimited");
}
