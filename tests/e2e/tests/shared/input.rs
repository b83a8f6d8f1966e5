//! Bad input: refused if the schema can detect it, and never in the way of other tasks.

use agentloop_e2e::{
    DONE, LIMIT, PATIENCE, ProgramOutput, TaskManifest, TestNamespace, eventually, iterations,
};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

#[tokio::test]
async fn kubectl_apply_refuses_with_a_reason_what_the_schema_can_detect() -> Result<()> {
    TestNamespace::shared("schema")
        .await?
        .run(async |ns| {
            let good = || TaskManifest::new("input", &["ready"]).with("suspend", json!(true));
            let bad: [(TaskManifest, &str); 16] = [
                (good().max(0), "maxIterations"),
                (good().max(-1), "maxIterations"),
                (good().with("maxIterations", json!(4_294_967_297_i64)), "maxIterations"),
                (good().with("maxIterations", json!("ten")), "maxIterations"),
                (good().with("maxIteration", json!(3)), "maxIteration"),
                (good().with("template/spec/containers", json!([])), "containers"),
                (good().with("template/spec/containers/0/name", json!("x")).beside("y", "true"), "agent"),
                (good().with("template/spec/containers/0/command", json!([])), "command"),
                (good().with("template/spec/containers/0/command", json!(null)), "command"),
                (good().with("template/spec/restartPolicy", json!("Always")), "restartPolicy"),
                (good().with("template/spec/nodeName", json!("node1")), "nodeName"),
                (good().with("workspace/mountPath", json!("/agentloop/x")), "mountPath"),
                (
                    good().pvc().with("workspace/persistentVolumeClaim", json!({ "claimName": "a" })),
                    "workspace",
                ),
                (good().with("completion", json!({ "policy": "Verify" })), "verify"),
                (good().with("prompt", json!("é".repeat(65_537))), "prompt"),
                (good().with("promptFrom", json!({ "secretKeyRef": { "name": "a", "key": "b" } })), "prompt"),
            ];
            for (task, word) in bad {
                let applied = ns.apply(&task.manifest()).await?;
                ensure!(!applied.succeeded, "it was accepted: {}", task.manifest());
                ensure!(applied.text.contains(word), "{word} is not named: {}", applied.text);
            }
            ns.apply(&good().manifest()).await?.success()?;
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_task_with_the_longest_name_runs_and_one_letter_more_is_refused() -> Result<()> {
    TestNamespace::shared("long-name")
        .await?
        .run(async |ns| {
            let name = "n".repeat(63);
            ns.create(&TaskManifest::new(&name, &["change", "ready-at=2"]).pvc()).await?;
            let applied = ns.apply(&TaskManifest::new(&format!("{name}n"), &["ready"]).manifest()).await?;
            ensure!(!applied.succeeded && applied.text.contains("63"), "{}", applied.text);
            let snapshot = ns.until_state(&name, iterations(2), DONE).await?;
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn a_task_that_cannot_be_decoded_is_reported_blocks_no_other_and_can_be_fixed_and_deleted() -> Result<()>
{
    TestNamespace::shared("undecodable")
        .await?
        .run(async |ns| {
            let busy = |name: &str| TaskManifest::new(name, &["change", "wait", "ready"]).pvc();
            ns.create(&busy("repaired")).await?;
            ns.create(&busy("deleted")).await?;
            let repaired = ns.until_running("repaired", 1).await?;
            let deleted = ns.until_running("deleted", 1).await?;
            // The schema accepts this time, but no reader can parse it.
            for name in ["repaired", "deleted"] {
                let odd = json!({ "startTime": "2026-01-01T00:00:00+99:99" });
                write_status(ns, name, &odd).await?.success()?;
            }
            ns.create(&TaskManifest::new("other", &["change", "ready"])).await?;
            let snapshot = ns.until_state("other", iterations(1), DONE).await?;
            ns.exactly(&snapshot, 1)?;
            for snapshot in [&repaired, &deleted] {
                eventually(PATIENCE, "an Event reports it", async || {
                    let events = ns.events(snapshot.uid()).await.map_err(|error| error.to_string())?;
                    let reported = events
                        .iter()
                        .any(|(type_, reason, _)| type_ == "Warning" && reason == "TaskUnreadable");
                    if reported { Ok(()) } else { Err(format!("{events:?}")) }
                })
                .await?;
            }

            ns.signal_agent(&repaired).await?;
            ns.delete("deleted").await?;
            write_status(ns, "repaired", &json!({ "startTime": null })).await?.success()?;
            let snapshot = ns.until_state("repaired", iterations(1), DONE).await?;
            ns.exactly(&snapshot, 1)
        })
        .await
}

#[tokio::test]
async fn a_template_that_the_server_refuses_is_reported_and_does_not_block_other_tasks() -> Result<()> {
    TestNamespace::shared("odd")
        .await?
        .run(async |ns| {
            // The schema preserves the fields of a pod template without declaring them, so a value may not match a client's
            // types.
            let odd = TaskManifest::new("odd", &["change", "ready"])
                .with("template/spec/tolerations", json!("no list"));
            ns.apply(&odd.manifest()).await?.success()?;
            ns.create(&TaskManifest::new("other", &["change", "ready"])).await?;
            let snapshot = ns.until_state("other", iterations(1), DONE).await?;
            ns.exactly(&snapshot, 1)?;
            let snapshot = ns
                .until("odd", PATIENCE, "reports that its pod is refused", |now| {
                    now.state() == "Waiting/PodRejected"
                })
                .await?;
            ensure!(snapshot.iterations() == 0, "{snapshot}");
            ns.delete("odd").await
        })
        .await
}

/// Writes a task's status, which only the operator should do.
async fn write_status(ns: &TestNamespace, name: &str, status: &Value) -> Result<ProgramOutput> {
    let patch = json!({ "status": status }).to_string();
    ns.kubectl(&["patch", "agt", name, "--subresource=status", "--type=merge", "-p", &patch]).await
}

#[tokio::test]
async fn a_status_written_by_hand_cannot_take_back_iterations_or_success() -> Result<()> {
    TestNamespace::shared("status")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("forged", &["change", "ready-at=2"])).await?;
            let snapshot = ns.until_state("forged", iterations(2), DONE).await?;
            for status in [
                json!({ "iterations": 0 }),
                json!({ "iterations": 9 }),
                json!({ "phase": "Pending" }),
                json!({ "active": { "iteration": 7, "attempt": 0, "podName": "forged" } }),
                json!(null),
            ] {
                let written = write_status(ns, "forged", &status).await?;
                ensure!(!written.succeeded, "{status} was accepted: {}", written.text);
            }
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn a_message_written_into_a_status_by_hand_is_corrected() -> Result<()> {
    TestNamespace::shared("status-message")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("forged", &["change", "new-blocker"]).max(1)).await?;
            let before = ns.until_state("forged", iterations(1), LIMIT).await?;
            let status = json!({ "phase": "Running", "message": "all is well", "progress": "0/99" });
            write_status(ns, "forged", &status).await?.success()?;
            eventually(PATIENCE, "the status is restored", async || {
                let now = ns.get("forged").await.map_err(|error| error.to_string())?;
                let field = |snapshot: &agentloop_e2e::TaskSnapshot| snapshot.0.pointer("/status").cloned();
                if field(&now) == field(&before) { Ok(()) } else { Err(now.to_string()) }
            })
            .await?;
            ns.exactly(&before, 1)
        })
        .await
}
