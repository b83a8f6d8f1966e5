//! The active iteration's pod is missing: it is created if it never started, and charged if it may have run.

use crate::support::{self, after, observed, task_at};
use agentloop_core::{
    api::{AgentTask, IterationOutcome, WaitReason},
    decide::{Action, Decision, Observed, decide},
    facts::Obstacle,
};
use serde_json::{Value, json};

fn active(waiting: &Value) -> AgentTask {
    task_at(&json!({}), &support::active(&json!({ "waiting": waiting })))
}

/// A wait that has lasted for this many seconds.
fn waits(reason: WaitReason, seconds: i64) -> Value {
    json!({ "reason": reason, "startTime": after(-seconds).to_string() })
}

fn decided(task: &AgentTask, was_started: bool, is_gone: bool) -> Decision {
    decide(&Observed { was_started, is_gone, ..observed(task, &[]) })
}

#[track_caller]
fn is_charged(decision: &Decision) {
    let status = decision.status.as_ref().expect("a status");
    assert_eq!(status.iterations, 3);
    assert_eq!(status.history.first().map(|entry| entry.outcome), Some(IterationOutcome::PodLost));
    assert_eq!(status.active.as_ref().map(|active| active.iteration), Some(4));
}

#[test]
fn a_pod_that_was_never_started_is_created() {
    assert_eq!(decided(&active(&Value::Null), false, false).actions, [Action::CreatePod]);
}

#[test]
fn a_pod_that_this_process_started_is_charged_once_the_api_server_says_that_it_is_gone() {
    let task = active(&Value::Null);
    let first = decided(&task, true, false);
    assert_eq!((first.status, first.actions), (None, vec![Action::ReadPod]));
    is_charged(&decided(&task, true, true));
}

#[test]
fn a_pod_that_vanishes_from_a_lost_node_is_charged_whoever_started_it() {
    let task = active(&waits(WaitReason::NodeLost, 1800));
    assert_eq!(decided(&task, false, false).actions, [Action::ReadPod]);
    is_charged(&decided(&task, false, true));
}

#[test]
fn a_wait_for_something_else_does_not_delay_the_read_of_a_started_pod() {
    let mut waiting = waits(WaitReason::PodRejected, 60);
    waiting["retryTime"] = json!(after(300).to_string());
    assert_eq!(decided(&active(&waiting), true, false).actions, [Action::ReadPod]);
}

/// The active pod was read and exists, but its owner or its labels say that it does not belong to this task.
fn estranged(task: &AgentTask) -> Decision {
    let message = "pod x-3-0 belonged to this task".to_owned();
    let refused = Some(Obstacle { reason: WaitReason::NameConflict, message });
    decide(&Observed { refused, was_started: true, ..observed(task, &[]) })
}

#[test]
fn a_pod_that_no_longer_belongs_to_the_task_is_waited_for_and_not_read_all_the_time() {
    let mut task = active(&Value::Null);
    let decision = estranged(&task);
    let status = decision.status.expect("a wait");
    assert_eq!(decision.actions, []);
    assert_eq!(status.iterations, 2, "nothing is charged: it may still run");
    assert_eq!(status.active, task.status.as_ref().unwrap().active);
    assert_eq!(status.reason.as_deref(), Some("NameConflict"));
    task.status = Some(status);
    let meanwhile = decided(&task, true, false);
    assert_eq!((meanwhile.status, meanwhile.actions), (None, vec![]));
    assert!(
        meanwhile.requeue_after.is_some_and(|again| again.as_secs() >= 9),
        "{:?}",
        meanwhile.requeue_after
    );
}

#[test]
fn a_lost_node_is_not_forgotten_while_the_pod_does_not_belong_to_the_task() {
    let mut task = active(&waits(WaitReason::NodeLost, 60));
    let decision = estranged(&task);
    let waiting = decision.status.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason, WaitReason::NodeLost);
    assert!(waiting.retry_time.is_some());
    task.status = decision.status;
    is_charged(&decided(&task, false, true));
}
