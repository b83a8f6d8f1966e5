//! Orphaned processes: reaps those that end, and kills those that stay.

use std::{
    collections::{HashMap, HashSet},
    fmt, fs,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{
        Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, kill_process_group,
        test_kill_process, test_kill_process_group,
    },
};

use super::Status;

/// How long killed processes may take to disappear. One with much memory takes seconds; one that waits for a device may
/// stay forever.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same if only processes of other users are left. The runner cannot kill them, but they may end by themselves.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_secs(3);
/// How many surviving processes are named.
const NAMED: usize = 3;

/// Makes orphaned processes children of the runner. If it is PID 1, they are its children anyway.
pub(super) fn adopt_orphans() {
    if getpid() != Pid::INIT {
        let _ = rustix::process::set_child_subreaper(Some(getpid()));
    }
}

/// The leader's exit status, if it has ended. Also reaps every other process that has ended.
pub(super) fn reap(leader: Pid) -> Option<Status> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if let Ok(Some(status)) = rustix::process::waitid(WaitId::Pid(leader), options) {
        return Status::of(status.exit_status(), status.terminating_signal());
    }
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        // The leader ended between the two calls.
        if pid == leader {
            return Status::of(status.exit_status(), status.terminating_signal());
        }
    }
    None
}

/// Kills and reaps every process that the ended leader left. Returns those that survive.
pub(super) fn sweep(leader: Pid) -> Option<Survivors> {
    let begun = Instant::now();
    loop {
        let _ = kill_process_group(leader, Signal::KILL);
        if getpid() == Pid::INIT {
            // Every process except the runner.
            let _ = kill_process_group(Pid::INIT, Signal::KILL);
        } else {
            for process in others() {
                let _ = kill_process(process.pid, Signal::KILL);
            }
        }
        let children = loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Err(Errno::CHILD) => break false,
                _ => break true,
            }
        };
        if !children && alone() {
            return None;
        }
        let others = others();
        let foreign = |process: &OtherProcess| test_kill_process(process.pid) == Err(Errno::PERM);
        let foreign = !others.is_empty() && others.iter().all(foreign);
        if begun.elapsed() >= if foreign { PATIENCE_WITH_OTHERS } else { PATIENCE } {
            return Some(Survivors { foreign, others });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether no other process runs that the runner is responsible for. `/proc` alone is not enough, because it may hide
/// other users' processes.
fn alone() -> bool {
    let any = getpid() == Pid::INIT && test_kill_process_group(Pid::INIT) != Err(Errno::SRCH);
    !any && others().is_empty()
}

/// Processes that could not be killed.
#[derive(Debug, PartialEq, Eq)]
pub struct Survivors {
    foreign: bool,
    others: Vec<OtherProcess>,
}

impl fmt::Display for Survivors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.foreign { " of another user" } else { "" };
        write!(f, "processes{whose} could not be killed")?;
        for (number, process) in self.others.iter().take(NAMED).enumerate() {
            let OtherProcess { pid, parent, user, name } = process;
            let before = if number == 0 { ": " } else { ", " };
            write!(f, "{before}pid {}, uid {user}, \"{name}\"", pid.as_raw_nonzero())?;
            if *parent == 0 {
                write!(f, " (started from outside the container)")?;
            }
        }
        if let more @ 1.. = self.others.len().saturating_sub(NAMED) {
            write!(f, " and {more} more")?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct OtherProcess {
    pid: Pid,
    /// 0 if the parent is in another PID namespace.
    parent: i32,
    user: String,
    name: String,
}

/// All other processes if the runner is process 1, or else all its descendants. Those that have ended are left out.
fn others() -> Vec<OtherProcess> {
    let own = getpid().as_raw_nonzero().get();
    // The /proc of another PID namespace has other numbers, and killing by them would hit unrelated processes.
    if fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok()) != Some(own) {
        return Vec::new();
    }
    let mut all: Vec<OtherProcess> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let status = fs::read(entry.path().join("status")).unwrap_or_default();
        let process = Pid::from_raw(pid).zip(parse(&String::from_utf8_lossy(&status)));
        if let Some((pid, (parent, user, name))) = process.filter(|(other, _)| *other != getpid()) {
            all.push(OtherProcess { pid, parent, user, name });
        }
    }
    if getpid() == Pid::INIT {
        return all;
    }
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in &all {
        children.entry(process.parent).or_default().push(process.pid.as_raw_nonzero().get());
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
    all.retain(|process| found.contains(&process.pid.as_raw_nonzero().get()));
    all
}

/// Parent, user and name of a process that has not ended, from its `/proc/PID/status`. Each is on a line of its own,
/// and a newline in a name is escaped.
fn parse(status: &str) -> Option<(i32, String, String)> {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    if field("State")?.starts_with(['Z', 'X']) {
        return None;
    }
    let user = field("Uid")?.split_whitespace().next()?;
    Some((field("PPid")?.parse().ok()?, user.to_owned(), field("Name")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surviving_processes_are_named_within_bounds() {
        let process = |pid, parent| OtherProcess {
            pid: Pid::from_raw(pid).expect("a number"),
            parent,
            user: "0".to_owned(),
            name: "sleep".to_owned(),
        };
        let others = vec![process(7, 1), process(8, 0)];
        assert_eq!(
            Survivors { foreign: true, others }.to_string(),
            "processes of another user could not be killed: pid 7, uid 0, \"sleep\", pid 8, uid 0, \"sleep\" (started from \
             outside the container)"
        );
        let others = (2..100).map(|pid| process(pid, 1)).collect();
        let words = Survivors { foreign: false, others }.to_string();
        assert!(words.len() < 200 && words.ends_with(" and 95 more"), "{words}");
        assert_eq!(
            Survivors { foreign: false, others: Vec::new() }.to_string(),
            "processes could not be killed"
        );
    }

    #[test]
    fn a_process_that_has_ended_does_not_count() {
        let status = "Name:\ta (b)\\n\nUmask:\t0022\nState:\tS (sleeping)\nPPid:\t4\nUid:\t1000\t0\t0\t0\n";
        assert_eq!(parse(status), Some((4, "1000".to_owned(), "a (b)\\n".to_owned())));
        assert_eq!(parse(&status.replace("S (sl", "Z (zo")), None);
        assert_eq!(parse("Name: x"), None);
    }
}
