//! Claude Code: `claude -p --output-format stream-json --verbose`, or `json`. Its final event is `result`.

use agentloop_contract::report::Usage;

use super::{
    super::{json::Json, retry_after},
    AgentEvents, Failed, Text, add, cost,
};

pub(super) fn knows(kind: &str, _: Json) -> bool {
    matches!(kind, "system" | "assistant" | "user" | "stream_event" | "result" | "rate_limit_event")
}

pub(super) fn take(events: &mut AgentEvents, kind: &str, event: Json) -> Option<Text> {
    match kind {
        // Other `system` events belong to no turn: hooks that run at the end, notes about limits.
        "system" if event.get("subtype").is("init") => {
            events.begins();
            events.opened = true;
            events.usage.model = event.get("model").text().or_else(|| events.usage.model.take());
        }
        "assistant" | "user" | "stream_event" => events.begins(),
        "rate_limit_event" => {
            let info = event.get("rate_limit_info");
            if info.get("status").is("rejected") {
                events.resets_at = info.get("resetsAt").integer().and_then(retry_after::from_epoch);
            }
        }
        "result" => return Some(Text::Is(result(events, event))),
        _ => {}
    }
    None
}

/// The last event. Its `subtype` may be `success` even if `is_error` is true.
fn result(events: &mut AgentEvents, event: Json) -> String {
    let subtype = event.get("subtype").text().unwrap_or_default();
    let text = event.get("result").text().unwrap_or_default();
    let failed = event.get("is_error").flag() == Some(true) || subtype.starts_with("error");
    let session = event.get("session_id").text().unwrap_or_default();
    events.add_session(session, usage(event));
    if !failed {
        events.succeeded();
        return text;
    }
    let mut first = None;
    event.get("errors").items(|item| {
        if first.is_none() {
            first = item.text();
        }
    });
    let message = match first {
        _ if !text.trim().is_empty() => text,
        Some(error) => error,
        None if subtype.is_empty() => "the turn failed".to_owned(),
        None => subtype,
    };
    let status = event.get("api_error_status");
    let status = status.integer().or_else(|| status.text()?.trim().parse().ok());
    events.fails(Failed { message, status, ..Failed::default() });
    String::new()
}

fn usage(event: Json) -> Usage {
    let count = |name: &str| event.get("usage").get(name).integer();
    let mut input = None;
    for name in ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"] {
        add(&mut input, count(name));
    }
    let positive = |count: Option<i64>| count.filter(|count| *count >= 0);
    Usage {
        input_tokens: input,
        cached_input_tokens: positive(count("cache_read_input_tokens")),
        output_tokens: positive(count("output_tokens")),
        cost_usd: cost(event.get("total_cost_usd")),
        model: None,
    }
}
