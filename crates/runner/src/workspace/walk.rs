//! Walks a workspace: one thread reads folders, others read files.

use std::{
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Instant,
};

use agentloop_contract::names::WORKSPACE_DIR;
use rustix::{
    fs::{Access, AtFlags, FileType, Mode, Stat},
    io::Errno,
};
use sha2::{Digest, Sha256};

use super::{
    FILE,
    fingerprint::{Entry, Fingerprint, Limits},
    git::{self, Repository},
    ignore::Rules,
    kind, names, open_folder, read_file,
};

/// Folders within folders; each holds a descriptor while it is walked.
const DEPTH: usize = 400;
/// Files handed to another thread at once.
const BATCH: usize = 32;
/// Batches that may wait; each may hold a folder's descriptor.
const WAITING: usize = 64;
/// What the entries that are kept may take in memory.
const KEPT_BYTES: usize = 64 << 20;
/// A larger `.gitignore` is no list of patterns.
const PATTERNS: usize = 1 << 20;

/// Files to read, all in one folder.
struct Batch {
    folder: Arc<OwnedFd>,
    files: Vec<(Vec<u8>, Vec<u8>, Stat)>,
}

/// What all threads share.
struct Shared<'a> {
    limits: Limits<'a>,
    deadline: Option<Instant>,
    count: AtomicUsize,
    bytes: AtomicUsize,
    over: AtomicBool,
    why: Mutex<Option<String>>,
    /// When the stop was noticed.
    stopped: OnceLock<Instant>,
}

impl Shared<'_> {
    fn give_up(&self, why: &str) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_owned());
        self.over.store(true, Ordering::Relaxed);
    }

    /// So many bytes more were needed. What is let go is not taken off: this bounds the most that is held at once.
    fn hold(&self, bytes: usize) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > self.limits.bytes {
            self.give_up(&format!("names and patterns take more than {} MiB", self.limits.bytes >> 20));
        }
    }

    /// Whether to go on.
    fn on(&self) -> bool {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.give_up(&format!("not finished within {} s", self.limits.time.as_secs()));
        }
        if self.limits.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
            && self.stopped.get_or_init(Instant::now).elapsed() >= self.limits.after_stop
        {
            self.give_up("told to stop");
        }
        !self.over.load(Ordering::Relaxed)
    }
}

/// Takes a fingerprint; its entries are in no order.
pub(super) fn walk(
    root: &OwnedFd,
    path: &[u8],
    ignore: &Rules,
    limits: Limits<'_>,
    deadline: Option<Instant>,
) -> Fingerprint {
    let shared = Shared {
        limits,
        deadline,
        count: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        why: Mutex::new(None),
        stopped: OnceLock::new(),
    };
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let (sender, receiver) = sync_channel(WAITING);
    let receiver = Mutex::new(receiver);
    let mut prints = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(|| read_files(&receiver, &shared))).collect();
        let mut walker = Walker::new(root, path, ignore, &shared, sender);
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
        whole.blind = whole.blind.or(print.blind);
        whole.entries = whole.entries.zip(print.entries).map(|(mut all, more)| {
            all.extend(more);
            all
        });
    }
    whole.gave_up = shared.why.into_inner().unwrap_or_else(PoisonError::into_inner);
    whole
}

/// A folder to walk.
struct Pending {
    parent: Arc<OwnedFd>,
    name: Vec<u8>,
    path: Vec<u8>,
    scope: Rc<Scope>,
    depth: usize,
    /// Git ignores it: of its files only tracked ones count. So many levels below it are searched for repositories.
    ignored: Option<u8>,
}

/// The patterns in force in a folder: its own, then those of the folders above it, up to the repository's.
#[derive(Default)]
struct Scope {
    rules: Option<Rules>,
    parent: Option<Rc<Scope>>,
    repository: Option<(Vec<u8>, Rc<Repository>)>,
}

impl Scope {
    fn ignores(&self, path: &[u8], folder: bool) -> bool {
        let mut scope = Some(self);
        while let Some(at) = scope {
            if let Some(ignored) = at.rules.as_ref().and_then(|rules| rules.verdict(path, folder)) {
                return ignored;
            }
            scope = at.parent.as_deref();
        }
        let exclude = self.repository.as_ref().and_then(|(_, repo)| repo.exclude.verdict(path, folder));
        exclude == Some(true)
    }

    fn tracks(&self, path: &[u8], folder: bool) -> bool {
        self.repository.as_ref().is_some_and(|(base, repository)| {
            let below = if base.is_empty() {
                Some(path)
            } else {
                path.strip_prefix(&base[..]).and_then(|p| p.strip_prefix(b"/"))
            };
            below.is_some_and(|below| repository.tracks(below, folder))
        })
    }
}

/// The thread that reads folders.
struct Walker<'a> {
    root: &'a OwnedFd,
    workspace: &'a [u8],
    ignore: &'a Rules,
    shared: &'a Shared<'a>,
    sender: SyncSender<Batch>,
    stack: Vec<Pending>,
    print: Print<'a>,
}

impl<'a> Walker<'a> {
    fn new(
        root: &'a OwnedFd,
        workspace: &'a [u8],
        ignore: &'a Rules,
        shared: &'a Shared<'a>,
        sender: SyncSender<Batch>,
    ) -> Self {
        Self { root, workspace, ignore, shared, sender, stack: Vec::new(), print: Print::new(shared) }
    }

    fn finish(self) -> Fingerprint {
        self.print.whole
    }

    fn run(&mut self) {
        match open_folder(self.root, b".") {
            Ok(root) => self.folder(&Arc::new(root), b"", &Rc::default(), 0, None),
            Err(errno) => self.shared.give_up(&format!("the workspace cannot be read: {errno}")),
        }
        while let Some(pending) = self.stack.pop() {
            if !self.shared.on() {
                return;
            }
            match open_folder(&pending.parent, &pending.name) {
                Ok(folder) => {
                    let Pending { path, scope, depth, ignored, .. } = pending;
                    self.folder(&Arc::new(folder), &path, &scope, depth, ignored);
                }
                Err(errno) => {
                    self.print.unreadable_folder(&pending.parent, &pending.name, &pending.path, errno);
                }
            }
        }
    }

    /// Reads one folder: its files go to the readers, its folders onto the stack.
    fn folder(
        &mut self,
        folder: &Arc<OwnedFd>,
        path: &[u8],
        scope: &Rc<Scope>,
        depth: usize,
        ignored: Option<u8>,
    ) {
        let list = match names(folder, self.shared.limits.entries) {
            Ok(list) => list,
            Err(Errno::FBIG) => {
                return self.shared.give_up(&format!("more than {} files", self.shared.limits.entries));
            }
            Err(errno) => return self.print.blind(path, errno),
        };
        let (scope, ignored) = match self.repository(folder, path, &list) {
            Some(scope) => (scope, None),
            None => (Rc::clone(scope), ignored),
        };
        let scope = self.patterns(folder, path, &list, scope);
        let mut files = Vec::new();
        for name in list {
            let stat = match rustix::fs::statat(&**folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Gone since the folder was read.
                Err(Errno::NOENT) => continue,
                Err(errno) => {
                    self.print.blind(&join(path, &name), errno);
                    continue;
                }
            };
            let child = join(path, &name);
            self.shared.hold(child.len() + 64);
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if child == WORKSPACE_DIR.as_bytes() || self.ignore.verdict(&child, is_folder) == Some(true) {
                continue;
            }
            if name == b".git" && is_folder && open_folder(folder, &name).is_ok_and(|git| git::is_git(&git)) {
                // Taken already, by `repository`.
                continue;
            }
            let hidden = ignored.is_some() || scope.ignores(&child, is_folder);
            let tracked = hidden && scope.tracks(&child, is_folder);
            if is_folder {
                let levels = ignored.unwrap_or(2);
                let search =
                    levels > 0 && (levels > 1 || kind(folder, &[&name[..], b"/.git"].concat()).is_some());
                if hidden && !tracked && !search {
                    continue;
                }
                // Git knows no folders, only files in them: one that holds nothing but ignored files is nothing.
                if scope.repository.is_none() {
                    self.print.add(&child, "folder", stat.st_mode, b"", false);
                }
                if depth + 1 > DEPTH {
                    self.shared.give_up(&format!("folders are more than {DEPTH} deep"));
                    return;
                }
                self.stack.push(Pending {
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
            if !self.shared.on() {
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

    /// Where a repository begins in this folder, its state is taken, and its rules are the only ones from here on.
    fn repository(&mut self, folder: &Arc<OwnedFd>, path: &[u8], list: &[Vec<u8>]) -> Option<Rc<Scope>> {
        if !list.iter().any(|name| name == b".git")
            || self.ignore.verdict(&join(path, b".git"), true) == Some(true)
        {
            return None;
        }
        let shared = self.shared;
        let on = || shared.on();
        let repository = match open_folder(folder, b".git") {
            Ok(git) if git::is_git(&git) => {
                let (state, repository) = git::read(&git, path, &on);
                let at = join(path, b".git");
                for (name, digest) in state.parts {
                    self.print.add(&join(&at, &name), "git", 0, &digest, false);
                }
                for doubt in state.doubts {
                    self.print.whole.doubts.add(&hash(&at, "doubt", 0, &doubt));
                }
                if let Some(why) = state.blind {
                    self.print.whole.blind.get_or_insert(why);
                }
                repository
            }
            Ok(_) => return None,
            Err(_) => {
                let link = read_file(folder, b".git", PATTERNS).ok()?;
                git::read_linked(self.root, self.workspace, path, &link, &on)
            }
        };
        shared.hold(repository.as_ref().map_or(0, Repository::bytes));
        let repository = repository.map(|repository| (path.to_vec(), Rc::new(repository)));
        Some(Rc::new(Scope { repository, ..Scope::default() }))
    }

    /// The scope with the patterns of this folder.
    fn patterns(&self, folder: &OwnedFd, path: &[u8], list: &[Vec<u8>], scope: Rc<Scope>) -> Rc<Scope> {
        // Outside a repository, or where what is tracked is not known, nothing is ignored.
        if scope.repository.is_none() || !list.iter().any(|name| name == b".gitignore") {
            return scope;
        }
        let rules = read_file(folder, b".gitignore", PATTERNS).map(|text| Rules::parse(path, &text));
        match rules {
            Ok(rules) if !rules.is_empty() => {
                self.shared.hold(rules.bytes());
                let repository = scope.repository.clone();
                Rc::new(Scope { rules: Some(rules), parent: Some(scope), repository })
            }
            _ => scope,
        }
    }
}

/// A thread that reads files.
fn read_files(receiver: &Mutex<Receiver<Batch>>, shared: &Shared<'_>) -> Fingerprint {
    let mut print = Print::new(shared);
    let mut buffer = vec![0; 128 << 10];
    loop {
        let batch = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = batch else { return print.whole };
        for (name, path, stat) in batch.files {
            if !shared.on() {
                // The rest is taken out of the channel unread, so that the walker does not block.
                break;
            }
            print.file(&batch.folder, &name, &path, &stat, &mut buffer);
        }
    }
}

/// A thread's part of the fingerprint.
struct Print<'a> {
    shared: &'a Shared<'a>,
    whole: Fingerprint,
    user: u32,
}

impl<'a> Print<'a> {
    fn new(shared: &'a Shared<'a>) -> Self {
        let whole = Fingerprint { entries: Some(Vec::new()), ..Fingerprint::default() };
        Self { shared, whole, user: rustix::process::geteuid().as_raw() }
    }

    /// Adds an entry.
    fn add(&mut self, path: &[u8], kind: &str, mode: u32, content: &[u8], file: bool) {
        let digest = hash(path, kind, mode, content);
        self.whole.sum.add(&digest);
        let count = self.shared.count.fetch_add(1, Ordering::Relaxed);
        if count >= self.shared.limits.entries {
            self.shared.give_up(&format!("more than {} files", self.shared.limits.entries));
        }
        if count >= self.shared.limits.kept || self.shared.bytes.load(Ordering::Relaxed) > KEPT_BYTES {
            self.whole.entries = None;
        } else if let Some(entries) = &mut self.whole.entries {
            let digest = digest.first_chunk().copied().unwrap_or_default();
            entries.push(Entry { path: path.into(), digest, file });
        }
    }

    /// Something could not be read that the agent may have changed.
    fn blind(&mut self, path: &[u8], errno: Errno) {
        self.whole.blind.get_or_insert_with(|| format!("{}: {errno}", String::from_utf8_lossy(path)));
    }

    fn file(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], stat: &Stat, buffer: &mut [u8]) {
        let mode = stat.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => match self.content(folder, name, buffer) {
                Ok(Some(digest)) => self.add(path, "file", mode, &digest, true),
                // Its place was taken by something else, or the time is over.
                Ok(None) => self.blind(path, Errno::AGAIN),
                Err(Errno::NOENT) => {}
                Err(errno) => self.unreadable_file(folder, name, path, stat, errno),
            },
            FileType::Symlink => match rustix::fs::readlinkat(folder, name, Vec::new()) {
                Ok(target) => self.add(path, "link", mode, target.as_bytes(), true),
                Err(Errno::NOENT) => {}
                Err(errno) => self.blind(path, errno),
            },
            // Opening a FIFO, a socket or a device could block or do something.
            _ => self.add(path, "special", mode, b"", true),
        }
    }

    fn content(&self, folder: &OwnedFd, name: &[u8], buffer: &mut [u8]) -> Result<Option<[u8; 32]>, Errno> {
        let file = rustix::fs::openat(folder, name, FILE, Mode::empty())?;
        let mut hash = Sha256::new();
        let mut chunks = 0_u32;
        loop {
            match rustix::io::read(&file, &mut *buffer) {
                Ok(0) => break,
                Ok(length) => hash.update(buffer.get(..length).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            chunks += 1;
            if chunks == 1
                && FileType::from_raw_mode(rustix::fs::fstat(file.as_fd())?.st_mode) != FileType::RegularFile
            {
                return Ok(None);
            }
            if chunks.is_multiple_of(8) && !self.shared.on() {
                return Ok(None);
            }
        }
        Ok(Some(hash.finalize().into()))
    }

    /// Neither can the agent read it, who runs as the same user; but it might write it, or give itself the right to.
    fn unreadable_file(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], stat: &Stat, errno: Errno) {
        if !matches!(errno, Errno::ACCESS | Errno::PERM) {
            return self.blind(path, errno);
        }
        self.add(path, "unreadable", stat.st_mode, &stat.st_size.to_le_bytes(), true);
        let writable = rustix::fs::accessat(folder, name, Access::WRITE_OK, AtFlags::empty()).is_ok();
        if writable || stat.st_uid == self.user {
            // The time of its last change, which no program can set, is the same or tells nothing.
            let time = [&stat.st_ctime.to_le_bytes()[..], &stat.st_ctime_nsec.to_le_bytes()[..]].concat();
            self.whole.doubts.add(&hash(path, "doubt", 0, &time));
        }
    }

    fn unreadable_folder(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8], errno: Errno) {
        match errno {
            // Removed, or replaced by something that is no folder.
            Errno::NOENT => {}
            Errno::ACCESS | Errno::PERM => {
                let owner =
                    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_uid);
                let may = |access| rustix::fs::accessat(parent, name, access, AtFlags::empty()).is_ok();
                if owner != Ok(self.user) && !may(Access::WRITE_OK) && !may(Access::EXEC_OK) {
                    return;
                }
                self.blind(path, errno);
            }
            errno => self.blind(path, errno),
        }
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn hash(path: &[u8], kind: &str, mode: u32, content: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [path, kind.as_bytes(), &mode.to_le_bytes(), content] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
