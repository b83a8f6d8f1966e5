//! Signals as events, so that one loop sees signals, ended processes and closed pipes in order.
//!
//! A polite stop is an order of the kubelet's only where the kubelet can have sent it. Where the runner is process 1, an
//! order comes from outside its PID namespace, and the kernel shows such a sender as number 0. Nothing inside can look
//! like that: the kernel fills in the sender of `kill`, and refuses to have it filled in by others. `sigqueue` and its
//! kin may name any sender, but show by their code what they are. Where the runner is not process 1
//! (`shareProcessNamespace`), the container runtime may be seen with a number, and every stop is an order.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use rustix::process::{Pid, getpid};
use signal_hook::{
    consts::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH},
    iterator::{SignalsInfo, exfiltrator::WithOrigin},
    low_level::siginfo::{Cause, Origin, Sent},
};

/// What the loop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEvent {
    /// A child has ended, or so it seems.
    Child,
    /// We were ordered to stop, by this signal.
    Stop(i32),
    /// Any other signal that may come from outside.
    Other(i32),
    /// A signal that comes from what the runner started, which is the agent's alone; a polite stop is no order then.
    Inside(i32),
    /// A pipe of the command with this process group has no writer any more.
    Closed(i32),
}

/// Where events come from.
pub struct SignalEvents {
    /// The next event.
    pub receiver: Receiver<SignalEvent>,
    /// For the threads that read pipes.
    pub sender: Sender<SignalEvent>,
    /// We were told to stop.
    pub stopping: Arc<AtomicBool>,
}

/// Begins to listen. A signal that is caught is not ignored by PID 1, and has its default again in what is executed.
pub fn listen() -> io::Result<SignalEvents> {
    let (sender, receiver) = channel();
    let stopping = Arc::new(AtomicBool::new(false));
    let mut signals = SignalsInfo::<WithOrigin>::new([
        SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
    ])?;
    let first = getpid() == Pid::INIT;
    let (to, stop) = (sender.clone(), Arc::clone(&stopping));
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for origin in signals.forever() {
            let event = match origin.signal {
                SIGCHLD => SignalEvent::Child,
                signal if first && is_from_inside(&origin) => SignalEvent::Inside(signal),
                signal @ (SIGTERM | SIGINT) if !first || from_outside(&origin) => {
                    stop.store(true, Ordering::SeqCst);
                    SignalEvent::Stop(signal)
                }
                other => SignalEvent::Other(other),
            };
            if to.send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(SignalEvents { receiver, sender, stopping })
}

/// Whether neither a process outside our PID namespace nor the kernel, for the terminal, sent the signal.
fn is_from_inside(origin: &Origin) -> bool {
    origin.cause != Cause::Kernel && !from_outside(origin)
}

/// Whether a process outside our PID namespace sent the signal, by `kill`.
fn from_outside(origin: &Origin) -> bool {
    origin.cause == Cause::Sent(Sent::User) && origin.process.is_some_and(|sender| sender.pid == 0)
}
