//! Walks a workspace and takes its fingerprint. One thread reads folders, others read files.

mod entries;
mod scope;

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc, Mutex,
        mpsc::{SyncSender, sync_channel},
    },
};

use agentloop_contract::names::WORKSPACE_DIR;
use rustix::{
    fs::{AtFlags, FileType, Stat},
    io::Errno,
};

use self::{
    entries::{Batch, Print, hash, read_files},
    scope::PatternScope,
};
use super::{
    bounds::{Bounds, Limits},
    fingerprint::Fingerprint,
    git::{self, MAX_LOCKS, ReadRepository, Repository},
    ignore::{Effort, Ignore, IgnoreRules},
    join, kind, names, open_below, open_folder, read_file,
};

/// How deep folders may be nested. Each holds a descriptor while it is walked.
const DEPTH: usize = 400;
/// How many files are passed to another thread at once.
const BATCH: usize = 32;
/// How many batches may wait. Each may hold a folder's descriptor.
const WAITING: usize = 64;
/// The maximum size of a `.gitignore`. A larger file is ignored.
const PATTERNS: usize = 1 << 20;

/// Takes the fingerprint of a workspace, which is mounted at `path`.
pub fn take_fingerprint(root: &OwnedFd, path: &[u8], ignore: &Ignore, limits: Limits<'_>) -> Fingerprint {
    let mut print = walk(root, path, ignore, limits);
    if let Some(entries) = &mut print.entries {
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    }
    print
}

/// The same, with its entries in no order.
fn walk(root: &OwnedFd, path: &[u8], ignore: &Ignore, limits: Limits<'_>) -> Fingerprint {
    let shared = Bounds::new(limits);
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let (sender, receiver) = sync_channel(WAITING);
    let receiver = Mutex::new(receiver);
    let mut prints = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(|| read_files(&receiver, &shared))).collect();
        let may_continue = || shared.may_continue();
        let mut walker = Walker {
            root,
            workspace: path,
            ignore,
            effort: Effort::while_allowed(&may_continue),
            shared: &shared,
            sender,
            stack: Vec::new(),
            print: Print::new(&shared),
            seen: BTreeSet::new(),
            others: BTreeSet::new(),
        };
        walker.run();
        let mut prints = vec![walker.finish()];
        for reader in readers {
            match reader.join() {
                Ok(print) => prints.push(print),
                Err(_) => shared.give_up("a thread failed"),
            }
        }
        prints
    });
    let mut whole = prints.pop().unwrap_or_default();
    for print in prints {
        whole.sum.merge(&print.sum);
        whole.doubts.merge(&print.doubts);
        whole.unreadable = whole.unreadable.or(print.unreadable);
        whole.pushed.extend(print.pushed);
        whole.locks.extend(print.locks);
        whole.entries = whole.entries.zip(print.entries).map(|(mut all, more)| {
            all.extend(more);
            all
        });
    }
    whole.gave_up = shared.why();
    whole
}

/// A folder to walk.
struct FolderToWalk {
    parent: Arc<OwnedFd>,
    name: Vec<u8>,
    path: Vec<u8>,
    scope: Rc<PatternScope>,
    depth: usize,
    /// Set if git ignores the folder, so that only tracked files in it count: how many levels below it are searched for
    /// repositories.
    ignored: Option<u8>,
}

/// The thread that reads folders.
struct Walker<'a> {
    root: &'a OwnedFd,
    workspace: &'a [u8],
    ignore: &'a Ignore,
    effort: Effort<'a>,
    shared: &'a Bounds<'a>,
    sender: SyncSender<Batch>,
    stack: Vec<FolderToWalk>,
    print: Print<'a>,
    /// Linked worktrees and git directories that were visited.
    seen: BTreeSet<Vec<u8>>,
    /// The same, known only because another repository names them. They may be below an ignored folder, where the walk
    /// does not go.
    others: BTreeSet<Vec<u8>>,
}

impl Walker<'_> {
    fn finish(self) -> Fingerprint {
        self.print.whole
    }

    fn run(&mut self) {
        match open_folder(self.root, b".") {
            Ok(root) => self.folder(&Arc::new(root), b"", &Rc::default(), 0, None),
            Err(errno) => self.shared.give_up(&format!("cannot read the workspace: {errno}")),
        }
        self.walk();
        while let Some(path) = self.others.pop_first() {
            if !self.shared.may_continue() {
                return;
            }
            let levels = path.split(|byte| *byte == b'/').count();
            if self.is_left_out(&path) || levels > DEPTH {
                continue;
            }
            // It was removed by hand, or never created.
            let Ok(folder) = open_below(self.root, &path) else { continue };
            if kind(&folder, b".git").is_none() && !git::is_git(&folder) {
                continue;
            }
            self.folder(&Arc::new(folder), &path, &Rc::default(), levels, None);
            self.walk();
        }
    }

    /// Whether a folder was already visited, is in a git directory that was visited, or is ignored by the task.
    fn is_left_out(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).filter_map(|end| path.get(..end)).any(|above| {
            above == WORKSPACE_DIR.as_bytes()
                || self.ignore.task.verdict(above, true, &self.effort) == Some(true)
                || (self.seen.contains(above) && (above == path || self.is_own(above)))
        })
    }

    /// Whether a folder that was visited is a git directory.
    fn is_own(&self, path: &[u8]) -> bool {
        open_below(self.root, path).is_ok_and(|folder| git::is_git(&folder))
    }

    fn walk(&mut self) {
        while let Some(pending) = self.stack.pop() {
            if !self.shared.may_continue() {
                return;
            }
            match open_folder(&pending.parent, &pending.name) {
                Ok(folder) => {
                    let FolderToWalk { path, scope, depth, ignored, .. } = pending;
                    self.folder(&Arc::new(folder), &path, &scope, depth, ignored);
                }
                Err(errno) => {
                    self.print.unreadable_folder(&pending.parent, &pending.name, &pending.path, errno);
                }
            }
        }
    }

    /// Reads one folder: passes its files to the readers and puts its folders on the stack.
    fn folder(
        &mut self,
        folder: &Arc<OwnedFd>,
        path: &[u8],
        scope: &Rc<PatternScope>,
        depth: usize,
        ignored: Option<u8>,
    ) {
        let list = match names(folder, self.shared.limits.entries, self.shared.room()) {
            Ok(list) => list,
            Err(Errno::FBIG) => return self.shared.give_up("a folder has too many names"),
            Err(errno) => return self.print.unreadable(path, errno),
        };
        let (scope, ignored) = match self.repository(folder, path, &list) {
            Some(scope) => (scope, None),
            None => (Rc::clone(scope), ignored),
        };
        let scope = self.patterns(folder, path, &list, scope);
        let own = self.own_folder(folder, path, &list, &scope);
        let mut files = Vec::new();
        for name in list {
            if own && git::is_gits(&name) {
                continue;
            }
            let stat = match rustix::fs::statat(&**folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It was removed after the folder was read.
                Err(Errno::NOENT) => continue,
                Err(errno) => {
                    self.print.unreadable(&join(path, &name), errno);
                    continue;
                }
            };
            let child = join(path, &name);
            self.shared.reserve(child.len() + 64);
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if child == WORKSPACE_DIR.as_bytes()
                || self.ignore.task.verdict(&child, is_folder, &self.effort) == Some(true)
            {
                continue;
            }
            if name == b".git" && is_folder && open_folder(folder, &name).is_ok_and(|git| git::is_git(&git)) {
                // Already read by `repository`.
                continue;
            }
            let hidden =
                ignored.is_some() || scope.ignores(&child, is_folder, &self.ignore.user, &self.effort);
            let tracked = hidden && scope.tracks(&child, is_folder);
            if is_folder {
                let levels = ignored.unwrap_or(2);
                let search = levels > 0
                    && (levels > 1
                        || kind(folder, &[&name[..], b"/.git"].concat()).is_some()
                        || open_folder(folder, &name).is_ok_and(|folder| git::is_bare(&folder)));
                if hidden && !tracked && !search {
                    continue;
                }
                // Git tracks only files, so a folder that contains only ignored files does not count.
                if scope.repository.is_none() {
                    self.print.add(&child, "folder", stat.st_mode, b"", false);
                }
                if depth + 1 > DEPTH {
                    self.shared.give_up(&format!("folders are more than {DEPTH} deep"));
                    return;
                }
                self.stack.push(FolderToWalk {
                    parent: Arc::clone(folder),
                    name,
                    path: child,
                    scope: Rc::clone(&scope),
                    depth: depth + 1,
                    ignored: hidden.then(|| levels.saturating_sub(1)),
                });
            } else if !hidden || tracked {
                files.push((name, child, stat));
                if files.len() == BATCH {
                    self.send(folder, std::mem::take(&mut files));
                }
            }
            if !self.shared.may_continue() {
                return;
            }
        }
        self.send(folder, files);
    }

    fn send(&self, folder: &Arc<OwnedFd>, files: Vec<(Vec<u8>, Vec<u8>, Stat)>) {
        if !files.is_empty() && self.sender.send(Batch { folder: Arc::clone(folder), files }).is_err() {
            self.shared.give_up("a thread failed");
        }
    }

    /// If a repository begins in this folder, reads its state. From here on, only its patterns apply.
    fn repository(
        &mut self,
        folder: &Arc<OwnedFd>,
        path: &[u8],
        list: &[Vec<u8>],
    ) -> Option<Rc<PatternScope>> {
        if !list.iter().any(|name| name == b".git")
            || self.ignore.task.verdict(&join(path, b".git"), true, &self.effort) == Some(true)
        {
            return None;
        }
        let repository = match open_folder(folder, b".git") {
            Ok(git) if git::is_git(&git) => self.state(&git, &join(path, b".git"), path),
            Ok(_) => return None,
            Err(_) => {
                let link = read_file(folder, b".git", PATTERNS).ok()?;
                let linked = git::read_linked(self.root, self.workspace, path, &link, self.shared);
                self.see(path);
                linked.map(|(repository, own)| {
                    if self.shared.reserve(own.len() + 64) {
                        self.others.insert(own);
                    }
                    repository
                })
            }
        };
        self.shared.reserve(repository.as_ref().map_or(0, |repository| repository.exclude.bytes()));
        let repository = repository.map(|repository| (path.to_vec(), Rc::new(repository)));
        Some(Rc::new(PatternScope { repository, ..PatternScope::default() }))
    }

    /// Reads the state of the repository whose git directory is at `at`. Its files are in `base`.
    fn state(&mut self, git: &OwnedFd, at: &[u8], base: &[u8]) -> Option<Repository> {
        self.see(at);
        let ReadRepository { state, repository, others } =
            git::read(git, at, base, self.workspace, self.shared);
        for (name, digest) in state.parts {
            self.print.add(&join(at, &name), "git", 0, &digest, false);
        }
        for (name, to) in state.pushed {
            let name = join(at, &name);
            self.shared.reserve(name.len() + 128);
            self.print.whole.pushed.insert(name, to);
        }
        for doubt in state.doubts {
            self.print.whole.doubts.add(&hash(at, "doubt", 0, &doubt));
        }
        if let Some(why) = state.unreadable {
            self.print.whole.unreadable.get_or_insert(why);
        }
        let locks = state.locks.iter().map(|lock| join(at, lock));
        let room = MAX_LOCKS.saturating_sub(self.print.whole.locks.len());
        self.print.whole.locks.extend(locks.take(room));
        self.others.extend(others);
        repository
    }

    fn see(&mut self, path: &[u8]) {
        if self.shared.reserve(path.len() + 64) {
            self.seen.insert(path.to_vec());
        }
    }

    /// Whether a folder is itself a git directory, such as a bare repository; if so, reads its state. If the repository
    /// around it tracks the folder, it is a sample, and its files count as files.
    fn own_folder(&mut self, folder: &OwnedFd, path: &[u8], list: &[Vec<u8>], scope: &PatternScope) -> bool {
        let has = |name: &[u8]| list.iter().any(|own| own == name);
        let own = has(b"HEAD")
            && has(b"objects")
            && has(b"refs")
            && (path.is_empty() || !scope.tracks(path, true))
            && git::is_bare(folder);
        if own {
            self.state(folder, path, path);
        }
        own
    }

    /// The scope, extended by the patterns of this folder.
    fn patterns(
        &self,
        folder: &OwnedFd,
        path: &[u8],
        list: &[Vec<u8>],
        scope: Rc<PatternScope>,
    ) -> Rc<PatternScope> {
        // Nothing is ignored outside a repository, or if it is not known what is tracked.
        if scope.repository.is_none() || !list.iter().any(|name| name == b".gitignore") {
            return scope;
        }
        let rules = read_file(folder, b".gitignore", PATTERNS).map(|text| IgnoreRules::parse(path, &text));
        match rules {
            Ok(rules) if !rules.is_empty() => {
                self.shared.reserve(rules.bytes());
                let repository = scope.repository.clone();
                Rc::new(PatternScope { rules: Some(rules), parent: Some(scope), repository })
            }
            _ => scope,
        }
    }
}
