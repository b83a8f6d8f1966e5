//! Iterations that do not end as they should.

use agentloop_contract::report::{Change, End, ProviderError, ProviderErrorKind, Report};
use agentloop_core::api::{IterationOutcome, Phase};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use crate::kubelet::{Operator, Work, bind, end, message, run, set_status};
use crate::world::{World, eventually};

/// A task whose first iteration runs.
async fn running(world: &World, name: &str) -> String {
    world.create(name, json!({})).await;
    let pod = world.started_pod(name).await.name_any();
    let pods = world.api::<Pod>();
    bind(&pods, &pod).await;
    run(&pods, &pod).await;
    pod
}

async fn is_deleted(world: &World, pod: &str) {
    let pods = world.api::<Pod>();
    eventually("the pod is being deleted", || async {
        pods.get_opt(pod).await.expect("an answer")?.metadata.deletion_timestamp
    })
    .await;
}

fn interrupted() -> Work {
    Work(Report::of(End::Interrupted))
}

#[tokio::test]
async fn suspending_stops_the_pod_and_charges_it_and_going_on_takes_the_next() {
    let world = World::with_tasks().await;
    let _operator = Operator::start(&world);
    let pod = running(&world, "paused").await;
    world.patch("paused", json!({ "suspend": true })).await;
    is_deleted(&world, &pod).await;
    end(&world.api(), &pod, &interrupted()).await;
    world.force_delete(&pod).await;
    let status = world.until("paused", "charged", |s| s.iterations == 1).await;
    assert_eq!(status.phase, Some(Phase::Suspended));
    assert_eq!(status.history.first().map(|entry| entry.outcome), Some(IterationOutcome::Interrupted));
    assert_eq!(status.active, None);

    world.patch("paused", json!({ "suspend": false })).await;
    let next = world.until("paused", "the next claim", |s| s.active.is_some()).await;
    assert_eq!(next.active.map(|active| (active.iteration, active.attempt)), Some((2, 0)));
    world.end().await;
}

#[tokio::test]
async fn suspending_before_the_agent_started_charges_nothing() {
    let world = World::with_tasks().await;
    let _operator = Operator::start(&world);
    world.create("early", json!({})).await;
    let pod = world.started_pod("early").await.name_any();
    world.patch("early", json!({ "suspend": true })).await;
    let status =
        world.until("early", "settled", |s| s.phase == Some(Phase::Suspended) && s.active.is_none()).await;
    assert_eq!((status.iterations, status.next_attempt), (0, 1));
    eventually("the pod is gone", || async {
        world.api::<Pod>().get_opt(&pod).await.expect("an answer").is_none().then_some(())
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_pod_that_a_user_deletes_while_its_agent_runs_is_charged_once() {
    let world = World::with_tasks().await;
    let _operator = Operator::start(&world);
    let pod = running(&world, "cut").await;
    world.api::<Pod>().delete(&pod, &DeleteParams::default()).await.expect("deleted");
    end(&world.api(), &pod, &interrupted()).await;
    world.force_delete(&pod).await;
    let status = world.until("cut", "charged", |s| s.iterations == 1).await;
    assert_eq!(status.history.first().map(|entry| entry.outcome), Some(IterationOutcome::Interrupted));
    assert_eq!(status.breaker.consecutive_no_change, 0);
    world.end().await;
}

#[tokio::test]
async fn a_provider_that_refuses_is_waited_for_and_not_charged() {
    let world = World::with_tasks().await;
    let _operator = Operator::start(&world);
    let pod = running(&world, "refused").await;
    let refusal = ProviderError { kind: ProviderErrorKind::RateLimited, until: None, unavailable: false };
    let work = Work(Report {
        exit_code: Some(1),
        changed: Change::Unchanged,
        provider_refused: Some(refusal),
        ..Report::of(End::Exited)
    });
    end(&world.api(), &pod, &work).await;
    let status = world.until_phase("refused", Phase::Waiting).await;
    assert_eq!(status.reason.as_deref(), Some("RateLimited"));
    assert_eq!((status.iterations, status.next_attempt), (0, 1));
    let until = status.waiting.and_then(|waiting| waiting.retry_time).expect("a time");
    let delay = until.0.duration_since(Timestamp::now()).as_secs();
    // A minute, and up to 30 s so that tasks of one provider do not all come back at once.
    assert!((40..=91).contains(&delay), "{delay} s");
    world.end().await;
}

#[tokio::test]
async fn a_refused_credential_fails_the_task_until_a_new_token() {
    let world = World::with_tasks().await;
    let _operator = Operator::start(&world);
    let pod = running(&world, "key").await;
    let refusal = ProviderError { kind: ProviderErrorKind::Unauthenticated, until: None, unavailable: false };
    let mut work = Work::error("401 Unauthorized");
    work.0.provider_refused = Some(refusal);
    end(&world.api(), &pod, &work).await;
    let status = world.until_phase("key", Phase::Failed).await;
    assert_eq!(status.reason.as_deref(), Some("Unauthenticated"));
    world.patch("key", json!({ "maxIterations": 20 })).await;
    world.until("key", "the edit is seen", |s| s.observed_generation == Some(2)).await;
    assert_eq!(world.status("key").await.phase, Some(Phase::Failed));
    world.patch("key", json!({ "resetToken": "fixed" })).await;
    world.started_pod("key").await;
    world.end().await;
}

#[tokio::test]
async fn a_pod_that_ends_before_its_agent_started_is_tried_again_later() {
    let world = World::with_tasks().await;
    let _operator = Operator::start(&world);
    world.create("init", json!({})).await;
    let pod = world.started_pod("init").await.name_any();
    bind(&world.api(), &pod).await;
    let waiting = json!({ "name": "agent", "image": "none", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": "PodInitializing" } } });
    set_status(&world.api(), &pod, json!({ "phase": "Failed", "containerStatuses": [waiting] })).await;
    let status = world.until_phase("init", Phase::Waiting).await;
    assert_eq!(status.reason.as_deref(), Some("StartFailed"));
    assert_eq!((status.iterations, status.next_attempt), (0, 1));
    world.end().await;
}

#[tokio::test]
async fn a_sidecar_that_never_ends_is_stopped_and_the_agent_is_judged() {
    let world = World::with_tasks().await;
    world.configure(json!({ "sidecarGraceSeconds": "1" })).await;
    let _operator = Operator::start(&world);
    let pod = running(&world, "proxy").await;
    let work = Work::ready();
    let now = Timestamp::now().to_string();
    let proxy: Pod = world.api().get(&pod).await.expect("the pod is there");
    let state = json!({ "terminated": { "exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now,
        "message": message(&proxy, &work) } });
    let agent = json!({ "name": "agent", "image": "none", "imageID": "", "ready": false, "restartCount": 0, "state": state });
    set_status(&world.api(), &pod, json!({ "phase": "Running", "containerStatuses": [agent] })).await;
    is_deleted(&world, &pod).await;
    set_status(&world.api(), &pod, json!({ "phase": "Failed" })).await;
    world.force_delete(&pod).await;
    let status = world.until_phase("proxy", Phase::Succeeded).await;
    assert_eq!(status.iterations, 1);
    world.end().await;
}
