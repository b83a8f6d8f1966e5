//! Iterations that end badly.

use agentloop_contract::report::{Change, End, ProviderError, ProviderErrorKind, Report};
use agentloop_core::api::{IterationOutcome, Phase};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use crate::kubelet::{AgentWork, TestOperator, bind, end, message, run, set_status};
use crate::namespace::{TestNamespace, eventually};

/// A task whose first iteration runs.
async fn running(ns: &TestNamespace, name: &str) -> String {
    ns.create(name, json!({})).await;
    let pod = ns.started_pod(name).await.name_any();
    let pods = ns.api::<Pod>();
    bind(&pods, &pod).await;
    run(&pods, &pod).await;
    pod
}

async fn is_deleted(ns: &TestNamespace, pod: &str) {
    let pods = ns.api::<Pod>();
    eventually("the pod is being deleted", || async {
        pods.get_opt(pod).await.expect("an answer")?.metadata.deletion_timestamp
    })
    .await;
}

fn interrupted() -> AgentWork {
    AgentWork(Report::of(End::Interrupted))
}

#[tokio::test]
async fn suspending_stops_and_charges_the_pod_and_resuming_starts_the_next_iteration() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let pod = running(&ns, "paused").await;
    ns.patch("paused", json!({ "suspend": true })).await;
    is_deleted(&ns, &pod).await;
    end(&ns.api(), &pod, &interrupted()).await;
    ns.force_delete(&pod).await;
    let status = ns.until("paused", "charged", |s| s.iterations == 1).await;
    assert_eq!(status.phase, Some(Phase::Suspended));
    assert_eq!(status.history.first().map(|entry| entry.outcome), Some(IterationOutcome::Interrupted));
    assert_eq!(status.active, None);

    ns.patch("paused", json!({ "suspend": false })).await;
    let next = ns.until("paused", "the next active iteration", |s| s.active.is_some()).await;
    assert_eq!(next.active.map(|active| (active.iteration, active.attempt)), Some((2, 0)));
    ns.end().await;
}

#[tokio::test]
async fn suspending_before_the_agent_started_charges_nothing() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    ns.create("early", json!({})).await;
    let pod = ns.started_pod("early").await.name_any();
    ns.patch("early", json!({ "suspend": true })).await;
    let status =
        ns.until("early", "settled", |s| s.phase == Some(Phase::Suspended) && s.active.is_none()).await;
    assert_eq!((status.iterations, status.next_attempt), (0, 1));
    eventually("the pod is gone", || async {
        ns.api::<Pod>().get_opt(&pod).await.expect("an answer").is_none().then_some(())
    })
    .await;
    ns.end().await;
}

#[tokio::test]
async fn a_pod_that_a_user_deletes_while_its_agent_runs_is_charged_once() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let pod = running(&ns, "cut").await;
    ns.api::<Pod>().delete(&pod, &DeleteParams::default()).await.expect("deleted");
    end(&ns.api(), &pod, &interrupted()).await;
    ns.force_delete(&pod).await;
    let status = ns.until("cut", "charged", |s| s.iterations == 1).await;
    assert_eq!(status.history.first().map(|entry| entry.outcome), Some(IterationOutcome::Interrupted));
    assert_eq!(status.breaker.consecutive_no_change, 0);
    ns.end().await;
}

#[tokio::test]
async fn a_refusal_of_the_provider_is_waited_for_and_not_charged() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let pod = running(&ns, "refused").await;
    let refusal = ProviderError { kind: ProviderErrorKind::RateLimited, until: None, unavailable: false };
    let work = AgentWork(Report {
        exit_code: Some(1),
        changed: Change::Unchanged,
        provider_refused: Some(refusal),
        ..Report::of(End::Exited)
    });
    end(&ns.api(), &pod, &work).await;
    let status = ns.until_phase("refused", Phase::Waiting).await;
    assert_eq!(status.reason.as_deref(), Some("RateLimited"));
    assert_eq!((status.iterations, status.next_attempt), (0, 1));
    let until = status.waiting.and_then(|waiting| waiting.retry_time).expect("a time");
    let delay = until.0.duration_since(Timestamp::now()).as_secs();
    // A minute, and up to 30 s more, so that the tasks of one provider do not all retry at the same time.
    assert!((40..=91).contains(&delay), "{delay} s");
    ns.end().await;
}

#[tokio::test]
async fn a_refused_credential_fails_the_task_until_a_new_token() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let pod = running(&ns, "key").await;
    let refusal = ProviderError { kind: ProviderErrorKind::Unauthenticated, until: None, unavailable: false };
    let mut work = AgentWork::error("401 Unauthorized");
    work.0.provider_refused = Some(refusal);
    end(&ns.api(), &pod, &work).await;
    let status = ns.until_phase("key", Phase::Failed).await;
    assert_eq!(status.reason.as_deref(), Some("Unauthenticated"));
    ns.patch("key", json!({ "maxIterations": 20 })).await;
    ns.until("key", "the edit is observed", |s| s.observed_generation == Some(2)).await;
    assert_eq!(ns.status("key").await.phase, Some(Phase::Failed));
    ns.patch("key", json!({ "resetToken": "fixed" })).await;
    ns.started_pod("key").await;
    ns.end().await;
}

#[tokio::test]
async fn a_pod_that_ends_before_its_agent_started_is_retried_later() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    ns.create("init", json!({})).await;
    let pod = ns.started_pod("init").await.name_any();
    bind(&ns.api(), &pod).await;
    let waiting = json!({ "name": "agent", "image": "none", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": "PodInitializing" } } });
    set_status(&ns.api(), &pod, json!({ "phase": "Failed", "containerStatuses": [waiting] })).await;
    let status = ns.until_phase("init", Phase::Waiting).await;
    assert_eq!(status.reason.as_deref(), Some("StartFailed"));
    assert_eq!((status.iterations, status.next_attempt), (0, 1));
    ns.end().await;
}

#[tokio::test]
async fn a_sidecar_that_never_ends_is_stopped_and_the_agent_decides_the_outcome() {
    let ns = TestNamespace::with_tasks().await;
    ns.configure(json!({ "sidecarGraceSeconds": "1" })).await;
    let _operator = TestOperator::start(&ns);
    let pod = running(&ns, "proxy").await;
    let work = AgentWork::ready();
    let now = Timestamp::now().to_string();
    let proxy: Pod = ns.api().get(&pod).await.expect("the pod is there");
    let state = json!({ "terminated": { "exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now,
        "message": message(&proxy, &work) } });
    let agent = json!({ "name": "agent", "image": "none", "imageID": "", "ready": false, "restartCount": 0, "state": state });
    set_status(&ns.api(), &pod, json!({ "phase": "Running", "containerStatuses": [agent] })).await;
    is_deleted(&ns, &pod).await;
    set_status(&ns.api(), &pod, json!({ "phase": "Failed" })).await;
    ns.force_delete(&pod).await;
    let status = ns.until_phase("proxy", Phase::Succeeded).await;
    assert_eq!(status.iterations, 1);
    ns.end().await;
}
