//! Decides which paths git ignores and tracks in one folder of the workspace.

use std::rc::Rc;

use crate::workspace::{
    git::Repository,
    ignore::{Effort, IgnoreRules},
};

/// The patterns that apply in a folder: its own, then those of the folders above it, up to the repository.
#[derive(Default)]
pub(super) struct PatternScope {
    pub(super) rules: Option<IgnoreRules>,
    pub(super) parent: Option<Rc<PatternScope>>,
    pub(super) repository: Option<(Vec<u8>, Rc<Repository>)>,
}

impl PatternScope {
    pub(super) fn ignores(&self, path: &[u8], folder: bool, user: &IgnoreRules, effort: &Effort<'_>) -> bool {
        let mut scope = Some(self);
        while let Some(at) = scope {
            let verdict = at.rules.as_ref().and_then(|rules| rules.verdict(path, folder, effort));
            if let Some(ignored) = verdict {
                return ignored;
            }
            scope = at.parent.as_deref();
        }
        self.repository.as_ref().is_some_and(|(base, repository)| {
            let own = repository.exclude.verdict(path, folder, effort);
            own.or_else(|| user.verdict_below(base, path, folder, effort)) == Some(true)
        })
    }

    pub(super) fn tracks(&self, path: &[u8], folder: bool) -> bool {
        self.repository.as_ref().is_some_and(|(base, repository)| {
            below(path, base).is_some_and(|below| repository.tracks(below, folder))
        })
    }
}

/// A path relative to a folder that contains it.
fn below<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    if folder.is_empty() { Some(path) } else { path.strip_prefix(folder)?.strip_prefix(b"/") }
}
