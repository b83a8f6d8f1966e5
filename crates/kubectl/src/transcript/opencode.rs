//! OpenCode: `run --format json`.

use serde_json::Value;

use super::{Shown, at, input, owned, spent};

pub(super) fn read(kind: &str, event: &Value) -> Option<Vec<Shown>> {
    at(event, &["sessionID"])?;
    if kind == "error" {
        let error = event.get("error").filter(|error| error.is_object())?;
        let text =
            at(error, &["data", "message"]).or_else(|| at(error, &["name"])).unwrap_or("the turn failed");
        return Some(vec![Shown::Error(text.to_owned())]);
    }
    let part = event.get("part").filter(|part| part.is_object())?;
    Some(match kind {
        "text" => vec![Shown::Said(owned(part, &["text"]))],
        "tool_use" => {
            let state = part.get("state");
            let failed = at(part, &["state", "status"]) == Some("error");
            let result = at(part, &["state", "output"]).or_else(|| at(part, &["state", "error"]));
            vec![
                Shown::Did(owned(part, &["tool"]), input(state.and_then(|state| state.get("input")))),
                Shown::Got(result.unwrap_or_default().to_owned(), failed),
            ]
        }
        "step_start" | "reasoning" => Vec::new(),
        // Any other step ends with the use of a tool.
        "step_finish" if at(part, &["reason"]) == Some("tool-calls") => Vec::new(),
        "step_finish" => {
            let count =
                |name: &str| part.get("tokens").and_then(|tokens| tokens.get(name)).and_then(Value::as_i64);
            let cost = part.get("cost").and_then(Value::as_f64).filter(|cost| *cost > 0.0);
            let spent = spent(count("input"), count("output"), cost);
            vec![Shown::End(format!("end of the turn{spent}"))]
        }
        _ => return None,
    })
}
