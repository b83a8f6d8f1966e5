//! Codex: `exec --json`.

use serde_json::Value;

use super::{Shown, at, owned, spent};

pub(super) fn read(kind: &str, event: &Value) -> Option<Vec<Shown>> {
    Some(match kind {
        "thread.started" | "turn.started" | "item.started" | "item.updated" => Vec::new(),
        "item.completed" => item(event.get("item")?),
        "turn.completed" => {
            let count =
                |name: &str| event.get("usage").and_then(|usage| usage.get(name)).and_then(Value::as_i64);
            let spent = spent(count("input_tokens"), count("output_tokens"), None);
            vec![Shown::End(format!("end of the turn{spent}"))]
        }
        "turn.failed" => {
            vec![Shown::Error(at(event, &["error", "message"]).unwrap_or("the turn failed").to_owned())]
        }
        "error" => vec![Shown::Note(at(event, &["message"])?.to_owned())],
        _ => return None,
    })
}

fn item(item: &Value) -> Vec<Shown> {
    match at(item, &["type"]) {
        Some("agent_message") => vec![Shown::Said(owned(item, &["text"]))],
        Some("command_execution") => {
            let code = item.get("exit_code").and_then(Value::as_i64).filter(|code| *code != 0);
            let mut shown = vec![
                Shown::Did("sh".to_owned(), owned(item, &["command"])),
                Shown::Got(owned(item, &["aggregated_output"]), code.is_some()),
            ];
            shown.extend(code.map(|code| Shown::Error(format!("exit code {code}"))));
            shown
        }
        Some("file_change") => {
            let changes = item.get("changes").and_then(Value::as_array).into_iter().flatten();
            changes.map(|change| Shown::Did(owned(change, &["kind"]), owned(change, &["path"]))).collect()
        }
        Some("mcp_tool_call") => {
            let tool = format!("{} {}", owned(item, &["server"]), owned(item, &["tool"]));
            vec![Shown::Did(tool, super::input(item.get("arguments")))]
        }
        Some("web_search") => vec![Shown::Did("web search".to_owned(), owned(item, &["query"]))],
        Some("error") => vec![Shown::Note(owned(item, &["message"]))],
        _ => Vec::new(),
    }
}
