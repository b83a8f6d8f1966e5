//! Whole loops: counting, stopping, resuming.

use agentloop_core::api::{AgentTask, Phase, StopReason};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::kubelet::{AgentWork, Kubelet, TestOperator, bind, end, run};
use crate::namespace::{TestNamespace, eventually};

fn first_attempts(iterations: std::ops::RangeInclusive<i32>) -> Vec<(i32, i32)> {
    iterations.map(|iteration| (iteration, 0)).collect()
}

/// The spec in the command of a message.
fn patch_in(message: &str) -> Value {
    let (_, patch) = message.rsplit_once("-p '").expect("a command");
    let patch: Value = serde_json::from_str(patch.trim_end_matches('\'')).expect("JSON in the command");
    patch["spec"].clone()
}

#[tokio::test]
async fn a_loop_stops_at_its_limit_and_the_command_in_its_message_allows_as_many_again() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let kubelet = Kubelet::start(&ns, |_| AgentWork::changed());
    ns.create("limited", json!({ "maxIterations": 3 })).await;

    let status = ns.until_phase("limited", Phase::IterationLimitReached).await;
    let message = status.message.expect("a message");
    let expected = format!(
        "stopped after 3 iterations (max: 3); to resume: kubectl -n {} patch agt/limited --type merge -p \
         '{{\"spec\":{{\"maxIterations\":6}}}}'",
        ns.name
    );
    assert_eq!(message, expected);
    assert_eq!(kubelet.ran(), first_attempts(1..=3));

    ns.patch("limited", patch_in(&message)).await;
    let status = ns.until("limited", "6 iterations", |s| s.iterations == 6 && s.stop.is_some()).await;
    assert_eq!(status.phase, Some(Phase::IterationLimitReached));
    assert_eq!(kubelet.ran(), first_attempts(1..=6));
    assert_eq!(kubelet.created(), 6);
    ns.end().await;
}

#[tokio::test]
async fn an_agent_that_is_done_in_the_last_allowed_iteration_succeeds() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let kubelet = Kubelet::start(
        &ns,
        |iteration| if iteration == 2 { AgentWork::ready() } else { AgentWork::changed() },
    );
    ns.create("last", json!({ "maxIterations": 2 })).await;
    let status = ns.until_phase("last", Phase::Succeeded).await;
    assert_eq!(status.iterations, 2);
    assert!(status.completion_time.is_some());
    assert_eq!(kubelet.created(), 2);
    ns.end().await;
}

#[tokio::test]
async fn the_breaker_opens_when_nothing_changes_and_both_commands_close_it() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let _kubelet = Kubelet::start(&ns, |_| AgentWork::unchanged());
    ns.create("idle", json!({ "maxIterations": 20 })).await;
    let status = ns.until_phase("idle", Phase::CircuitOpen).await;
    assert_eq!(status.stop.map(|stop| stop.reason), Some(StopReason::NoChange));
    assert_eq!(status.iterations, 3);
    let message = status.message.expect("a message");
    ns.patch("idle", patch_in(&message)).await;
    let status = ns.until("idle", "a second stop", |s| s.iterations == 6 && s.stop.is_some()).await;
    assert_eq!(status.phase, Some(Phase::CircuitOpen));
    ns.patch("idle", json!({ "resetToken": "again" })).await;
    let status = ns.until("idle", "a third stop", |s| s.iterations > 6 && s.stop.is_some()).await;
    assert_eq!(status.breaker.consecutive_no_change, 6);
    assert_eq!(status.iterations, 12);
    ns.end().await;
}

#[tokio::test]
async fn the_same_error_five_times_opens_the_breaker_although_files_change() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let _kubelet =
        Kubelet::start(&ns, |n| AgentWork::error(&format!("10:0{n}:00 connect 10.0.0.{n}:80 refused")));
    ns.create("stuck", json!({})).await;
    let status = ns.until_phase("stuck", Phase::CircuitOpen).await;
    assert_eq!(status.reason.as_deref(), Some("SameError"));
    assert_eq!(status.iterations, 5);
    assert!(status.message.is_some_and(|m| m.contains("connect 10.0.0.5:80 refused")));
    ns.end().await;
}

#[tokio::test]
async fn lowering_the_hard_limit_stops_a_running_loop_and_raising_it_again_starts_nothing() {
    let ns = TestNamespace::with_tasks().await;
    ns.configure(json!({ "hardLimit": "40" })).await;
    let _operator = TestOperator::start(&ns);
    ns.create("clamped", json!({ "maxIterations": 60 })).await;
    let pods = ns.api::<Pod>();
    for _ in 0..2 {
        let pod = ns.started_pod("clamped").await.name_any();
        let status = ns.status("clamped").await;
        assert_eq!(status.max_iterations, Some(40));
        assert!(status.conditions.iter().any(|c| c.type_ == "LimitClamped" && c.status == "True"));
        bind(&pods, &pod).await;
        run(&pods, &pod).await;
        end(&pods, &pod, &AgentWork::changed()).await;
        ns.until("clamped", "settled", |s| s.active.as_ref().is_none_or(|active| active.pod_name != pod))
            .await;
    }
    let pod = ns.started_pod("clamped").await.name_any();
    ns.configure(json!({ "hardLimit": "2" })).await;
    bind(&pods, &pod).await;
    run(&pods, &pod).await;
    end(&pods, &pod, &AgentWork::changed()).await;
    let status = ns.until_phase("clamped", Phase::IterationLimitReached).await;
    assert_eq!((status.iterations, status.max_iterations), (3, Some(2)));

    ns.configure(json!({ "hardLimit": "50" })).await;
    // Another task that starts with the new number shows that it has been read.
    ns.create("probe", json!({ "suspend": true, "maxIterations": 60 })).await;
    ns.until("probe", "the new limit", |s| s.max_iterations == Some(50)).await;
    assert_eq!(ns.status("clamped").await.phase, Some(Phase::IterationLimitReached));
    ns.patch("clamped", json!({ "maxIterations": 4 })).await;
    ns.started_pod("clamped").await;
    ns.end().await;
}

#[tokio::test]
async fn an_operator_that_is_killed_repeatedly_counts_exactly() {
    let ns = TestNamespace::with_tasks().await;
    let kubelet = Kubelet::start(&ns, |_| AgentWork::changed());
    ns.create("killed", json!({ "maxIterations": 12 })).await;
    let mut moment = 3_u64;
    while ns.status("killed").await.phase != Some(Phase::IterationLimitReached) {
        let operator = TestOperator::start(&ns);
        // Another moment each time, but the same ones in each run of the test.
        moment = (moment * 37) % 101;
        let life = std::time::Duration::from_millis(60 + 5 * moment);
        let _ = tokio::time::timeout(life, std::future::pending::<()>()).await;
        operator.kill();
    }
    assert_eq!(ns.status("killed").await.iterations, 12);
    assert_eq!(kubelet.ran(), first_attempts(1..=12));
    assert_eq!(kubelet.created(), 12);
    ns.end().await;
}

#[tokio::test]
async fn two_operators_at_the_same_time_without_a_lease_count_exactly() {
    let ns = TestNamespace::with_tasks().await;
    let kubelet = Kubelet::start(&ns, |_| AgentWork::changed());
    let _operators = (TestOperator::start(&ns), TestOperator::start(&ns));
    for task in ["a", "b", "c"] {
        ns.create(task, json!({ "maxIterations": 6 })).await;
    }
    for task in ["a", "b", "c"] {
        ns.until_phase(task, Phase::IterationLimitReached).await;
    }
    let mut ran = kubelet.ran();
    ran.sort_unstable();
    let expected: Vec<(i32, i32)> = (1..=6).flat_map(|n| [(n, 0); 3]).collect();
    assert_eq!(ran, expected);
    assert_eq!(kubelet.created(), 18);
    ns.end().await;
}

#[tokio::test]
async fn a_deleted_task_leaves_no_pod_behind_and_its_successor_counts_from_one() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    ns.create("gone", json!({})).await;
    let pod = ns.started_pod("gone").await;
    let (pods, name) = (ns.api::<Pod>(), pod.name_any());
    bind(&pods, &name).await;
    run(&pods, &name).await;

    let tasks = ns.api::<AgentTask>();
    tasks.delete("gone", &DeleteParams::background()).await.expect("deleted");
    eventually("the pod is being deleted", || async {
        let pod = pods.get_opt(&name).await.expect("an answer")?;
        pod.metadata.deletion_timestamp
    })
    .await;
    ns.create("gone", json!({})).await;
    let status = ns.until_phase("gone", Phase::Waiting).await;
    assert_eq!(status.reason.as_deref(), Some("PreviousPodRunning"));

    let mut work = AgentWork::changed();
    work.0.end = agentloop_contract::report::End::Interrupted;
    end(&pods, &name, &work).await;
    ns.force_delete(&name).await;
    eventually("the finalizer is removed", || async {
        pods.get_opt(&name).await.expect("an answer").is_none().then_some(())
    })
    .await;
    let status = ns.until_phase("gone", Phase::Running).await;
    assert_eq!(status.active.map(|active| (active.iteration, active.attempt)), Some((1, 0)));
    ns.end().await;
}

#[tokio::test]
async fn nothing_is_written_once_a_loop_has_stopped() {
    let ns = TestNamespace::with_tasks().await;
    let operator = TestOperator::start(&ns);
    let _kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    ns.create("quiet", json!({})).await;
    ns.until_phase("quiet", Phase::Succeeded).await;
    let pods = ns.api::<Pod>();
    eventually("the finalizer is removed", || async {
        let list = pods.list(&ListParams::default()).await.expect("a list");
        list.iter().all(|pod| pod.finalizers().is_empty()).then_some(())
    })
    .await;
    let version = |task: AgentTask| task.resource_version();
    let tasks = ns.api::<AgentTask>();
    let before = version(tasks.get("quiet").await.expect("the task"));
    operator.kill();
    let _operator = TestOperator::start(&ns);
    // A later task that has run to its end shows that the new operator has processed everything.
    ns.create("later", json!({})).await;
    ns.until_phase("later", Phase::Succeeded).await;
    assert_eq!(version(tasks.get("quiet").await.expect("the task")), before);
    ns.end().await;
}

#[tokio::test]
async fn a_task_that_no_operator_has_processed_says_so() {
    let ns = TestNamespace::with_tasks().await;
    let status = ns.create("lonely", json!({})).await.status.unwrap_or_default();
    assert_eq!((status.phase, status.iterations), (Some(Phase::Pending), 0));
    let message = status.message.unwrap_or_default();
    assert!(message.contains("no operator has seen this task"), "{message}");
    let read = ns.status("lonely").await;
    assert_eq!((read.phase, read.message), (Some(Phase::Pending), Some(message)));
    ns.end().await;
}

#[tokio::test]
async fn the_server_refuses_a_status_that_would_break_the_count() {
    let ns = TestNamespace::with_tasks().await;
    ns.create("forged", json!({ "maxIterations": 2 })).await;
    let tasks = ns.api::<AgentTask>();
    let try_status = async |status: Value| {
        let patch = Patch::Merge(json!({ "status": status }));
        tasks.patch_status("forged", &PatchParams::default(), &patch).await.err().map(|e| e.to_string())
    };
    let written = json!({ "observedGeneration": 1, "iterations": 1, "maxIterations": 2 });
    assert_eq!(try_status(written).await, None);
    let refusals = [
        (json!({ "iterations": 3 }), "grow by one"),
        (json!({ "iterations": 0 }), "grow by one"),
        (json!({ "active": { "iteration": 3, "attempt": 0, "podName": "x" } }), "within the limit"),
        (json!({ "active": { "iteration": 1, "attempt": 0, "podName": "x" } }), "within the limit"),
        (json!({ "observedGeneration": null }), "cannot be removed"),
        (Value::Null, "cannot be removed"),
    ];
    for (status, message) in refusals {
        let refusal = try_status(status.clone()).await.unwrap_or_default();
        assert!(refusal.contains(message), "{status}: {refusal:?}");
    }
    assert_eq!(try_status(json!({ "phase": "Succeeded" })).await, None);
    assert!(try_status(json!({ "phase": "Running" })).await.is_some_and(|e| e.contains("final")));
    ns.end().await;
}

#[tokio::test]
async fn a_task_that_is_restored_with_its_status_continues_from_its_count() {
    let ns = TestNamespace::with_tasks().await;
    let operator = TestOperator::start(&ns);
    let kubelet = Kubelet::start(&ns, |_| AgentWork::changed());
    ns.create("saved", json!({ "maxIterations": 2 })).await;
    let saved = ns.until_phase("saved", Phase::IterationLimitReached).await;
    drop(operator);
    ns.create("restored", json!({ "maxIterations": 3 })).await;
    let patch = Patch::Merge(json!({ "status": saved }));
    let tasks = ns.api::<AgentTask>();
    tasks.patch_status("restored", &PatchParams::default(), &patch).await.expect("the status is accepted");
    let _operator = TestOperator::start(&ns);
    // The stop in the restored status has the same generation as the restored spec.
    ns.patch("restored", json!({ "prompt": "continue" })).await;
    let status = ns.until("restored", "3 iterations", |s| s.iterations == 3 && s.stop.is_some()).await;
    assert_eq!(status.phase, Some(Phase::IterationLimitReached));
    assert_eq!(kubelet.ran(), [(1, 0), (2, 0), (3, 0)]);
    ns.end().await;
}

#[tokio::test]
async fn a_pod_that_only_has_the_labels_of_a_task_that_is_gone_is_left_alone() {
    let ns = TestNamespace::with_tasks().await;
    let labels = json!({ "agentloop.dev/task": "gone", "agentloop.dev/task-uid": "no-such-uid" });
    ns.pod(json!({ "name": "copy", "labels": labels }), &[]).await;
    let _operator = TestOperator::start(&ns);
    let ours = json!({ "name": "ours", "labels": labels, "finalizers": ["agentloop.dev/settle"] });
    ns.pod(ours, &[]).await;
    let pods = ns.api::<Pod>();
    eventually("our own pod loses its finalizer", || async {
        pods.get_opt("ours").await.expect("an answer").is_none().then_some(())
    })
    .await;
    let copy = pods.get("copy").await.expect("the copy");
    assert_eq!(copy.metadata.deletion_timestamp, None);
    ns.end().await;
}

#[tokio::test]
async fn none_of_many_busy_tasks_is_left_behind() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::with_concurrency(&ns, 1);
    let _kubelet = Kubelet::start(&ns, |_| AgentWork::changed());
    for number in 0..8 {
        ns.create(&format!("busy-{number}"), json!({ "maxIterations": 6 })).await;
    }
    let slowest = eventually("the first at its limit", || async {
        let tasks = ns.api::<AgentTask>().list(&ListParams::default()).await.expect("a list");
        let counts: Vec<i32> =
            tasks.iter().map(|task| task.status.as_ref().map_or(0, |status| status.iterations)).collect();
        counts.contains(&6).then(|| counts.into_iter().min())?
    })
    .await;
    assert!(slowest >= 2, "one task has {slowest} iterations while another has 6");
    ns.end().await;
}
