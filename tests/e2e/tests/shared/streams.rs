//! Agents that print streams of events instead of text.

use agentloop_e2e::{DONE, TaskManifest, TaskSnapshot, TestNamespace};
use anyhow::{Result, ensure};
use serde_json::json;

const OPENCODE: &str = r#"{"type":"step_start","timestamp":1795400000000,"sessionID":"ses_1","part":{"id":"prt_1","messageID":"msg_1","sessionID":"ses_1","type":"step-start"}}
{"type":"tool_use","timestamp":1795400000100,"sessionID":"ses_1","part":{"id":"prt_2","messageID":"msg_1","sessionID":"ses_1","type":"tool","tool":"bash","state":{"status":"completed","input":{"command":"make test"},"output":"ok"}}}
{"type":"text","timestamp":1795400000200,"sessionID":"ses_1","part":{"id":"prt_3","messageID":"msg_1","sessionID":"ses_1","type":"text","text":"The parser works now.\n\n<COMPLETION_GATE>\nready: true\nreason: every case passes\n</COMPLETION_GATE>\n","time":{"start":1795400000150,"end":1795400000199}}}
{"type":"step_finish","timestamp":1795400000300,"sessionID":"ses_1","part":{"id":"prt_4","reason":"stop","messageID":"msg_1","sessionID":"ses_1","type":"step-finish","tokens":{"total":240,"input":180,"output":60,"reasoning":0,"cache":{"write":0,"read":0}},"cost":0.0012}}"#;

const GEMINI: &str = r#"{"type":"init","timestamp":"2026-11-26T12:41:22.158Z","session_id":"00000001-0000-4000-8000-000000000000","model":"gemini-2.5-pro"}
{"type":"message","timestamp":"2026-11-26T12:41:22.160Z","role":"user","content":"Make the tests pass"}
{"type":"tool_use","timestamp":"2026-11-26T12:41:22.309Z","tool_name":"run_shell_command","tool_id":"call_1","parameters":{"command":"make test"}}
{"type":"tool_result","timestamp":"2026-11-26T12:41:22.455Z","tool_id":"call_1","status":"success","output":"ok"}
{"type":"message","timestamp":"2026-11-26T12:41:22.473Z","role":"assistant","content":"The parser works now.\n\n<COMPLETION_GATE>\nready: true\nreason: every case","delta":true}
{"type":"message","timestamp":"2026-11-26T12:41:22.474Z","role":"assistant","content":" passes\n</COMPLETION_GATE>","delta":true}
{"type":"result","timestamp":"2026-11-26T12:41:22.475Z","status":"success","stats":{"total_tokens":240,"input_tokens":180,"output_tokens":60,"duration_ms":318,"tool_calls":1}}"#;

const CLAUDE: &str = r#"{"type":"system","subtype":"init","cwd":"/workspace","session_id":"s-1","model":"some-model","tools":["Bash","Edit"]}
{"type":"result","subtype":"success","is_error":false,"api_error_status":null,"num_turns":9,"result":"Done.\n\n<COMPLETION_GATE>\nready: true\nreason: every case passes\n</COMPLETION_GATE>\n","session_id":"s-1","total_cost_usd":0.4,"usage":{"input_tokens":180,"output_tokens":60},"terminal_reason":"completed"}"#;

const PRINTS: &str = r#"date >/workspace/work; printf '%s\n' "$1""#;

async fn done_in_one_iteration(ns: &TestNamespace, name: &str) -> Result<TaskSnapshot> {
    let snapshot = ns.until_counted(name).await?;
    ensure!(snapshot.state() == DONE, "{snapshot}; outcomes: {:?}", snapshot.history("outcome"));
    ns.exactly(&snapshot, 1)?;
    let used = ["/status/usage/inputTokens", "/status/usage/outputTokens"].map(|of| snapshot.number(of));
    ensure!(used == [180, 60], "{used:?} tokens were used");
    Ok(snapshot)
}

#[tokio::test]
async fn the_events_of_opencode_and_gemini_cli_are_read_for_gate_and_usage() -> Result<()> {
    TestNamespace::shared("streams")
        .await?
        .run(async |ns| {
            for (name, stream) in [("opencode", OPENCODE), ("gemini", GEMINI)] {
                ns.create(&TaskManifest::script(name, PRINTS, &[stream]).max(1)).await?;
            }
            let opencode = done_in_one_iteration(ns, "opencode").await;
            let gemini = done_in_one_iteration(ns, "gemini").await;
            opencode.and(gemini).map(drop)
        })
        .await
}

#[tokio::test]
async fn an_agent_that_hangs_after_its_final_event_is_evaluated_by_it_at_the_iterations_timeout() -> Result<()>
{
    TestNamespace::shared("hangs")
        .await?
        .run(async |ns| {
            let task = TaskManifest::script("hangs", &format!("{PRINTS}; exec sleep 600"), &[CLAUDE]);
            ns.create(&task.max(1).with("iterationTimeoutSeconds", json!(4))).await?;
            let snapshot = done_in_one_iteration(ns, "hangs").await?;
            ensure!(snapshot.history("outcome") == ["Exited"], "{:?}", snapshot.history("outcome"));
            Ok(())
        })
        .await
}
