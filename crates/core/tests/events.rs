//! Which changes of a status are worth an Event.

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
fn tells(before: Option<&AgentTaskStatus>, after: &AgentTaskStatus, warning: bool, reason: &str) {
    let message = after.message.clone().unwrap();
    assert_eq!(
        events_of_change(before, after),
        [EventRecord { warning, reason: reason.to_owned(), message }]
    );
}

#[track_caller]
fn is_silent(before: Option<&AgentTaskStatus>, after: &AgentTaskStatus) {
    assert_eq!(events_of_change(before, after), []);
}

#[test]
fn the_first_iteration_is_announced_and_no_other() {
    let running = status(Phase::Running, "Running");
    let fresh = AgentTaskStatus { start_time: None, ..status(Phase::Pending, "Pending") };
    tells(None, &running, false, "LoopStarted");
    tells(Some(&fresh), &running, false, "LoopStarted");
    is_silent(Some(&running), &running);
    is_silent(Some(&waiting(WaitReason::ImagePullFailed)), &running);
    is_silent(None, &AgentTaskStatus::default());
    is_silent(None, &fresh);
}

#[test]
fn every_stop_is_announced_once_by_a_reason_of_its_own() {
    let running = status(Phase::Running, "Running");
    for (phase, reason, warning, event) in [
        (Phase::Succeeded, "Completed", false, "LoopSucceeded"),
        (Phase::IterationLimitReached, "IterationLimit", false, "IterationLimitReached"),
        (Phase::Suspended, "Suspended", false, "LoopSuspended"),
        (Phase::CircuitOpen, "NoChange", true, "CircuitOpen"),
        (Phase::Failed, "ExitCode", true, "LoopFailed"),
    ] {
        let stopped = status(phase, reason);
        tells(Some(&running), &stopped, warning, event);
        let counted = AgentTaskStatus { iterations: 7, ..stopped.clone() };
        is_silent(Some(&stopped), &counted);
    }
}

#[test]
fn the_same_phase_for_another_reason_is_announced() {
    tells(
        Some(&status(Phase::CircuitOpen, "NoChange")),
        &status(Phase::CircuitOpen, "SameError"),
        true,
        "CircuitOpen",
    );
    tells(
        Some(&waiting(WaitReason::ImagePullFailed)),
        &waiting(WaitReason::RateLimited),
        false,
        "RateLimited",
    );
}

#[test]
fn a_loop_that_was_held_is_resumed() {
    for held in [Phase::IterationLimitReached, Phase::CircuitOpen, Phase::Failed, Phase::Suspended] {
        tells(Some(&status(held, "held")), &status(Phase::Running, "goes on"), false, "LoopResumed");
    }
}

#[test]
fn a_wait_warns_where_a_person_must_do_something() {
    let running = status(Phase::Running, "Running");
    tells(Some(&running), &waiting(WaitReason::PromptMissing), true, "PromptMissing");
    tells(Some(&running), &waiting(WaitReason::RateLimited), false, "RateLimited");
}
