//! `.agentloop/`, the folder in the workspace that is agentloop's own: which iterations have run, and what they said.
//!
//! ```text
//! .agentloop/.gitignore           keeps all of this out of commits
//! .agentloop/ran/UID-7-0          iteration 7 of the task, attempt 0, was executed
//! .agentloop/iterations/0007/     output.log, report.json; 0007-1/ for attempt 1
//! ```

use std::{fs::File, io::Write, os::fd::OwnedFd};

use agentloop_contract::{context::Context, names::WORKSPACE_DIR};
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{kind, open_folder};

/// Why this folder cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// This very attempt was executed here before.
    #[error("this attempt has already run on this workspace")]
    AlreadyRan,
    /// Nothing can be written to the workspace.
    #[error(
        "the workspace cannot be written by uid {uid} ({errno}): set the pod's securityContext.fsGroup or runAsUser \
         so that it can"
    )]
    NotWritable {
        /// The user that the runner and the agent run as.
        uid: u32,
        /// What the system said.
        errno: Errno,
    },
    /// Something else stands in its place; following a link could lead anywhere.
    #[error(".agentloop in the workspace is no folder: remove it")]
    NoFolder,
    /// Any other failure.
    #[error(".agentloop in the workspace cannot be used: {0}")]
    Io(Errno),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                Self::NotWritable { uid: rustix::process::geteuid().as_raw(), errno }
            }
            Errno::LOOP | Errno::NOTDIR => Self::NoFolder,
            errno => Self::Io(errno),
        }
    }
}

/// The folder, open.
#[derive(Debug)]
pub struct Own {
    folder: OwnedFd,
}

impl Own {
    /// Opens the folder in a workspace, and makes it where it is not there.
    pub fn open(workspace: &OwnedFd) -> Result<Self, Error> {
        let folder = make(workspace, WORKSPACE_DIR.as_bytes())?;
        // Absent where an older version or a person made the folder; a failure costs only tidiness.
        if kind(&folder, b".gitignore").is_none() {
            let _ = write(&folder, ".gitignore", &[b"*\n"]);
        }
        Ok(Self { folder })
    }

    /// Whether an attempt has been executed here.
    pub fn has_run(&self, context: &Context) -> bool {
        open_folder(&self.folder, b"ran").is_ok_and(|ran| kind(&ran, marker(context).as_bytes()).is_some())
    }

    /// Notes that an attempt is about to be executed, so that it never is again; it fails where it was.
    pub fn mark(&self, context: &Context) -> Result<(), Error> {
        let ran = make(&self.folder, b"ran")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&ran, marker(context), flags, Mode::from_raw_mode(0o644)) {
            Err(Errno::EXIST) => return Err(Error::AlreadyRan),
            file => file?,
        };
        // The marker outlives a power cut, or it guards nothing. File systems that cannot sync are taken as they are.
        let _ = rustix::fs::fsync(&file);
        let _ = rustix::fs::fsync(&ran);
        Ok(())
    }

    /// Writes a file beside the iteration's others.
    pub fn write(&self, context: &Context, name: &str, parts: &[&[u8]]) -> Result<(), Error> {
        let iterations = make(&self.folder, b"iterations")?;
        let folder = match context.attempt {
            0 => format!("{:04}", context.iteration),
            attempt => format!("{:04}-{attempt}", context.iteration),
        };
        let folder = make(&iterations, folder.as_bytes())?;
        Ok(write(&folder, name, parts)?)
    }
}

fn marker(context: &Context) -> String {
    format!("{}-{}-{}", context.task.uid, context.iteration, context.attempt)
}

/// Opens a folder of ours; makes it where it is not there.
fn make(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(0o775);
    let created = rustix::fs::mkdirat(parent, name, mode);
    match created {
        Ok(()) | Err(Errno::EXIST) => {}
        // Read-only, but already there: let a later write tell.
        Err(errno) if kind(parent, name).is_none() => return Err(errno),
        Err(_) => {}
    }
    let folder = open_folder(parent, name)?;
    if created.is_ok() {
        // The next iteration may run as another user of the same group (fsGroup), whatever the umask is here.
        let _ = rustix::fs::fchmod(&folder, mode);
    }
    Ok(folder)
}

fn write(folder: &OwnedFd, name: &str, parts: &[&[u8]]) -> Result<(), Errno> {
    // A new file each time: what stood there, even a link or a FIFO, is not written through.
    let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644))?);
    let written = parts.iter().try_for_each(|part| file.write_all(part));
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
