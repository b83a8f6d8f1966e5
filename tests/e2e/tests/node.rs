//! The node is lost, or drained. It is everybody's: these tests run one after the other, and beside no others,
//! which a program of their own sees to. Their operator stays whatever is said of the node, as if it were on another.

use std::time::Duration;

use agentloop_e2e::{Lab, Node, PATIENCE, Task, iterations};
use anyhow::{Result, ensure};
use tokio::sync::Mutex;

const DONE: &str = "Succeeded/Completed";
static THE_NODE: Mutex<()> = Mutex::const_new(());

/// Runs a test that has the node to itself, and puts the node right after it.
async fn with_the_node(name: &str, test: impl AsyncFnOnce(&Lab, &Node) -> Result<()>) -> Result<()> {
    let _alone = THE_NODE.lock().await;
    let lab = Lab::own(name, &["--set", "tolerations[0].operator=Exists"]).await?;
    let node = Node::of(&lab.cluster).await?;
    lab.run(async |lab| {
        let tested = test(lab, &node).await;
        let mended = node.mend().await;
        tested.and(mended)
    })
    .await
}

/// A task that is disturbed in its first iteration, and done in its second.
fn disturbed(name: &str) -> Task {
    Task::new(name, &["change", "idle-until=2", "ready"]).claim().max(5)
}

/// Waits until the disturbed iteration was charged once, with this outcome, and the second one did the work.
async fn goes_on(lab: &Lab, name: &str, outcome: &str) -> Result<()> {
    let seen = lab.until_state(name, iterations(4), DONE).await?;
    ensure!(seen.history("outcome") == [outcome, "Exited"], "{:?}", seen.history("outcome"));
    lab.exactly(&seen, 2)
}

#[tokio::test]
async fn on_a_silent_node_nothing_is_charged_or_started_and_when_it_is_back_all_goes_on() -> Result<()> {
    with_the_node("silent", async |lab, node| {
        // One ends by itself while nobody can tell; the other is deleted.
        lab.create(&Task::new("left", &["change", "sleep=15", "ready"]).claim()).await?;
        lab.create(&disturbed("deleted")).await?;
        lab.until_running("left", 1).await?;
        let seen = lab.until_running("deleted", 1).await?;
        let pod = seen.active_pod().unwrap_or_default().to_owned();
        node.stop().await?;
        lab.kubectl(&["delete", "pod", &pod, "--wait=false"]).await?.good()?;

        let lost = lab.until_state("deleted", PATIENCE, "Waiting/NodeLost").await?;
        ensure!(lost.message().contains("node") && lost.message().contains("not known"), "{lost}");
        let left = lab.see("left").await?;
        ensure!((left.state().as_str(), left.iterations()) == ("Running", 0), "{left}");
        lab.stays("deleted", Duration::from_secs(3), |now| now.0 == lost.0).await?;
        lab.exactly(&lost, 1)?;

        node.start().await?;
        goes_on(lab, "deleted", "Interrupted").await?;
        let seen = lab.until_state("left", iterations(1), DONE).await?;
        ensure!(seen.history("outcome") == ["Exited"], "{:?}", seen.history("outcome"));
        lab.exactly(&seen, 1)
    })
    .await
}

#[tokio::test]
async fn an_iteration_on_a_node_that_is_said_to_be_off_is_charged_once_and_the_next_waits_for_a_node()
-> Result<()> {
    with_the_node("off", async |lab, node| {
        lab.create(&disturbed("stranded")).await?;
        lab.until_running("stranded", 1).await?;
        node.stop().await?;
        node.mark_silent().await?;
        lab.stays("stranded", Duration::from_secs(2), |now| now.iterations() == 0).await?;
        node.take_out_of_service().await?;
        let seen = lab.until_state("stranded", PATIENCE, "Waiting/Unschedulable").await?;
        ensure!(seen.iterations() == 1, "{seen}");
        lab.ran(&seen, &[1])?;
        node.mend().await?;
        goes_on(lab, "stranded", "Interrupted").await
    })
    .await
}

#[tokio::test]
async fn a_drain_is_not_held_up_and_the_loop_goes_on_once_a_node_takes_pods_again() -> Result<()> {
    with_the_node("drain", async |lab, node| {
        lab.create(&disturbed("drained")).await?;
        lab.until_running("drained", 1).await?;
        let said = node.drain(&["--ignore-daemonsets", "--delete-emptydir-data"]).await?.good()?;
        ensure!(said.contains("drained-") && said.contains("evicted"), "the pod was not evicted: {said}");
        let seen = lab.until_state("drained", PATIENCE, "Waiting/Unschedulable").await?;
        ensure!(seen.iterations() == 1, "{seen}");
        lab.ran(&seen, &[1])?;
        node.uncordon().await?;
        goes_on(lab, "drained", "Interrupted").await
    })
    .await
}
