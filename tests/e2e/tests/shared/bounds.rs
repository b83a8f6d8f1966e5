//! The loop's bounds: done, the limit, and how it continues.

use std::time::Duration;

use agentloop_e2e::{DONE, LIMIT, TaskManifest, TaskSnapshot, TestNamespace, iterations};
use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde_json::json;

async fn no_warning(ns: &TestNamespace, snapshot: &TaskSnapshot) -> Result<()> {
    for (type_, reason, note) in ns.events(snapshot.uid()).await? {
        ensure!(type_ == "Normal", "an Event is a {type_}: {reason}: {note}");
        let text = format!("{reason} {note}").to_lowercase();
        ensure!(!text.contains("fail") && !text.contains("error"), "an Event mentions a failure: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_task_ready_at_iteration_3_of_10_succeeds_after_exactly_3_pods() -> Result<()> {
    TestNamespace::shared("ready-at-3")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("three", &["change", "ready-at=3"]).max(10)).await?;
            let snapshot = ns.until_state("three", iterations(3), DONE).await?;
            ensure!(snapshot.0.pointer("/status/progress") == Some(&json!("3/10")), "{snapshot}");
            ensure!(
                snapshot.condition("Stopped").as_deref() == Some("True Succeeded"),
                "{:?}",
                snapshot.condition("Stopped")
            );
            ensure!(snapshot.0.pointer("/status/completionTime").is_some(), "no completion time");
            ensure!(snapshot.history("iteration") == ["1", "2", "3"], "{:?}", snapshot.history("iteration"));
            ns.stays("three", Duration::from_secs(4), |now| now.0 == snapshot.0).await?;
            ns.exactly(&snapshot, 3)?;
            no_warning(ns, &snapshot).await
        })
        .await
}

#[tokio::test]
async fn a_task_ready_on_its_last_allowed_iteration_is_done_and_not_at_its_limit() -> Result<()> {
    TestNamespace::shared("ready-last")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("last", &["change", "ready-at=2"]).max(2)).await?;
            let snapshot = ns.until_state("last", iterations(2), DONE).await?;
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn with_the_policy_verify_a_command_decides_and_no_gate_is_needed() -> Result<()> {
    TestNamespace::shared("verify").await?.run(async |ns| {
        let verify = json!({ "policy": "Verify", "verify": { "command": ["/bin/test", "-e", "/workspace/iteration-3"] } });
        ns.create(&TaskManifest::new("verified", &["change"]).pvc().max(10).with("completion", verify)).await?;
        let snapshot = ns.until_state("verified", iterations(3), DONE).await?;
        ns.exactly(&snapshot, 3)
    })
    .await
}

#[tokio::test]
async fn a_ready_gate_does_not_complete_the_task_while_the_verify_command_fails() -> Result<()> {
    TestNamespace::shared("verify-gate")
        .await?
        .run(async |ns| {
            let line = "test -e /workspace/iteration-2 || { echo two is missing; exit 1; }";
            let verify = json!({ "verify": { "command": ["/bin/sh", "-c", line] } });
            ns.create(
                &TaskManifest::new("hasty", &["prompt", "change", "ready"])
                    .pvc()
                    .max(10)
                    .with("completion", verify),
            )
            .await?;
            let snapshot = ns.until_state("hasty", iterations(2), DONE).await?;
            ns.exactly(&snapshot, 2)?;
            let pods = ns.history.of(snapshot.uid());
            let second = pods.last().map(|pod| pod.name.clone()).unwrap_or_default();
            let prompt = ns.kubectl(&["logs", &second, "-c", "agent"]).await?.success()?;
            ensure!(prompt.contains("two is missing"), "the second prompt does not say why: {prompt}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_task_that_is_never_ready_stops_at_10_and_the_command_in_its_message_allows_exactly_10_more()
-> Result<()> {
    TestNamespace::shared("limit")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("never", &["change", "new-blocker"]).pvc()).await?;
            let snapshot = ns.until_state("never", iterations(10), LIMIT).await?;
            ensure!(snapshot.iterations() == 10, "{snapshot}");
            ns.exactly(&snapshot, 10)?;
            let message = snapshot.message().to_lowercase();
            ensure!(
                !message.contains("fail") && message.starts_with("stopped after 10 iterations (max: 10)"),
                "{message}"
            );
            ensure!(
                snapshot.condition("Stalled").is_some_and(|it| it.starts_with("False")),
                "the task is stalled"
            );
            no_warning(ns, &snapshot).await?;

            ns.paste(&snapshot, "maxIterations").await?;
            let snapshot = ns.until_state("never", iterations(10), LIMIT).await?;
            ensure!(snapshot.iterations() == 20, "{snapshot}");
            ns.exactly(&snapshot, 20)?;
            no_warning(ns, &snapshot).await?;

            let pvc = ns.pvc_of(&snapshot).await?;
            let kept = ns
                .run_in_pvc(&pvc, "cat /workspace/iteration-1; wc -l </workspace/.agentloop/journal")
                .await?;
            ensure!(kept.split_whitespace().eq(["1", "20"]), "the PVC contains {kept:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_stop_at_the_limit_stays_in_effect_until_the_limit_is_raised_whatever_else_changes() -> Result<()> {
    TestNamespace::shared("limit-stays")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("limited", &["change", "new-blocker"]).max(2)).await?;
            let stopped = ns.until_state("limited", iterations(2), LIMIT).await?;
            ns.patch("limited", json!({ "resetToken": "again" })).await?;
            ns.until_state("limited", iterations(1), LIMIT).await?;
            ns.patch("limited", json!({ "suspend": true })).await?;
            ns.until_state("limited", iterations(1), "Suspended").await?;
            ns.patch("limited", json!({ "suspend": false })).await?;
            ns.until_state("limited", iterations(1), LIMIT).await?;
            ns.exactly(&stopped, 2)?;
            ns.patch("limited", json!({ "maxIterations": 3 })).await?;
            let snapshot = ns
                .until("limited", iterations(1), "stops after the third", |snapshot| {
                    snapshot.state() == LIMIT && snapshot.iterations() == 3
                })
                .await?;
            ns.exactly(&snapshot, 3)
        })
        .await
}

#[tokio::test]
async fn a_limit_of_60_is_reduced_to_the_hard_limit_of_50_and_reported() -> Result<()> {
    TestNamespace::shared("clamped")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("greedy", &["change", "ready-at=2"]).max(60)).await?;
            let snapshot = ns.until_state("greedy", iterations(2), DONE).await?;
            ensure!(snapshot.0.pointer("/status/progress") == Some(&json!("2/50")), "{snapshot}");
            ensure!(
                snapshot.condition("LimitClamped").as_deref() == Some("True HardLimit"),
                "{:?}",
                snapshot.condition("LimitClamped")
            );
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn with_the_policy_exit_code_0_means_done_and_any_other_continues() -> Result<()> {
    TestNamespace::shared("exit-code")
        .await?
        .run(async |ns| {
            let policy = json!({ "policy": "ExitCode" });
            ns.create(
                &TaskManifest::new("code", &["change", "exit-once=7"]).max(5).with("completion", policy),
            )
            .await?;
            let snapshot = ns.until_state("code", iterations(2), DONE).await?;
            ensure!(snapshot.history("exitCode") == ["7", "0"], "{:?}", snapshot.history("exitCode"));
            ns.exactly(&snapshot, 2)
        })
        .await
}

/// What an agent prints if its provider refuses immediately and names a short time.
const REFUSED: &str = r#"{"type":"system","subtype":"init","session_id":"s-1"}
{"type":"result","is_error":true,"api_error_status":429,"result":"try again in 20s"}"#;

#[tokio::test]
async fn a_short_time_that_a_provider_names_does_not_shorten_the_delay_and_hidden_work_is_charged()
-> Result<()> {
    TestNamespace::shared("free")
        .await?
        .run(async |ns| {
            let refused = r#"printf '%s\n' "$1"; exit 1"#;
            let hides =
                format!("mkdir -p /workspace/.agentloop/w && date >>/workspace/.agentloop/w/log; {refused}");
            ns.create(&TaskManifest::script("asks", refused, &[REFUSED]).max(1)).await?;
            ns.create(&TaskManifest::script("hides", &hides, &[REFUSED]).pvc().max(1)).await?;
            let snapshot = ns.until_state("asks", iterations(1), "Waiting/RateLimited").await?;
            ensure!(snapshot.iterations() == 0, "it was charged: {snapshot}");
            let wait = snapshot.not_before().map(|at| at.duration_since(Timestamp::now()).as_secs());
            // Some seconds have passed before the task is read.
            ensure!(wait.is_some_and(|wait| wait > 50), "the next attempt starts in {wait:?} s");
            let snapshot = ns.until_state("hides", iterations(1), LIMIT).await?;
            ns.exactly(&snapshot, 1)
        })
        .await
}

#[tokio::test]
async fn an_edit_of_the_completion_while_a_pod_runs_does_not_complete_the_task_by_the_old_one() -> Result<()>
{
    TestNamespace::shared("edited")
        .await?
        .run(async |ns| {
            let verify = |command: &str| json!({ "policy": "Verify", "verify": { "command": [command] } });
            let task = TaskManifest::new("raised", &["change", "wait"]).pvc().max(1);
            ns.create(&task.with("completion", verify("/bin/true"))).await?;
            let snapshot = ns.until_running("raised", 1).await?;
            ns.patch("raised", json!({ "completion": verify("/bin/false") })).await?;
            ns.signal_agent(&snapshot).await?;
            let snapshot = ns
                .until("raised", iterations(1), "has stopped", |now| {
                    !matches!(now.phase(), "" | "Pending" | "Running" | "Waiting")
                })
                .await?;
            ensure!(snapshot.state() == LIMIT, "{snapshot}");
            ensure!(snapshot.history("outcome") == ["Exited"], "{:?}", snapshot.history("outcome"));
            ns.exactly(&snapshot, 1)
        })
        .await
}
