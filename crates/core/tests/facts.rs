//! What the operator reads from pods that the kubelet, the scheduler and the garbage collector have written.

use crate::support::{after, done, exited, interrupted, merge, timed_out, worked};
use agentloop_contract::report::{Change, End, Report};
use agentloop_core::facts::{AgentEnd, Ending, PodFacts, PodState};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// A bound pod of iteration 3, attempt 1, with `more` merged into it.
fn pod(more: &Value) -> Pod {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "x-0a1b2c3d-3-1",
            "namespace": "dev",
            "uid": "pod-uid",
            "creationTimestamp": "2026-11-22T09:59:00Z",
            "labels": {
                "agentloop.dev/task": "x",
                "agentloop.dev/task-uid": "task-uid",
                "agentloop.dev/iteration": "3",
                "agentloop.dev/attempt": "1",
            },
            "annotations": { "agentloop.dev/template-hash": "0123456789abcdef" },
            "finalizers": ["agentloop.dev/settle"],
            "ownerReferences": [{
                "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "name": "x", "uid": "task-uid",
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "nodeName": "node-1",
            "restartPolicy": "Never",
            "containers": [{
                "name": "main",
                "image": "example/agent:1",
                "command": ["/agentloop/bin/agentloop-runner", "run", "--", "agent"],
            }],
        },
        "status": { "phase": "Pending" },
    });
    merge(&mut pod, more);
    serde_json::from_value(pod).unwrap()
}

/// The status of the agent's container.
fn agent(state: &Value) -> Value {
    json!({
        "name": "main", "image": "example/agent:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": state,
    })
}

/// A pod of this phase with this state of the agent's container.
fn in_phase(phase: &str, state: &Value) -> Value {
    json!({ "status": { "phase": phase, "containerStatuses": [agent(state)] } })
}

fn terminated(code: i32, reason: &str, message: &str) -> Value {
    json!({ "terminated": {
        "exitCode": code, "reason": reason, "message": message,
        "startedAt": "2026-11-22T10:00:00Z", "finishedAt": "2026-11-22T10:05:00Z",
        "containerID": "containerd://1",
    } })
}

fn reported(code: i32, report: &Report) -> Value {
    let message = report.encode(3072, None).unwrap();
    in_phase("Failed", &terminated(code, "Error", &message))
}

fn deleted(at: &str, grace: i64) -> Value {
    json!({ "metadata": { "deletionTimestamp": at, "deletionGracePeriodSeconds": grace } })
}

fn both(a: &Value, b: &Value) -> Value {
    let mut both = a.clone();
    merge(&mut both, b);
    both
}

fn state(more: &Value) -> PodState {
    PodFacts::of(&pod(more)).state
}

#[track_caller]
fn ran(more: &Value) -> AgentEnd {
    match state(more) {
        PodState::Ended(Ending::Ran(end)) => *end,
        other => panic!("{other:?} is not the end of an agent that ran"),
    }
}

#[track_caller]
fn never_started(more: &Value, words: &str) {
    match state(more) {
        PodState::Ended(Ending::NeverStarted { message }) => {
            assert!(message.contains(words), "{message:?} does not say {words:?}");
        }
        other => panic!("{other:?} does not prove that the agent never started"),
    }
}

#[test]
fn a_pod_shows_its_owner_and_its_attempt() {
    let facts = PodFacts::of(&pod(&json!({})));
    assert!(facts.is_attempt("task-uid", 3, 1));
    assert!(
        !facts.is_attempt("task-uid", 3, 0)
            && !facts.is_attempt("task-uid", 2, 1)
            && !facts.is_attempt("other", 3, 1)
    );
    assert_eq!((facts.has_scheduling_gate, facts.has_finalizer, facts.bound), (false, true, true));
    assert_eq!(facts.hash.as_deref(), Some("0123456789abcdef"));
    assert_eq!(facts.created, Some("2026-11-22T09:59:00Z".parse::<Timestamp>().unwrap()));
    let gated = json!({ "spec": { "schedulingGates": [{ "name": "agentloop.dev/start" }] } });
    assert!(PodFacts::of(&pod(&gated)).has_scheduling_gate);
    let others = json!({ "spec": { "schedulingGates": [{ "name": "quota.example/queue" }] } });
    assert!(!PodFacts::of(&pod(&others)).has_scheduling_gate);
}

#[test]
fn a_label_alone_does_not_make_a_pod_ours() {
    let facts = PodFacts::of(&pod(&json!({ "metadata": { "ownerReferences": null } })));
    assert!(!facts.belongs_to("task-uid"));
    let owner = json!([{ "apiVersion": "v1", "kind": "X", "name": "x", "uid": "task-uid" }]);
    let facts = PodFacts::of(&pod(&json!({ "metadata": { "ownerReferences": owner } })));
    assert!(!facts.belongs_to("task-uid"), "an owner that is no controller");
}

#[test]
fn a_label_that_is_no_number_names_no_iteration() {
    let facts =
        PodFacts::of(&pod(&json!({ "metadata": { "labels": { "agentloop.dev/iteration": "many" } } })));
    assert_eq!(facts.iteration, 0);
}

// === Proof that the agent never started ===

#[test]
fn a_container_that_still_waits_in_a_failed_pod_never_started() {
    let waits = json!({ "waiting": { "reason": "PodInitializing" } });
    let init = json!([{
        "name": "fetch", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": { "exitCode": 3, "reason": "Error", "message": "no network" } },
    }]);
    let failed = json!({ "status": { "initContainerStatuses": init } });
    never_started(
        &both(&in_phase("Failed", &waits), &failed),
        "init container fetch ended with exit code 3 (Error): no network",
    );
}

#[test]
fn a_pod_that_the_kubelet_rejected_has_no_container_statuses_and_never_started() {
    let rejected = json!({ "status": {
        "phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu",
    } });
    never_started(&rejected, "OutOfcpu: Node didn't have enough resource");
}

#[test]
fn a_container_that_the_runtime_could_not_start_never_started() {
    let start_error = json!({ "terminated": {
        "exitCode": 128, "reason": "StartError", "message": "exec: no such file",
        "startedAt": "1970-01-01T00:00:00Z", "finishedAt": "2026-11-22T10:00:01Z",
    } });
    never_started(&in_phase("Failed", &start_error), "could not be started: exec: no such file");
}

/// The state of a container that the kubelet did not find when the pod ended.
fn not_found() -> Value {
    json!({ "terminated": {
        "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": null, "finishedAt": null,
        "message": "The container could not be located when the pod was terminated",
    } })
}

#[test]
fn a_container_that_was_never_found_never_started() {
    never_started(&in_phase("Failed", &not_found()), "before its agent started");
}

#[test]
fn a_container_that_was_lost_while_it_ran_is_no_proof_that_it_never_started() {
    let used_to_run = json!({ "terminated": {
        "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": null, "finishedAt": null,
        "message": "The container could not be located when the pod was deleted.  The container used to be Running",
    } });
    // As seen in apecloud/kubeblocks#8027: the state alone looks like that of a container that never existed.
    let mut lost = agent(&not_found());
    merge(&mut lost, &json!({ "lastState": used_to_run, "restartCount": 1 }));
    assert_eq!(
        ran(&json!({ "status": { "phase": "Failed", "containerStatuses": [lost] } })).exit_code,
        Some(137)
    );
    // The pod was being deleted: no restart is counted.
    let mut lost = agent(&not_found());
    merge(&mut lost, &json!({ "lastState": used_to_run }));
    ran(&json!({ "status": { "phase": "Failed", "containerStatuses": [lost] } }));
    // The runtime lists it in an unknown state: there is no last state.
    let mut lost = agent(&not_found());
    merge(&mut lost, &json!({ "restartCount": 1 }));
    ran(&json!({ "status": { "phase": "Failed", "containerStatuses": [lost] } }));
    // The node restarted: the container waits to be created again.
    let mut lost = agent(&json!({ "waiting": { "reason": "ContainerCreating" } }));
    merge(&mut lost, &json!({ "lastState": used_to_run, "restartCount": 1 }));
    ran(&json!({ "status": { "phase": "Failed", "containerStatuses": [lost] } }));
    ran(&in_phase("Failed", &used_to_run));
}

#[test]
fn a_pod_without_a_recognizable_agent_is_no_proof_that_it_never_started() {
    let other = json!({ "spec": { "containers": [{ "name": "main", "command": ["/vault/env", "agent"] }] } });
    let end = ran(&both(&in_phase("Failed", &terminated(1, "Error", "")), &other));
    assert_eq!((end.report, end.exit_code), (None, None));
    never_started(
        &both(&json!({ "status": { "phase": "Failed", "reason": "OutOfpods" } }), &other),
        "OutOfpods",
    );
}

#[test]
fn the_garbage_collector_proves_nothing_about_a_bound_pod() {
    let by_gc = json!({ "status": { "phase": "Failed", "conditions": [
        { "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC" },
    ] } });
    for said in [json!({ "running": { "startedAt": "2026-11-22T10:00:00Z" } }), json!({ "waiting": {} })] {
        let end = ran(&both(&in_phase("Failed", &said), &by_gc));
        assert!(end.disrupted);
        assert_eq!(end.report, None);
    }
    let unbound = json!({ "spec": { "nodeName": "" } });
    never_started(&both(&by_gc, &unbound), "before its agent started");
}

// === Deletion ===

#[test]
fn a_deleted_pod_that_was_never_bound_has_ended() {
    let unbound = json!({ "spec": { "nodeName": "" } });
    never_started(
        &both(&deleted("2026-11-22T10:00:00Z", 0), &unbound),
        "was deleted before its agent started",
    );
    assert_eq!(state(&unbound), PodState::Starting(None));
}

#[test]
fn a_deleted_pod_that_is_bound_has_not_ended_until_its_kubelet_says_so() {
    let deletion = deleted("2026-11-22T10:00:30Z", 30);
    let running = json!({ "running": { "startedAt": "2026-11-22T10:00:00Z" } });
    assert_eq!(state(&both(&in_phase("Running", &running), &deletion)), PodState::Running);
    assert_eq!(state(&deletion), PodState::Starting(None));
    let facts = PodFacts::of(&pod(&deletion));
    assert_eq!(facts.deletion, Some(after(30)));
}

#[test]
fn a_pod_that_is_deleted_or_evicted_while_its_agent_runs_is_disrupted() {
    let deletion = deleted("2026-11-22T10:05:29Z", 30);
    let end = ran(&both(&reported(143, &interrupted(Change::Changed)), &deletion));
    assert!(end.disrupted);
    assert_eq!(end.report, Some(interrupted(Change::Changed)));
    let evicted = json!({ "status": { "reason": "Evicted", "message": "The node was low on memory" } });
    let end = ran(&both(&in_phase("Failed", &terminated(137, "Error", "")), &evicted));
    assert_eq!((end.disrupted, end.reason.as_deref()), (true, Some("Evicted")));
    let drained = json!({ "status": { "conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "lastTransitionTime": "2026-11-22T10:04:59Z",
    }] } });
    assert!(ran(&both(&in_phase("Failed", &terminated(137, "Error", "")), &drained)).disrupted);
}

#[test]
fn a_pod_that_is_deleted_after_its_agent_has_ended_is_not_disrupted() {
    let late = deleted("2026-11-22T10:06:00Z", 30);
    assert!(!ran(&both(&in_phase("Failed", &terminated(139, "Error", "")), &late)).disrupted);
    let late = json!({ "status": { "conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "lastTransitionTime": "2026-11-22T10:06:00Z",
    }] } });
    assert!(!ran(&both(&in_phase("Failed", &terminated(139, "Error", "")), &late)).disrupted);
}

// === How an agent that ran has ended ===

#[test]
fn an_out_of_memory_kill_is_recognized_by_its_reason() {
    let end = ran(&in_phase("Failed", &terminated(137, "OOMKilled", "")));
    assert_eq!((end.exit_code, end.reason.as_deref(), end.disrupted), (Some(137), Some("OOMKilled"), false));
    assert_eq!((end.started, end.finished), (Some(after(0)), Some(after(300))));
    let plain = ran(&in_phase("Failed", &terminated(1, "Error", "")));
    assert_eq!(plain.reason, None, "Error says nothing");
}

#[test]
fn the_pods_own_deadline_is_no_disruption() {
    let deadline =
        json!({ "status": { "reason": "DeadlineExceeded", "message": "Pod was active too long" } });
    let end = ran(&both(&in_phase("Failed", &terminated(137, "Error", "")), &deadline));
    assert_eq!((end.deadline, end.disrupted), (true, false));
    let waits = json!({ "waiting": { "reason": "ContainerCreating" } });
    never_started(&both(&in_phase("Failed", &waits), &deadline), "DeadlineExceeded: Pod was active too long");
}

#[test]
fn a_report_counts_with_the_exit_code_that_goes_with_it() {
    let signal = Report { exit_code: None, signal: Some(9), ..worked() };
    for (report, code) in [
        (done(), 0),
        (timed_out(Change::Changed), 124),
        (interrupted(Change::Unknown), 143),
        (signal, 137),
        (Report::of(End::CommandNotFound), 126),
        (Report::of(End::CommandNotFound), 127),
        (Report::of(End::AlreadyRan), 125),
        (Report::of(End::RunnerFailed), 125),
    ] {
        assert_eq!(ran(&reported(code, &report)).report, Some(report));
    }
}

#[test]
fn a_forged_report_of_a_killed_runner_does_not_count() {
    for (report, code) in [
        (done(), 137),
        (done(), 1),
        (interrupted(Change::Unchanged), 0),
        (worked(), 143),
        (Report::of(End::CommandNotFound), 0),
        (Report::of(End::AlreadyRan), 0),
        (Report::of(End::RunnerFailed), 0),
    ] {
        let end = ran(&reported(code, &report));
        assert_eq!((end.report, end.exit_code), (None, Some(code)));
    }
    let neither = Report { exit_code: None, ..exited(Change::Changed) };
    assert_eq!(ran(&reported(0, &neither)).report, None, "an end without a code agrees with nothing");
}

#[test]
fn a_truncated_report_does_not_count() {
    let whole = done().encode(3072, None).unwrap();
    let newer = whole.replacen("\"version\":1", "\"version\":2", 1);
    let tail = whole.get(10..).unwrap();
    for message in ["", "panic: out of luck", &whole[..whole.len() - 1], tail, &newer] {
        assert_eq!(
            ran(&in_phase("Succeeded", &terminated(0, "Completed", message))).report,
            None,
            "{message}"
        );
    }
}

#[test]
fn the_agent_is_the_container_that_runs_the_runner_whatever_a_webhook_added() {
    let containers = json!([
        { "name": "istio-proxy", "image": "p" },
        {
            "name": "main", "image": "example/agent:1",
            "command": ["/agentloop/bin/agentloop-runner", "run", "--", "agent"],
        },
    ]);
    let proxy = json!({
        "name": "istio-proxy", "image": "p", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "running": { "startedAt": "2026-11-22T10:00:00Z" } },
    });
    let message = done().encode(3072, None).unwrap();
    let statuses = json!([proxy, agent(&terminated(0, "Completed", &message))]);
    let injected = json!({
        "spec": { "containers": containers },
        "status": { "phase": "Running", "containerStatuses": statuses },
    });
    assert_eq!(state(&injected), PodState::AgentEnded(Some(after(300))));
    assert_eq!(PodFacts::of(&pod(&injected)).rejected, None);
}
