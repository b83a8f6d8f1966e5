//! Reads those parts of a git directory in which a difference is a change to a person: HEAD, branches, tags and staged
//! content. Reflogs, lock files, fetched objects, packing, and the times that `git status` refreshes do not count.
//!
//! A remote-tracking branch counts only if it is at the same commit as a local branch: so a push is a change, and a
//! fetch of other people's commits is not.

pub mod index;
mod refs;

use std::os::fd::OwnedFd;

use rustix::{fs::FileType, io::Errno};

use self::index::{Index, IndexError};
use super::{
    bounds::Bounds, digest, ignore::IgnoreRules, join, kind, names, open_below, open_folder, read_file,
};

/// The maximum size of an index or of `packed-refs`. For a larger file the answer is "unknown".
pub(super) const LARGE: usize = 128 << 20;
/// The maximum size of HEAD, a branch, `config` or a file of patterns.
const SMALL: usize = 1 << 20;
/// How much memory the references of one repository may take.
const REFS_BYTES: usize = 64 << 20;
/// How many names a folder may have.
const MAX_NAMES: usize = 500_000;
/// How deep names of branches, and submodules, may be nested.
const DEPTH: usize = 16;

/// How many lock files are kept.
pub(super) const MAX_LOCKS: usize = 20;
/// Lock files that git creates while it writes other files, and does not remove if it is killed.
const LOCKS: [&[u8]; 6] = [
    b"index.lock",
    b"HEAD.lock",
    b"config.lock",
    b"config.worktree.lock",
    b"packed-refs.lock",
    b"shallow.lock",
];

/// The names at the top of a git directory, beside those that end as in [`is_gits`].
const NAMES: [&[u8]; 23] = [
    b"HEAD",
    b"branches",
    b"config",
    b"config.worktree",
    b"description",
    b"gc.log",
    b"gc.pid",
    b"gitk.cache",
    b"hooks",
    b"index",
    b"info",
    b"lfs",
    b"logs",
    b"modules",
    b"objects",
    b"packed-refs",
    b"rebase-apply",
    b"rebase-merge",
    b"refs",
    b"reftable",
    b"rr-cache",
    b"shallow",
    b"worktrees",
];

/// The state of one or more git directories, in named parts.
pub(super) struct GitState<'a> {
    bounds: &'a Bounds<'a>,
    /// What differs if something was changed.
    pub(super) parts: Vec<(Vec<u8>, [u8; 32])>,
    /// Remote-tracking branches at the same commit as a local branch. A branch that gets there was pushed; a branch
    /// that leaves was fetched.
    pub(super) pushed: Vec<(Vec<u8>, [u8; 32])>,
    /// What may differ without a change: if it is equal, nothing changed; if it differs, the answer is unknown.
    pub(super) doubts: Vec<[u8; 32]>,
    /// The first file that could not be read.
    pub(super) unreadable: Option<String>,
    /// Lock files.
    pub(super) locks: Vec<Vec<u8>>,
    /// The folders with the state of linked worktrees, and the `.git` files that they name.
    trees: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Which files a repository tracks, and what it ignores in all of its folders.
#[derive(Debug, Default)]
pub(super) struct Repository {
    tracked: Vec<Vec<u8>>,
    /// Patterns of `info/exclude`.
    pub(super) exclude: IgnoreRules,
}

impl Repository {
    /// Whether a path, relative to the repository, is tracked, or is a folder that contains tracked files.
    pub(super) fn tracks(&self, path: &[u8], folder: bool) -> bool {
        if !folder {
            return self.tracked.binary_search_by(|tracked| tracked.as_slice().cmp(path)).is_ok();
        }
        let below = [path, b"/"].concat();
        let at = self.tracked.partition_point(|tracked| tracked.as_slice() < below.as_slice());
        // A submodule is tracked under its own name.
        self.tracked.get(at).is_some_and(|tracked| tracked.starts_with(&below)) || self.tracks(path, false)
    }
}

/// Whether a folder is a git directory.
pub(super) fn is_git(folder: &OwnedFd) -> bool {
    kind(folder, b"HEAD").is_some() && kind(folder, b"objects") == Some(FileType::Directory)
}

/// Whether git keeps an index in a folder: in a git directory, or in the folder of a linked worktree.
pub(super) fn has_index(folder: &OwnedFd) -> bool {
    is_git(folder) || (kind(folder, b"HEAD").is_some() && kind(folder, b"commondir").is_some())
}

/// A hash over everything in an index except what `git status` refreshes; `None` if the index cannot be read.
pub(super) fn index_digest(bytes: &[u8]) -> Option<[u8; 32]> {
    // A linked worktree does not say how long object names are, but an index can be read in only one of the two ways.
    [20, 32].iter().find_map(|object| Index::strict(bytes, *object))
}

/// Whether a folder that is not named `.git` is a git directory, so that reading only its state is safe: it is bare, or
/// a `.git` file elsewhere names it.
pub(super) fn is_bare(folder: &OwnedFd) -> bool {
    is_git(folder)
        && kind(folder, b"refs") == Some(FileType::Directory)
        && read_file(folder, b"HEAD", SMALL).is_ok_and(|head| {
            let head = head.trim_ascii();
            head.starts_with(b"ref: refs/") || (head.len() >= 40 && head.iter().all(u8::is_ascii_hexdigit))
        })
}

/// Whether a name at the top of a git directory belongs to git.
pub(super) fn is_gits(name: &[u8]) -> bool {
    NAMES.contains(&name) || [&b"_HEAD"[..], b".lock", b"MSG", b"_MODE"].iter().any(|end| name.ends_with(end))
}

/// What was read of a repository.
pub(super) struct ReadRepository<'a> {
    /// Its state.
    pub(super) state: GitState<'a>,
    /// `None` if it is not known what it tracks; then nothing may be ignored.
    pub(super) repository: Option<Repository>,
    /// Its linked worktrees, which are elsewhere in the workspace.
    pub(super) others: Vec<Vec<u8>>,
}

/// Reads the git directory at `at`. Its files begin at `base`.
///
/// `workspace` is the path at which the root is mounted, to resolve absolute names.
pub(super) fn read<'a>(
    git: &OwnedFd,
    at: &[u8],
    base: &[u8],
    workspace: &[u8],
    bounds: &'a Bounds<'a>,
) -> ReadRepository<'a> {
    let mut state = GitState::new(bounds);
    let object = object_bytes(git);
    state.git(git, b"");
    let index = state.index(git, b"", object);
    state.worktrees(git, b"", object);
    state.modules(git, b"modules/", DEPTH);
    let others = std::mem::take(&mut state.trees)
        .into_iter()
        .filter_map(|(from, link)| {
            let file = within(workspace, &join(at, &from), link.trim_ascii())?;
            Some(file.strip_suffix(b".git")?.strip_suffix(b"/")?.to_vec())
        })
        .collect();
    ReadRepository { state, repository: index.map(|paths| repository(git, base, paths)), others }
}

/// Reads what a linked worktree or a submodule tracks and ignores. Its `.git` is a file that names the real folder. Its
/// state is read with the repository that it belongs to; the second result is the path of that repository.
pub(super) fn read_linked(
    root: &OwnedFd,
    workspace: &[u8],
    base: &[u8],
    link: &[u8],
    bounds: &Bounds<'_>,
) -> Option<(Repository, Vec<u8>)> {
    let target = link.strip_prefix(b"gitdir: ")?.trim_ascii();
    let path = within(workspace, base, target)?;
    let git = open_below(root, &path).ok()?;
    let mut state = GitState::new(bounds);
    let (common, at) = match read_file(&git, b"commondir", SMALL) {
        Ok(common) => {
            let at = within(workspace, &path, common.trim_ascii())?;
            (open_below(root, &at).ok()?, at)
        }
        Err(_) => (open_below(root, &path).ok()?, path),
    };
    let paths = state.index(&git, b"", object_bytes(&common))?;
    Some((repository(&common, base, paths), at))
}

fn repository(common: &OwnedFd, base: &[u8], tracked: Vec<Vec<u8>>) -> Repository {
    let exclude = open_folder(common, b"info").and_then(|info| read_file(&info, b"exclude", SMALL));
    Repository { tracked, exclude: IgnoreRules::parse(base, &exclude.unwrap_or_default()) }
}

/// Resolves a path that is named in a folder of the workspace; `None` if it leads out of the workspace.
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

/// The length of object names: SHA-1, or SHA-256 if the configuration says so.
fn object_bytes(git: &OwnedFd) -> usize {
    let config = read_file(git, b"config", SMALL).unwrap_or_default().to_ascii_lowercase();
    let sha256 = config.split(|byte| *byte == b'\n').any(|line| {
        line.trim_ascii_start().starts_with(b"objectformat") && line.trim_ascii_end().ends_with(b"sha256")
    });
    if sha256 { 32 } else { 20 }
}

impl<'a> GitState<'a> {
    fn new(bounds: &'a Bounds<'a>) -> Self {
        Self {
            bounds,
            parts: Vec::new(),
            pushed: Vec::new(),
            doubts: Vec::new(),
            unreadable: None,
            locks: Vec::new(),
            trees: Vec::new(),
        }
    }

    /// Reads HEAD and the references of one git directory.
    fn git(&mut self, git: &OwnedFd, prefix: &[u8]) {
        self.file(git, prefix, b"HEAD");
        self.lock_files(git, prefix);
        self.refs(git, prefix);
        if let Ok(tables) =
            open_folder(git, b"reftable").and_then(|folder| read_file(&folder, b"tables.list", SMALL))
        {
            // Every update of a reference or a reflog creates a new table.
            self.doubts.push(digest(&[prefix, b"reftable", &tables]));
        }
    }

    /// The names in a folder of a git directory; none if the folder does not exist.
    fn folders(&mut self, git: &OwnedFd, name: &[u8]) -> Vec<Vec<u8>> {
        let Ok(folder) = open_below(git, name) else { return Vec::new() };
        let mut list = names(&folder, MAX_NAMES, REFS_BYTES).unwrap_or_else(|errno| {
            self.unreadable(b"", name, errno);
            Vec::new()
        });
        list.sort();
        list
    }

    fn file(&mut self, folder: &OwnedFd, prefix: &[u8], name: &[u8]) {
        match read_file(folder, name, SMALL) {
            Ok(bytes) => self.part(prefix, name, &bytes),
            Err(Errno::NOENT) => {}
            Err(errno) => self.unreadable(prefix, name, errno),
        }
    }

    fn part(&mut self, prefix: &[u8], name: &[u8], bytes: &[u8]) {
        self.parts.push(([prefix, name].concat(), digest(&[bytes])));
    }

    fn unreadable(&mut self, prefix: &[u8], name: &[u8], errno: Errno) {
        let path = [b".git/", prefix, name].concat();
        self.unreadable.get_or_insert_with(|| format!("{}: {errno}", String::from_utf8_lossy(&path)));
    }

    /// The tracked paths of an index; `None` if it cannot be read.
    fn index(&mut self, git: &OwnedFd, prefix: &[u8], object: usize) -> Option<Vec<Vec<u8>>> {
        let Some(bytes) = self.index_file(git, prefix)? else { return Some(Vec::new()) };
        match Index::parse(&bytes, object, &|bytes| self.bounds.reserve(bytes)) {
            Ok(index) => {
                self.part(prefix, b"index", &index.digest);
                return Some(index.paths);
            }
            // The walk has given up.
            Err(IndexError::TooLarge) => {}
            Err(IndexError::Malformed) => self.doubts.push(digest(&[prefix, b"index", &bytes])),
        }
        None
    }

    /// The same, if the tracked paths are not needed.
    fn index_alone(&mut self, git: &OwnedFd, prefix: &[u8], object: usize) {
        if let Some(Some(bytes)) = self.index_file(git, prefix) {
            match Index::digest(&bytes, object) {
                Some(digest) => self.part(prefix, b"index", &digest),
                None => self.doubts.push(digest(&[prefix, b"index", &bytes])),
            }
        }
    }

    /// The bytes of an index; `Some(None)` if there is none, `None` if it cannot be read.
    #[allow(clippy::option_option, reason = "absent and unreadable are different")]
    fn index_file(&mut self, git: &OwnedFd, prefix: &[u8]) -> Option<Option<Vec<u8>>> {
        match read_file(git, b"index", LARGE) {
            Ok(bytes) => Some(Some(bytes)),
            Err(Errno::NOENT) => Some(None),
            Err(errno) => {
                self.unreadable(prefix, b"index", errno);
                None
            }
        }
    }

    /// Reads the linked worktrees of the repository whose git directory is at `prefix` in `git`.
    fn worktrees(&mut self, git: &OwnedFd, prefix: &[u8], object: usize) {
        for name in self.folders(git, &[prefix, b"worktrees"].concat()) {
            if !self.bounds.may_continue() {
                return;
            }
            let at = [prefix, b"worktrees/", &name].concat();
            let Ok(folder) = open_below(git, &at) else { continue };
            let path = [&at[..], b"/"].concat();
            self.file(&folder, &path, b"HEAD");
            self.lock_files(&folder, &path);
            // Its tracked paths are read when the walk reaches its files.
            self.index_alone(&folder, &path, object);
            if let Ok(link) = read_file(&folder, b"gitdir", SMALL)
                && self.bounds.reserve(at.len() + link.len() + 128)
            {
                self.trees.push((at, link));
            }
            self.modules(git, &[&path[..], b"modules/"].concat(), DEPTH);
        }
    }

    fn lock_files(&mut self, git: &OwnedFd, prefix: &[u8]) {
        for name in LOCKS {
            if kind(git, name).is_some() {
                self.lock(prefix, name);
            }
        }
    }

    fn lock(&mut self, prefix: &[u8], name: &[u8]) {
        if self.locks.len() < MAX_LOCKS {
            self.locks.push([prefix, name].concat());
        }
    }

    /// Reads the git directories of submodules, which are in that of the repository around them.
    fn modules(&mut self, git: &OwnedFd, path: &[u8], depth: usize) {
        if depth == 0 {
            self.unreadable(path, b"", Errno::NAMETOOLONG);
            return;
        }
        let own = path.strip_suffix(b"/").unwrap_or(path);
        let Ok(folder) = open_below(git, own) else { return };
        for name in self.folders(&folder, b".") {
            if !self.bounds.may_continue() {
                return;
            }
            let Ok(module) = open_folder(&folder, &name) else { continue };
            let path = [path, name.as_slice(), b"/"].concat();
            if is_git(&module) {
                let object = object_bytes(&module);
                self.git(&module, &path);
                self.index_alone(&module, &path, object);
                self.worktrees(git, &path, object);
                self.modules(git, &[path.as_slice(), b"modules/"].concat(), depth - 1);
            } else {
                self.modules(git, &path, depth - 1);
            }
        }
    }
}
