//! Claude Code: `--output-format stream-json`.

use serde_json::Value;

use super::{Shown, at, input, owned, spent};

pub(super) fn read(kind: &str, event: &Value) -> Option<Vec<Shown>> {
    Some(match kind {
        "system" => match at(event, &["subtype"])? {
            "init" => vec![Shown::Note(format!("session with {}", owned(event, &["model"])))],
            "api_retry" => vec![Shown::Note(format!("tries again: {}", owned(event, &["error"])))],
            _ => Vec::new(),
        },
        "assistant" => content(event).flat_map(said).collect(),
        "user" => content(event).filter_map(returned).collect(),
        "rate_limit_event" if at(event, &["rate_limit_info", "status"]) == Some("rejected") => {
            vec![Shown::Error("the provider's limit is reached".to_owned())]
        }
        "stream_event" | "rate_limit_event" => Vec::new(),
        "result" => vec![result(event)],
        _ => return None,
    })
}

fn content(event: &Value) -> impl Iterator<Item = &Value> {
    let content = event.get("message").and_then(|message| message.get("content"));
    content.and_then(Value::as_array).into_iter().flatten()
}

fn said(item: &Value) -> Vec<Shown> {
    match at(item, &["type"]) {
        Some("text") => vec![Shown::Said(owned(item, &["text"]))],
        Some("tool_use") => vec![Shown::Did(owned(item, &["name"]), input(item.get("input")))],
        _ => Vec::new(),
    }
}

fn returned(item: &Value) -> Option<Shown> {
    if at(item, &["type"]) != Some("tool_result") {
        return None;
    }
    let content = item.get("content")?;
    let text = match content.as_array() {
        Some(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| at(part, &["text"])).collect();
            texts.join("\n")
        }
        None => owned(content, &[]),
    };
    Some(Shown::Got(text, item.get("is_error").and_then(Value::as_bool) == Some(true)))
}

/// The text of the result was said before, so only an error is repeated.
fn result(event: &Value) -> Shown {
    let subtype = at(event, &["subtype"]).unwrap_or_default();
    let count = |name: &str| event.get("usage").and_then(|usage| usage.get(name)).and_then(Value::as_i64);
    if event.get("is_error").and_then(Value::as_bool) == Some(true) || subtype.starts_with("error") {
        let first = event.get("errors").and_then(|errors| errors.get(0)).and_then(Value::as_str);
        let text = at(event, &["result"]).filter(|text| !text.trim().is_empty());
        return Shown::Error(text.or(first).unwrap_or(subtype).to_owned());
    }
    let input = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"];
    let input = input.into_iter().filter_map(count).reduce(i64::saturating_add);
    let cost = event.get("total_cost_usd").and_then(Value::as_f64);
    Shown::End(format!("end of the turn{}", spent(input, count("output_tokens"), cost)))
}
