//! What blocks an iteration. When the obstacle is gone, the iteration starts, and the wait has not been charged.

use std::time::Duration;

use agentloop_core::api::{AgentTask, Phase};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time;

use crate::kubelet::{AgentWork, Kubelet, TestOperator, bind, set_status};
use crate::namespace::{TestNamespace, eventually, object};

async fn waits(ns: &TestNamespace, task: &str, reason: &str) -> String {
    let status = ns.until(task, reason, |s| s.reason.as_deref() == Some(reason)).await;
    assert_eq!(status.phase, Some(Phase::Waiting));
    assert_eq!(status.iterations, 0);
    status.message.expect("a message")
}

#[tokio::test]
async fn a_full_quota_is_waited_for_and_not_charged() {
    let ns = TestNamespace::with_tasks().await;
    // With short retries, so that the test need not wait for the default delay.
    ns.configure(json!({ "startRetryMinSeconds": "1", "startRetryMaxSeconds": "1" })).await;
    let quotas = ns.api::<ResourceQuota>();
    let none = object(json!({ "metadata": { "name": "full" }, "spec": { "hard": { "pods": "0" } } }));
    quotas.create(&PostParams::default(), &none).await.expect("a quota");
    eventually("the quota is counted", || async { quotas.get("full").await.ok()?.status?.hard }).await;
    let _operator = TestOperator::start(&ns);
    let kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    ns.create("poor", json!({})).await;
    let message = waits(&ns, "poor", "QuotaExceeded").await;
    assert!(message.contains("exceeded quota: full"), "{message}");

    quotas.delete("full", &DeleteParams::default()).await.expect("deleted");
    let status = ns.until_phase("poor", Phase::Succeeded).await;
    assert_eq!(status.iterations, 1);
    assert_eq!(kubelet.ran(), [(1, 0)]);
    ns.end().await;
}

#[tokio::test]
async fn a_refused_pod_is_reported_with_the_servers_message_and_another_template_fixes_it() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    let container = |mounts: Value| {
        json!({ "spec": { "containers": [
            { "name": "agent", "image": "none", "command": ["/bin/agent"], "volumeMounts": mounts },
        ] } })
    };
    let nowhere = container(json!([{ "name": "nowhere", "mountPath": "/x" }]));
    ns.create("refused", json!({ "template": nowhere })).await;
    let message = waits(&ns, "refused", "PodRejected").await;
    assert!(message.contains("nowhere"), "{message}");
    ns.patch("refused", json!({ "template": container(json!([])) })).await;
    ns.until_phase("refused", Phase::Succeeded).await;
    assert_eq!(kubelet.created(), 1);
    ns.end().await;
}

/// A webhook accepts calls and never answers within its timeout: the task must report it, and continue once the webhook is
/// removed.
async fn waits_for_a_webhook(seconds: i32, expected: &str) {
    let ns = TestNamespace::with_tasks().await;
    ns.configure(json!({ "startRetryMinSeconds": "1", "startRetryMaxSeconds": "1" })).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(ns.clients.read.clone());
    let webhook = object(json!({
        "metadata": { "name": ns.name },
        "webhooks": [{
            "name": "silent.agentloop.dev",
            "clientConfig": { "url": format!("https://{}", silent.local_addr().expect("its address")) },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": ns.name } },
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "timeoutSeconds": seconds,
        }],
    }));
    webhooks.create(&PostParams::default(), &webhook).await.expect("a webhook");
    // A webhook takes effect after a moment: a dry run shows when.
    let probe = object::<Pod>(json!({
        "metadata": { "name": "probe" }, "spec": { "containers": [{ "name": "agent", "image": "none" }] },
    }));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the webhook is called", || async {
        let asked = time::timeout(Duration::from_millis(300), ns.api().create(&dry, &probe)).await;
        asked.is_err().then_some(())
    })
    .await;
    let _operator = TestOperator::start(&ns);
    let kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    ns.create("held", json!({})).await;
    let message = waits(&ns, "held", "PodRejected").await;
    assert!(message.contains(expected), "{message}");

    webhooks.delete(&ns.name, &DeleteParams::default()).await.expect("deleted");
    let status = ns.until_phase("held", Phase::Succeeded).await;
    assert_eq!(status.iterations, 1);
    assert_eq!(kubelet.ran(), [(1, 0)]);
    ns.end().await;
}

#[tokio::test]
async fn a_webhook_that_times_out_is_waited_for_and_not_charged() {
    waits_for_a_webhook(1, "silent.agentloop.dev").await;
}

#[tokio::test]
async fn a_webhook_that_is_slower_than_the_timeout_of_a_write_is_waited_for_and_not_charged() {
    waits_for_a_webhook(30, "an admission webhook may be slow").await;
}

#[tokio::test]
async fn another_owners_pod_with_the_same_name_is_never_touched() {
    let ns = TestNamespace::with_tasks().await;
    ns.configure(json!({ "startRetryMinSeconds": "1", "startRetryMaxSeconds": "1" })).await;
    let task = ns.create("named", json!({})).await;
    let name = agentloop_core::pod::pod_name("named", &task.uid().expect("a uid"), 1, 0);
    let foreign = ns.pod(json!({ "name": name }), &[]).await;
    let _operator = TestOperator::start(&ns);
    let message = waits(&ns, "named", "NameConflict").await;
    assert!(message.contains(&name), "{message}");
    let still = ns.api::<Pod>().get(&name).await.expect("the other pod");
    assert_eq!((still.uid(), still.metadata.deletion_timestamp), (foreign.uid(), None));

    ns.force_delete(&name).await;
    ns.started_pod("named").await;
    ns.end().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_left_to_the_kubelet_until_the_template_changes() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    ns.create("image", json!({})).await;
    let (pods, pod) = (ns.api::<Pod>(), ns.started_pod("image").await.name_any());
    bind(&pods, &pod).await;
    let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } });
    let container = json!({ "name": "agent", "image": "none", "imageID": "", "ready": false, "restartCount": 0, "state": waiting });
    set_status(&pods, &pod, json!({ "phase": "Pending", "containerStatuses": [container] })).await;
    let message = waits(&ns, "image", "ImagePullFailed").await;
    assert!(message.contains("no such image") && !message.contains("runner"), "{message}");
    assert_eq!(pods.get(&pod).await.expect("the pod").metadata.deletion_timestamp, None);

    let template = json!({ "spec": { "containers": [{ "name": "agent", "image": "other", "command": ["/bin/agent"] }] } });
    ns.patch("image", json!({ "template": template })).await;
    eventually("the pod is replaced", || async {
        pods.get_opt(&pod).await.expect("an answer")?.metadata.deletion_timestamp
    })
    .await;
    set_status(&pods, &pod, json!({ "phase": "Failed" })).await;
    ns.force_delete(&pod).await;
    let status =
        ns.until("image", "the next attempt", |s| s.active.as_ref().is_some_and(|a| a.attempt == 1)).await;
    assert_eq!(status.iterations, 0);
    ns.end().await;
}

#[tokio::test]
async fn an_invalid_configuration_delays_only_new_tasks() {
    let ns = TestNamespace::with_tasks().await;
    ns.configure(json!({ "hardLimit": "7" })).await;
    let _operator = TestOperator::start(&ns);
    let _kubelet =
        Kubelet::start(
            &ns,
            |iteration| if iteration == 5 { AgentWork::ready() } else { AgentWork::changed() },
        );
    ns.create("before", json!({ "maxIterations": 2 })).await;
    ns.until_phase("before", Phase::IterationLimitReached).await;

    ns.configure(json!({ "hardLimit": "7", "hardLimits": "9" })).await;
    ns.create("after", json!({})).await;
    let message = waits(&ns, "after", "ConfigInvalid").await;
    assert!(message.contains("hardLimits"), "{message}");
    ns.patch("before", json!({ "maxIterations": 9 })).await;
    let status = ns.until_phase("before", Phase::Succeeded).await;
    assert_eq!(status.max_iterations, Some(7));

    ns.configure(json!({ "hardLimit": "7" })).await;
    ns.until_phase("after", Phase::Succeeded).await;
    ns.end().await;
}

#[tokio::test]
async fn a_configuration_with_many_mistakes_is_reported_in_an_event_that_the_server_accepts() {
    let ns = TestNamespace::with_tasks().await;
    let mistakes: serde_json::Map<String, Value> =
        (0..60).map(|n| (format!("notASetting{n:02}"), json!("x".repeat(300)))).collect();
    ns.configure(Value::Object(mistakes)).await;
    let _operator = TestOperator::start(&ns);
    let note = eventually("an Event on the ConfigMap", || async {
        let events = ns.api::<Event>().list(&ListParams::default()).await.expect("Events").items;
        let invalid = |event: &Event| event.reason.as_deref() == Some("ConfigInvalid");
        events.into_iter().find(invalid).and_then(|event| event.note)
    })
    .await;
    assert!(note.contains("notASetting00") && note.ends_with('…'), "{note}");
    ns.end().await;
}

#[tokio::test]
async fn paused_starts_nothing_anywhere_until_it_is_removed() {
    let ns = TestNamespace::with_tasks().await;
    ns.configure(json!({ "paused": "true" })).await;
    let _operator = TestOperator::start(&ns);
    let kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    ns.create("held", json!({})).await;
    waits(&ns, "held", "Paused").await;
    assert_eq!(kubelet.created(), 0);
    ns.api::<ConfigMap>().delete("agentloop-config", &DeleteParams::default()).await.expect("deleted");
    ns.until_phase("held", Phase::Succeeded).await;
    ns.end().await;
}

#[tokio::test]
async fn a_task_that_cannot_be_decoded_does_not_stop_others() {
    let ns = TestNamespace::with_tasks().await;
    ns.create("odd", json!({})).await;
    let tasks = ns.api::<AgentTask>();
    // A time that the schema accepts and that cannot be parsed.
    let status = json!({ "status": { "startTime": "2026-01-01T00:00:00+99:99", "iterations": 0 } });
    // The answer cannot be decoded either.
    let answer = tasks.patch_status("odd", &PatchParams::default(), &Patch::Merge(status)).await;
    assert!(matches!(answer, Err(kube::Error::SerdeError(_))), "{answer:?}");
    assert!(
        tasks.list(&ListParams::default()).await.is_err(),
        "the test needs an object that cannot be decoded"
    );
    let _operator = TestOperator::start(&ns);
    let _kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    ns.create("good", json!({})).await;
    ns.until_phase("good", Phase::Succeeded).await;
    ns.end().await;
}
