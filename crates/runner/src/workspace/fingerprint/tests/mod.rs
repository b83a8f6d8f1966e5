mod bounds;
mod files;
mod repositories;
mod worktrees;

use super::*;
use crate::workspace::{self, Limits, take_fingerprint, test_workspace::TestWorkspace};

impl TestWorkspace {
    fn print_within(&self, limits: Limits<'_>) -> Fingerprint {
        let path = self.root();
        let root = workspace::open(path).expect("open");
        take_fingerprint(&root, path.as_os_str().as_encoded_bytes(), &self.ignore, limits)
    }

    fn print(&self) -> Fingerprint {
        self.print_within(Limits::default())
    }

    /// The difference that `act` makes to the fingerprint.
    fn after(&self, act: impl FnOnce(&Self)) -> Difference {
        let before = self.print();
        act(self);
        before.difference(&self.print(), 5)
    }

    #[track_caller]
    fn changes(&self, act: impl FnOnce(&Self)) -> Difference {
        let difference = self.after(act);
        assert_eq!(difference.changed, Change::Changed);
        difference
    }

    #[track_caller]
    fn changes_nothing(&self, act: impl FnOnce(&Self)) {
        let difference = self.after(act);
        assert_eq!(difference, Difference { changed: Change::Unchanged, files: Some(0), names: Vec::new() });
    }
}
