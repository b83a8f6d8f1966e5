//! Settings that a test must not change for the others.

use agentloop_e2e::{DONE, TaskManifest, TestNamespace, iterations};
use anyhow::{Result, ensure};

#[tokio::test]
async fn an_agent_that_is_silent_after_its_final_event_is_stopped_after_the_configured_grace_period()
-> Result<()> {
    TestNamespace::own("exit-grace", &["--set", "config.agentExitGraceSeconds=1"])
        .await?
        .run(async |ns| {
            let stream = r#"{"type":"system","subtype":"init","cwd":"/workspace","session_id":"s-1","model":"some-model","tools":["Bash"]}
{"type":"result","subtype":"success","is_error":false,"result":"Done.\n\n<COMPLETION_GATE>\nready: true\nreason: every case passes\n</COMPLETION_GATE>\n","session_id":"s-1","usage":{"input_tokens":180,"output_tokens":60}}"#;
            // Its timeout is the default of an hour.
            let script = r#"date >/workspace/work; printf '%s\n' "$1"; exec sleep 3000"#;
            ns.create(&TaskManifest::script("hangs", script, &[stream]).max(1)).await?;
            let snapshot = ns.until_state("hangs", iterations(1), DONE).await?;
            ensure!(snapshot.history("outcome") == ["Exited"], "{:?}", snapshot.history("outcome"));
            ensure!(snapshot.history("exitCode") == ["0"], "{:?}", snapshot.history("exitCode"));
            ns.exactly(&snapshot, 1)
        })
        .await
}
