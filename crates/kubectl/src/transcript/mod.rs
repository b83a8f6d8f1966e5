//! The output of agents as text for people.
//!
//! The JSON streams of Claude Code, Codex, OpenCode and Gemini CLI become what the agent said, did and found. All other
//! lines stay as they are, without what would control a terminal.

mod claude;
mod codex;
mod gemini;
mod opencode;

use serde_json::Value;

use crate::text::{self, Colour, Style};

/// Lines of a tool's output that are shown; the rest is counted.
const OUTPUT_LINES: usize = 5;
/// Columns of what a tool was asked to do.
const INPUT_COLUMNS: usize = 200;

/// Bytes of a line that are kept in memory. What a longer line has beyond them is a line of its own.
const LINE_BYTES: usize = 4 << 20;

/// Splits a log into lines.
#[derive(Clone, Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// The lines that these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(at);
            self.0.extend_from_slice(line);
            lines.push(self.take());
            rest = after.get(1..).unwrap_or_default();
        }
        self.0.extend_from_slice(rest);
        if self.0.len() > LINE_BYTES {
            lines.push(self.take());
        }
        lines
    }

    /// The last line, if it has no line feed.
    pub fn end(&mut self) -> Vec<String> {
        if self.0.is_empty() { Vec::new() } else { vec![self.take()] }
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.0);
        String::from_utf8_lossy(&line).into_owned()
    }
}

/// Reads a log line by line.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    style: Style,
    raw: bool,
    /// The agent's text of a message that may continue, without a line feed yet.
    unfinished: String,
}

/// What an event shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    /// What the agent said.
    Said(String),
    /// The next part of what it said.
    Continues(String),
    /// What it did: a tool, and its input.
    Did(String, String),
    /// What the tool returned, and whether that is an error.
    Got(String, bool),
    /// What the program reports about itself.
    Note(String),
    /// The end of a turn.
    End(String),
    /// An error.
    Error(String),
}

impl Transcript {
    /// Raw lines are not read as events.
    pub fn new(style: Style, raw: bool) -> Self {
        Self { style, raw, unfinished: String::new() }
    }

    /// What a line of the log shows: nothing, one line or more.
    pub fn line(&mut self, line: &str) -> Vec<String> {
        let shown = if self.raw { None } else { events(line) };
        let Some(shown) = shown else {
            let mut lines = self.end();
            lines.extend(if line.trim().is_empty() { vec![String::new()] } else { text::lines(line) });
            return lines;
        };
        let mut lines = Vec::new();
        for one in shown {
            if let Shown::Continues(part) = one {
                self.unfinished.push_str(&part);
                if let Some((finished, rest)) = self.unfinished.rsplit_once('\n') {
                    lines.extend(text::lines(finished));
                    self.unfinished = rest.to_owned();
                }
            } else {
                lines.extend(self.end());
                lines.extend(self.show(one));
            }
        }
        lines
    }

    /// What is left when the log ends.
    pub fn end(&mut self) -> Vec<String> {
        let left = std::mem::take(&mut self.unfinished);
        if left.is_empty() { Vec::new() } else { text::lines(&left) }
    }

    fn show(&self, shown: Shown) -> Vec<String> {
        let paint = |colour, text: &str| self.style.paint(Some(colour), text);
        let one = |colour, mark: &str, said: &str| {
            let lines = text::lines(said);
            lines.iter().map(|line| paint(colour, &format!("{mark} {line}"))).collect()
        };
        match shown {
            Shown::Said(said) => text::lines(&said),
            Shown::Continues(_) => Vec::new(),
            Shown::Did(tool, input) => {
                let input = text::fit(&text::line(&input), INPUT_COLUMNS);
                vec![
                    format!("{} {input}", paint(Colour::Cyan, &format!("> {}:", text::line(&tool))))
                        .trim_end()
                        .to_owned(),
                ]
            }
            Shown::Got(output, failed) => {
                let lines = text::lines(&output);
                let colour = if failed { Colour::Red } else { Colour::Dim };
                let hidden = lines.len().saturating_sub(OUTPUT_LINES);
                let shown = lines.iter().take(OUTPUT_LINES).map(|line| paint(colour, &format!("  {line}")));
                let more = (hidden > 0).then(|| paint(Colour::Dim, &format!("  … {hidden} more lines")));
                shown.chain(more).collect()
            }
            Shown::Note(said) => one(Colour::Dim, "-", &said),
            Shown::End(said) => one(Colour::Green, "=", &said),
            Shown::Error(said) => one(Colour::Red, "!", &said),
        }
    }
}

/// What an event of a known stream shows; `None` for any other line.
fn events(line: &str) -> Option<Vec<Shown>> {
    if !line.starts_with('{') {
        return None;
    }
    let event: Value = serde_json::from_str(line).ok()?;
    let kind = event.get("type")?.as_str()?;
    opencode::read(kind, &event)
        .or_else(|| gemini::read(kind, &event))
        .or_else(|| claude::read(kind, &event))
        .or_else(|| codex::read(kind, &event))
}

/// The text at a path of keys.
fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, key| value.get(key))?.as_str()
}

fn owned(value: &Value, path: &[&str]) -> String {
    at(value, path).unwrap_or_default().to_owned()
}

/// What a tool was asked to do, in one line: the one field that says it, or all of them.
fn input(value: Option<&Value>) -> String {
    let Some(value) = value else { return String::new() };
    let telling =
        ["command", "file_path", "filePath", "path", "pattern", "query", "url", "description", "prompt"];
    match telling.iter().find_map(|key| at(value, &[key])) {
        Some(text) => text.to_owned(),
        None if value.is_string() => owned(value, &[]),
        None if value.as_object().is_some_and(serde_json::Map::is_empty) => String::new(),
        None => value.to_string(),
    }
}

/// Tokens and cost.
fn spent(input: Option<i64>, output: Option<i64>, cost: Option<f64>) -> String {
    let tokens =
        |count: Option<i64>, what: &str| count.map(|count| format!("{} {what}", text::tokens(count)));
    let parts: Vec<String> = cost
        .map(|cost| text::dollars(&cost.to_string()))
        .into_iter()
        .chain(tokens(input, "tokens in"))
        .chain(tokens(output, "tokens out"))
        .collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(log: &str) -> Vec<String> {
        let mut transcript = Transcript::new(Style::default(), false);
        let mut lines: Vec<String> = log.lines().flat_map(|line| transcript.line(line)).collect();
        lines.extend(transcript.end());
        lines
    }

    /// Streams of the real programs.
    fn recorded(name: &str) -> Vec<String> {
        let path = format!("{}/../runner/tests/streams/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
        shown(&std::fs::read_to_string(path).expect("a recorded stream"))
    }

    #[test]
    fn plain_text_and_unknown_json_stay_as_they_are() {
        assert_eq!(
            shown("one\n\n{\"type\":\"mine\"}\n{\"a\":1}\n[1]\n{broken\n"),
            ["one", "", "{\"type\":\"mine\"}", "{\"a\":1}", "[1]", "{broken"]
        );
        assert_eq!(shown("\u{1b}[1mbold\u{1b}[0m\u{7}\n"), ["bold"]);
    }

    #[test]
    fn lines_are_complete_however_the_bytes_arrive() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntw"), ["one"]);
        assert_eq!(lines.push("o\n\nthr\u{e9}".as_bytes()), ["two", ""]);
        assert_eq!(lines.push(&[0xff]), Vec::<String>::new());
        assert_eq!(lines.end(), ["thr\u{e9}\u{fffd}"]);
        assert_eq!(lines.end(), Vec::<String>::new());
        assert_eq!(
            lines.push(&vec![b'x'; LINE_BYTES + 1]).len(),
            1,
            "a line without an end takes bounded memory"
        );
    }

    /// Events with any values where others have text.
    fn any_event() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::prelude::*;
        let kinds = proptest::sample::select(vec![
            "system",
            "assistant",
            "user",
            "result",
            "rate_limit_event",
            "item.completed",
            "turn.completed",
            "turn.failed",
            "error",
            "init",
            "message",
            "tool_use",
            "tool_result",
            "text",
            "step_finish",
        ]);
        let value = proptest::sample::select(vec![
            "7",
            "null",
            "[]",
            "{}",
            r#""\u001b[2Jx""#,
            r#"[{"type":"text","text":"\u009b2J"}]"#,
            r#"{"content":[{"type":"tool_use","input":{"command":3}}]}"#,
            r#"{"type":"command_execution"}"#,
        ]);
        let keys = [
            "message",
            "item",
            "part",
            "subtype",
            "role",
            "content",
            "result",
            "sessionID",
            "tool_id",
            "status",
        ];
        (kinds, proptest::collection::vec(value, keys.len())).prop_map(move |(kind, values)| {
            let fields = keys.iter().zip(values).map(|(key, value)| format!(",\"{key}\":{value}"));
            format!("{{\"type\":\"{kind}\"{}}}", fields.collect::<String>())
        })
    }

    proptest::proptest! {
        #[test]
        fn no_event_makes_the_reader_panic_or_controls_the_terminal(event in any_event()) {
            let shown = shown(&event);
            proptest::prop_assert!(shown.iter().all(|line| !line.contains(char::is_control)), "{shown:?}");
        }
    }

    #[test]
    fn raw_lines_are_not_read() {
        let line = r#"{"type":"thread.started","thread_id":"x"}"#;
        assert_eq!(Transcript::new(Style::default(), true).line(line), [line]);
    }

    #[test]
    fn a_stream_of_claude_code_is_readable() {
        let before = ["- session with claude-opus-4-8[1m]", "> Bash: echo ok"];
        let after = ["= end of the turn ($0.0024, 260 tokens in, 60 tokens out)"];
        assert_eq!(recorded("claude-success"), [&before[..], &SAID, &after].concat());
        let failed = recorded("claude-401");
        assert_eq!(failed[1], "- tries again: authentication_failed");
        assert!(failed.last().is_some_and(|line| line.starts_with("! Invalid API key")), "{failed:?}");
    }

    #[test]
    fn a_stream_of_codex_is_readable() {
        assert_eq!(
            recorded("codex-success"),
            [
                "- Model metadata for `scripted` not found. Defaulting to fallback metadata; this can degrade performance and cause issues.",
                "> sh: /bin/bash -lc 'echo ok'",
                "  ok",
                "The parser works now.",
                "",
                "<COMPLETION_GATE>",
                "ready: true",
                "reason: every case passes",
                "</COMPLETION_GATE>",
                "= end of the turn (180 tokens in, 60 tokens out)",
            ]
        );
        assert_eq!(
            recorded("codex-429")[1..],
            [
                "- exceeded retry limit, last status: 429 Too Many Requests",
                "! exceeded retry limit, last status: 429 Too Many Requests",
            ]
        );
    }

    #[test]
    fn a_stream_of_gemini_cli_is_readable() {
        let before = ["- session with gemini-2.5-pro", "> run_shell_command: echo ok"];
        let after = ["= end of the turn (180 tokens in, 60 tokens out)"];
        assert_eq!(recorded("gemini-success"), [&before[..], &SAID, &after].concat());
    }

    #[test]
    fn a_stream_of_opencode_is_readable() {
        let after = ["= end of the turn ($0.0001, 50 tokens in, 30 tokens out)"];
        assert_eq!(recorded("opencode-success"), [&["> bash: echo ok"][..], &SAID, &after].concat());
    }

    #[test]
    fn events_emit_no_escapes_and_the_output_of_tools_is_cut() {
        let output = "line \u{1b}[2J\n".repeat(9);
        let event = serde_json::json!({ "type": "item.completed", "item": {
            "type": "command_execution", "command": "make \u{1b}]0;x\u{7}\nall", "aggregated_output": output,
            "exit_code": 2,
        } });
        assert_eq!(
            shown(&event.to_string()),
            [
                "> sh: make  all",
                "  line",
                "  line",
                "  line",
                "  line",
                "  line",
                "  … 4 more lines",
                "! exit code 2"
            ]
        );
    }

    const SAID: [&str; 7] = [
        "  ok",
        "The parser works now.",
        "",
        "<COMPLETION_GATE>",
        "ready: true",
        "reason: every case passes",
        "</COMPLETION_GATE>",
    ];
}
