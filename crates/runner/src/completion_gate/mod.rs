//! Parses the completion gate: finds a [`CompletionGate`] in an agent's text, or the reason why there is none.
//!
//! A gate is the text between a line that begins with `<COMPLETION_GATE>` and the next line that ends with
//! `</COMPLETION_GATE>`. The rules, and their reasons:
//!
//! - **The last block that begins decides.** If it is unclosed, or has no boolean `ready`, there is no gate, even if an
//!   earlier block was complete: the agent was about to say something else, so an earlier `ready: true` must not end
//!   the loop. If this is wrong, it costs one more iteration.
//! - **A block in a code fence is a quotation** and is skipped, unless that fence ends the output: models often fence
//!   their final answer, while an explanation of the format has text after it. Statistics that an agent's program
//!   prints by itself do not count as text (`trailer.rs`).
//! - **`ready` is a boolean**: `true` or `false`, in any case, quoted or not. If it is given twice with different
//!   values, it is false. Anything else, such as the `<true or false>` of an echoed prompt, is no gate.
//! - A tag in the middle of a line is prose.
//!
//! See `fields.rs` for how the content between the tags is read.

mod fields;
mod trailer;

use agentloop_contract::completion_gate::{CLOSE, CompletionGate, NoCompletionGate, OPEN};

/// Finds the gate that counts in a text: the agent's final text, or the tail of its output.
///
/// ```
/// use agentloop_runner::completion_gate;
///
/// let gate = completion_gate::find("Done.\n<COMPLETION_GATE>\nready: true\nreason: All pass: 16/16\n</COMPLETION_GATE>");
/// assert!(gate.is_ok_and(|gate| gate.ready && gate.reason.as_deref() == Some("All pass: 16/16")));
/// ```
pub fn find(text: &str) -> Result<CompletionGate, NoCompletionGate> {
    let mut scan = Scan::default();
    for line in text.lines() {
        scan.line(line);
    }
    scan.end()
}

/// An open code fence: its character, and their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fence {
    mark: char,
    length: usize,
}

impl Fence {
    /// The fence that a line opens.
    fn opened_by(line: &str) -> Option<Self> {
        let mark = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
        let rest = line.trim_start_matches(mark);
        let length = line.len() - rest.len();
        // An info string with a backtick is inline code, as in CommonMark.
        (length >= 3 && !(mark == '`' && rest.contains('`'))).then_some(Self { mark, length })
    }

    /// Whether a line closes this fence.
    fn closed_by(self, line: &str) -> bool {
        let rest = line.trim_start_matches(self.mark);
        rest.is_empty() && line.len() >= self.length
    }
}

/// An open block, and its content so far.
struct Block {
    content: Vec<String>,
    /// The fence around it.
    fence: Option<Fence>,
}

/// What is known about the blocks so far.
#[derive(Default)]
struct Scan {
    fence: Option<Fence>,
    /// The block that is open.
    open: Option<Block>,
    /// The result of the last block outside any fence.
    unfenced: Option<Result<CompletionGate, NoCompletionGate>>,
    /// The result of the last block in the fence that is open, or that was closed with nothing after it.
    fenced: Option<Result<CompletionGate, NoCompletionGate>>,
    /// A block was skipped because of its fence.
    quoted: bool,
}

impl Scan {
    fn line(&mut self, raw: &str) {
        let line = raw.trim();
        if self.open.is_some() && !line.starts_with(OPEN) {
            self.inside(raw.trim_end());
        } else if let Some(rest) = line.strip_prefix(OPEN) {
            // A block that is still open was a mention, or was cut off. This one replaces it.
            self.begin();
            self.inside(rest);
        } else {
            self.outside(line);
        }
    }

    /// Takes a line of the open block, or the text after its opening tag.
    fn inside(&mut self, raw: &str) {
        let line = raw.trim();
        let Some(block) = &mut self.open else { return };
        if let Some(last) = raw.strip_suffix(CLOSE) {
            block.content.push(last.to_owned());
            self.close();
        } else if self.fence.is_some_and(|fence| fence.closed_by(line)) {
            if block.fence.is_some() {
                self.abandon();
            }
            self.fence = None;
        } else if let (None, Some(fence)) = (self.fence, Fence::opened_by(line)) {
            // A fence within the tags is ignored.
            self.fence = Some(fence);
        } else {
            block.content.push(raw.to_owned());
        }
    }

    /// Takes a line outside any block.
    fn outside(&mut self, line: &str) {
        match self.fence {
            Some(fence) if fence.closed_by(line) => self.fence = None,
            Some(_) => {}
            None if line.is_empty() => {}
            // Printed by the agent's program, not by the model.
            None if self.fenced.is_some() && trailer::is(line) => {}
            None => {
                // Text follows the fence, so its block was a quotation.
                self.quoted |= self.fenced.take().is_some();
                self.fence = Fence::opened_by(line);
            }
        }
    }

    fn begin(&mut self) {
        if self.fence.is_none() {
            // The fenced block was a quotation. From now on this block decides.
            self.fenced = None;
        }
        self.open = Some(Block { content: Vec::new(), fence: self.fence });
    }

    fn close(&mut self) {
        if let Some(block) = self.open.take() {
            let result = fields::read(&block.content).ok_or(NoCompletionGate::NoReady);
            // A fence that was left open inside the block ends with the block.
            self.fence = block.fence;
            self.record(block.fence, result);
        }
    }

    /// Ends a block that was not closed.
    fn abandon(&mut self) {
        if let Some(block) = self.open.take() {
            self.record(block.fence, Err(NoCompletionGate::Unclosed));
        }
    }

    fn record(&mut self, fence: Option<Fence>, result: Result<CompletionGate, NoCompletionGate>) {
        if fence.is_some() {
            self.fenced = Some(result);
        } else {
            self.unfenced = Some(result);
        }
    }

    fn end(mut self) -> Result<CompletionGate, NoCompletionGate> {
        self.abandon();
        let nothing = if self.quoted { NoCompletionGate::Quoted } else { NoCompletionGate::Absent };
        self.fenced.or(self.unfenced).unwrap_or(Err(nothing))
    }
}

#[cfg(test)]
mod tests;
