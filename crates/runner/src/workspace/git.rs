//! What a person would call a change in a `.git` folder: HEAD, branches, tags, what is staged. Not reflogs, lock
//! files, fetched objects, packing, or the times that `git status` refreshes.
//!
//! A remote-tracking branch counts only where it is at the same commit as a local one: so a push is a change, while
//! fetching what others did is not.

mod index;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use rustix::fs::FileType;
use sha2::{Digest, Sha256};

use self::index::Index;
use super::{ignore::Rules, kind, names, open_below, open_folder, read_file};

/// A larger index or `packed-refs` is not read; the answer is then "unknown".
const LARGE: usize = 128 << 20;
/// HEAD, a branch, `config`, patterns.
const SMALL: usize = 1 << 20;
/// What the references of one repository may take in memory.
const REFS_BYTES: usize = 64 << 20;
/// Names in one folder.
const MOST_NAMES: usize = 500_000;
/// Folders deep that branches' names or submodules may be.
const DEPTH: usize = 16;

/// The state of one or more `.git` folders, in named parts.
pub(super) struct State<'a> {
    /// Whether to go on; where not, the fingerprint has given up, and what is missing here does not matter.
    on: &'a dyn Fn() -> bool,
    /// What differs where something was changed.
    pub(super) parts: Vec<(Vec<u8>, [u8; 32])>,
    /// What may differ without a change: equal means unchanged, another means unknown.
    pub(super) doubts: Vec<[u8; 32]>,
    /// Something could not be read.
    pub(super) blind: Option<String>,
}

/// Which files a repository tracks, and what it ignores in all its folders.
#[derive(Debug, Default)]
pub(super) struct Repository {
    tracked: Vec<Vec<u8>>,
    /// Patterns of `info/exclude`.
    pub(super) exclude: Rules,
}

impl Repository {
    /// Whether a path, relative to the repository, is tracked, or is a folder with something tracked in it.
    pub(super) fn tracks(&self, path: &[u8], folder: bool) -> bool {
        if !folder {
            return self.tracked.binary_search_by(|tracked| tracked.as_slice().cmp(path)).is_ok();
        }
        let below = [path, b"/"].concat();
        let at = self.tracked.partition_point(|tracked| tracked.as_slice() < below.as_slice());
        // A submodule is tracked as an entry of its own name.
        self.tracked.get(at).is_some_and(|tracked| tracked.starts_with(&below)) || self.tracks(path, false)
    }
}

impl Repository {
    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.tracked.iter().map(|path| path.len() + 64).sum::<usize>() + self.exclude.bytes()
    }
}

/// Whether a folder is a repository's own folder.
pub(super) fn is_git(folder: &OwnedFd) -> bool {
    kind(folder, b"HEAD").is_some() && kind(folder, b"objects") == Some(FileType::Directory)
}

/// Reads a `.git` folder. The repository is `None` where what it tracks cannot be told; then nothing may be ignored.
pub(super) fn read<'a>(
    git: &OwnedFd,
    base: &[u8],
    on: &'a dyn Fn() -> bool,
) -> (State<'a>, Option<Repository>) {
    let mut state = State::new(on);
    let object = object_bytes(git);
    let index = state.git(git, b"", object);
    for name in state.folders(git, b"worktrees") {
        if !on() {
            break;
        }
        let path = [b"worktrees/", name.as_slice()].concat();
        if let Ok(folder) = open_below(git, &path) {
            state.file(&folder, &[&path[..], b"/"].concat(), b"HEAD");
            state.index(&folder, &[&path[..], b"/"].concat(), object);
        }
    }
    state.modules(git, b"modules/", DEPTH);
    let repository = index.map(|paths| repository(git, base, paths));
    (state, repository)
}

/// Reads what a linked worktree or a submodule tracks and ignores: its `.git` is a file that names the real folder.
/// Their state is read with the repository that they belong to.
///
/// `workspace` is where the root is mounted, for absolute names.
pub(super) fn read_linked(
    root: &OwnedFd,
    workspace: &[u8],
    base: &[u8],
    link: &[u8],
    on: &dyn Fn() -> bool,
) -> Option<Repository> {
    let target = link.strip_prefix(b"gitdir: ")?.trim_ascii();
    let path = within(workspace, base, target)?;
    let git = open_below(root, &path).ok()?;
    let mut state = State::new(on);
    let common = match read_file(&git, b"commondir", SMALL) {
        Ok(common) => open_below(root, &within(workspace, &path, common.trim_ascii())?).ok()?,
        Err(_) => open_below(root, &path).ok()?,
    };
    let paths = state.index(&git, b"", object_bytes(&common))?;
    Some(repository(&common, base, paths))
}

fn repository(common: &OwnedFd, base: &[u8], tracked: Vec<Vec<u8>>) -> Repository {
    let exclude = open_folder(common, b"info").and_then(|info| read_file(&info, b"exclude", SMALL));
    Repository { tracked, exclude: Rules::parse(base, &exclude.unwrap_or_default()) }
}

/// A path as named in a folder of the workspace, relative to the workspace; `None` where it lies outside.
fn within(workspace: &[u8], base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut path: Vec<&[u8]> = Vec::new();
    let rest = if target.starts_with(b"/") {
        target.strip_prefix(workspace).filter(|rest| rest.starts_with(b"/"))?
    } else {
        path.extend(base.split(|byte| *byte == b'/').filter(|name| !name.is_empty()));
        target
    };
    for name in rest.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(path.pop()?),
            name => path.push(name),
        }
    }
    Some(path.join(&b'/'))
}

/// The length of object names: SHA-1, or SHA-256 where the configuration says so.
fn object_bytes(git: &OwnedFd) -> usize {
    let config = read_file(git, b"config", SMALL).unwrap_or_default().to_ascii_lowercase();
    let sha256 = config.split(|byte| *byte == b'\n').any(|line| {
        line.trim_ascii_start().starts_with(b"objectformat") && line.trim_ascii_end().ends_with(b"sha256")
    });
    if sha256 { 32 } else { 20 }
}

/// References and what they point to.
#[derive(Default)]
struct Refs {
    at: BTreeMap<Vec<u8>, [u8; 32]>,
    bytes: usize,
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

impl<'a> State<'a> {
    fn new(on: &'a dyn Fn() -> bool) -> Self {
        Self { on, parts: Vec::new(), doubts: Vec::new(), blind: None }
    }

    /// HEAD, references and index of one `.git` folder; what it tracks.
    fn git(&mut self, git: &OwnedFd, prefix: &[u8], object: usize) -> Option<Vec<Vec<u8>>> {
        self.file(git, prefix, b"HEAD");
        self.refs(git, prefix);
        if let Ok(tables) =
            open_folder(git, b"reftable").and_then(|folder| read_file(&folder, b"tables.list", SMALL))
        {
            // Every update of a reference, of a reflog too, makes a new table.
            self.doubts.push(digest(&[prefix, b"reftable", &tables]));
        }
        self.index(git, prefix, object)
    }

    /// The names in a folder of a `.git` folder; none where it is not there.
    fn folders(&mut self, git: &OwnedFd, name: &[u8]) -> Vec<Vec<u8>> {
        let Ok(folder) = open_folder(git, name) else { return Vec::new() };
        let mut list = names(&folder, MOST_NAMES).unwrap_or_else(|errno| {
            self.blind(b"", name, errno);
            Vec::new()
        });
        list.sort();
        list
    }

    fn file(&mut self, folder: &OwnedFd, prefix: &[u8], name: &[u8]) {
        match read_file(folder, name, SMALL) {
            Ok(bytes) => self.part(prefix, name, &bytes),
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => self.blind(prefix, name, errno),
        }
    }

    fn part(&mut self, prefix: &[u8], name: &[u8], bytes: &[u8]) {
        self.parts.push(([prefix, name].concat(), digest(&[bytes])));
    }

    fn blind(&mut self, prefix: &[u8], name: &[u8], errno: rustix::io::Errno) {
        let path = [b".git/", prefix, name].concat();
        self.blind.get_or_insert_with(|| format!("{}: {errno}", String::from_utf8_lossy(&path)));
    }

    /// What an index says; `None` where that cannot be told.
    fn index(&mut self, git: &OwnedFd, prefix: &[u8], object: usize) -> Option<Vec<Vec<u8>>> {
        let bytes = match read_file(git, b"index", LARGE) {
            Ok(bytes) => bytes,
            Err(rustix::io::Errno::NOENT) => return Some(Vec::new()),
            Err(errno) => {
                self.blind(prefix, b"index", errno);
                return None;
            }
        };
        if let Some(index) = Index::parse(&bytes, object) {
            self.part(prefix, b"index", &index.digest);
            return Some(index.paths);
        }
        self.doubts.push(digest(&[prefix, b"index", &bytes]));
        None
    }

    /// Branches and tags, loose or packed.
    fn refs(&mut self, git: &OwnedFd, prefix: &[u8]) {
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
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => self.blind(prefix, b"packed-refs", errno),
        }
        for kind in [&b"refs/heads"[..], b"refs/tags", b"refs/remotes"] {
            if let Ok(folder) = open_below(git, kind) {
                loose(&folder, kind, &mut refs, DEPTH, self.on);
            }
        }
        if refs.full() {
            self.blind(prefix, b"refs", rustix::io::Errno::FBIG);
            return;
        }
        let local: BTreeSet<[u8; 32]> =
            refs.at.iter().filter(|(name, _)| name.starts_with(b"refs/heads/")).map(|(_, at)| *at).collect();
        for (name, at) in refs.at {
            let counts = name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/");
            if counts || (name.starts_with(b"refs/remotes/") && local.contains(&at)) {
                self.part(prefix, &name, &at);
            }
        }
    }

    /// The `.git` folders of submodules, which lie in that of the repository around them.
    fn modules(&mut self, git: &OwnedFd, path: &[u8], depth: usize) {
        if depth == 0 {
            self.blind(path, b"", rustix::io::Errno::NAMETOOLONG);
            return;
        }
        let own = path.strip_suffix(b"/").unwrap_or(path);
        let Ok(folder) = open_below(git, own) else { return };
        for name in self.folders(&folder, b".") {
            if !(self.on)() {
                return;
            }
            let Ok(module) = open_folder(&folder, &name) else { continue };
            let path = [path, name.as_slice(), b"/"].concat();
            if is_git(&module) {
                self.git(&module, &path, object_bytes(&module));
                self.modules(git, &[path.as_slice(), b"modules/"].concat(), depth - 1);
            } else {
                self.modules(git, &path, depth - 1);
            }
        }
    }
}

/// Adds the references in a folder; they take the place of packed ones.
fn loose(folder: &OwnedFd, path: &[u8], refs: &mut Refs, depth: usize, on: &dyn Fn() -> bool) {
    let list = names(folder, MOST_NAMES).unwrap_or_else(|_| {
        refs.bytes = usize::MAX;
        Vec::new()
    });
    for name in list {
        if refs.full() || !on() {
            return;
        }
        if name.ends_with(b".lock") {
            continue;
        }
        let path = [path, b"/", &name].concat();
        if let Ok(below) = open_folder(folder, &name) {
            if depth > 0 {
                loose(&below, &path, refs, depth - 1, on);
            }
        } else if let Ok(at) = read_file(folder, &name, SMALL) {
            refs.insert(path, at.trim_ascii());
        }
    }
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
