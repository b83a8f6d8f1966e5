//! Anthropic's Messages API, which Claude Code speaks.

use serde_json::{Value, json};

use crate::{Answer, Step};

/// The outputs of the commands that the agent has run so far.
pub fn outputs(request: &Value) -> Vec<String> {
    let messages = request.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    messages
        .iter()
        .filter_map(|message| message.get("content").and_then(Value::as_array))
        .flatten()
        .filter(|block| block.get("type").is_some_and(|kind| kind == "tool_result"))
        .map(|block| match block.get("content") {
            Some(Value::Array(parts)) => {
                parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect()
            }
            content => content.and_then(Value::as_str).unwrap_or_default().to_owned(),
        })
        .collect()
}

/// The events of one response.
pub fn events(step: &Step) -> Vec<Value> {
    let id = step.id;
    let (block, delta, reason) = match &step.answer {
        Answer::Run(command) => (
            json!({ "type": "tool_use", "id": format!("toolu_{id}"), "name": "Bash", "input": {} }),
            json!({
                "type": "input_json_delta",
                "partial_json": json!({ "command": command, "description": "A step of the script" }).to_string(),
            }),
            "tool_use",
        ),
        Answer::Say(text) => {
            (json!({ "type": "text", "text": "" }), json!({ "type": "text_delta", "text": text }), "end_turn")
        }
    };
    let [input, cached, output] = step.tokens;
    // Unlike OpenAI's, these input tokens do not contain the cached ones.
    let usage = |output: u64| {
        json!({
            "input_tokens": input.saturating_sub(cached), "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached, "output_tokens": output,
        })
    };
    vec![
        json!({ "type": "message_start", "message": {
            "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": "scripted", "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage(0),
        } }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({
            "type": "message_delta", "usage": usage(output),
            "delta": { "stop_reason": reason, "stop_sequence": null },
        }),
        json!({ "type": "message_stop" }),
    ]
}

/// The body of an error.
pub fn error(error: &Value) -> Value {
    json!({ "type": "error", "error": error })
}
