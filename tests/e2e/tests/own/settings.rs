//! Settings that no test may change for the others.

use agentloop_e2e::{Lab, Task, iterations};
use anyhow::{Result, ensure};

const DONE: &str = "Succeeded/Completed";

#[tokio::test]
async fn an_agent_that_is_silent_after_its_final_event_is_ended_after_the_grace_that_is_set() -> Result<()> {
    Lab::own("exit-grace", &["--set", "config.agentExitGraceSeconds=1"])
        .await?
        .run(async |lab| {
            let stream = r#"{"type":"system","subtype":"init","cwd":"/workspace","session_id":"s-1","model":"some-model","tools":["Bash"]}
{"type":"result","subtype":"success","is_error":false,"result":"Done.\n\n<COMPLETION_GATE>\nready: true\nreason: every case passes\n</COMPLETION_GATE>\n","session_id":"s-1","usage":{"input_tokens":180,"output_tokens":60}}"#;
            // Its timeout is the default of an hour.
            let script = r#"date >/workspace/work; printf '%s\n' "$1"; exec sleep 3000"#;
            lab.create(&Task::script("hangs", script, &[stream]).max(1)).await?;
            let seen = lab.until_state("hangs", iterations(1), DONE).await?;
            ensure!(seen.history("outcome") == ["Exited"], "{:?}", seen.history("outcome"));
            ensure!(seen.history("exitCode") == ["0"], "{:?}", seen.history("exitCode"));
            lab.exactly(&seen, 1)
        })
        .await
}
