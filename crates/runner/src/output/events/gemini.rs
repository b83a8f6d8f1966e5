//! Gemini CLI: `gemini --output-format stream-json`, or `json`. Its final event is `result`; an event of type `error`
//! is a warning.

use super::{super::json::Json, AgentEvents, Failed, Text, add};

pub(super) fn knows(kind: &str, event: Json) -> bool {
    match kind {
        "init" => event.get("session_id").text().is_some(),
        "message" => event.get("role").text().is_some() && event.get("content").text().is_some(),
        "tool_use" | "tool_result" => event.get("tool_id").text().is_some(),
        "error" => event.get("severity").text().is_some(),
        // Claude Code's event of this name has a subtype and no status.
        "result" => event.get("status").text().is_some() && event.get("subtype").text().is_none(),
        _ => false,
    }
}

pub(super) fn take(events: &mut AgentEvents, kind: &str, event: Json) -> Option<Text> {
    match kind {
        "init" => {
            events.opened = true;
            events.usage.model = event.get("model").text().or_else(|| events.usage.model.take());
        }
        "result" => return result(events, event),
        "error" => return None,
        _ => {}
    }
    events.begins();
    if !(kind == "message" && event.get("role").is("assistant")) {
        events.fresh = true;
        return None;
    }
    events.ended = true;
    let text = event.get("content").text().unwrap_or_default();
    let continues = !std::mem::take(&mut events.fresh) && event.get("delta").flag() == Some(true);
    Some(if continues { Text::Continues(text) } else { Text::Is(text) })
}

fn result(events: &mut AgentEvents, event: Json) -> Option<Text> {
    let used = event.get("stats");
    add(&mut events.usage.input_tokens, used.get("input_tokens").integer());
    add(&mut events.usage.cached_input_tokens, used.get("cached").integer());
    add(&mut events.usage.output_tokens, used.get("output_tokens").integer());
    if event.get("status").is("success") {
        events.succeeded();
        return None;
    }
    let error = event.get("error");
    let kind = error.get("type").text().filter(|kind| kind != "unknown");
    let message = error.get("message").text().filter(|message| !message.trim().is_empty()).or(kind);
    let message = message.unwrap_or_else(|| "the turn failed".to_owned());
    let status = [error.get("code"), error.get("status")].into_iter().find_map(Json::integer);
    events.fails(Failed { message, status, ..Failed::default() });
    Some(Text::Is(String::new()))
}
