//! Reads an agent's standard output: plain text as it is, and the final text of a stream of JSON lines.
//!
//! The known agents are Claude Code, Codex, OpenCode and Gemini CLI. A line with a JSON object that has a `type` is an
//! event. Only these events matter:
//!
//! | | Claude Code | Codex | OpenCode | Gemini CLI |
//! |---|---|---|---|---|
//! | begins | `system` / `init`: model | `thread.started` | `step_start` | `init`: model |
//! | final text | `result`: `result` | the last `item.completed` of an `agent_message` | the `text` events of the last step that has one | the assistant's `message` events after the last tool |
//! | failed | `result`: `is_error`, `api_error_status` | `turn.failed`: `error.message` | `error` | `result`: `status`, `error.message` |
//! | final event | `result` | `turn.completed`, `turn.failed` | `step_finish` without tool calls, `error` | `result` |
//! | cost | `result`: `usage`, `total_cost_usd` | `turn.completed`: `usage` | `step_finish`: `tokens`, `cost` | `result`: `stats` |
//!
//! Tool results, warnings and intermediate messages are ignored. A final text replaces all text before it. Plain text
//! after it, for example of a script around the agent, is appended.
//!
//! An agent that prints plain text may also print a file that contains such events. So events count only if the output
//! begins with an event, or only events follow them, or the beginning of their stream is among them.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    OutputSummary, TurnEnd,
    events::{AgentEvents, Text},
    json::Json,
    tail::Tail,
};

/// The maximum size of a line that is parsed. A longer line is dropped.
const LINE_BYTES: usize = 4 << 20;

/// How many blanks at the beginning of a line are kept until it is known whether the line is an event or text.
const BLANK_BYTES: usize = 64 << 10;

/// Reads standard output line by line.
#[derive(Default)]
pub struct Stream {
    line: Line,
    /// All plain text.
    plain: Tail,
    /// The final text from an event, and the plain text after it.
    carried: Tail,
    events: AgentEvents,
    /// Whether the first line that is not blank was a known event.
    began: Option<bool>,
    /// Plain text followed the last event that ends something.
    plain_after: bool,
}

/// The current line.
enum Line {
    /// Only these blanks so far.
    Blank(Vec<u8>),
    /// It may be an event, and is kept until it ends.
    Json(Vec<u8>),
    /// It is plain text, and was already passed on.
    Plain,
    /// It began like an event, but is too long.
    Dropped,
}

impl Default for Line {
    fn default() -> Self {
        Self::Blank(Vec::new())
    }
}

/// An event's type.
#[derive(Deserialize)]
struct EventType<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

impl Stream {
    /// Takes the next bytes. They may be cut anywhere.
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

    /// Takes plain text.
    fn text(&mut self, bytes: &[u8], visible: bool) {
        self.plain.push(bytes);
        self.carried.push(bytes);
        if visible {
            self.began.get_or_insert(false);
            self.plain_after = true;
        }
    }

    /// Takes a line as JSON. Returns false if it is no event.
    fn json(&mut self, line: &[u8]) -> bool {
        let text = String::from_utf8_lossy(line);
        if text.trim_start().starts_with('[') {
            // `--output-format json --verbose`: all events in one array.
            let Some(events) = Json::whole(&text) else { return false };
            let mut any = false;
            events.items(|event| {
                if let Some(kind) = event.get("type").text() {
                    any = true;
                    self.event(&kind, event);
                }
            });
            return any;
        }
        let Ok(EventType { kind }) = serde_json::from_str(&text) else { return false };
        let Some(event) = Json::whole(&text) else { return false };
        self.event(&kind, event);
        // If the output contains no known agent's event, it is plain text.
        self.plain.push(line);
        true
    }

    fn event(&mut self, kind: &str, event: Json) {
        self.began.get_or_insert_with(|| AgentEvents::known(kind, event));
        let Some(text) = self.events.take(kind, event) else { return };
        match text {
            Text::Is(text) => {
                self.carried.clear();
                self.carried.push(text.as_bytes());
            }
            Text::Continues(text) => {
                self.carried.trim_end();
                self.carried.push(text.as_bytes());
            }
        }
        self.carried.push(b"\n");
        self.plain_after = false;
    }

    /// How the turn ended, if the agent has printed its final event and nothing of another turn since.
    pub fn has_ended(&self) -> Option<TurnEnd> {
        self.events.has_ended().filter(|_| self.believed())
    }

    /// Whether the events are the agent's own, and not quoted by an agent that prints plain text.
    fn believed(&self) -> bool {
        self.events.ended && (self.began == Some(true) || !self.plain_after || self.events.opened)
    }

    /// Summarises the whole output.
    pub fn summary(&mut self, now: Timestamp) -> OutputSummary {
        self.end_line();
        let events = &self.events;
        let usage = events.usage();
        if !self.believed() {
            // A known stream without an end has no final text. An unknown stream is text.
            let cut_off = events.opened && self.began == Some(true);
            let text = if cut_off { String::new() } else { self.plain.text() };
            return OutputSummary { text, usage, ..OutputSummary::default() };
        }
        OutputSummary {
            text: self.carried.text(),
            stderr: String::new(),
            failed: events.failed().map(str::to_owned),
            provider_error: events.provider_error(now),
            usage,
            ended: self.has_ended(),
        }
    }
}

#[cfg(test)]
mod tests;
