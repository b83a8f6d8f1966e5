//! What an agent's standard output says: plain text as it is, streams of JSON lines as the final text they carry.
//!
//! Known are Claude Code (`--output-format stream-json` and `json`) and Codex (`exec --json`). A line that holds
//! a JSON object with a `type` is an event; of events, only these say something:
//!
//! | | Claude Code | Codex |
//! |---|---|---|
//! | begins | `system` / `init`: model | `thread.started` |
//! | final text | `result`: `result` | the last `item.completed` of an `agent_message` |
//! | failed | `result`: `is_error`, `api_error_status` | `turn.failed`: `error.message` |
//! | cost | `result`: `usage`, `total_cost_usd` | `turn.completed`: `usage` |
//!
//! Tool results, warnings and messages on the way say nothing. A final text takes the place of all text before it;
//! plain text after it (of a script around the agent) is added.
//!
//! An agent that prints plain text may also print a file that holds such events. They are believed only where the
//! output begins with an event, or nothing but events follows them, or their stream has a beginning too.

use agentloop_contract::report::Usage;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{Said, TurnEnd, refusal, tail::Tail, until};

/// Bytes of a line that is parsed; a longer one says nothing, and is not kept.
const LINE_BYTES: usize = 4 << 20;

/// Blanks at a line's beginning that are kept, to be part of an event or of the text.
const BLANK_BYTES: usize = 64 << 10;

/// Reads standard output line by line.
#[derive(Default)]
pub struct Stream {
    line: Line,
    /// All plain text.
    plain: Tail,
    /// The final text that an event carried, and the plain text after it.
    carried: Tail,
    events: Events,
    /// The first line that is not blank was a known event.
    began: Option<bool>,
    /// Plain text came after the last event that ends something.
    plain_after: bool,
}

/// The line that is being read.
enum Line {
    /// Nothing but these blanks yet.
    Blank(Vec<u8>),
    /// It may be an event: kept until it ends.
    Json(Vec<u8>),
    /// It is plain text: already passed on.
    Plain,
    /// It began like an event and is too long.
    Dropped,
}

impl Default for Line {
    fn default() -> Self {
        Self::Blank(Vec::new())
    }
}

/// What the events said.
#[derive(Default)]
struct Events {
    opened: bool,
    ended: bool,
    /// The last event of a turn was the last one so far: nothing has begun after it.
    final_event: bool,
    failed: Option<String>,
    /// Status of the refused request, where it is told.
    status: Option<i64>,
    /// Words of the final error, where the stream has no status.
    words: Option<String>,
    resets_at: Option<Timestamp>,
    /// Sums of the sessions that are over, and the one that is not: its results replace each other.
    usage: Usage,
    session: Option<(String, Usage)>,
}

/// The part of an event that tells whether the rest matters; large tool results are skipped unread.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

impl Stream {
    /// Takes the next bytes, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.piece(piece);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    /// Takes bytes of one line.
    fn piece(&mut self, piece: &[u8]) {
        match &mut self.line {
            Line::Blank(blanks) => {
                blanks.extend_from_slice(piece);
                match piece.iter().find(|byte| !byte.is_ascii_whitespace()) {
                    None if blanks.len() <= BLANK_BYTES => {}
                    None => self.end_line(),
                    Some(b'{' | b'[') => self.line = Line::Json(std::mem::take(blanks)),
                    Some(_) => {
                        let line = std::mem::take(blanks);
                        self.line = Line::Plain;
                        self.text(&line, true);
                    }
                }
            }
            Line::Json(line) if line.len() + piece.len() > LINE_BYTES => self.line = Line::Dropped,
            Line::Json(line) => line.extend_from_slice(piece),
            Line::Plain => self.text(piece, true),
            Line::Dropped => {}
        }
    }

    fn end_line(&mut self) {
        match std::mem::take(&mut self.line) {
            Line::Blank(blanks) => self.text(&blanks, false),
            Line::Json(line) if !self.json(&line) => self.text(&line, true),
            _ => {}
        }
    }

    /// Plain text.
    fn text(&mut self, bytes: &[u8], visible: bool) {
        self.plain.push(bytes);
        self.carried.push(bytes);
        if visible {
            self.began.get_or_insert(false);
            self.plain_after = true;
        }
    }

    /// Takes a line as JSON; false where it is no event.
    fn json(&mut self, line: &[u8]) -> bool {
        if line.trim_ascii_start().starts_with(b"[") {
            // `--output-format json --verbose`: all events in one array.
            let Ok(events) = serde_json::from_slice::<Vec<Value>>(line) else { return false };
            let events: Vec<_> =
                events.iter().filter_map(|event| Some((event.get("type")?.as_str()?, event))).collect();
            for (kind, event) in &events {
                self.event(kind, event);
            }
            return !events.is_empty();
        }
        let Ok(Kind { kind }) = serde_json::from_slice(line) else { return false };
        let event =
            if speaks(&kind) { serde_json::from_slice(line).unwrap_or_default() } else { Value::Null };
        self.event(&kind, &event);
        true
    }

    fn event(&mut self, kind: &str, event: &Value) {
        self.began.get_or_insert(known(kind));
        self.events.follow(kind, event);
        if let Some(text) = self.events.take(kind, event) {
            self.carried.clear();
            self.carried.push(text.as_bytes());
            self.carried.push(b"\n");
            self.plain_after = false;
        }
    }

    /// How the turn ended, where the agent has printed its final event and nothing of another turn since.
    pub fn has_ended(&self) -> Option<TurnEnd> {
        let failed = self.events.failed.is_some();
        (self.events.final_event && self.believed()).then_some(TurnEnd { failed })
    }

    /// Whether the events are the agent's own, and no quotation in the text of an agent that prints plain text.
    fn believed(&self) -> bool {
        self.events.ended && (self.began == Some(true) || !self.plain_after || self.events.opened)
    }

    /// What the whole output says.
    pub fn said(&mut self, now: Timestamp) -> Said {
        self.end_line();
        let events = &self.events;
        if !self.believed() {
            let text =
                if events.opened && self.began == Some(true) { String::new() } else { self.plain.text() };
            return Said { text, usage: self.events.usage(), ..Said::default() };
        }
        let refused = refusal::find(events.status, events.words.as_deref()).map(|kind| {
            let told = events.words.as_deref().and_then(|words| until::find(words, now));
            refusal::with_time(kind, told.or(events.resets_at), now)
        });
        Said {
            text: self.carried.text(),
            stderr: String::new(),
            failed: events.failed.clone(),
            refused,
            usage: self.events.usage(),
            ended: self.has_ended(),
        }
    }
}

/// Whether an event of this kind is read at all.
fn speaks(kind: &str) -> bool {
    matches!(
        kind,
        "system"
            | "result"
            | "rate_limit_event"
            | "thread.started"
            | "item.completed"
            | "turn.completed"
            | "turn.failed"
    )
}

/// Whether an agent's stream begins with events of this kind.
fn known(kind: &str) -> bool {
    speaks(kind)
        || matches!(kind, "assistant" | "user" | "stream_event" | "turn.started" | "item.started" | "error")
}

impl Events {
    /// Notes whether the agent has printed its final event. Events that belong to no turn, such as those of limits and
    /// hooks, change nothing.
    fn follow(&mut self, kind: &str, event: &Value) {
        match kind {
            "result" | "turn.completed" | "turn.failed" => self.final_event = true,
            "system" if event.get("subtype").and_then(Value::as_str) != Some("init") => {}
            "rate_limit_event" => {}
            _ => self.final_event = false,
        }
    }

    /// Takes an event; the final text, where it carries one.
    fn take(&mut self, kind: &str, event: &Value) -> Option<String> {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        match kind {
            "system" if text("/subtype") == Some("init") => {
                self.opened = true;
                self.usage.model = text("/model").map(str::to_owned).or_else(|| self.usage.model.take());
            }
            "thread.started" => self.opened = true,
            "rate_limit_event" => {
                let rejected = text("/rate_limit_info/status") == Some("rejected");
                let at = event.pointer("/rate_limit_info/resetsAt").and_then(Value::as_i64);
                if let (true, Some(at)) = (rejected, at) {
                    self.resets_at = until::from_epoch(at);
                }
            }
            "result" => return Some(self.claude_result(event)),
            "item.completed" if text("/item/type") == Some("agent_message") => {
                self.ended = true;
                return Some(text("/item/text").unwrap_or_default().to_owned());
            }
            "turn.completed" => {
                self.succeeded();
                let usage = |name: &str| event.pointer("/usage").and_then(|usage| usage.get(name)?.as_i64());
                add(&mut self.usage.input_tokens, usage("input_tokens"));
                add(&mut self.usage.cached_input_tokens, usage("cached_input_tokens"));
                add(&mut self.usage.output_tokens, usage("output_tokens"));
            }
            "turn.failed" => {
                let message = text("/error/message").unwrap_or("the turn failed");
                (self.ended, self.status) = (true, None);
                (self.failed, self.words) = (Some(message.to_owned()), Some(message.to_owned()));
                // What the agent said on the way is not its last word on a turn that failed.
                return Some(String::new());
            }
            _ => {}
        }
        None
    }

    fn succeeded(&mut self) {
        self.ended = true;
        (self.failed, self.status, self.words) = (None, None, None);
    }

    /// The last event of Claude Code's stream. Its `subtype` may be `success` where `is_error` is true.
    fn claude_result(&mut self, event: &Value) -> String {
        let text = |key: &str| event.get(key).and_then(Value::as_str);
        let subtype = text("subtype").unwrap_or_default();
        let said = text("result").unwrap_or_default();
        self.succeeded();
        if event.get("is_error").and_then(Value::as_bool) == Some(true) || subtype.starts_with("error") {
            let errors = event
                .get("errors")
                .and_then(Value::as_array)
                .map(|list| list.iter().filter_map(Value::as_str));
            let words = match errors.and_then(|mut list| list.next()) {
                _ if !said.trim().is_empty() => said,
                Some(error) => error,
                None if subtype.is_empty() => "the turn failed",
                None => subtype,
            };
            (self.failed, self.words) = (Some(words.to_owned()), Some(words.to_owned()));
            let status = event.get("api_error_status");
            self.status = status.and_then(|s| s.as_i64().or_else(|| s.as_str()?.trim().parse().ok()));
        }
        self.claude_usage(event, text("session_id").unwrap_or_default());
        if self.failed.is_some() { String::new() } else { said.to_owned() }
    }

    fn claude_usage(&mut self, event: &Value, session: &str) {
        let count = |name: &str| event.get("usage").and_then(|usage| usage.get(name)?.as_i64());
        let mut input = None;
        for name in ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"] {
            add(&mut input, count(name));
        }
        let cost = event.get("total_cost_usd").and_then(Value::as_f64);
        let usage = Usage {
            input_tokens: input,
            cached_input_tokens: count("cache_read_input_tokens"),
            output_tokens: count("output_tokens"),
            cost_usd: cost.filter(|cost| cost.is_finite() && *cost >= 0.0).map(|cost| cost.to_string()),
            model: None,
        };
        match self.session.replace((session.to_owned(), usage)) {
            Some((other, usage)) if other != session || session.is_empty() => sum(&mut self.usage, &usage),
            _ => {}
        }
    }

    fn usage(&self) -> Option<Usage> {
        let mut usage = self.usage.clone();
        if let Some((_, last)) = &self.session {
            sum(&mut usage, last);
        }
        (usage != Usage::default()).then_some(usage)
    }
}

fn add(sum: &mut Option<i64>, count: Option<i64>) {
    if let Some(count) = count.filter(|count| *count >= 0) {
        *sum = Some(sum.unwrap_or(0).saturating_add(count));
    }
}

fn sum(total: &mut Usage, one: &Usage) {
    add(&mut total.input_tokens, one.input_tokens);
    add(&mut total.cached_input_tokens, one.cached_input_tokens);
    add(&mut total.output_tokens, one.output_tokens);
    let cost = |usage: &Usage| usage.cost_usd.as_deref().and_then(|cost| cost.parse::<f64>().ok());
    total.cost_usd = match (cost(total), cost(one)) {
        // Rounded to a billionth, so that a sum does not show the noise of binary fractions.
        (Some(a), Some(b)) => Some((((a + b) * 1e9).round() / 1e9).to_string()),
        (None, None) => None,
        (Some(_), None) => total.cost_usd.take(),
        (None, Some(_)) => one.cost_usd.clone(),
    };
}

#[cfg(test)]
mod tests;
