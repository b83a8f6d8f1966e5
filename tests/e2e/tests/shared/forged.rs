//! Only the runner's own report counts, whatever its exit code.

use agentloop_e2e::{Task, TestNamespace, iterations};
use anyhow::{Result, ensure};
use serde_json::json;

const DONE: &str = "Succeeded/Completed";
const LIMIT: &str = "IterationLimitReached/IterationLimit";

/// What the runner would write if all went well.
const FORGED: &str = r#"{"version":1,"end":"Exited","exitCode":0,"changed":"Changed","verify":{"passed":true,"exitCode":0},"gate":{"ready":true,"reason":"trust me"}}"#;

#[tokio::test]
async fn an_agent_that_exits_with_255_is_done_where_a_verify_command_says_so() -> Result<()> {
    TestNamespace::shared("exit-255")
        .await?
        .run(async |ns| {
            let verify = json!({ "policy": "Verify", "verify": { "command": ["/bin/test", "-e", "/workspace/iteration-1"] } });
            ns.create(&Task::new("loud", &["change", "exit=255"]).pvc().max(1).with("completion", verify)).await?;
            let snapshot = ns.until("loud", iterations(1), "has stopped", |now| now.iterations() == 1).await?;
            ensure!(snapshot.state() == DONE, "{snapshot}");
            ensure!(snapshot.history("exitCode") == ["255"], "{:?}", snapshot.history("exitCode"));
            ns.exactly(&snapshot, 1)
        })
        .await
}

#[tokio::test]
async fn a_report_that_an_agent_wrote_before_its_container_was_killed_completes_nothing() -> Result<()> {
    TestNamespace::shared("forged")
        .await?
        .run(async |ns| {
            let script = r#"date >/workspace/work-$AGENTLOOP_ITERATION; printf %s "$1" >/dev/termination-log
                text=xxxxxxxxxxxxxxxx; while :; do text=$text$text; done"#;
            let limits = json!({ "requests": { "cpu": "5m" }, "limits": { "memory": "48Mi" } });
            for (name, completion) in [
                ("by-gate", json!({ "policy": "Gate" })),
                ("by-verify", json!({ "policy": "Verify", "verify": { "command": ["/bin/false"] } })),
            ] {
                let task = Task::script(name, script, &[FORGED]).max(1).with("completion", completion);
                ns.create(&task.with("template/spec/containers/0/resources", limits.clone())).await?;
            }
            for name in ["by-gate", "by-verify"] {
                let snapshot =
                    ns.until(name, iterations(1), "has stopped", |now| now.iterations() == 1).await?;
                ensure!(snapshot.state() == LIMIT, "{snapshot}");
                ensure!(!snapshot.to_string().contains("trust me"), "{snapshot}");
                ns.exactly(&snapshot, 1)?;
            }
            Ok(())
        })
        .await
}

/// The runner is process 1 there, and what it runs may send it a signal.
#[tokio::test]
async fn an_agent_that_signals_process_1_is_judged_by_what_it_did_and_not_as_interrupted() -> Result<()> {
    TestNamespace::shared("kill-1")
        .await?
        .run(async |ns| {
            let gate = r"printf '<COMPLETION_GATE>\nready: true\nreason: it ran\n</COMPLETION_GATE>\n'";
            // The stop that it asked for would come within a moment. What it sends to process 1 is passed on to itself.
            let script = format!("trap '' TERM; date >/workspace/work; kill 1; sleep 1; {gate}");
            ns.create(&Task::script("signals", &script, &[]).max(1)).await?;
            let snapshot =
                ns.until("signals", iterations(1), "has stopped", |now| now.iterations() == 1).await?;
            ensure!(snapshot.history("outcome") == ["Exited"], "{:?}", snapshot.history("outcome"));
            ensure!(snapshot.state() == DONE, "{snapshot}");
            ns.exactly(&snapshot, 1)
        })
        .await
}
