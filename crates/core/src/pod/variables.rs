//! The environment of the agent's container.

use agentloop_contract::names::env;
use serde_json::{Map, Value, json};

/// Variables that agentloop sets for the agent. A template cannot override them.
const OURS: &[&str] =
    &[env::TASK, env::ITERATION, env::MAX_ITERATIONS, env::CONTEXT_FILE, env::PROMPT_FILE, env::WORKSPACE];

/// The environment: our variables first, so that the template's can refer to them as `$(NAME)`, then the template's.
/// The report key is last, so that no variable can refer to it.
pub(super) fn environment(ours: &[(&str, String)], template: Vec<Value>, report_key: &str) -> Vec<Value> {
    let variable = |name: &str, value: &str| json!({ "name": name, "value": value });
    let is_ours = |entry: &Value| {
        let name = entry.get("name").and_then(Value::as_str);
        name.is_some_and(|name| name == env::REPORT_KEY || OURS.contains(&name))
    };
    ours.iter()
        .map(|(name, value)| variable(name, value))
        .chain(template.into_iter().filter(|entry| !is_ours(entry)))
        .chain([variable(env::REPORT_KEY, report_key)])
        .collect()
}

/// Keeps the kubelet from expanding the report key anywhere in a container: in its command and arguments, in the
/// commands of its probes and in the paths of its mounts. The agent can read all of them.
pub(super) fn hide_key(container: &mut Map<String, Value>) {
    container.values_mut().for_each(hide_in);
}

/// The value, changed so that the kubelet does not expand the report key in it.
pub(super) fn without_key(mut value: Value) -> Value {
    hide_in(&mut value);
    value
}

fn hide_in(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(hidden) = hidden(text) {
                *text = hidden;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(hide_in),
        Value::Object(map) => map.values_mut().for_each(hide_in),
        _ => {}
    }
}

/// `text` with each reference to the key escaped; `None` if it has no reference.
///
/// This follows Kubernetes (`third_party/forked/golang/expansion`): the first of two dollars escapes the second, and a
/// reference is the text between `$(` and the next `)`.
fn hidden(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut found = false;
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let reference = from.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
        let length = match reference {
            _ if from.starts_with("$$") => 2,
            Some((name, _)) => {
                if name == env::REPORT_KEY {
                    found = true;
                    out.push('$');
                }
                // The dollar and both parentheses.
                name.len().saturating_add(3)
            }
            None => 1,
        };
        let (copied, after) = from.split_at_checked(length).unwrap_or((from, ""));
        out.push_str(copied);
        rest = after;
    }
    out.push_str(rest);
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "$(AGENTLOOP_REPORT_KEY)";

    /// Kubernetes' `expansion.Expand`, with the key as the only variable.
    fn expand(text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let (_, after) = rest.split_at(at.saturating_add(1));
            if let Some(next) = after.strip_prefix('$') {
                out.push('$');
                rest = next;
            } else if let Some((name, next)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')'))
            {
                if name == "AGENTLOOP_REPORT_KEY" {
                    out.push_str("SECRET");
                } else {
                    out.extend(["$(", name, ")"]);
                }
                rest = next;
            } else {
                out.push('$');
                rest = after;
            }
        }
        out + rest
    }

    #[test]
    fn a_reference_to_the_key_is_escaped_and_no_other() {
        for (text, expected) in [
            (KEY, "$$(AGENTLOOP_REPORT_KEY)"),
            ("a $(AGENTLOOP_REPORT_KEY) b", "a $$(AGENTLOOP_REPORT_KEY) b"),
            ("$$$(AGENTLOOP_REPORT_KEY)", "$$$$(AGENTLOOP_REPORT_KEY)"),
            ("$é$(AGENTLOOP_REPORT_KEY)", "$é$$(AGENTLOOP_REPORT_KEY)"),
        ] {
            assert_eq!(hidden(text).as_deref(), Some(expected));
        }
        for text in
            ["", "$", "$$", "$(", "$(OTHER)", "$$(AGENTLOOP_REPORT_KEY)", "$(X$(AGENTLOOP_REPORT_KEY)"]
        {
            assert_eq!(hidden(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_expands_to_the_key(
            parts in prop::collection::vec(
                prop_oneof![Just("$"), Just("("), Just(")"), Just("AGENTLOOP_REPORT_KEY"), Just(KEY), Just("é"), Just("X")],
                0..12,
            )
        ) {
            let text = parts.concat();
            match hidden(&text) {
                Some(hidden) => prop_assert!(!expand(&hidden).contains("SECRET"), "{hidden}"),
                None => prop_assert!(!expand(&text).contains("SECRET"), "{text}"),
            }
        }
    }
}
