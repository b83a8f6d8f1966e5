//! Hands the report over: the container's termination message, written last and in place.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, atomic::Ordering},
};

use agentloop_contract::report::{End, Error, Report};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::{Pid, Signal},
};

use crate::{judge, process::RUNNING};

/// The limit until the context has told the real one: it fits a pod of eight containers.
const CAREFUL_LIMIT: usize = 1024;

/// Where the report goes, for the runner's last words too.
static TARGET: Mutex<Option<Target>> = Mutex::new(None);

#[derive(Clone)]
struct Target {
    file: PathBuf,
    limit: usize,
    report: Option<Report>,
}

fn target() -> Option<Target> {
    TARGET.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn update(change: impl FnOnce(&mut Target)) {
    if let Some(target) = TARGET.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        change(target);
    }
}

/// Sets where the report goes, and sees to it that a panic is reported as [`End::RunnerFailed`].
pub fn prepare(file: &Path) {
    let first = Target { file: file.to_owned(), limit: CAREFUL_LIMIT, report: None };
    *TARGET.lock().unwrap_or_else(PoisonError::into_inner) = Some(first);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        if let Some(group) = Pid::from_raw(RUNNING.load(Ordering::SeqCst)) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let known =
            target().and_then(|target| target.report).unwrap_or_else(|| Report::of(End::RunnerFailed));
        let at = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let error = Some(Error::new(&format!("RunnerFailed: internal error{at}")));
        hand_over(&Report { end: End::RunnerFailed, error, ..known });
        std::process::exit(judge::FAILED);
    }));
}

/// Sets the limit that the operator passed.
pub fn limit(bytes: usize) {
    update(|target| target.limit = bytes);
}

/// Keeps what is known so far, in case that the runner fails.
pub fn note(report: &Report) {
    update(|target| target.report = Some(report.clone()));
}

/// Writes the report, whole or not at all. What somebody else wrote there is gone in either case.
pub fn hand_over(report: &Report) {
    let Some(target) = target() else { return };
    let message = report.encode(target.limit);
    if message.is_none() {
        eprintln!("agentloop-runner: the report does not fit into {} bytes", target.limit);
    }
    if let Err(errno) = overwrite(&target.file, message.unwrap_or_default().as_bytes()) {
        eprintln!("agentloop-runner: {} cannot be written: {errno}", target.file.display());
    }
}

/// In place, because the kubelet mounts the file itself: it can be neither renamed nor replaced.
fn overwrite(file: &Path, message: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY
        | OFlags::TRUNC
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    let open = |flags| rustix::fs::open(file, flags, Mode::from_raw_mode(0o644));
    let file = match open(flags) {
        Err(Errno::NOENT) => open(flags | OFlags::CREATE)?,
        file => file?,
    };
    let mut rest = message;
    while !rest.is_empty() {
        match rustix::io::write(&file, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
