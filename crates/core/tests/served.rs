//! Two releases that watch the same namespace: one serves a task, the other leaves it alone.

use crate::support::{self, merge, observed, start, task_at as task};
use agentloop_core::api::AgentTask;
use agentloop_core::decide::served::{Release, Served, Serving};
use agentloop_core::decide::{Action, Decision, Observed, PreviousPod, decide};
use agentloop_core::facts::PodFacts;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

const UID: &str = "11111111-2222-3333-4444-555555555555";

fn serving(name: &str, take_over: &[&str]) -> Serving {
    Serving {
        release: name.parse().unwrap(),
        take_over: take_over.iter().map(|name| name.parse().unwrap()).collect(),
    }
}

fn active_by(release: &str) -> Value {
    support::active(&json!({ "servedBy": release }))
}

/// A pod of the task that has ended and has the finalizer.
fn ended_pod(deletion: Option<Timestamp>) -> PodFacts {
    let mut pod = json!({
        "metadata": {
            "name": "x-3-0", "uid": "p", "finalizers": ["agentloop.dev/settle"],
            "ownerReferences": [
                { "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "name": "x", "uid": UID, "controller": true },
            ],
            "labels": { "agentloop.dev/iteration": "3", "agentloop.dev/attempt": "0", "agentloop.dev/task-uid": UID },
        },
        "spec": { "nodeName": "n", "containers": [] },
        "status": { "phase": "Failed" },
    });
    if let Some(deletion) = deletion {
        merge(&mut pod, &json!({ "metadata": { "deletionTimestamp": deletion.to_string() } }));
    }
    PodFacts::of(&serde_json::from_value::<Pod>(pod).unwrap())
}

fn decided(serving: &Serving, task: &AgentTask, pods: &[PodFacts], previous_pod: PreviousPod) -> Served {
    serving.decide(&Observed { previous_pod, ..observed(task, pods) }, decide)
}

#[track_caller]
fn here(served: Served) -> Decision {
    match served {
        Served::Here(decision) => decision,
        Served::Elsewhere { release, .. } => panic!("left to {release}"),
    }
}

#[track_caller]
fn elsewhere(served: Served) -> (String, Decision) {
    match served {
        Served::Elsewhere { release, decision } => (release, decision),
        Served::Here(decision) => panic!("served here: {decision:?}"),
    }
}

fn named(decision: &Decision) -> Option<&str> {
    decision.status.as_ref()?.served_by.as_deref()
}

#[test]
fn the_first_write_of_a_new_task_names_the_release() {
    let ours = serving("a/agentloop", &[]);
    let new = task(&json!({}), &Value::Null);
    let reads = here(decided(&ours, &new, &[], PreviousPod::Unknown));
    assert_eq!((reads.status, reads.actions), (None, vec![Action::ListPreviousPods]));
    let starts = here(decided(&ours, &new, &[], PreviousPod::None));
    assert_eq!(named(&starts), Some("a/agentloop"));
    assert_eq!(starts.actions, [Action::CreatePod]);
}

#[test]
fn a_task_of_an_older_operator_or_of_one_that_was_uninstalled_is_adopted_before_anything_is_done() {
    let ours = serving("a/agentloop", &[]);
    for name in [Value::Null, json!("")] {
        let mut status = active_by("x/x");
        merge(&mut status, &json!({ "servedBy": name }));
        let decision =
            here(decided(&ours, &task(&json!({}), &status), &[ended_pod(None)], PreviousPod::None));
        assert_eq!(named(&decision), Some("a/agentloop"));
    }
}

#[test]
fn a_task_that_already_names_our_release_is_not_written_for_it() {
    let ours = serving("a/agentloop", &[]);
    let idle = task(&json!({}), &active_by("a/agentloop"));
    let first = here(decided(&ours, &idle, &[], PreviousPod::None));
    let mut settled = idle.clone();
    settled.status = first.status.or(settled.status);
    assert_eq!(here(decided(&ours, &settled, &[], PreviousPod::None)).status, None);
}

#[test]
fn a_task_that_needs_no_other_write_is_adopted_as_well() {
    let ours = serving("a/agentloop", &[]);
    let mut settled = task(&json!({}), &json!({ "iterations": 2, "startTime": "2026-01-01T00:00:00Z" }));
    settled.spec.suspend = true;
    settled.status = here(decided(&ours, &settled, &[], PreviousPod::None)).status;
    settled.status.as_mut().unwrap().served_by = None;
    let decision = here(decided(&ours, &settled, &[], PreviousPod::None));
    assert_eq!(named(&decision), Some("a/agentloop"));
    settled.status = decision.status;
    assert_eq!(here(decided(&ours, &settled, &[], PreviousPod::None)).status, None);
}

#[test]
fn a_task_that_is_being_deleted_is_not_written_for_its_name() {
    let ours = serving("a/agentloop", &[]);
    let leaving = task(&json!({ "deletionTimestamp": start().to_string() }), &json!({ "iterations": 2 }));
    let decision = here(decided(&ours, &leaving, &[ended_pod(None)], PreviousPod::None));
    assert_eq!((decision.status, decision.actions.len()), (None, 2));
}

#[test]
fn a_task_of_another_release_is_left_alone_whatever_its_pods_do() {
    let ours = serving("b/agentloop", &["c/agentloop"]);
    let theirs = task(&json!({}), &active_by("a/agentloop"));
    for pods in [vec![], vec![ended_pod(None)], vec![ended_pod(Some(start()))]] {
        let (release, decision) = elsewhere(decided(&ours, &theirs, &pods, PreviousPod::None));
        assert_eq!(release, "a/agentloop");
        assert_eq!((decision.status, decision.actions), (None, vec![]));
        assert!(decision.requeue_after.is_some(), "its Event is repeated");
    }
    // Neither the namespace nor the name alone identifies a release.
    for other in ["b/other", "other/agentloop", "b/agentloop-2"] {
        let task = task(&json!({}), &active_by(other));
        assert_eq!(elsewhere(decided(&ours, &task, &[], PreviousPod::None)).0, other);
    }
}

#[test]
fn the_next_write_to_a_task_that_is_taken_over_names_our_release() {
    let ours = serving("b/agentloop", &["a/agentloop"]);
    let theirs = task(&json!({}), &active_by("a/agentloop"));
    let decision = here(decided(&ours, &theirs, &[], PreviousPod::None));
    assert_eq!(named(&decision), Some("b/agentloop"));
    assert_eq!(decision.status.unwrap().active.unwrap().pod_name, "x-3-0", "and nothing else is lost");
}

#[test]
fn the_event_names_the_other_release_and_the_helm_value_that_takes_over_its_tasks() {
    let note = serving("b/loops", &[]).served_by_another_event("a/agentloop");
    assert!(note.warning);
    for words in ["a/agentloop", "b/loops", "takeOver=[a/agentloop]", "--set 'takeOver={a/agentloop}'"] {
        assert!(note.message.contains(words), "{}", note.message);
    }
    assert!(note.message.len() <= 1024);
}

#[test]
fn a_deleted_task_is_left_to_its_release_for_a_minute_only() {
    let ours = serving("b/agentloop", &[]);
    let deleted = |seconds: i64| {
        let time = (start() - SignedDuration::from_secs(seconds)).to_string();
        task(&json!({ "deletionTimestamp": time }), &active_by("a/agentloop"))
    };
    let (_, early) = elsewhere(decided(&ours, &deleted(59), &[ended_pod(None)], PreviousPod::None));
    assert_eq!(early.actions, []);
    assert_eq!(early.requeue_after.map(|again| again.as_secs()), Some(1));
    let (_, late) = elsewhere(decided(&ours, &deleted(60), &[ended_pod(None)], PreviousPod::None));
    assert_eq!(late.status, None);
    assert_eq!(late.actions.len(), 2, "deleted, and its finalizer removed: {:?}", late.actions);
}

#[test]
fn a_pod_whose_task_is_gone_is_left_to_the_release_that_served_it_for_a_minute() {
    let ours = serving("b/agentloop", &["c/agentloop"]);
    let deleted = |seconds: i64| ended_pod(Some(start() - SignedDuration::from_secs(seconds)));
    let left = |named, pod: &PodFacts| ours.pod_reserved_for(named, pod, start()).map(|left| left.as_secs());
    assert_eq!(left(Some("a/agentloop"), &deleted(20)), Some(40));
    assert_eq!(left(Some("a/agentloop"), &deleted(60)), None);
    assert_eq!(left(Some("a/agentloop"), &ended_pod(None)), Some(60), "its deletion has not begun");
    for ours in [None, Some("b/agentloop"), Some("c/agentloop")] {
        assert_eq!(left(ours, &deleted(0)), None);
    }
}

#[test]
fn no_timestamp_causes_a_panic() {
    let ours = serving("b/agentloop", &[]);
    for deletion in [Timestamp::MIN, Timestamp::MAX] {
        let _ = ours.pod_reserved_for(Some("a/agentloop"), &ended_pod(Some(deletion)), start());
        let _ = ours.pod_reserved_for(Some("a/agentloop"), &ended_pod(Some(start())), deletion);
    }
}

#[test]
fn a_release_is_a_namespace_and_a_name() {
    for bad in ["", "a", "a/", "/b", "a/b/c", "A/b", "a b/c", "a/b,", "-a/b"] {
        assert!(bad.parse::<Release>().is_err(), "{bad}");
    }
    assert_eq!("agentloop-system/agentloop".parse(), Ok(Release::new("agentloop-system", "agentloop")));
}
