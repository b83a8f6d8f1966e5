//! What counts as a change of the workspace, with and without real git.

use agentloop_e2e::{LIMIT, TaskManifest, TestNamespace, iterations};
use anyhow::{Result, ensure};
use serde_json::json;

const NO_CHANGE: &str = "CircuitOpen/NoChange";

/// Runs a task of which every iteration must count as a change.
async fn always_changes(name: &str, actions: &[&str]) -> Result<()> {
    let actions: Vec<&str> = actions.iter().copied().chain(["new-blocker"]).collect();
    TestNamespace::shared(name)
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new(name, &actions).pvc().max(3)).await?;
            let snapshot = ns.until_state(name, iterations(3), LIMIT).await?;
            ensure!(snapshot.history("changed") == ["Changed"; 3], "{:?}", snapshot.history("changed"));
            ensure!(snapshot.history("exitCode") == ["0"; 3], "{:?}", snapshot.history("exitCode"));
            ns.exactly(&snapshot, 3)
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
async fn an_agent_that_commits_and_pushes_changes_its_workspace() -> Result<()> {
    always_changes("pushes", &["git-init", "git-push"]).await
}

#[tokio::test]
async fn an_agent_that_switches_between_branches_changes_its_workspace() -> Result<()> {
    always_changes("switches", &["git-init", "git-switch"]).await
}

#[tokio::test]
async fn an_agent_that_commits_in_a_linked_worktree_changes_its_workspace() -> Result<()> {
    always_changes("worktree", &["git-worktree"]).await
}

#[tokio::test]
async fn an_agent_that_commits_in_two_repositories_alternately_changes_its_workspace() -> Result<()> {
    always_changes("two-repos", &["git-two"]).await
}

#[tokio::test]
async fn an_agent_that_leaves_untracked_files_changes_its_workspace() -> Result<()> {
    always_changes("untracked", &["git-init", "change"]).await
}

#[tokio::test]
async fn an_agent_without_git_changes_its_workspace() -> Result<()> {
    always_changes("no-git", &["change=same-name"]).await
}

/// Runs a task of which only the first iteration counts as a change.
async fn changes_nothing_after_the_first(name: &str, task: TaskManifest) -> Result<()> {
    TestNamespace::shared(name)
        .await?
        .run(async |ns| {
            ns.create(&task.pvc().max(10)).await?;
            let snapshot = ns.until_state(name, iterations(4), NO_CHANGE).await?;
            let expected = ["Changed", "Unchanged", "Unchanged", "Unchanged"];
            ensure!(snapshot.history("changed") == expected, "{:?}", snapshot.history("changed"));
            ns.exactly(&snapshot, 4)
        })
        .await
}

#[tokio::test]
async fn touching_the_times_of_files_is_no_change() -> Result<()> {
    let name = "touches";
    changes_nothing_after_the_first(
        name,
        TaskManifest::new(name, &["file-once=kept", "touch-times", "new-blocker"]),
    )
    .await
}

#[tokio::test]
async fn a_change_that_is_reverted_is_no_change() -> Result<()> {
    let name = "reverts";
    let actions = ["file-once=kept", "change-and-revert", "new-blocker"];
    changes_nothing_after_the_first(name, TaskManifest::new(name, &actions)).await
}

#[tokio::test]
async fn reading_a_repository_is_no_change() -> Result<()> {
    let name = "reads";
    changes_nothing_after_the_first(name, TaskManifest::new(name, &["git-init", "git-status", "new-blocker"]))
        .await
}

#[tokio::test]
async fn files_that_workspace_ignore_names_are_no_change() -> Result<()> {
    let name = "ignores";
    let task = TaskManifest::new(name, &["file-once=kept", "change=build.log", "new-blocker"]);
    changes_nothing_after_the_first(name, task.with("workspace/ignore", json!(["*.log"]))).await
}
