//! Gemini CLI: `--output-format stream-json`.

use serde_json::Value;

use super::{Shown, at, input, owned, spent};

pub(super) fn read(kind: &str, event: &Value) -> Option<Vec<Shown>> {
    Some(match kind {
        "init" => {
            at(event, &["session_id"])?;
            vec![Shown::Note(format!("session with {}", owned(event, &["model"])))]
        }
        "message" => {
            let content = at(event, &["content"])?.to_owned();
            match at(event, &["role"])? {
                "assistant" if event.get("delta").and_then(Value::as_bool) == Some(true) => {
                    vec![Shown::Continues(content)]
                }
                "assistant" => vec![Shown::Said(content)],
                // The prompt.
                _ => Vec::new(),
            }
        }
        "tool_use" => {
            at(event, &["tool_id"])?;
            vec![Shown::Did(owned(event, &["tool_name"]), input(event.get("parameters")))]
        }
        "tool_result" => {
            at(event, &["tool_id"])?;
            let failed = at(event, &["status"]) == Some("error");
            let text =
                at(event, &["output"]).or_else(|| at(event, &["error", "message"])).unwrap_or_default();
            vec![Shown::Got(text.to_owned(), failed)]
        }
        "error" => {
            at(event, &["severity"])?;
            vec![Shown::Note(owned(event, &["message"]))]
        }
        "result" if event.get("subtype").is_none() => match at(event, &["status"])? {
            "success" => {
                let count =
                    |name: &str| event.get("stats").and_then(|stats| stats.get(name)).and_then(Value::as_i64);
                let spent = spent(count("input_tokens"), count("output_tokens"), None);
                vec![Shown::End(format!("end of the turn{spent}"))]
            }
            _ => vec![Shown::Error(at(event, &["error", "message"]).unwrap_or("the turn failed").to_owned())],
        },
        _ => return None,
    })
}
