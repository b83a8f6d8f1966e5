//! A request that the server keeps refusing is repeated less and less often.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentloop_contract::names::{FINALIZER_SETTLE, LABEL_TASK, LABEL_TASK_UID};
use agentloop_core::api::Phase;
use agentloop_operator::metrics::Metrics;
use agentloop_operator::write::Writer;
use futures::TryStreamExt;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use tokio::time;

use crate::faulty::{Faulty, Sent};
use crate::kubelet::{AgentWork, Kubelet, TestOperator, bind, end, run};
use crate::namespace::{PATIENCE, TestNamespace, eventually};

/// How long the fault lasts after its first effect.
const FAULT: Duration = Duration::from_secs(8);
/// With delays of 0.5, 1, 2, 4 and 8 s and jitter, there are five or six attempts; without delays, about a hundred.
const MAX_FAILURES: usize = 7;

/// Answers some of the operator's writes with this code, checks how often they are repeated, and then lets the task succeed.
///
/// `at_once`: how many attempts one reconcile makes.
async fn repeated_slowly_while(code: u16, at_once: usize, is_hit: fn(&Sent) -> bool) {
    let ns = TestNamespace::with_tasks().await;
    let server = Faulty::before(&ns).await;
    server.set(move |sent| is_hit(sent).then_some(code));
    let metrics = Metrics::new();
    let clients = server.clients(&ns.name);
    let writer = Writer::new(clients.write.clone(), metrics.clone());
    let _operator = TestOperator::over(&ns, clients, writer, metrics.clone());
    let _kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    ns.create("refused", json!({})).await;
    eventually("the fault has an effect", || async { (server.count(is_hit) > 0).then_some(()) }).await;
    time::sleep(FAULT).await;
    let (hits, reads) = (
        server.count(is_hit),
        server.count(|sent| sent.method == Method::GET && !sent.path.contains("watch=")),
    );
    assert!((2..=MAX_FAILURES * at_once).contains(&hits), "{hits} attempts, {code}");
    assert!(reads <= 4 * MAX_FAILURES, "{reads} reads, {code}");
    let samples = metrics.encode().expect("metrics");
    let errors = samples
        .lines()
        .find(|line| line.starts_with("controller_runtime_reconcile_total") && line.contains("\"error\""))
        .and_then(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok());
    assert!(
        errors.is_some_and(|errors| errors + 1 >= hits / at_once),
        "{errors:?} errors of {hits}:\n{samples}"
    );
    server.heal();
    ns.until_phase("refused", Phase::Succeeded).await;
    ns.end().await;
}

#[tokio::test]
async fn a_status_write_that_the_server_fails_to_make_is_repeated_more_and_more_slowly() {
    repeated_slowly_while(500, 1, Sent::is_status_write).await;
}

#[tokio::test]
async fn a_status_write_for_which_the_server_is_overloaded_is_repeated_more_and_more_slowly() {
    repeated_slowly_while(503, 1, Sent::is_status_write).await;
}

#[tokio::test]
async fn a_status_write_that_always_meets_a_conflict_is_repeated_more_and_more_slowly() {
    repeated_slowly_while(409, 2, Sent::is_status_write).await;
}

#[tokio::test]
async fn a_status_write_whose_answer_is_always_lost_is_repeated_more_and_more_slowly() {
    repeated_slowly_while(504, 2, Sent::is_status_write).await;
}

#[tokio::test]
async fn a_pod_that_the_server_fails_to_create_is_repeated_more_and_more_slowly() {
    repeated_slowly_while(500, 1, |sent| sent.method == Method::POST && sent.path.contains("/pods")).await;
}

#[tokio::test]
async fn a_patch_of_a_pod_that_always_meets_a_conflict_is_repeated_more_and_more_slowly() {
    repeated_slowly_while(409, 1, Sent::is_patch_of_a_pod).await;
}

#[tokio::test]
async fn removing_the_finalizer_of_an_orphan_that_always_meets_a_conflict_is_repeated_more_and_more_slowly() {
    let ns = TestNamespace::with_tasks().await;
    let server = Faulty::before(&ns).await;
    server.set(|sent| sent.is_patch_of_a_pod().then_some(409));
    let labels = json!({ LABEL_TASK: "gone", LABEL_TASK_UID: "gone" });
    ns.pod(json!({ "name": "left", "labels": labels, "finalizers": [FINALIZER_SETTLE] }), &[]).await;
    let _operator = operator_of(&ns, &server);
    eventually("the fault has an effect", || async {
        (server.count(Sent::is_patch_of_a_pod) > 0).then_some(())
    })
    .await;
    time::sleep(FAULT).await;
    let hits = server.count(Sent::is_patch_of_a_pod);
    assert!((2..=MAX_FAILURES).contains(&hits), "{hits} attempts");
    server.heal();
    eventually("the finalizer is removed", || async {
        ns.api::<Pod>().get_opt("left").await.expect("an answer").is_none().then_some(())
    })
    .await;
    ns.end().await;
}

/// An operator that talks to the API server through this one.
fn operator_of(ns: &TestNamespace, server: &Faulty) -> TestOperator {
    let (clients, metrics) = (server.clients(&ns.name), Metrics::new());
    let writer = Writer::new(clients.write.clone(), metrics.clone());
    TestOperator::over(ns, clients, writer, metrics)
}

#[tokio::test]
async fn a_settled_pod_loses_its_finalizer_although_the_next_pod_cannot_be_created() {
    let ns = TestNamespace::with_tasks().await;
    let server = Faulty::before(&ns).await;
    let _operator = operator_of(&ns, &server);
    ns.create("stuck", json!({})).await;
    let pods = ns.api::<Pod>();
    let first = ns.started_pod("stuck").await.name_any();
    server.set(|sent| (sent.method == Method::POST && sent.path.contains("/pods")).then_some(500));
    bind(&pods, &first).await;
    run(&pods, &first).await;
    end(&pods, &first, &AgentWork::changed()).await;
    eventually("the first pod loses its finalizer", || async {
        pods.get(&first).await.expect("it is kept").finalizers().is_empty().then_some(())
    })
    .await;
    let second = ns.status("stuck").await.active.expect("the next active iteration").pod_name;
    assert!(pods.get_opt(&second).await.expect("an answer").is_none());
    server.heal();
    ns.started_pod("stuck").await;
    ns.end().await;
}

#[tokio::test]
async fn a_pod_that_lost_our_finalizer_is_not_started_if_it_cannot_be_added_again() {
    let ns = TestNamespace::with_tasks().await;
    let server = Faulty::before(&ns).await;
    server.set(|sent| sent.is_patch_of_a_pod().then_some(500));
    let _operator = operator_of(&ns, &server);
    ns.create("bare", json!({})).await;
    let pods = ns.api::<Pod>();
    let name =
        ns.until("bare", "an active iteration", |s| s.active.is_some()).await.active.expect("it").pod_name;
    let is_refused = async |what: &str, is_it: fn(&Sent) -> bool| {
        eventually(what, || async { (server.count(is_it) > 0).then_some(()) }).await;
    };
    is_refused("a start", Sent::is_patch_of_a_pod).await;
    let strip = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    pods.patch(&name, &PatchParams::default(), &strip).await.expect("stripped");
    let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut seen = pin!(watcher(pods.clone(), named).default_backoff().touched_objects());
    let bare = seen.try_next().await.expect("a watch").expect("the pod");
    assert!(bare.finalizers().is_empty());
    is_refused("the finalizer is added", Sent::adds_finalizer).await;

    // Refuse one more attempt to add it, and nothing else.
    let was_refused = AtomicBool::new(false);
    server.set(move |sent| {
        (sent.adds_finalizer() && !was_refused.swap(true, Ordering::Relaxed)).then_some(409)
    });
    loop {
        let next = time::timeout(PATIENCE, seen.try_next()).await.expect("a change in time");
        let pod = next.expect("a watch").expect("the pod");
        let is_gated = pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten()).count() > 0;
        if pod.finalizers().is_empty() {
            assert!(is_gated, "started without our finalizer");
        } else if !is_gated {
            break;
        }
    }
    ns.end().await;
}
