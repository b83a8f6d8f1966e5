//! Whether the workspace has changed.
//!
//! A fingerprint is a hash over the path, type, permissions and content of everything in the workspace. Times and
//! owners do not count: touching a file is no change, and neither is changing it and changing it back. It leaves out
//! `.agentloop/`, what the task's `workspace.ignore` names, and what git ignores in a repository, but never what git
//! tracks. For `.git` folders, see `git`.
//!
//! Everything is bounded. If a bound is reached, the answer is "unknown", never "unchanged". Files that cannot be read
//! make the answer unknown too, with two exceptions: if something readable differs, the workspace has changed; and
//! files that the agent, which runs as the same user, could not have changed either do not count, such as a volume's
//! `lost+found`.

use std::collections::BTreeMap;

use agentloop_contract::{hex, report::Change};
use sha2::{Digest, Sha256};

/// A fingerprint, as far as it could be taken.
#[derive(Debug, Default)]
pub struct Fingerprint {
    /// The sum of the entries' hashes. It does not depend on their order, so it is taken in parallel and needs no
    /// memory.
    pub(super) sum: Sum,
    /// The sum over what may differ without a change.
    pub(super) doubts: Sum,
    /// Remote-tracking branches at the same commit as a local branch.
    pub(super) pushed: BTreeMap<Vec<u8>, [u8; 32]>,
    /// Paths of git's lock files.
    pub(super) locks: Vec<Vec<u8>>,
    /// The first file that could not be read and may have changed.
    pub(super) unreadable: Option<String>,
    /// Why the fingerprint was not finished.
    pub(super) gave_up: Option<String>,
    /// All entries, sorted by path; `None` if there were too many to keep.
    pub(super) entries: Option<Vec<Entry>>,
}

/// An entry of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Box<[u8]>,
    pub(super) digest: [u8; 16],
    /// Whether it is a file or a link, and not a folder or the state of a repository.
    pub(super) file: bool,
}

/// The difference between two fingerprints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Whether anything differs.
    pub changed: Change,
    /// How many files were added, removed or changed; `None` if that is not known.
    pub files: Option<i64>,
    /// The first of their names, files before folders and repositories.
    pub names: Vec<String>,
}

impl Difference {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { changed: Change::Unknown, files: None, names: Vec::new() };
}

impl Fingerprint {
    /// A fingerprint that could not be taken.
    pub fn none(why: &str) -> Self {
        Self { gave_up: Some(why.to_owned()), ..Self::default() }
    }

    /// Why this fingerprint is not complete.
    pub fn incomplete(&self) -> Option<&str> {
        self.gave_up.as_deref().or(self.unreadable.as_deref())
    }

    /// Git's lock files, sorted. Only the first few are kept.
    pub fn locks(&self) -> Vec<String> {
        let mut locks: Vec<String> =
            self.locks.iter().map(|lock| String::from_utf8_lossy(lock).into_owned()).collect();
        locks.sort();
        locks
    }

    /// Thirty-two hex digits; `None` if the fingerprint was not finished.
    pub fn hex(&self) -> Option<String> {
        if self.gave_up.is_some() {
            return None;
        }
        let mut hash = Sha256::new();
        self.sum.0.iter().for_each(|word| hash.update(word.to_le_bytes()));
        Some(hex::encode(hash.finalize().get(..16)?))
    }

    /// What differs in a later fingerprint, with at most `max_names` names.
    pub fn difference(&self, later: &Self, max_names: usize) -> Difference {
        if self.gave_up.is_some() || later.gave_up.is_some() {
            return Difference::UNKNOWN;
        }
        // A branch that is no longer in this set was moved by a fetch, or by a commit, which is a change by itself.
        let pushed = later.pushed.iter().filter(|(name, to)| self.pushed.get(*name) != Some(*to));
        let pushed = pushed.map(|(name, _)| String::from_utf8_lossy(name).into_owned());
        let mut pushed: Vec<String> = pushed.take(max_names).collect();
        if self.sum == later.sum && pushed.is_empty() {
            let uncertain =
                self.unreadable.is_some() || later.unreadable.is_some() || self.doubts != later.doubts;
            let changed = if uncertain { Change::Unknown } else { Change::Unchanged };
            return Difference { changed, files: (!uncertain).then_some(0), names: Vec::new() };
        }
        let (Some(before), Some(after)) = (&self.entries, &later.entries) else {
            return Difference { changed: Change::Changed, files: None, names: Vec::new() };
        };
        let mut files = 0;
        let mut names = Vec::new();
        let mut others = Vec::new();
        for entry in differing(before, after) {
            files += i64::from(entry.file);
            let list = if entry.file { &mut names } else { &mut others };
            if list.len() < max_names {
                list.push(String::from_utf8_lossy(&entry.path).into_owned());
            }
        }
        names.extend(others);
        names.append(&mut pushed);
        names.truncate(max_names);
        Difference { changed: Change::Changed, files: Some(files), names }
    }
}

/// The entries that are in only one list, or that differ. Both lists are sorted by path.
fn differing<'a>(before: &'a [Entry], after: &'a [Entry]) -> impl Iterator<Item = &'a Entry> {
    let mut before = before.iter().peekable();
    let mut after = after.iter().peekable();
    std::iter::from_fn(move || {
        loop {
            match (before.peek(), after.peek()) {
                (Some(a), Some(b)) => match a.path.cmp(&b.path) {
                    std::cmp::Ordering::Less => return before.next(),
                    std::cmp::Ordering::Greater => return after.next(),
                    std::cmp::Ordering::Equal => {
                        let (a, b) = (before.next(), after.next());
                        if a != b {
                            return b;
                        }
                    }
                },
                (Some(_), None) => return before.next(),
                (None, _) => return after.next(),
            }
        }
    })
}

/// A sum of hashes. It does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum([u64; 4]);

impl Sum {
    pub(super) fn add(&mut self, digest: &[u8; 32]) {
        for (word, bytes) in self.0.iter_mut().zip(digest.chunks_exact(8)) {
            *word = word.wrapping_add(bytes.try_into().map_or(0, u64::from_le_bytes));
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word = word.wrapping_add(more);
        }
    }
}

#[cfg(test)]
mod tests;
