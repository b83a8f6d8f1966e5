//! `.agentloop/`, agentloop's own folder in the workspace: which iterations have run, and their records.
//!
//! ```text
//! .agentloop/.gitignore                     keeps all of this out of commits
//! .agentloop/ran/UID-7-0                    iteration 7 of the task, attempt 0, was executed
//! .agentloop/TASK-UID/iterations/0007/      output.log, report.json; 0007-1/ for attempt 1
//! ```
//!
//! In an empty workspace nothing is created until another file exists or the agent has ended, because `git clone URL .`
//! and many generators need an empty folder. The folder is opened again for each use, because an agent that cleans up
//! may have removed it.

use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};

use agentloop_contract::{context::Context, names::WORKSPACE_DIR};
use rustix::{
    fs::{Access, AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{kind, open_folder};
use crate::secrets;

mod prune;

/// How often an empty workspace is checked for files.
const POLL: Duration = Duration::from_millis(250);

/// Why the folder cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateDirError {
    /// This attempt was executed here before.
    #[error("this attempt has already run on this workspace")]
    AlreadyRan,
    /// Nothing can be written to the workspace.
    #[error(
        "uid {uid} cannot write to the workspace ({errno}): set the pod's securityContext.fsGroup or runAsUser \
         so that it can"
    )]
    NotWritable {
        /// The user that the runner and the agent run as.
        uid: u32,
        /// The system's error.
        errno: Errno,
    },
    /// Something else is in its place. Following a link could lead anywhere.
    #[error(".agentloop in the workspace is not a folder: remove it")]
    NoFolder,
    /// Any other failure.
    #[error("cannot use .agentloop in the workspace: {0}")]
    Io(Errno),
}

impl From<Errno> for StateDirError {
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

/// The folder, or the place where it will be created.
#[derive(Debug)]
pub struct StateDir {
    workspace: Arc<OwnedFd>,
    context: Context,
    /// Whether to write nothing to a workspace that is still empty.
    spare_empty: AtomicBool,
}

/// Creates the marker as soon as a file is in the workspace. Stops when it is dropped.
#[must_use]
pub struct MarkerWatch {
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl StateDir {
    /// Opens the folder in a workspace. Creates it if it does not exist, unless the workspace is empty.
    pub fn open(workspace: &OwnedFd, context: &Context) -> Result<Self, StateDirError> {
        if is_empty(workspace)? {
            // Fail now if the workspace is not writable, before the agent works in vain.
            rustix::fs::accessat(workspace, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
        } else {
            folder(workspace)?;
        }
        Ok(Self {
            workspace: Arc::new(open_folder(workspace, b".")?),
            context: context.clone(),
            spare_empty: AtomicBool::new(false),
        })
    }

    /// Whether this attempt has been executed here.
    pub fn has_run(&self) -> bool {
        open_folder(&self.workspace, WORKSPACE_DIR.as_bytes())
            .and_then(|folder| open_folder(&folder, b"ran"))
            .is_ok_and(|ran| kind(&ran, marker(&self.context).as_bytes()).is_some())
    }

    /// Marks this attempt as executed, so that it is never executed again. Fails if it was executed before. In an empty
    /// workspace, in which nothing can be done twice yet, the returned watch creates the marker when the first file
    /// appears.
    pub fn mark(&self) -> Result<MarkerWatch, StateDirError> {
        let mut watch = MarkerWatch { stop: None, thread: None };
        if is_empty(&self.workspace)? {
            let (stop, stopped) = channel();
            let (workspace, context) = (Arc::clone(&self.workspace), self.context.clone());
            let thread = std::thread::Builder::new();
            let run = move || mark_when_used(&workspace, &context, &stopped);
            watch.thread = Some(thread.spawn(run).map_err(|_| StateDirError::Io(Errno::AGAIN))?);
            watch.stop = Some(stop);
        } else {
            mark(&self.workspace, &self.context)?;
        }
        Ok(watch)
    }

    /// Writes nothing to a workspace that is still empty: the provider refused, and the next attempt must find the
    /// workspace as this one did.
    pub fn spare_empty(&self) {
        self.spare_empty.store(true, Ordering::SeqCst);
    }

    /// Writes a file of the iteration's records, and removes the oldest records of other iterations.
    pub fn write(&self, name: &str, parts: &[&[u8]]) -> Result<(), StateDirError> {
        if self.spare_empty.load(Ordering::SeqCst) && is_empty(&self.workspace)? {
            return Ok(());
        }
        // The agent left the workspace empty, was faster than the watch, or removed the marker.
        if !self.has_run() {
            mark(&self.workspace, &self.context)?;
        }
        let task = make(&folder(&self.workspace)?, task(&self.context).as_bytes())?;
        let iterations = make(&task, b"iterations")?;
        let folder = make(&iterations, iteration(&self.context).as_bytes())?;
        let written = write(&folder, name, parts);
        prune::transcripts(&iterations, &self.context);
        Ok(written?)
    }
}

impl Drop for MarkerWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn mark_when_used(workspace: &OwnedFd, context: &Context, stopped: &Receiver<()>) {
    while stopped.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
        if is_empty(workspace) == Ok(false) {
            if let Err(error) = mark(workspace, context) {
                secrets::log(format_args!("cannot mark this attempt as run before it ends: {error}"));
            }
            return;
        }
    }
}

/// Creates the marker. Fails if it exists.
fn mark(workspace: &OwnedFd, context: &Context) -> Result<(), StateDirError> {
    let ran = make(&folder(workspace)?, b"ran")?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&ran, marker(context), flags, Mode::from_raw_mode(0o644)) {
        Err(Errno::EXIST) => return Err(StateDirError::AlreadyRan),
        file => file?,
    };
    // The marker must survive a power failure. Errors of file systems that cannot sync are ignored.
    let _ = rustix::fs::fsync(&file);
    let _ = rustix::fs::fsync(&ran);
    prune::markers(&ran, context);
    Ok(())
}

/// Whether a workspace contains nothing.
fn is_empty(workspace: &OwnedFd) -> Result<bool, Errno> {
    match super::names(workspace, 0, usize::MAX) {
        Ok(names) => Ok(names.is_empty()),
        Err(Errno::FBIG) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Opens the folder. Creates it if it does not exist.
fn folder(workspace: &OwnedFd) -> Result<OwnedFd, StateDirError> {
    let folder = make(workspace, WORKSPACE_DIR.as_bytes())?;
    // It is missing if an older version or a person created the folder. A failure here is harmless.
    if kind(&folder, b".gitignore").is_none() {
        let _ = write(&folder, ".gitignore", &[b"*\n"]);
    }
    Ok(folder)
}

/// The name of the folder of a task's records. The task's name is for people; its uid makes the folder unique.
fn task(context: &Context) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' };
    let name: String = context.task.name.chars().take(63).map(plain).collect();
    format!("{name}-{}", context.task.uid)
}

/// The name of the folder of an iteration's records.
fn iteration(context: &Context) -> String {
    match context.attempt {
        0 => format!("{:04}", context.iteration),
        attempt => format!("{:04}-{attempt}", context.iteration),
    }
}

fn marker(context: &Context) -> String {
    format!("{}-{}-{}", context.task.uid, context.iteration, context.attempt)
}

/// Opens a folder. Creates it if it does not exist.
fn make(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(0o775);
    let created = rustix::fs::mkdirat(parent, name, mode);
    match created {
        Ok(()) | Err(Errno::EXIST) => {}
        // It exists on a read-only file system. A later write reports that.
        Err(errno) if kind(parent, name).is_none() => return Err(errno),
        Err(_) => {}
    }
    let folder = open_folder(parent, name)?;
    if created.is_ok() {
        // Set explicitly, whatever the umask: the next iteration may run as another user of the same group (fsGroup).
        let _ = rustix::fs::fchmod(&folder, mode);
    }
    Ok(folder)
}

fn write(folder: &OwnedFd, name: &str, parts: &[&[u8]]) -> Result<(), Errno> {
    // Always a new file, so that the runner does not write through a link or into a FIFO.
    let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644))?);
    let written = parts.iter().try_for_each(|part| file.write_all(part));
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
