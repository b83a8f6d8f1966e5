//! The circuit breaker: loops that make no progress.

use agentloop_e2e::{DONE, TaskManifest, TestNamespace, iterations};
use anyhow::{Result, ensure};
use serde_json::json;

const NO_CHANGE: &str = "CircuitOpen/NoChange";
const SAME_ERROR: &str = "CircuitOpen/SameError";

#[tokio::test]
async fn three_iterations_without_a_change_open_the_circuit_and_a_reset_token_closes_it() -> Result<()> {
    TestNamespace::shared("no-change")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("idle", &["new-blocker"]).pvc().max(10)).await?;
            let snapshot = ns.until_state("idle", iterations(3), NO_CHANGE).await?;
            ns.exactly(&snapshot, 3)?;
            ensure!(snapshot.history("changed") == ["Unchanged"; 3], "{:?}", snapshot.history("changed"));
            ensure!(snapshot.condition("Stalled").is_some_and(|it| it.starts_with("True")), "not stalled");

            ns.paste(&snapshot, "resetToken").await?;
            let snapshot = ns
                .until("idle", iterations(3), "stops again", |now| {
                    now.state() == NO_CHANGE && now.iterations() == 6
                })
                .await?;
            ns.exactly(&snapshot, 6)?;

            // The command sets twice the streak of three, so three more iterations run.
            ns.paste(&snapshot, "noChangeThreshold").await?;
            let snapshot = ns
                .until("idle", iterations(3), "stops at the raised threshold", |now| {
                    now.state() == NO_CHANGE && now.iterations() == 9
                })
                .await?;
            ns.exactly(&snapshot, 9)
        })
        .await
}

#[tokio::test]
async fn the_same_blocker_five_times_opens_the_circuit_though_files_change() -> Result<()> {
    TestNamespace::shared("same-error")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("stuck", &["change", "same-blocker"]).pvc().max(20)).await?;
            let snapshot = ns.until_state("stuck", iterations(5), SAME_ERROR).await?;
            ns.exactly(&snapshot, 5)?;
            ensure!(
                snapshot.message().contains("http"),
                "the message does not contain the error: {snapshot}"
            );

            ns.paste(&snapshot, "sameErrorThreshold").await?;
            let snapshot = ns
                .until("stuck", iterations(5), "stops at the raised threshold", |now| {
                    now.state() == SAME_ERROR && now.iterations() == 10
                })
                .await?;
            ns.exactly(&snapshot, 10)
        })
        .await
}

#[tokio::test]
async fn an_exit_code_of_fail_on_exit_codes_stops_the_task_as_failed_until_a_reset_token_lifts_the_stop()
-> Result<()> {
    TestNamespace::shared("fail-codes")
        .await?
        .run(async |ns| {
            ns.create(
                &TaskManifest::new("bad", &["exit-once=41", "change", "ready"])
                    .with("failOnExitCodes", json!([41])),
            )
            .await?;
            let snapshot = ns.until_state("bad", iterations(1), "Failed/ExitCode").await?;
            ns.exactly(&snapshot, 1)?;
            ns.paste(&snapshot, "resetToken").await?;
            let snapshot = ns.until_state("bad", iterations(1), DONE).await?;
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn an_exit_code_that_means_not_now_costs_nothing_and_is_retried() -> Result<()> {
    TestNamespace::shared("not-now")
        .await?
        .run(async |ns| {
            // Not the scripted agent: its journal in the workspace would count as work.
            ns.create(&TaskManifest::script("later", "exit 75", &[]).max(2)).await?;
            let snapshot = ns.until_state("later", iterations(1), "Waiting/RateLimited").await?;
            ensure!(snapshot.iterations() == 0, "it was charged: {snapshot}");
            ensure!(snapshot.0.pointer("/status/waiting/retryTime").is_some(), "{snapshot}");
            ensure!(snapshot.active_pod().is_none(), "it waits with an active iteration: {snapshot}");
            Ok(())
        })
        .await
}
