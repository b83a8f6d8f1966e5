//! Turns files, links and folders into entries of a fingerprint.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, atomic::Ordering, mpsc::Receiver},
};

use rustix::{
    fs::{Access, AtFlags, FileType, Mode, Stat},
    io::Errno,
};
use sha2::{Digest, Sha256};

use crate::{
    lock,
    workspace::{
        FILE,
        bounds::Bounds,
        digest,
        fingerprint::{Entry, Fingerprint},
        may_change,
    },
};

/// How much memory the kept entries may take.
const KEPT_BYTES: usize = 64 << 20;

/// Files to read, all in one folder.
pub(super) struct Batch {
    pub(super) folder: Arc<OwnedFd>,
    pub(super) files: Vec<(Vec<u8>, Vec<u8>, Stat)>,
}

/// Reads files until there are no more batches. Runs in a thread.
pub(super) fn read_files(receiver: &Mutex<Receiver<Batch>>, shared: &Bounds<'_>) -> Fingerprint {
    let mut print = Print::new(shared);
    let mut buffer = vec![0; 128 << 10];
    loop {
        let batch = lock(receiver).recv();
        let Ok(batch) = batch else { return print.whole };
        for (name, path, stat) in batch.files {
            if !shared.may_continue() {
                // The loop still empties the channel, so that the walker does not block.
                break;
            }
            print.file(&batch.folder, &name, &path, &stat, &mut buffer);
        }
    }
}

/// A thread's part of the fingerprint.
pub(super) struct Print<'a> {
    shared: &'a Bounds<'a>,
    pub(super) whole: Fingerprint,
    user: u32,
}

impl<'a> Print<'a> {
    pub(super) fn new(shared: &'a Bounds<'a>) -> Self {
        let whole = Fingerprint { entries: Some(Vec::new()), ..Fingerprint::default() };
        Self { shared, whole, user: rustix::process::geteuid().as_raw() }
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, path: &[u8], kind: &str, mode: u32, content: &[u8], file: bool) {
        let digest = hash(path, kind, mode, content);
        self.whole.sum.add(&digest);
        let count = self.shared.count();
        if count >= self.shared.limits.kept || self.shared.bytes.load(Ordering::Relaxed) > KEPT_BYTES {
            self.whole.entries = None;
        } else if let Some(entries) = &mut self.whole.entries {
            let digest = digest.first_chunk().copied().unwrap_or_default();
            entries.push(Entry { path: path.into(), digest, file });
        }
    }

    /// Records something that could not be read and that the agent may have changed.
    pub(super) fn unreadable(&mut self, path: &[u8], errno: Errno) {
        self.whole.unreadable.get_or_insert_with(|| format!("{}: {errno}", String::from_utf8_lossy(path)));
    }

    fn file(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], stat: &Stat, buffer: &mut [u8]) {
        let mode = stat.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => match self.content(folder, name, buffer) {
                Ok(Some(digest)) => self.add(path, "file", mode, &digest, true),
                // The file was replaced by something else, or the walk has given up.
                Ok(None) => self.unreadable(path, Errno::AGAIN),
                Err(Errno::NOENT) => {}
                Err(errno) => self.unreadable_file(folder, name, path, stat, errno),
            },
            FileType::Symlink => match rustix::fs::readlinkat(folder, name, Vec::new()) {
                Ok(target) => self.add(path, "link", mode, target.as_bytes(), true),
                Err(Errno::NOENT) => {}
                Err(errno) => self.unreadable(path, errno),
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
            if chunks.is_multiple_of(8) && !self.shared.may_continue() {
                return Ok(None);
            }
        }
        Ok(Some(hash.finalize().into()))
    }

    /// Adds a file that cannot be read. The agent runs as the same user and cannot read it either, but it might write
    /// to it, or change its permissions.
    fn unreadable_file(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], stat: &Stat, errno: Errno) {
        if !matches!(errno, Errno::ACCESS | Errno::PERM) {
            return self.unreadable(path, errno);
        }
        self.add(path, "unreadable", stat.st_mode, &stat.st_size.to_le_bytes(), true);
        let writable = rustix::fs::accessat(folder, name, Access::WRITE_OK, AtFlags::empty()).is_ok();
        if writable || stat.st_uid == self.user {
            // The ctime, which no program can set. If it is equal, the file is unchanged; otherwise nothing is known.
            let time = [&stat.st_ctime.to_le_bytes()[..], &stat.st_ctime_nsec.to_le_bytes()[..]].concat();
            self.whole.doubts.add(&hash(path, "doubt", 0, &time));
        }
    }

    pub(super) fn unreadable_folder(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8], errno: Errno) {
        match errno {
            // It was removed meanwhile.
            Errno::NOENT => {}
            Errno::ACCESS | Errno::PERM => {
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
                if stat.is_ok_and(|stat| !may_change(parent, name, &stat)) {
                    return;
                }
                self.unreadable(path, errno);
            }
            errno => self.unreadable(path, errno),
        }
    }
}

pub(super) fn hash(path: &[u8], kind: &str, mode: u32, content: &[u8]) -> [u8; 32] {
    digest(&[path, kind.as_bytes(), &mode.to_le_bytes(), content])
}
