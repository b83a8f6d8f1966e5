//! OpenCode: `opencode run --format json`. It has no event for the end of its work: its final event is a `step_finish`
//! that asks for no tools, or an `error`.

use agentloop_contract::report::Usage;

use super::{
    super::{json::Json, retry_after},
    AgentEvents, Failed, Text, add, cost, sum,
};

pub(super) fn knows(kind: &str, event: Json) -> bool {
    let part = matches!(kind, "step_start" | "step_finish" | "text" | "tool_use" | "reasoning")
        && event.get("part").is_object();
    (part || (kind == "error" && event.get("error").is_object())) && event.get("sessionID").text().is_some()
}

pub(super) fn take(events: &mut AgentEvents, kind: &str, event: Json) -> Option<Text> {
    let part = event.get("part");
    match kind {
        "error" => {
            events.fails(failed(event.get("error")));
            return Some(Text::Is(String::new()));
        }
        "step_finish" => {
            step_finish(events, part);
            return None;
        }
        "step_start" => (events.opened, events.fresh) = (true, true),
        _ => {}
    }
    events.begins();
    if kind != "text" {
        return None;
    }
    events.ended = true;
    let text = part.get("text").text().unwrap_or_default();
    // A message may have several parts.
    Some(if std::mem::take(&mut events.fresh) {
        Text::Is(text)
    } else {
        Text::Continues(format!("\n{text}"))
    })
}

fn step_finish(events: &mut AgentEvents, part: Json) {
    let tokens = part.get("tokens");
    let mut usage = Usage { cost_usd: cost(part.get("cost")), ..Usage::default() };
    let cache = tokens.get("cache");
    for count in [tokens.get("input"), cache.get("read"), cache.get("write")] {
        add(&mut usage.input_tokens, count.integer());
    }
    add(&mut usage.cached_input_tokens, cache.get("read").integer());
    for count in [tokens.get("output"), tokens.get("reasoning")] {
        add(&mut usage.output_tokens, count.integer());
    }
    sum(&mut events.usage, &usage);
    let reason = part.get("reason").text().unwrap_or_default();
    match reason.as_str() {
        "tool-calls" | "unknown" => events.begins(),
        "error" | "content-filter" => {
            let message = format!("the model ended its step with: {reason}");
            events.fails(Failed { message, ..Failed::default() });
        }
        _ => events.succeeded(),
    }
}

fn failed(error: Json) -> Failed {
    let data = error.get("data");
    let name = error.get("name").text().unwrap_or_else(|| "the turn failed".to_owned());
    let message = [data.get("message"), error.get("message")]
        .into_iter()
        .find_map(|message| message.text().filter(|message| !message.trim().is_empty()));
    let body = data.get("responseBody").text().unwrap_or_default();
    let until = [retry_after::fields(data), Json::whole(&body).and_then(retry_after::fields)]
        .into_iter()
        .flatten()
        .next();
    Failed {
        message: message.unwrap_or_else(|| name.clone()),
        status: data.get("statusCode").integer(),
        credential: name == "ProviderAuthError",
        until,
    }
}
