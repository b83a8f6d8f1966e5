//! Orphans: reaping those that end, killing those that stay.

use std::{
    collections::{HashMap, HashSet},
    fs,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, kill_process_group},
};

use super::Status;

/// How long killed processes may take to be gone. One that waits for a device, or runs as another user, may stay.
const PATIENCE: Duration = Duration::from_secs(3);

/// Orphans become children of ours, as they are of PID 1 anyway.
pub(super) fn adopt_orphans() {
    if getpid() != Pid::INIT {
        let _ = rustix::process::set_child_subreaper(Some(getpid()));
    }
}

/// How the leader ended, if it has; meanwhile reaps everything else that has ended.
pub(super) fn reap(leader: Pid) -> Option<Status> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if let Ok(Some(status)) = rustix::process::waitid(WaitId::Pid(leader), options) {
        return match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(Status::Exited(code)),
            (_, Some(signal)) => Some(Status::Killed(signal)),
            _ => None,
        };
    }
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        // It ended between the two calls.
        if pid == leader {
            return match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Some(Status::Exited(code)),
                (_, Some(signal)) => Some(Status::Killed(signal)),
                _ => None,
            };
        }
    }
    None
}

/// Kills and reaps everything that the ended leader left behind.
pub(super) fn sweep(leader: Pid) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let _ = kill_process_group(leader, Signal::KILL);
        if getpid() == Pid::INIT {
            // Everything but ourselves.
            let _ = kill_process_group(Pid::INIT, Signal::KILL);
        } else {
            for pid in descendants() {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Err(Errno::CHILD) => return,
                _ => break,
            }
        }
        if Instant::now() >= deadline {
            eprintln!("agentloop-runner: processes that the command left behind could not be killed");
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Our children, their children, and so on.
fn descendants() -> Vec<Pid> {
    let own = getpid().as_raw_nonzero().get();
    // A /proc of another PID namespace has other numbers: killing by them would hit strangers.
    if fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok()) != Some(own) {
        return Vec::new();
    }
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // "pid (name) state ppid …", where the name may hold anything, brackets too.
        let stat = fs::read(entry.path().join("stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat).into_owned();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = HashSet::new();
    let mut next = vec![own];
    while let Some(pid) = next.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                next.push(*child);
            }
        }
    }
    found.into_iter().filter_map(Pid::from_raw).collect()
}
