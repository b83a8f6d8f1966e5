//! The node is lost or drained. All tests share it, so these tests run one after the other, in a program of their own.
//! Their operator tolerates every taint of the node, as if it ran on another one.

use std::time::Duration;

use agentloop_e2e::{DONE, Node, PATIENCE, TaskManifest, TestNamespace, iterations};
use anyhow::{Result, ensure};
use tokio::sync::Mutex;

static THE_NODE: Mutex<()> = Mutex::const_new(());

/// Runs a test that has the node to itself, and repairs the node afterwards.
async fn with_the_node(
    name: &str,
    test: impl AsyncFnOnce(&TestNamespace, &Node) -> Result<()>,
) -> Result<()> {
    let _alone = THE_NODE.lock().await;
    let ns = TestNamespace::own(name, &["--set", "tolerations[0].operator=Exists"]).await?;
    let node = Node::of(&ns.cluster).await?;
    ns.run(async |ns| {
        let tested = test(ns, &node).await;
        let repaired = node.repair().await;
        tested.and(repaired)
    })
    .await
}

/// A task that is disturbed in its first iteration and done in its second.
fn disturbed(name: &str) -> TaskManifest {
    TaskManifest::new(name, &["change", "idle-until=2", "ready"]).pvc().max(5)
}

/// Waits until the disturbed iteration was charged once, with this outcome, and the second one did the work.
async fn continues(ns: &TestNamespace, name: &str, outcome: &str) -> Result<()> {
    let snapshot = ns.until_state(name, iterations(4), DONE).await?;
    ensure!(snapshot.history("outcome") == [outcome, "Exited"], "{:?}", snapshot.history("outcome"));
    ns.exactly(&snapshot, 2)
}

#[tokio::test]
async fn on_an_unreachable_node_nothing_is_charged_or_started_and_when_it_is_back_everything_continues()
-> Result<()> {
    with_the_node("silent", async |ns, node| {
        // One pod ends while its node is unreachable; the other is deleted.
        ns.create(&TaskManifest::new("left", &["change", "sleep=15", "ready"]).pvc()).await?;
        ns.create(&disturbed("deleted")).await?;
        ns.until_running("left", 1).await?;
        let snapshot = ns.until_running("deleted", 1).await?;
        let pod = snapshot.active_pod().unwrap_or_default().to_owned();
        node.stop().await?;
        ns.kubectl(&["delete", "pod", &pod, "--wait=false"]).await?.success()?;

        let lost = ns.until_state("deleted", PATIENCE, "Waiting/NodeLost").await?;
        ensure!(lost.message().contains("node") && lost.message().contains("may still be running"), "{lost}");
        let left = ns.get("left").await?;
        ensure!((left.state().as_str(), left.iterations()) == ("Running", 0), "{left}");
        ns.stays("deleted", Duration::from_secs(3), |now| now.0 == lost.0).await?;
        ns.exactly(&lost, 1)?;

        node.start().await?;
        continues(ns, "deleted", "Interrupted").await?;
        let snapshot = ns.until_state("left", iterations(1), DONE).await?;
        ensure!(snapshot.history("outcome") == ["Exited"], "{:?}", snapshot.history("outcome"));
        ns.exactly(&snapshot, 1)
    })
    .await
}

#[tokio::test]
async fn an_iteration_on_a_node_that_was_declared_off_is_charged_once_and_the_next_waits_for_a_node()
-> Result<()> {
    with_the_node("off", async |ns, node| {
        ns.create(&disturbed("stranded")).await?;
        ns.until_running("stranded", 1).await?;
        node.stop().await?;
        node.mark_silent().await?;
        ns.stays("stranded", Duration::from_secs(2), |now| now.iterations() == 0).await?;
        node.take_out_of_service().await?;
        let snapshot = ns.until_state("stranded", PATIENCE, "Waiting/Unschedulable").await?;
        ensure!(snapshot.iterations() == 1, "{snapshot}");
        ns.ran(&snapshot, &[1])?;
        node.repair().await?;
        continues(ns, "stranded", "Interrupted").await
    })
    .await
}

#[tokio::test]
async fn a_drain_is_not_held_up_and_the_loop_continues_once_a_node_takes_pods_again() -> Result<()> {
    with_the_node("drain", async |ns, node| {
        ns.create(&disturbed("drained")).await?;
        ns.until_running("drained", 1).await?;
        let text = node.drain(&["--ignore-daemonsets", "--delete-emptydir-data"]).await?.success()?;
        ensure!(text.contains("drained-") && text.contains("evicted"), "the pod was not evicted: {text}");
        let snapshot = ns.until_state("drained", PATIENCE, "Waiting/Unschedulable").await?;
        ensure!(snapshot.iterations() == 1, "{snapshot}");
        ns.ran(&snapshot, &[1])?;
        node.uncordon().await?;
        continues(ns, "drained", "Interrupted").await
    })
    .await
}
