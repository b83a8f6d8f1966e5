//! Whether anything in the workspace was touched, without any rule about what counts as change. An attempt is free only
//! if nothing was touched.
//!
//! A snapshot covers type, mode, owner, links, size, times and inode of everything in the workspace, including ignored
//! files, all of `.git`, and the runner's own folder, to which the runner writes nothing between two snapshots. No
//! content is read. The ctime, which no program can set, changes with content, names, permissions, owners and extended
//! attributes.
//!
//! There is one exception: `git status` rewrites the index, and so touches the folder that contains it. If the index
//! was rewritten, it is compared by its entries, and its folder by everything except its times. Both are then also
//! compared by their extended attributes, which nothing else would cover.
//!
//! If something cannot be compared in this way, the workspace does not count as untouched.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, Stat},
    io::Errno,
};
use sha2::{Digest, Sha256};

use super::{
    FILE,
    bounds::{Bounds, Limits},
    digest,
    fingerprint::Sum,
    git, names, open_folder, read_open,
};

/// How deep folders may be nested. Each may hold a descriptor while it is read.
const DEPTH: usize = 400;
/// The maximum time of a snapshot: it is taken before every iteration, and few iterations need it.
const TIME: Duration = Duration::from_secs(30);
/// File systems take times from a clock that advances in steps of up to this duration.
const TICK: Duration = Duration::from_millis(20);
/// The same for a file system that keeps only whole seconds, or multiples of two.
const COARSE_TICK: Duration = Duration::from_secs(2);
/// A change may seem to be this far in the future, because a file server's clock may be ahead of ours.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(2);
/// The maximum size of extended attributes. A folder or an index with longer ones cannot be compared.
const ATTRIBUTES: usize = 64 << 10;

/// The metadata of everything in a workspace.
#[derive(Debug, Default)]
pub struct MetadataSnapshot {
    /// The sum over everything except git's indexes and the times of their folders.
    sum: Sum,
    /// Git's indexes, by the paths of their folders.
    indexes: BTreeMap<Vec<u8>, IndexSnapshot>,
    /// The latest ctime.
    newest: Duration,
    /// Why the snapshot is not complete.
    failed: Option<String>,
}

/// A git index and its folder.
#[derive(Debug, PartialEq, Eq)]
struct IndexSnapshot {
    /// The folder's times and size.
    folder: [u8; 32],
    /// The index as a file.
    file: [u8; 32],
    /// The entries of the index, and the extended attributes of both.
    entries: [u8; 32],
}

impl MetadataSnapshot {
    /// Takes a snapshot before the agent starts. Then waits until a change would have a later time than the last
    /// change.
    pub fn before(root: &OwnedFd, limits: Limits<'_>) -> Self {
        let mut snapshot = Self::take(root, limits);
        if snapshot.failed.is_none() && !wait_past(snapshot.newest) {
            snapshot.failed = Some("a file in the workspace has a change time in the future".to_owned());
        }
        snapshot
    }

    /// Takes a snapshot after the agent has ended.
    pub fn after(root: &OwnedFd, limits: Limits<'_>) -> Self {
        Self::take(root, limits)
    }

    /// A snapshot that could not be taken.
    pub fn none(why: &str) -> Self {
        Self { failed: Some(why.to_owned()), ..Self::default() }
    }

    /// Why this snapshot is not complete.
    pub fn incomplete(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whether nothing was touched between this snapshot and a later one.
    pub fn is_untouched(&self, later: &Self) -> bool {
        self.failed.is_none()
            && later.failed.is_none()
            && self.sum == later.sum
            && self.indexes.len() == later.indexes.len()
            && self.indexes.iter().zip(&later.indexes).all(|((path, before), (same, after))| {
                path == same
                    && before.entries == after.entries
                    && (before.folder == after.folder || before.file != after.file)
            })
    }

    fn take(root: &OwnedFd, limits: Limits<'_>) -> Self {
        let bounds = Bounds::new(Limits { time: TIME.min(limits.time), ..limits });
        let mut walker = SnapshotWalker { bounds: &bounds, snapshot: Self::default(), stack: Vec::new() };
        if let Err((path, errno)) = walker.run(root) {
            bounds.give_up(&format!("{}: {errno}", String::from_utf8_lossy(&path)));
        }
        let snapshot = walker.snapshot;
        Self { failed: bounds.why(), ..snapshot }
    }
}

/// Waits until the clock of the file system is past a time. Returns false if that time is in the future.
fn wait_past(newest: Duration) -> bool {
    let tick = if newest.subsec_nanos() == 0 { COARSE_TICK } else { TICK };
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wait = newest.saturating_add(tick).saturating_sub(now);
        if wait.is_zero() {
            return true;
        }
        if wait > tick + MAX_CLOCK_SKEW {
            return false;
        }
        std::thread::sleep(wait);
    }
}

/// A folder to read.
struct FolderToRead {
    parent: Rc<OwnedFd>,
    name: Vec<u8>,
    path: Vec<u8>,
    depth: usize,
}

/// What could not be read, and why.
type Unreadable = (Vec<u8>, Errno);

struct SnapshotWalker<'a> {
    bounds: &'a Bounds<'a>,
    snapshot: MetadataSnapshot,
    stack: Vec<FolderToRead>,
}

impl SnapshotWalker<'_> {
    fn run(&mut self, root: &OwnedFd) -> Result<(), Unreadable> {
        let root = open_folder(root, b".").map_err(|errno| (Vec::new(), errno))?;
        self.folder(&Rc::new(root), b"", 0)?;
        while let Some(FolderToRead { parent, name, path, depth }) = self.stack.pop() {
            if !self.bounds.may_continue() {
                return Ok(());
            }
            match open_folder(&parent, &name) {
                Ok(folder) => self.folder(&Rc::new(folder), &path, depth)?,
                Err(Errno::ACCESS | Errno::PERM) => self.closed(&parent, &name, &path)?,
                Err(errno) => return Err((path, errno)),
            }
        }
        Ok(())
    }

    /// Takes a folder that the runner may not read. The agent, which is the same user, may not read it either; but if
    /// it may write there, or change the permissions, the snapshot fails.
    fn closed(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), Unreadable> {
        let stat = stat(parent, name).map_err(|errno| (path.to_vec(), errno))?;
        if super::may_change(parent, name, &stat) {
            return Err((path.to_vec(), Errno::ACCESS));
        }
        self.add(path, &stat);
        Ok(())
    }

    fn folder(&mut self, folder: &Rc<OwnedFd>, path: &[u8], depth: usize) -> Result<(), Unreadable> {
        let here = |errno| (path.to_vec(), errno);
        let own = rustix::fs::fstat(&**folder).map_err(here)?;
        let list = names(folder, self.bounds.limits.entries, self.bounds.room()).map_err(here)?;
        let mut index = false;
        if list.iter().any(|name| name == b"index") && git::has_index(folder) {
            index = self.index(folder, &own, path).map_err(here)?;
        }
        if !index {
            self.add(path, &own);
        }
        for name in list {
            if index && name == b"index" {
                continue;
            }
            let child = super::join(path, &name);
            let stat = stat(folder, &name).map_err(|errno| (child.clone(), errno))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.bounds.reserve(child.len() + 128);
                    self.bounds.count();
                    if depth >= DEPTH {
                        self.bounds.give_up(&format!("folders are more than {DEPTH} deep"));
                        return Ok(());
                    }
                    self.stack.push(FolderToRead {
                        parent: Rc::clone(folder),
                        name,
                        path: child,
                        depth: depth + 1,
                    });
                }
                // Data that is written to a device is stored elsewhere.
                FileType::BlockDevice | FileType::CharacterDevice => return Err((child, Errno::NODEV)),
                _ => {
                    self.bounds.count();
                    self.add(&child, &stat);
                }
            }
            if !self.bounds.may_continue() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes an index by its entries, and its folder without its times. Returns false if the index cannot be read.
    fn index(&mut self, folder: &OwnedFd, own: &Stat, path: &[u8]) -> Result<bool, Errno> {
        let file = match rustix::fs::openat(folder, b"index".as_slice(), FILE, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::LOOP | Errno::ACCESS | Errno::PERM) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        let stat = rustix::fs::fstat(&file)?;
        let bytes = match read_open(&file, git::LARGE) {
            Ok(bytes) => bytes,
            Err(Errno::INVAL | Errno::FBIG) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        let Some(index) = git::index_digest(&bytes) else { return Ok(false) };
        let mut entries = Sha256::new();
        entries.update(index);
        entries.update(stat.st_mode.to_le_bytes());
        entries.update(stat.st_uid.to_le_bytes());
        entries.update(stat.st_gid.to_le_bytes());
        entries.update(attributes(&file)?);
        entries.update(attributes(folder)?);
        let snapshot = IndexSnapshot {
            folder: digest(&[&times(own), &own.st_size.to_le_bytes()]),
            file: digest(&[&times(&stat), &lasting(&stat)]),
            entries: entries.finalize().into(),
        };
        self.newer(own);
        self.newer(&stat);
        self.bounds.reserve(path.len() + 256);
        self.snapshot.sum.add(&digest(&[path, b"index", &lasting(own)]));
        self.snapshot.indexes.insert(path.to_vec(), snapshot);
        Ok(true)
    }

    fn add(&mut self, path: &[u8], stat: &Stat) {
        self.newer(stat);
        self.snapshot.sum.add(&digest(&[path, &lasting(stat), &times(stat), &stat.st_size.to_le_bytes()]));
    }

    fn newer(&mut self, stat: &Stat) {
        let seconds = u64::try_from(stat.st_ctime).unwrap_or(0);
        let nanoseconds = u32::try_from(stat.st_ctime_nsec).unwrap_or(0);
        self.snapshot.newest = self.snapshot.newest.max(Duration::new(seconds, nanoseconds.min(999_999_999)));
    }
}

fn stat(folder: &OwnedFd, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Everything except times and size.
fn lasting(stat: &Stat) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(stat.st_dev.to_le_bytes());
    bytes.extend(stat.st_ino.to_le_bytes());
    bytes.extend(stat.st_mode.to_le_bytes());
    bytes.extend(stat.st_nlink.to_le_bytes());
    bytes.extend(stat.st_uid.to_le_bytes());
    bytes.extend(stat.st_gid.to_le_bytes());
    bytes.extend(stat.st_rdev.to_le_bytes());
    bytes
}

fn times(stat: &Stat) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    bytes.extend(stat.st_mtime.to_le_bytes());
    bytes.extend(stat.st_mtime_nsec.to_le_bytes());
    bytes.extend(stat.st_ctime.to_le_bytes());
    bytes.extend(stat.st_ctime_nsec.to_le_bytes());
    bytes
}

/// A hash over the names and values of all extended attributes.
fn attributes(file: &OwnedFd) -> Result<[u8; 32], Errno> {
    let mut list = vec![0_u8; ATTRIBUTES];
    let length = match rustix::fs::flistxattr(file, list.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno),
    };
    let mut names: Vec<&[u8]> = list
        .get(..length)
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    let mut hash = Sha256::new();
    let mut value = vec![0_u8; ATTRIBUTES];
    for name in names {
        let length = rustix::fs::fgetxattr(file, name, value.as_mut_slice())?;
        hash.update(digest(&[name, value.get(..length).unwrap_or_default()]));
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests;
