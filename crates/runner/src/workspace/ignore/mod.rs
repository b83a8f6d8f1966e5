//! Gitignore patterns, as git reads them.

mod pattern;
mod user;

use std::cell::Cell;

use self::pattern::Pattern;
pub use self::user::user;

/// A file with more patterns is no list of patterns: nothing in it counts. Without its last ones, which may take others
/// back, the first ones would hide what they do not.
const MOST: usize = 10_000;
/// The same for a file with a longer line.
const LONGEST: usize = 4 << 10;

/// The patterns of one file, or of the task's `workspace.ignore`.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The folder that they are relative to, without a slash at its end; empty for the root.
    base: Vec<u8>,
    patterns: Vec<Pattern>,
}

impl Rules {
    /// Reads the lines of a gitignore file that lies in the folder `base`.
    pub fn parse(base: &[u8], text: &[u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut patterns = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            patterns.extend(Pattern::parse(line));
            if patterns.len() > MOST || line.len() > LONGEST {
                return Self::default();
            }
        }
        Self { base: base.to_vec(), patterns }
    }

    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// About what they take in memory.
    pub fn bytes(&self) -> usize {
        self.base.len() + self.patterns.iter().map(Pattern::bytes).sum::<usize>()
    }

    /// What the last pattern that matches says of a path: ignored, or not; `None` where none matches, or `effort` is
    /// used up.
    pub fn verdict(&self, path: &[u8], folder: bool, effort: &Effort<'_>) -> Option<bool> {
        self.verdict_below(&self.base, path, folder, effort)
    }

    /// The same, as if the patterns stood in a file of the folder `base`.
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

/// What does not count as change.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    /// The task's own patterns.
    pub task: Rules,
    /// Those that the user gave git for all repositories.
    pub user: Rules,
}

/// What matching may take: patterns can be made to be slow, and there may be many of them for each of many names.
pub struct Effort<'a> {
    /// Steps since it was last asked whether to continue.
    steps: Cell<usize>,
    on: &'a dyn Fn() -> bool,
    over: Cell<bool>,
}

/// After so many comparisons of bytes, some milliseconds, it is asked whether to continue.
const STEPS: usize = 1 << 20;

impl<'a> Effort<'a> {
    /// As much as `on` allows.
    pub fn while_on(on: &'a dyn Fn() -> bool) -> Self {
        Self { steps: Cell::new(0), on, over: Cell::new(false) }
    }

    /// Whether so many more steps may be taken.
    fn spend(&self, steps: usize) -> bool {
        let spent = self.steps.get().saturating_add(steps);
        self.steps.set(spent);
        if spent > STEPS {
            self.steps.set(0);
            self.over.set(self.over.get() || !(self.on)());
        }
        self.is_left()
    }

    fn is_left(&self) -> bool {
        !self.over.get()
    }
}

#[cfg(test)]
mod others;
#[cfg(test)]
mod tests;
