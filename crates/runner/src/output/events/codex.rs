//! Codex: `codex exec --json`. Its final event is `turn.completed` or `turn.failed`; an item or an event of type
//! `error` is a warning.

use super::{
    super::{json::Json, retry_after},
    AgentEvents, Failed, Text, add,
};

pub(super) fn knows(kind: &str, event: Json) -> bool {
    matches!(
        kind,
        "thread.started"
            | "turn.started"
            | "turn.completed"
            | "turn.failed"
            | "item.started"
            | "item.updated"
            | "item.completed"
    ) || (kind == "error" && event.get("message").text().is_some())
}

pub(super) fn take(events: &mut AgentEvents, kind: &str, event: Json) -> Option<Text> {
    match kind {
        "turn.completed" => {
            events.succeeded();
            let usage = event.get("usage");
            add(&mut events.usage.input_tokens, usage.get("input_tokens").integer());
            add(&mut events.usage.cached_input_tokens, usage.get("cached_input_tokens").integer());
            add(&mut events.usage.output_tokens, usage.get("output_tokens").integer());
            return None;
        }
        "turn.failed" => {
            let error = event.get("error");
            let message = error.get("message").text().unwrap_or_else(|| "the turn failed".to_owned());
            events.fails(Failed { message, until: retry_after::fields(error), ..Failed::default() });
            // Earlier messages are not the final text of a turn that failed.
            return Some(Text::Is(String::new()));
        }
        "error" => return None,
        "thread.started" => events.opened = true,
        _ => {}
    }
    events.begins();
    let item = event.get("item");
    if kind == "item.completed" && item.get("type").is("agent_message") {
        events.ended = true;
        return Some(Text::Is(item.get("text").text().unwrap_or_default()));
    }
    None
}
