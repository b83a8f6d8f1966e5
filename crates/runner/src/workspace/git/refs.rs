//! Reads references: branches, tags and remote-tracking branches.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use rustix::io::Errno;

use super::{DEPTH, GitState, LARGE, MAX_NAMES, REFS_BYTES, SMALL};
use crate::workspace::{bounds::Bounds, digest, names, open_below, open_folder, read_file};

/// References and their targets.
#[derive(Default)]
struct Refs {
    at: BTreeMap<Vec<u8>, [u8; 32]>,
    bytes: usize,
    locks: Vec<Vec<u8>>,
}

impl Refs {
    fn insert(&mut self, name: Vec<u8>, at: &[u8]) {
        self.bytes = self.bytes.saturating_add(name.len() + 128);
        self.at.insert(name, digest(&[at]));
    }

    fn full(&self) -> bool {
        self.bytes > REFS_BYTES
    }
}

impl GitState<'_> {
    /// Reads branches and tags, loose or packed.
    pub(super) fn refs(&mut self, git: &OwnedFd, prefix: &[u8]) {
        let mut refs = Refs::default();
        match read_file(git, b"packed-refs", LARGE) {
            Ok(packed) => {
                for line in packed.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#")) {
                    if refs.full() {
                        break;
                    }
                    if let Some(at) = line.iter().position(|byte| *byte == b' ') {
                        let (object, name) = line.split_at(at);
                        refs.insert(name.trim_ascii().to_vec(), object);
                    }
                }
            }
            Err(Errno::NOENT) => {}
            Err(errno) => self.unreadable(prefix, b"packed-refs", errno),
        }
        for kind in [&b"refs/heads"[..], b"refs/tags", b"refs/remotes"] {
            if let Ok(folder) = open_below(git, kind) {
                loose(&folder, kind, &mut refs, DEPTH, self.bounds);
            }
        }
        for lock in std::mem::take(&mut refs.locks) {
            self.lock(prefix, &lock);
        }
        if refs.full() {
            self.unreadable(prefix, b"refs", Errno::FBIG);
            return;
        }
        let local: BTreeSet<[u8; 32]> =
            refs.at.iter().filter(|(name, _)| name.starts_with(b"refs/heads/")).map(|(_, at)| *at).collect();
        for (name, at) in refs.at {
            if name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/") {
                self.part(prefix, &name, &at);
            } else if name.starts_with(b"refs/remotes/") && local.contains(&at) {
                self.pushed.push(([prefix, &name].concat(), at));
            }
        }
    }
}

/// Adds the loose references in a folder. They replace packed ones.
fn loose(folder: &OwnedFd, path: &[u8], refs: &mut Refs, depth: usize, bounds: &Bounds<'_>) {
    let list = names(folder, MAX_NAMES, REFS_BYTES).unwrap_or_else(|_| {
        refs.bytes = usize::MAX;
        Vec::new()
    });
    for name in list {
        if refs.full() || !bounds.may_continue() {
            return;
        }
        let path = [path, b"/", &name].concat();
        if name.ends_with(b".lock") {
            refs.bytes = refs.bytes.saturating_add(path.len() + 64);
            refs.locks.push(path);
            continue;
        }
        if let Ok(below) = open_folder(folder, &name) {
            if depth > 0 {
                loose(&below, &path, refs, depth - 1, bounds);
            }
        } else if let Ok(at) = read_file(folder, &name, SMALL) {
            refs.insert(path, at.trim_ascii());
        }
    }
}
