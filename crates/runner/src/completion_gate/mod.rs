//! The completion gate's grammar: from an agent's words to a [`CompletionGate`], or to the reason why there is none.
//!
//! A gate is what stands between a line that begins with `<COMPLETION_GATE>` and the next line that ends with
//! `</COMPLETION_GATE>`. What counts, and why:
//!
//! - **The block begun last decides.** Where it is unclosed, or has no boolean `ready`, there is no gate, even if
//!   an earlier block was whole: the agent was about to say something else, and an earlier `ready: true` must not
//!   end the loop over it. The price of being wrong is one more iteration.
//! - **A block in a code fence is a quotation** and is skipped, unless that fence ends the output: models like to
//!   fence their last words, while an explanation of the format has text after it. Statistics that an agent's program prints by itself are
//!   no text (`gate/trailer.rs`).
//! - **`ready` is a boolean**: `true` or `false`, in any case, quoted or not. Said twice and differently, it is
//!   false. Anything else, such as the `<true or false>` of an echoed prompt, is no gate.
//! - A tag in the middle of a line is prose.
//!
//! How the content between the tags is read, see `gate/fields.rs`.

mod fields;
mod trailer;

use agentloop_contract::completion_gate::{CLOSE, CompletionGate, NoCompletionGate, OPEN};

/// Finds the gate that counts in a text, which is the agent's final text or the tail of its output.
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

/// A code fence that is open: its character, and how many of them.
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

/// A block that was opened, and what it says so far.
struct Block {
    content: Vec<String>,
    /// The fence that it stands in.
    fence: Option<Fence>,
}

/// What is known of the blocks so far.
#[derive(Default)]
struct Scan {
    fence: Option<Fence>,
    /// Opened and not closed.
    open: Option<Block>,
    /// The verdict on the last block outside any fence.
    said: Option<Result<CompletionGate, NoCompletionGate>>,
    /// The verdict on the last block of the fence that is open, or that was closed with nothing after it.
    fenced: Option<Result<CompletionGate, NoCompletionGate>>,
    /// Some block was skipped because of its fence.
    quoted: bool,
}

impl Scan {
    fn line(&mut self, raw: &str) {
        let line = raw.trim();
        if self.open.is_some() && !line.starts_with(OPEN) {
            self.inside(raw.trim_end());
        } else if let Some(rest) = line.strip_prefix(OPEN) {
            // A block that is still open was never meant, or was cut off: this one takes its place.
            self.begin();
            self.inside(rest);
        } else {
            self.outside(line);
        }
    }

    /// A line of the open block, or what follows its opening tag.
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
            // The content is fenced once more within the tags: read as if it were not.
            self.fence = Some(fence);
        } else {
            block.content.push(raw.to_owned());
        }
    }

    /// A line outside any block.
    fn outside(&mut self, line: &str) {
        match self.fence {
            Some(fence) if fence.closed_by(line) => self.fence = None,
            Some(_) => {}
            None if line.is_empty() => {}
            // The program's words, not the model's.
            None if self.fenced.is_some() && trailer::is(line) => {}
            None => {
                // Text after a fence: what the fence held was a quotation.
                self.quoted |= self.fenced.take().is_some();
                self.fence = Fence::opened_by(line);
            }
        }
    }

    fn begin(&mut self) {
        if self.fence.is_none() {
            // What the fence held was a quotation; this block has the word, whatever it says.
            self.fenced = None;
        }
        self.open = Some(Block { content: Vec::new(), fence: self.fence });
    }

    fn close(&mut self) {
        if let Some(block) = self.open.take() {
            let verdict = fields::read(&block.content).ok_or(NoCompletionGate::NoReady);
            // A stray fence inside the block ends with it.
            self.fence = block.fence;
            self.record(block.fence, verdict);
        }
    }

    /// The open block will not be closed.
    fn abandon(&mut self) {
        if let Some(block) = self.open.take() {
            self.record(block.fence, Err(NoCompletionGate::Unclosed));
        }
    }

    fn record(&mut self, fence: Option<Fence>, verdict: Result<CompletionGate, NoCompletionGate>) {
        if fence.is_some() {
            self.fenced = Some(verdict);
        } else {
            self.said = Some(verdict);
        }
    }

    fn end(mut self) -> Result<CompletionGate, NoCompletionGate> {
        self.abandon();
        let nothing = if self.quoted { NoCompletionGate::Quoted } else { NoCompletionGate::Absent };
        self.fenced.or(self.said).unwrap_or(Err(nothing))
    }
}

#[cfg(test)]
mod tests;
