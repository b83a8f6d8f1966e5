//! Gitignore patterns, as git reads them.
//!
//! Why not the crate `ignore`: version 0.4.35 reads some patterns differently from git (`others.rs` lists them), and it
//! compiles them to regular expressions, so the work on hostile patterns could not be interrupted. Here [`Effort`]
//! bounds it. The crate is a dependency of the tests: `others.rs` compares this module with it and with git.

mod pattern;
mod user;

use std::cell::Cell;

use self::pattern::Pattern;
pub use self::user::user;

/// The maximum number of patterns in a file. If there are more, none of them counts: without the last patterns, which
/// may negate earlier ones, too much would be ignored.
const MAX_PATTERNS: usize = 10_000;
/// The maximum length of a line, with the same consequence.
const MAX_LINE_BYTES: usize = 4 << 10;

/// The patterns of one file, or of the task's `workspace.ignore`.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    /// The folder that they are relative to, without a trailing slash; empty for the root.
    base: Vec<u8>,
    patterns: Vec<Pattern>,
}

impl IgnoreRules {
    /// Reads the lines of a gitignore file in the folder `base`.
    pub fn parse(base: &[u8], text: &[u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut patterns = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            patterns.extend(Pattern::parse(line));
            if patterns.len() > MAX_PATTERNS || line.len() > MAX_LINE_BYTES {
                return Self::default();
            }
        }
        Self { base: base.to_vec(), patterns }
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// About how much memory they take.
    pub fn bytes(&self) -> usize {
        self.base.len() + self.patterns.iter().map(Pattern::bytes).sum::<usize>()
    }

    /// Whether the last matching pattern ignores a path or not; `None` if no pattern matches, or if `effort` is used
    /// up.
    pub fn verdict(&self, path: &[u8], folder: bool, effort: &Effort<'_>) -> Option<bool> {
        self.verdict_below(&self.base, path, folder, effort)
    }

    /// The same, as if the patterns were in a file in the folder `base`.
    pub fn verdict_below(&self, base: &[u8], path: &[u8], folder: bool, effort: &Effort<'_>) -> Option<bool> {
        if self.patterns.is_empty() {
            return None;
        }
        let below = match base {
            b"" => path,
            base => path.strip_prefix(base)?.strip_prefix(b"/")?,
        };
        let names: Vec<&[u8]> = below.split(|byte| *byte == b'/').collect();
        let found = self.patterns.iter().rev().find(|pattern| pattern.matches(&names, folder, effort))?;
        effort.is_left().then_some(!found.negated)
    }
}

/// The patterns of what does not count as change.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    /// The task's own patterns.
    pub task: IgnoreRules,
    /// The user's patterns for all repositories.
    pub user: IgnoreRules,
}

/// Bounds the work of matching: a pattern may be slow on purpose, and there may be many patterns and many names.
pub struct Effort<'a> {
    /// Steps since `may_continue` was last called.
    steps: Cell<usize>,
    may_continue: &'a dyn Fn() -> bool,
    used_up: Cell<bool>,
}

/// `may_continue` is called after this many comparisons of bytes, which take some milliseconds.
const STEPS: usize = 1 << 20;

impl<'a> Effort<'a> {
    /// Continues as long as `may_continue` returns true.
    pub fn while_allowed(may_continue: &'a dyn Fn() -> bool) -> Self {
        Self { steps: Cell::new(0), may_continue, used_up: Cell::new(false) }
    }

    /// Counts steps, and returns whether to continue.
    fn spend(&self, steps: usize) -> bool {
        let spent = self.steps.get().saturating_add(steps);
        self.steps.set(spent);
        if spent > STEPS {
            self.steps.set(0);
            self.used_up.set(self.used_up.get() || !(self.may_continue)());
        }
        self.is_left()
    }

    fn is_left(&self) -> bool {
        !self.used_up.get()
    }
}

#[cfg(test)]
mod others;
#[cfg(test)]
mod tests;
