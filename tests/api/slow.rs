//! A slow API server: a reconcile that has taken long begins nothing new, and the next one continues.

use std::sync::Arc;
use std::time::Duration;

use agentloop_core::api::Phase;
use agentloop_operator::metrics::Metrics;
use agentloop_operator::write::Writer;
use http::Method;
use parking_lot::Mutex;
use serde_json::json;

use crate::faulty::{Faulty, Sent};
use crate::kubelet::{AgentWork, Kubelet, TestOperator};
use crate::namespace::TestNamespace;

/// How long the server needs to answer a write.
const DELAY: Duration = Duration::from_millis(300);

/// How many reconciles of the only task have ended.
fn ended(metrics: &Metrics) -> u64 {
    let samples = metrics.encode().expect("metrics");
    let of_results = samples.lines().filter(|line| line.starts_with("controller_runtime_reconcile_total{"));
    of_results.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// The writes that lead to the start of the first iteration.
fn step(sent: &Sent) -> Option<&'static str> {
    if sent.is_status_write() {
        Some("status")
    } else if sent.method == Method::POST && sent.path.contains("/pods") {
        Some("create")
    } else {
        sent.is_patch_of_a_pod().then_some("start")
    }
}

/// Runs a task whose reconciles begin new steps for this time. Returns how many reconciles had ended before each step of
/// its first iteration.
async fn steps(no_new_steps_after: Duration) -> Vec<(&'static str, u64)> {
    let ns = TestNamespace::with_tasks().await;
    let server = Faulty::before(&ns).await;
    server.answer_writes_after(DELAY);
    let (clients, metrics) = (server.clients(&ns.name), Metrics::new());
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let (log, count) = (seen.clone(), metrics.clone());
    server.set(move |sent| {
        log.lock().extend(step(sent).map(|step| (step, ended(&count))));
        None
    });
    let _operator = TestOperator::set_up(&ns, |setup| {
        setup.writer = Writer::new(clients.write.clone(), metrics.clone());
        (setup.clients, setup.metrics, setup.no_new_steps_after) = (clients, metrics, no_new_steps_after);
    });
    let _kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    ns.create("slow", json!({})).await;
    ns.until_phase("slow", Phase::Succeeded).await;
    ns.end().await;
    let mut steps = seen.lock().clone();
    steps.truncate(3);
    steps
}

#[tokio::test]
async fn a_reconcile_that_has_taken_too_long_begins_nothing_new_and_the_next_one_continues() {
    let steps = steps(DELAY / 3).await;
    assert_eq!(steps.iter().map(|(step, _)| *step).collect::<Vec<_>>(), ["status", "create", "start"]);
    assert!(steps.windows(2).all(|two| two[0].1 < two[1].1), "each in its own reconcile: {steps:?}");
}

#[tokio::test]
async fn one_reconcile_writes_the_status_and_creates_and_starts_the_pod_if_there_is_time() {
    let steps = steps(Duration::from_mins(1)).await;
    assert_eq!(steps.iter().map(|(step, _)| *step).collect::<Vec<_>>(), ["status", "create", "start"]);
    assert!(steps.windows(2).all(|two| two[0].1 == two[1].1), "all in one reconcile: {steps:?}");
}
