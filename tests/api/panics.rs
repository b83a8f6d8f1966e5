//! A panic at one object does not affect other objects.

use agentloop_contract::names::{FINALIZER_SETTLE, LABEL_TASK, LABEL_TASK_UID};
use agentloop_core::api::Phase;
use agentloop_core::decide::{self, Decision, Observed};
use agentloop_core::facts::PodFacts;
use agentloop_operator::controller::RuleSet;
use agentloop_operator::metrics::Metrics;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use crate::kubelet::{AgentWork, Kubelet, TestOperator};
use crate::namespace::{TestNamespace, eventually};

/// The rules, with a panic for one task.
fn decide_or_panic(observed: &Observed<'_>) -> Decision {
    assert_ne!(observed.task.name_any(), "bad", "the test panics at this task");
    decide::decide(observed)
}

fn stop_all_or_panic(pods: &[PodFacts]) -> Decision {
    assert!(pods.iter().all(|pod| pod.name != "bad-pod"), "the test panics at this pod");
    decide::stop_all(pods)
}

fn value(metrics: &Metrics, series: &str) -> f64 {
    let text = metrics.encode().expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(series)).expect("the series");
    line.trim().parse().expect("a number")
}

async fn warnings(ns: &TestNamespace, name: &str) -> Vec<Event> {
    let all = ns.api::<Event>().list(&ListParams::default()).await.expect("Events").items;
    let is_about = |event: &Event| event.regarding.as_ref().and_then(|of| of.name.as_deref()) == Some(name);
    all.into_iter().filter(|event| event.type_.as_deref() == Some("Warning") && is_about(event)).collect()
}

#[tokio::test]
async fn a_task_at_which_the_rules_panic_is_reported_and_does_not_stop_others() {
    let ns = TestNamespace::with_tasks().await;
    let metrics = Metrics::new();
    let seen = metrics.clone();
    ns.create("bad", json!({})).await;
    // With one worker, a permit that is lost in a panic would stop all other tasks.
    let _operator = TestOperator::set_up(&ns, |setup| {
        setup.rules = RuleSet { decide: decide_or_panic, ..RuleSet::default() };
        setup.metrics = metrics;
        setup.concurrency = 1;
    });
    let _kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    let warning = eventually("a Warning", || async {
        warnings(&ns, "bad")
            .await
            .into_iter()
            .find(|event| event.reason.as_deref() == Some("OperatorPanicked"))
    })
    .await;
    let note = warning.note.expect("a note");
    assert!(note.contains("the test panics at this task"), "{note}");
    ns.create("good", json!({})).await;
    ns.until_phase("good", Phase::Succeeded).await;
    eventually("it is retried", || async {
        (value(&seen, r#"agentloop_panics_total{in="reconcile"}"#) >= 3.0).then_some(())
    })
    .await;
    let errors = value(&seen, r#"controller_runtime_reconcile_errors_total{controller="agenttask"}"#);
    assert!(errors >= 3.0, "{errors}");
    assert_eq!(ns.status("bad").await.observed_generation, None, "nothing was written");
    ns.end().await;
}

#[tokio::test]
async fn a_pod_whose_cleanup_panics_does_not_stop_other_pods() {
    let ns = TestNamespace::with_tasks().await;
    let metrics = Metrics::new();
    let seen = metrics.clone();
    for name in ["bad-pod", "good-pod"] {
        let labels = json!({ LABEL_TASK: "gone", LABEL_TASK_UID: "gone" });
        ns.pod(json!({ "name": name, "labels": labels, "finalizers": [FINALIZER_SETTLE] }), &[]).await;
    }
    let _operator = TestOperator::set_up(&ns, |setup| {
        setup.rules = RuleSet { stop_all: stop_all_or_panic, ..RuleSet::default() };
        setup.metrics = metrics;
        setup.concurrency = 1;
    });
    eventually("the panic is counted", || async {
        (value(&seen, r#"agentloop_panics_total{in="orphan"}"#) >= 2.0).then_some(())
    })
    .await;
    eventually("the other pod is gone", || async {
        ns.api::<Pod>().get_opt("good-pod").await.expect("an answer").is_none().then_some(())
    })
    .await;
    let bad = ns.api::<Pod>().get("bad-pod").await.expect("the pod");
    assert_eq!(bad.finalizers(), [FINALIZER_SETTLE]);
    ns.writer
        .remove_finalizer(&ns.name, "bad-pod", &bad.uid().expect("a uid"), false)
        .await
        .expect("the finalizer is removed");
    ns.end().await;
}
