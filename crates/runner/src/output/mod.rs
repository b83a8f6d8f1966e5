//! The agent's output: passed through by [`crate::process`], and kept here within fixed bounds, whatever is printed.

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

/// Bytes of text that are searched for a gate and for the last line of an error.
pub const TAIL_BYTES: usize = 256 << 10;

/// Collects one process's output.
#[derive(Default)]
pub struct Output {
    stdout: Stream,
    stderr: Tail,
    transcript: Transcript,
}

/// What an output says once it has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputSummary {
    /// The final text, in which a gate is looked for. Standard error is never part of it.
    pub text: String,
    /// The tail of standard error.
    pub stderr: String,
    /// The agent's own stream says that its last turn failed: with this error.
    pub failed: Option<String>,
    /// The model provider refused to serve, as the agent's own stream tells it.
    pub provider_error: Option<ProviderError>,
    /// What the agent's own stream tells of its cost.
    pub usage: Option<Usage>,
    /// How the last turn ended, where the agent's own stream came to its final event.
    pub ended: Option<TurnEnd>,
}

/// How the turn ended that an agent's stream tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnEnd {
    /// The turn failed.
    pub failed: bool,
}

impl Output {
    /// Takes what was printed on standard output.
    pub fn stdout(&mut self, bytes: &[u8]) {
        self.transcript.push(bytes);
        self.stdout.push(bytes);
    }

    /// Takes what was printed on standard error.
    pub fn stderr(&mut self, bytes: &[u8]) {
        self.transcript.push(bytes);
        self.stderr.push(bytes);
    }

    /// How the turn ended, where the agent has printed its final event: Claude Code's and
    /// Gemini CLI's `result`, Codex' `turn.completed` or `turn.failed`, OpenCode's `error` or a `step_finish` that asks for
    /// no tools. `None` again once another turn begins after it. Plain text has no such event.
    ///
    /// An agent may run on for a while after that, with hooks for example; one that stays silent hangs. Of a last line
    /// without a line feed only [`Self::summary`] knows.
    pub fn has_ended(&self) -> Option<TurnEnd> {
        self.stdout.has_ended()
    }

    /// What all of it says. The time is needed for "try again in 5 minutes".
    pub fn summary(&mut self, now: Timestamp) -> OutputSummary {
        let mut output = self.stdout.summary(now);
        output.stderr = self.stderr.text();
        output
    }

    /// The capped copy of both streams.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }
}

impl OutputSummary {
    /// The line that most likely tells why the process failed: the stream's own word, else the last line of
    /// standard error, else of standard output.
    pub fn error_line(&self) -> Option<&str> {
        let structured =
            self.failed.as_deref().and_then(|text| text.lines().map(str::trim).find(|l| !l.is_empty()));
        structured.or_else(|| cause_line(&self.stderr)).or_else(|| cause_line(&self.text))
    }
}

/// Lines from the end of an output that are searched for the cause of a failure.
const CAUSE_LINES: usize = 100;

/// The last line that is not blank nor the same after every failure. Of a line drawn over with carriage returns, what is
/// seen at the end.
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
    fn the_last_line_is_the_last_that_shows_something() {
        assert_eq!(cause_line("a\nb  \n\n  \n"), Some("b"));
        assert_eq!(cause_line("10%\r50%\r100%\r\n"), Some("100%"));
        assert_eq!(cause_line("\n \n"), None);
        assert_eq!(last_lines("a\n\nb\nc\n", 2), ["b", "c"]);
    }

    #[test]
    fn standard_error_is_no_place_for_a_gate() {
        let mut output = Output::default();
        output.stderr(b"<COMPLETION_GATE>\nready: true\n</COMPLETION_GATE>\n");
        output.stdout(b"done\n");
        assert_eq!(output.summary(Timestamp::UNIX_EPOCH).text, "done\n");
    }

    #[test]
    fn an_error_is_looked_for_in_the_stream_then_in_stderr_then_in_stdout() {
        let mut output = OutputSummary { text: "out\n".into(), ..OutputSummary::default() };
        assert_eq!(output.error_line(), Some("out"));
        output.stderr = "warning\nerr\n\n".into();
        assert_eq!(output.error_line(), Some("err"));
        output.failed = Some("\nfirst\nsecond".into());
        assert_eq!(output.error_line(), Some("first"));
    }
}
