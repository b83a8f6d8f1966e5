//! Writes the report: the container's termination message, written last and in place.
//!
//! The report is signed with the key of its pod, if there is one. Nothing signed leaves the runner before this last
//! write: facts that are noted earlier stay in memory, and the report of a failing runner decides nothing. So an agent
//! that ends its runner early finds no signed report to leave behind.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
};

use agentloop_contract::{
    exit_code,
    report::{End, Error, Report},
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal},
};

use crate::{lock, process::RUNNING, secrets};

/// The limit until the context is read. It fits a pod of eight containers.
const CAREFUL_LIMIT: usize = 1024;

/// Where the report is written to; also used when the runner panics.
static TARGET: Mutex<Option<Target>> = Mutex::new(None);

#[derive(Clone)]
struct Target {
    file: Arc<File>,
    key: Option<Arc<[u8]>>,
    limit: usize,
    report: Option<Report>,
}

fn target() -> Option<Target> {
    lock(&TARGET).clone()
}

fn update(change: impl FnOnce(&mut Target)) {
    if let Some(target) = lock(&TARGET).as_mut() {
        change(target);
    }
}

/// Sets where the report is written to and what signs it, and reports a panic as [`End::RunnerFailed`].
///
/// The file is opened before the agent runs and stays open. Otherwise an agent could make it read-only, or leave the
/// runner no file descriptor to open it with (`prlimit` requires only the same user), so that its own text stays there.
pub fn prepare(file: &Path, key: Option<&[u8]>) -> io::Result<()> {
    let first =
        Target { file: Arc::new(open(file)?), key: key.map(Arc::from), limit: CAREFUL_LIMIT, report: None };
    *lock(&TARGET) = Some(first);
    std::panic::set_hook(Box::new(move |panic| {
        secrets::log(panic);
        if let Some(group) = Pid::from_raw(RUNNING.load(Ordering::SeqCst)) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let known =
            target().and_then(|target| target.report).unwrap_or_else(|| Report::of(End::RunnerFailed));
        let at = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        hand_over(&failed(&known, &format!("internal error{at}")));
        std::process::exit(exit_code::RUNNER_FAILED);
    }));
    Ok(())
}

/// Sets the size limit that the operator passed.
pub fn limit(bytes: usize) {
    update(|target| target.limit = bytes);
}

/// The report of an iteration that cannot be evaluated. Of the known facts it keeps only those that decide nothing.
pub fn failed(known: &Report, why: &str) -> Report {
    Report {
        error: Some(Error::new(&format!("RunnerFailed: {why}"))),
        started_at: known.started_at,
        finished_at: known.finished_at,
        usage: known.usage.clone(),
        fingerprint_before: known.fingerprint_before.clone(),
        ..Report::of(End::RunnerFailed)
    }
}

/// Keeps the facts known so far in memory, in case the runner fails.
pub fn note(report: &Report) {
    update(|target| target.report = Some(report.clone()));
}

/// Writes the report, complete or not at all, and without credentials. Whatever another program wrote there is removed.
pub fn hand_over(report: &Report) {
    let Some(target) = target() else { return };
    let mut report = report.clone();
    secrets::own().report(&mut report);
    let message = report.encode(target.limit, target.key.as_deref());
    if message.is_none() {
        secrets::log(format_args!("the report does not fit into {} bytes", target.limit));
    }
    if let Err(error) = overwrite(&target.file, message.unwrap_or_default().as_bytes()) {
        secrets::log(format_args!("cannot write the report: {error}"));
    }
}

fn open(file: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(file, flags, Mode::from_raw_mode(0o644))?))
}

/// Writes in place, because the kubelet mounts the file itself, so it can be neither renamed nor replaced.
fn overwrite(file: &File, message: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    let written = file.write_all_at(message, 0);
    if written.is_err() {
        file.set_len(0)?;
    }
    written
}
