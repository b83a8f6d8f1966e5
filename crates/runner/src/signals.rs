//! Turns signals into events, so that one loop sees signals, ended processes and closed pipes in order.
//!
//! SIGTERM and SIGINT are an order to stop only if the kubelet can have sent them. If the runner is process 1, an order
//! comes from outside its PID namespace, and the kernel shows such a sender as number 0. No process inside can imitate
//! that: the kernel itself fills in the sender of `kill`. Calls such as `sigqueue` may name any sender, but their
//! signal code gives them away. If the runner is not process 1 (`shareProcessNamespace`), the container runtime may
//! have a number, and every such signal is an order.

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

/// An event that the supervising loop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEvent {
    /// A child process may have ended.
    Child,
    /// The runner was ordered to stop, by this signal.
    Stop(i32),
    /// Any other signal that may come from outside.
    Other(i32),
    /// A signal from a process inside the container. It is for the agent only, and never an order to stop.
    Inside(i32),
    /// A pipe of the command with this process group has no writer anymore.
    Closed(i32),
}

/// Where events come from.
pub struct SignalEvents {
    /// The next event.
    pub receiver: Receiver<SignalEvent>,
    /// For the threads that read pipes.
    pub sender: Sender<SignalEvent>,
    /// The runner has received an order to stop.
    pub stopping: Arc<AtomicBool>,
}

/// Starts to listen. PID 1 does not ignore a caught signal, and the signal has its default action again in programs
/// that the runner executes.
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

/// Whether a process inside the PID namespace sent the signal, and not the kernel on behalf of the terminal.
fn is_from_inside(origin: &Origin) -> bool {
    origin.cause != Cause::Kernel && !from_outside(origin)
}

/// Whether a process outside the PID namespace sent the signal with `kill`.
fn from_outside(origin: &Origin) -> bool {
    origin.cause == Cause::Sent(Sent::User) && origin.process.is_some_and(|sender| sender.pid == 0)
}
