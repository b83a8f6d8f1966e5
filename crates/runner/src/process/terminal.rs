//! The terminal of a container with `tty: true`.
//!
//! The agent has its own process group. If that is not the terminal's foreground group, the kernel stops the agent as
//! soon as it reads or configures the terminal. So the runner, which the container runtime made the leader of the
//! terminal's session, puts the agent into the foreground and takes the foreground back afterwards. Meanwhile the
//! runner is in the background. Its threads block SIGTTOU; otherwise they could neither write nor take the foreground
//! back.

use std::{fs::File, io};

use nix::{
    sys::signal::{SigSet, Signal as Blocked},
    unistd,
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process_group, waitid},
    termios::{tcgetpgrp, tcsetpgrp},
};

/// The controlling terminal, if the runner controls its foreground.
pub(super) struct Terminal {
    file: File,
}

impl Terminal {
    /// The terminal, if the runner leads its session and is in its foreground. Threads that are started from now on may
    /// write to it from the background.
    pub(super) fn open() -> Option<Self> {
        // A leader in an outer PID namespace has the number 0, which rustix does not expect.
        let leader = unistd::getsid(None).is_ok_and(|leader| leader == unistd::getpid());
        leader.then_some(())?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open("/dev/tty", flags, Mode::empty()).ok()?);
        // The leader of a session also leads its process group.
        (tcgetpgrp(&file) == Ok(getpid())).then_some(())?;
        background_output().thread_block().ok()?;
        Some(Self { file })
    }

    /// Puts a process group into the foreground. If it used the terminal earlier, the kernel has stopped it, and it is
    /// continued.
    pub(super) fn give(&self, group: Pid) {
        if tcsetpgrp(&self.file, group).is_ok() {
            let _ = kill_process_group(group, Signal::CONT);
        }
    }

    /// Continues the leader of the foreground group if the kernel stopped it for being in the background: it used the
    /// terminal at the moment when it was put into the foreground.
    pub(super) fn wake(&self, leader: Pid) {
        let stopped = waitid(WaitId::Pid(leader), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
        let signal = stopped.ok().flatten().and_then(|status| status.stopping_signal());
        let for_the_terminal =
            signal.is_some_and(|signal| [Signal::TTIN.as_raw(), Signal::TTOU.as_raw()].contains(&signal));
        if for_the_terminal && tcgetpgrp(&self.file) == Ok(leader) {
            let _ = kill_process_group(leader, Signal::CONT);
        }
    }

    /// Takes the foreground back.
    pub(super) fn take_back(&self) {
        let _ = tcsetpgrp(&self.file, getpid());
    }
}

/// Unblocks signals in the thread that starts a command, so that the command starts with no signal blocked.
pub(super) fn unblock() -> io::Result<()> {
    Ok(background_output().thread_unblock()?)
}

fn background_output() -> SigSet {
    SigSet::from(Blocked::SIGTTOU)
}
