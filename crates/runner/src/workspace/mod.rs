//! The workspace: what changed in it, and agentloop's own folder in it.
//!
//! The agent may have put anything here. So nothing is opened by a path that could lead out of the workspace: every
//! name is opened relative to its folder's descriptor, and links are never followed. The `cap-std` crate follows links
//! inside its root, which would let an agent make the runner read one file in the place of another.

mod bounds;
pub mod fingerprint;
pub mod git;
pub mod ignore;
pub mod metadata;
pub mod state_dir;
#[cfg(test)]
mod test_workspace;
mod walk;

use std::{os::fd::OwnedFd, path::Path};

pub use self::{bounds::Limits, walk::take_fingerprint};

use rustix::{
    fs::{Access, AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use sha2::{Digest, Sha256};

/// Flags for opening a folder.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Flags for opening a file. If a FIFO or a device has replaced it, opening neither blocks nor sets a controlling
/// terminal.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Opens the workspace itself.
pub fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, FOLDER, Mode::empty())
}

/// Whether a path still leads to the open workspace.
pub fn is_at(workspace: &OwnedFd, path: &Path) -> bool {
    let same = |stat: &Stat| (stat.st_dev, stat.st_ino);
    let there = open(path).and_then(rustix::fs::fstat).map(|stat| same(&stat));
    there.is_ok() && there == rustix::fs::fstat(workspace).map(|stat| same(&stat))
}

/// Opens a folder in another.
fn open_folder(folder: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(folder, name, FOLDER, Mode::empty())
}

/// Opens a folder several levels below another. No level may be a link.
fn open_below(folder: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut current = open_folder(folder, b".")?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        current = open_folder(&current, name)?;
    }
    Ok(current)
}

/// Reads a regular file of at most `limit` bytes. A longer file is an error.
fn read_file(folder: &OwnedFd, name: &[u8], limit: usize) -> Result<Vec<u8>, Errno> {
    read_open(&rustix::fs::openat(folder, name, FILE, Mode::empty())?, limit)
}

/// Reads an open regular file.
fn read_open(file: &OwnedFd, limit: usize) -> Result<Vec<u8>, Errno> {
    if FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match rustix::io::read(file, &mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if bytes.len() > limit {
            return Err(Errno::FBIG);
        }
    }
}

/// The names in a folder, without `.` and `..`. More than `max` names, or more than `room` bytes, are an error.
fn names(folder: &OwnedFd, max: usize, room: usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    let mut bytes = 0_usize;
    for entry in rustix::fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name == b"." || name == b".." {
            continue;
        }
        // Its bytes, and the size of its entry in the list.
        bytes = bytes.saturating_add(name.len() + 32);
        if names.len() >= max || bytes > room {
            return Err(Errno::FBIG);
        }
        names.push(name);
    }
    Ok(names)
}

/// The type of the file with this name, without following a link; `None` if there is none.
fn kind(folder: &OwnedFd, name: &[u8]) -> Option<FileType> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

/// Whether the agent, which runs as the same user, could change the content of a folder that the runner may not read.
fn may_change(parent: &OwnedFd, name: &[u8], stat: &Stat) -> bool {
    let may = |access| rustix::fs::accessat(parent, name, access, AtFlags::empty()).is_ok();
    stat.st_uid == rustix::process::geteuid().as_raw() || may(Access::WRITE_OK) || may(Access::EXEC_OK)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// A hash over parts, each with its length, so that no two lists of parts have the same hash.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
