//! The circuit breaker: loops that make no progress.

use agentloop_e2e::{Lab, Task, iterations};
use anyhow::{Result, ensure};
use serde_json::json;

const NO_CHANGE: &str = "CircuitOpen/NoChange";
const SAME_ERROR: &str = "CircuitOpen/SameError";

#[tokio::test]
async fn three_iterations_without_a_change_open_the_circuit_and_a_reset_token_closes_it() -> Result<()> {
    Lab::shared("no-change")
        .await?
        .run(async |lab| {
            lab.create(&Task::new("idle", &["new-blocker"]).claim().max(10)).await?;
            let seen = lab.until_state("idle", iterations(3), NO_CHANGE).await?;
            lab.exactly(&seen, 3)?;
            ensure!(seen.history("changed") == ["Unchanged"; 3], "{:?}", seen.history("changed"));
            ensure!(seen.condition("Stalled").is_some_and(|it| it.starts_with("True")), "not stalled");

            lab.paste(&seen, "resetToken").await?;
            let seen = lab
                .until("idle", iterations(3), "stops again", |now| {
                    now.state() == NO_CHANGE && now.iterations() == 6
                })
                .await?;
            lab.exactly(&seen, 6)?;

            // Twice the streak of three, so three more.
            lab.paste(&seen, "noChangeThreshold").await?;
            let seen = lab
                .until("idle", iterations(3), "stops at the raised threshold", |now| {
                    now.state() == NO_CHANGE && now.iterations() == 9
                })
                .await?;
            lab.exactly(&seen, 9)
        })
        .await
}

#[tokio::test]
async fn the_same_blocker_five_times_opens_the_circuit_though_files_change() -> Result<()> {
    Lab::shared("same-error")
        .await?
        .run(async |lab| {
            lab.create(&Task::new("stuck", &["change", "same-blocker"]).claim().max(20)).await?;
            let seen = lab.until_state("stuck", iterations(5), SAME_ERROR).await?;
            lab.exactly(&seen, 5)?;
            ensure!(seen.message().contains("http"), "the message does not tell the error: {seen}");

            lab.paste(&seen, "sameErrorThreshold").await?;
            let seen = lab
                .until("stuck", iterations(5), "stops at the raised threshold", |now| {
                    now.state() == SAME_ERROR && now.iterations() == 10
                })
                .await?;
            lab.exactly(&seen, 10)
        })
        .await
}

#[tokio::test]
async fn an_exit_code_that_says_so_stops_the_task_as_failed_until_a_reset_token_lifts_it() -> Result<()> {
    Lab::shared("fail-codes")
        .await?
        .run(async |lab| {
            lab.create(
                &Task::new("bad", &["exit-once=41", "change", "ready"]).with("failOnExitCodes", json!([41])),
            )
            .await?;
            let seen = lab.until_state("bad", iterations(1), "Failed/ExitCode").await?;
            lab.exactly(&seen, 1)?;
            lab.paste(&seen, "resetToken").await?;
            let seen = lab.until_state("bad", iterations(1), "Succeeded/Completed").await?;
            lab.exactly(&seen, 2)
        })
        .await
}

#[tokio::test]
async fn an_exit_code_that_means_not_now_costs_nothing_and_comes_back() -> Result<()> {
    Lab::shared("not-now")
        .await?
        .run(async |lab| {
            // The scripted agent keeps a journal in the workspace, which is work.
            lab.create(&Task::script("later", "exit 75", &[]).max(2)).await?;
            let seen = lab.until_state("later", iterations(1), "Waiting/RateLimited").await?;
            ensure!(seen.iterations() == 0, "it was charged: {seen}");
            ensure!(seen.0.pointer("/status/waiting/retryTime").is_some(), "{seen}");
            ensure!(seen.active_pod().is_none(), "it waits with a claim: {seen}");
            Ok(())
        })
        .await
}
