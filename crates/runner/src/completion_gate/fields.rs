//! Reads the content of a completion gate: YAML as people and models write it, not as YAML printers do.
//!
//! The content is `key: value` lines. Values are plain, quoted and block (`|`, `>`) texts, texts that continue in
//! indented lines, and lists in both of YAML's styles; or the content is one JSON object. Text that YAML would reject
//! is taken as it is (`reason: All pass: 16/16`), and so is ` #12`, which YAML would read as a comment. Unknown keys
//! are ignored.
//!
//! A YAML parser would be no help: it rejects a whole document for one colon, and a gate that is lost costs an
//! iteration.

use agentloop_contract::completion_gate::CompletionGate;
use serde_json::Value;

/// Words that models write when there is nothing to list.
const NOTHING: &[&str] = &["none", "n/a", "na", "nil", "null", "~", "-", "[]", "no blockers", "nothing"];

/// Reads a gate from its lines; `None` without a boolean `ready`.
pub(super) fn read(lines: &[String]) -> Option<CompletionGate> {
    let text = lines.join("\n");
    if text.trim_start().starts_with('{') {
        return from_json(&serde_json::from_str(text.trim()).ok()?);
    }
    let mut fields = Fields::default();
    for line in lines {
        fields.line(line);
    }
    fields.flush();
    Some(CompletionGate {
        ready: fields.ready?,
        reason: fields.reason.filter(|text| !text.is_empty()),
        progress: fields.progress.filter(|text| !text.is_empty()),
        blockers: fields.blockers,
    })
}

fn from_json(value: &Value) -> Option<CompletionGate> {
    let text =
        |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned).filter(|t| !t.is_empty());
    let ready = match value.get("ready")? {
        Value::Bool(ready) => *ready,
        Value::String(word) => boolean(word)?,
        _ => return None,
    };
    let blockers = match value.get("blockers") {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).filter_map(blocker).collect(),
        Some(Value::String(item)) => blocker(item).into_iter().collect(),
        _ => Vec::new(),
    };
    Some(CompletionGate { ready, reason: text("reason"), progress: text("progress"), blockers })
}

/// The known keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GateKey {
    Ready,
    Reason,
    Progress,
    Blockers,
    Other,
}

#[derive(Default)]
struct Fields {
    ready: Option<bool>,
    reason: Option<String>,
    progress: Option<String>,
    blockers: Vec<String>,
    /// The indentation of the first key. Keys with a deeper indentation belong to the value above them.
    base: Option<usize>,
    /// The key whose value may continue, its indentation, and the parts of the value so far.
    current: Option<(GateKey, usize)>,
    parts: Vec<String>,
    /// Whether the value is a block text (`|`, `>`), which contains no keys.
    block: bool,
}

impl Fields {
    fn line(&mut self, raw: &str) {
        let line = raw.trim();
        let indent = raw.len() - raw.trim_start().len();
        if line.is_empty() || line == "---" || (line.starts_with('#') && self.current.is_none()) {
            return;
        }
        let within = self.current.is_some_and(|(_, at)| indent > at);
        if !(self.block && within)
            && let Some((key, value)) = key(line)
            && (key != GateKey::Other || !within)
        {
            let base = *self.base.get_or_insert(indent);
            // A `ready` below another key belongs to that key, not to the gate.
            if key != GateKey::Ready || indent <= base {
                self.flush();
                self.block = matches!(value.trim_end_matches(['-', '+']), "|" | ">");
                self.current = Some((key, indent));
                if !self.block && !value.is_empty() {
                    self.parts.push(value.to_owned());
                }
                return;
            }
        }
        self.parts.push(line.to_owned());
    }

    /// Stores the value of the current key.
    fn flush(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        let Some((key, _)) = self.current.take() else { return };
        match key {
            GateKey::Ready => {
                if let [word] = parts.as_slice()
                    && let Some(ready) = boolean(word)
                {
                    self.ready = Some(ready && self.ready != Some(false));
                }
            }
            GateKey::Reason => self.reason = Some(unquoted(&parts.join(" "))),
            GateKey::Progress => self.progress = Some(unquoted(&parts.join(" "))),
            GateKey::Blockers => self.blockers.extend(list(&parts)),
            GateKey::Other => {}
        }
    }
}

/// The key and the value of a `key: value` line.
fn key(line: &str) -> Option<(GateKey, &str)> {
    let (name, value) = line.split_once(':')?;
    if !(value.is_empty() || value.starts_with([' ', '\t', '*'])) {
        return None;
    }
    let decoration = |c: char| matches!(c, '*' | '"' | '\'' | '`' | '_') || c.is_whitespace();
    let name = name.trim_matches(decoration);
    let value = value.trim().trim_start_matches("**").trim();
    let key = match name.to_ascii_lowercase().as_str() {
        "ready" => GateKey::Ready,
        "reason" => GateKey::Reason,
        "progress" => GateKey::Progress,
        "blockers" => GateKey::Blockers,
        // Prose that contains a colon is no key.
        word if !word.is_empty() && !word.starts_with('-') && !word.contains(char::is_whitespace) => {
            GateKey::Other
        }
        _ => return None,
    };
    Some((key, value))
}

/// The items of a list: one per line after a dash, or between brackets, or a single text.
fn list(parts: &[String]) -> Vec<String> {
    let whole = parts.join(" ");
    if let Some(inner) = whole.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        if let Ok(items) = serde_json::from_str::<Vec<String>>(&whole) {
            return items.iter().filter_map(|item| blocker(item)).collect();
        }
        return inner.split(',').filter_map(blocker).collect();
    }
    let mut items: Vec<String> = Vec::new();
    for part in parts {
        let item =
            part.strip_prefix("- ").or_else(|| part.strip_prefix("* ")).or((part == "-").then_some(""));
        match (item, items.last_mut()) {
            (Some(item), _) => items.push(item.trim().to_owned()),
            (None, Some(last)) => {
                last.push(' ');
                last.push_str(part);
            }
            (None, None) => items.push(part.clone()),
        }
    }
    items.iter().filter_map(|item| blocker(item)).collect()
}

fn blocker(item: &str) -> Option<String> {
    let item = unquoted(item);
    let word = item.trim_end_matches('.').to_ascii_lowercase();
    (!item.is_empty() && !NOTHING.contains(&word.as_str())).then_some(item)
}

/// Removes quotes that surround the whole value.
fn unquoted(value: &str) -> String {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            let inner = inner.trim();
            return if quote == '"' {
                inner.replace("\\\"", "\"").replace("\\n", " ")
            } else {
                inner.replace("''", "'")
            };
        }
    }
    value.to_owned()
}

fn boolean(value: &str) -> Option<bool> {
    let word = value.split_once(" #").map_or(value, |(word, _)| word);
    let word = word.trim().trim_matches(|c| matches!(c, '"' | '\'' | '*' | '`'));
    if word.eq_ignore_ascii_case("true") {
        Some(true)
    } else if word.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}
