//! OpenAI's Responses API, which Codex speaks.

use serde_json::{Value, json};

use crate::{Answer, Step};

/// The outputs of the commands that the agent has run so far.
pub fn outputs(request: &Value) -> Vec<String> {
    let items = request.get("input").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter(|item| item.get("type").is_some_and(|kind| kind == "function_call_output"))
        .map(|item| {
            let output = item.get("output").and_then(Value::as_str).unwrap_or_default();
            // The agent reports the exit code of the command, and then its output.
            output.split_once("Output:\n").map_or(output, |(_, output)| output).to_owned()
        })
        .collect()
}

/// The events of one response.
pub fn events(step: &Step) -> Vec<Value> {
    let id = step.id;
    let item = match &step.answer {
        Answer::Run(command) => json!({
            "type": "function_call", "id": format!("fc_{id}"), "call_id": format!("call_{id}"),
            "name": "exec_command", "arguments": json!({ "cmd": command }).to_string(),
        }),
        Answer::Say(text) => json!({
            "type": "message", "id": format!("msg_{id}"), "role": "assistant",
            "content": [{ "type": "output_text", "text": text }],
        }),
    };
    let [input, cached, output] = step.tokens;
    let usage = json!({
        "input_tokens": input, "input_tokens_details": { "cached_tokens": cached },
        "output_tokens": output, "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": input + output,
    });
    let response = format!("resp_{id}");
    vec![
        json!({ "type": "response.created", "response": { "id": response } }),
        json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
        json!({ "type": "response.completed", "response": { "id": response, "usage": usage } }),
    ]
}

/// The body of an error.
pub fn error(error: &Value) -> Value {
    json!({ "error": error })
}
