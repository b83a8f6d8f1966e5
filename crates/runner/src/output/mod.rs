//! The agent's output. [`crate::process`] passes it through; this module keeps it within fixed bounds and reads it.

pub mod cause;
mod events;
mod json;
pub mod provider_error;
pub mod retry_after;
pub mod stream;
pub mod tail;
pub mod transcript;

use agentloop_contract::report::{ProviderError, Usage};
use jiff::Timestamp;

use self::{stream::Stream, tail::Tail, transcript::Transcript};

/// How many bytes of text are searched for a completion gate and for the last line of an error.
pub const TAIL_BYTES: usize = 256 << 10;

/// Collects one process's output.
#[derive(Default)]
pub struct OutputCollector {
    stdout: Stream,
    stderr: Tail,
    transcript: Transcript,
}

/// What is known from an output after it has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputSummary {
    /// The final text, which is searched for a completion gate. Standard error is never part of it.
    pub text: String,
    /// The tail of standard error.
    pub stderr: String,
    /// The error of the last turn, if the agent's own stream says that it failed.
    pub failed: Option<String>,
    /// The model provider's error, according to the agent's own stream.
    pub provider_error: Option<ProviderError>,
    /// What the agent's own stream says about its cost.
    pub usage: Option<Usage>,
    /// How the last turn ended, if the agent's own stream reached its final event.
    pub ended: Option<TurnEnd>,
}

/// How a turn in an agent's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnEnd {
    /// Whether the turn failed.
    pub failed: bool,
}

impl OutputCollector {
    /// Takes bytes from standard output.
    pub fn stdout(&mut self, bytes: &[u8]) {
        self.transcript.push(bytes);
        self.stdout.push(bytes);
    }

    /// Takes bytes from standard error.
    pub fn stderr(&mut self, bytes: &[u8]) {
        self.transcript.push(bytes);
        self.stderr.push(bytes);
    }

    /// How the turn ended, if the agent has printed its final event: the `result` of Claude Code and Gemini CLI, the
    /// `turn.completed` or `turn.failed` of Codex, OpenCode's `error` or a `step_finish` that asks for no tools. `None`
    /// again when another turn begins after it. Plain text has no such event.
    ///
    /// An agent may continue for a while after that, for example with hooks; one that stays silent hangs. A last line
    /// without a line feed is read only by [`Self::summary`].
    pub fn has_ended(&self) -> Option<TurnEnd> {
        self.stdout.has_ended()
    }

    /// Summarises the whole output. The current time is needed for texts such as "try again in 5 minutes".
    pub fn summary(&mut self, now: Timestamp) -> OutputSummary {
        let mut output = self.stdout.summary(now);
        output.stderr = self.stderr.text();
        output
    }

    /// The bounded copy of both streams.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }
}

impl OutputSummary {
    /// The line that most likely says why the process failed: the error in the stream, else the last line of standard
    /// error, else of standard output.
    pub fn error_line(&self) -> Option<&str> {
        let structured =
            self.failed.as_deref().and_then(|text| text.lines().map(str::trim).find(|l| !l.is_empty()));
        structured.or_else(|| cause_line(&self.stderr)).or_else(|| cause_line(&self.text))
    }
}

/// How many lines at the end of an output are searched for the cause of a failure.
const CAUSE_LINES: usize = 100;

/// The last line that is neither blank nor the same after every failure. If carriage returns overwrite a line, its
/// final text counts.
pub fn cause_line(text: &str) -> Option<&str> {
    let mut lines: Vec<&str> = text
        .lines()
        .rev()
        .filter_map(|line| line.rsplit('\r').find(|part| !part.trim().is_empty()))
        .take(CAUSE_LINES)
        .collect();
    lines.reverse();
    cause::line(&lines).map(str::trim)
}

/// The first `count` characters of a text.
fn first_chars(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// The last `count` lines that are not blank, in their order.
pub fn last_lines(text: &str, count: usize) -> Vec<String> {
    let mut lines: Vec<String> = text
        .lines()
        .rev()
        .map(str::trim_end)
        .filter(|line| !line.trim().is_empty())
        .take(count)
        .map(str::to_owned)
        .collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_last_one_that_is_not_blank() {
        assert_eq!(cause_line("a\nb  \n\n  \n"), Some("b"));
        assert_eq!(cause_line("10%\r50%\r100%\r\n"), Some("100%"));
        assert_eq!(cause_line("\n \n"), None);
        assert_eq!(last_lines("a\n\nb\nc\n", 2), ["b", "c"]);
    }

    #[test]
    fn a_gate_on_standard_error_does_not_count() {
        let mut output = OutputCollector::default();
        output.stderr(b"<COMPLETION_GATE>\nready: true\n</COMPLETION_GATE>\n");
        output.stdout(b"done\n");
        assert_eq!(output.summary(Timestamp::UNIX_EPOCH).text, "done\n");
    }

    #[test]
    fn an_error_is_searched_in_the_stream_then_in_stderr_then_in_stdout() {
        let mut output = OutputSummary { text: "out\n".into(), ..OutputSummary::default() };
        assert_eq!(output.error_line(), Some("out"));
        output.stderr = "warning\nerr\n\n".into();
        assert_eq!(output.error_line(), Some("err"));
        output.failed = Some("\nfirst\nsecond".into());
        assert_eq!(output.error_line(), Some("first"));
    }
}
