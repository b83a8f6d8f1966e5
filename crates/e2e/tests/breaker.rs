//! The circuit breaker: loops that make no progress.

use agentloop_e2e::{Lab, Task, iterations};
use anyhow::{Result, ensure};
use serde_json::json;

const NO_CHANGE: &str = "CircuitOpen/NoChange";
const SAME_ERROR: &str = "CircuitOpen/SameError";
const LIMIT: &str = "IterationLimitReached/IterationLimit";

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

/// Runs a task whose every iteration must count as a change.
async fn always_changes(name: &str, actions: &[&str]) -> Result<()> {
    let actions: Vec<&str> = actions.iter().copied().chain(["new-blocker"]).collect();
    Lab::shared(name)
        .await?
        .run(async |lab| {
            lab.create(&Task::new(name, &actions).claim().max(4)).await?;
            let seen = lab.until_state(name, iterations(4), LIMIT).await?;
            ensure!(seen.history("changed") == ["Changed"; 4], "{:?}", seen.history("changed"));
            lab.exactly(&seen, 4)
        })
        .await
}

#[tokio::test]
async fn an_agent_that_commits_all_its_work_changes_its_workspace() -> Result<()> {
    always_changes("commits", &["git-init", "git-commit"]).await
}

#[tokio::test]
async fn an_agent_that_amends_its_last_commit_changes_its_workspace() -> Result<()> {
    always_changes("amends", &["git-init", "git-amend"]).await
}

#[tokio::test]
async fn an_agent_that_leaves_untracked_files_changes_its_workspace() -> Result<()> {
    always_changes("untracked", &["git-init", "change"]).await
}

#[tokio::test]
async fn an_agent_without_git_changes_its_workspace() -> Result<()> {
    always_changes("no-git", &["change=same-name"]).await
}

/// Runs a task whose iterations count as no change, but for the first.
async fn changes_nothing_after_the_first(name: &str, task: Task) -> Result<()> {
    Lab::shared(name)
        .await?
        .run(async |lab| {
            lab.create(&task.claim().max(10)).await?;
            let seen = lab.until_state(name, iterations(4), NO_CHANGE).await?;
            let expected = ["Changed", "Unchanged", "Unchanged", "Unchanged"];
            ensure!(seen.history("changed") == expected, "{:?}", seen.history("changed"));
            lab.exactly(&seen, 4)
        })
        .await
}

#[tokio::test]
async fn touching_the_times_of_files_is_no_change() -> Result<()> {
    let name = "touches";
    changes_nothing_after_the_first(name, Task::new(name, &["file-once=kept", "touch-times", "new-blocker"]))
        .await
}

#[tokio::test]
async fn a_change_that_is_taken_back_is_no_change() -> Result<()> {
    let name = "reverts";
    let actions = ["file-once=kept", "change-and-revert", "new-blocker"];
    changes_nothing_after_the_first(name, Task::new(name, &actions)).await
}

#[tokio::test]
async fn looking_at_a_repository_is_no_change() -> Result<()> {
    let name = "looks";
    changes_nothing_after_the_first(name, Task::new(name, &["git-init", "git-status", "new-blocker"])).await
}

#[tokio::test]
async fn files_that_workspace_ignore_names_are_no_change() -> Result<()> {
    let name = "ignores";
    let task = Task::new(name, &["file-once=kept", "change=build.log", "new-blocker"]);
    changes_nothing_after_the_first(name, task.with("workspace/ignore", json!(["*.log"]))).await
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
            lab.create(&Task::new("later", &["exit=75"]).max(2)).await?;
            let seen = lab.until_state("later", iterations(1), "Waiting/RateLimited").await?;
            ensure!(seen.iterations() == 0, "it was charged: {seen}");
            ensure!(seen.0.pointer("/status/waiting/notBefore").is_some(), "{seen}");
            ensure!(seen.active_pod().is_none(), "it waits with a claim: {seen}");
            Ok(())
        })
        .await
}
