//! Leader election.

use std::time::Duration;

use agentloop_operator::client::Clients;
use agentloop_operator::lease::Election;
use agentloop_operator::lease::decide::{Loss, Timings};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::namespace::{PATIENCE, TestNamespace, config, eventually};
use crate::relay::Relay;

const LEASE: &str = "operator";

/// Short, except for the duration: it shows whether a candidate waits for the expiry.
fn timings(duration: u64) -> Timings {
    Timings {
        duration: Duration::from_secs(duration),
        renew_deadline: Duration::from_millis(800),
        retry: Duration::from_millis(100),
    }
}

fn candidate(ns: &TestNamespace, client: &Client, identity: &str, duration: u64) -> Election {
    Election::new(client.clone(), &ns.name, LEASE, identity, timings(duration))
}

async fn acquired(election: &mut Election) {
    let never = CancellationToken::new();
    assert!(time::timeout(PATIENCE, election.acquire(&never, |_| {})).await.expect("in time"));
}

async fn holder(ns: &TestNamespace) -> Option<String> {
    ns.api::<Lease>().get_opt(LEASE).await.expect("an answer")?.spec?.holder_identity
}

#[tokio::test]
async fn of_two_candidates_one_leads_and_the_other_follows_immediately_when_it_stops() {
    let ns = TestNamespace::new().await;
    let client = &ns.clients.write;
    let mut first = candidate(&ns, client, "first", 600);
    acquired(&mut first).await;
    let stop = CancellationToken::new();
    let leading = tokio::spawn(first.keep(stop.clone(), || {}));

    let mut second = candidate(&ns, client, "second", 600);
    let never = CancellationToken::new();
    let wait = time::timeout(Duration::from_secs(1), second.acquire(&never, |_| {}));
    assert!(wait.await.is_err(), "the second one stands by");
    assert_eq!(second.holder(), "first");

    stop.cancel();
    assert_eq!(leading.await.expect("no panic"), Ok(()));
    // Much sooner than the expiry after 600 s.
    acquired(&mut second).await;
    assert_eq!(holder(&ns).await.as_deref(), Some("second"));
    let transitions =
        ns.api::<Lease>().get(LEASE).await.expect("a lease").spec.and_then(|s| s.lease_transitions);
    assert_eq!(transitions, Some(1));
    ns.end().await;
}

#[tokio::test]
async fn of_candidates_that_start_together_exactly_one_leads() {
    let ns = TestNamespace::new().await;
    let stop = CancellationToken::new();
    let mut racing = tokio::task::JoinSet::new();
    for n in 0..4 {
        let mut election = candidate(&ns, &ns.clients.write, &format!("candidate-{n}"), 600);
        let stop = stop.clone();
        racing.spawn(async move { election.acquire(&stop, |_| {}).await });
    }
    let first = racing.join_next().await.expect("a candidate").expect("no panic");
    assert!(first);
    stop.cancel();
    let others: Vec<bool> = racing.join_all().await;
    assert_eq!(others, [false; 3]);
    ns.end().await;
}

#[tokio::test]
async fn a_leader_that_vanished_is_followed_after_the_expiry_and_not_before() {
    let ns = TestNamespace::new().await;
    let mut first = candidate(&ns, &ns.clients.write, "first", 2);
    acquired(&mut first).await;
    drop(first);
    let since = Instant::now();
    let mut second = candidate(&ns, &ns.clients.write, "second", 2);
    acquired(&mut second).await;
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    ns.end().await;
}

#[tokio::test]
async fn a_leader_stops_when_another_holder_takes_the_lease() {
    let ns = TestNamespace::new().await;
    let mut first = candidate(&ns, &ns.clients.write, "first", 600);
    acquired(&mut first).await;
    let keeping = first.keep(CancellationToken::new(), || {});
    let usurp = Patch::Merge(json!({ "spec": { "holderIdentity": "usurper" } }));
    ns.api::<Lease>().patch(LEASE, &PatchParams::default(), &usurp).await.expect("written");
    let loss = time::timeout(PATIENCE, keeping).await.expect("in time").expect_err("lost");
    assert_eq!(loss, Loss::Taken("usurper".to_owned()));
    assert_eq!(holder(&ns).await.as_deref(), Some("usurper"));
    ns.end().await;
}

#[tokio::test]
async fn a_leader_continues_after_edits_by_others_and_a_deleted_lease() {
    let ns = TestNamespace::new().await;
    let mut first = candidate(&ns, &ns.clients.write, "first", 600);
    acquired(&mut first).await;
    let stop = CancellationToken::new();
    let keeping = tokio::spawn(first.keep(stop.clone(), || {}));
    let label = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    let api = ns.api::<Lease>();
    let labelled = api.patch(LEASE, &PatchParams::default(), &label).await.expect("labelled");
    let renewed = |lease: Lease| lease.spec.and_then(|spec| spec.renew_time).map(|time| time.0);
    let before = renewed(labelled);
    eventually("a renewal that keeps the label", || async {
        let lease = api.get(LEASE).await.expect("a lease");
        let kept = lease.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key("a"));
        (kept && renewed(lease) > before).then_some(())
    })
    .await;
    api.delete(LEASE, &kube::api::DeleteParams::default()).await.expect("deleted");
    eventually("the lease exists again", || async { (holder(&ns).await? == "first").then_some(()) }).await;
    stop.cancel();
    assert_eq!(keeping.await.expect("no panic"), Ok(()));
    assert_eq!(holder(&ns).await.as_deref(), Some(""));
    ns.end().await;
}

#[tokio::test]
async fn a_leader_whose_requests_get_no_answer_stops_within_its_deadline() {
    let ns = TestNamespace::new().await;
    let config = config().await;
    let relay = Relay::to(&config).await;
    let clients = Clients::from_config(relay.through(&config)).expect("clients");
    let mut first = candidate(&ns, &clients.write, "first", 600);
    acquired(&mut first).await;
    relay.cut();
    let since = Instant::now();
    let kept = time::timeout(PATIENCE, first.keep(CancellationToken::new(), || {})).await.expect("in time");
    let deadline = timings(600).renew_deadline;
    assert_eq!(kept, Err(Loss::Deadline(deadline)));
    assert!(since.elapsed() < deadline * 3, "{:?}", since.elapsed());
    ns.end().await;
}
