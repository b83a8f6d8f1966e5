//! Signals as events, so that one loop sees signals, ended processes and closed pipes in order.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use signal_hook::{
    consts::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH},
    iterator::Signals,
};

/// What the loop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A child has ended, or so it seems.
    Child,
    /// We were told to stop, by this signal.
    Stop(i32),
    /// Any other signal, which is the agent's.
    Other(i32),
    /// A pipe of the command with this process group has no writer any more.
    Closed(i32),
}

/// Where events come from.
pub struct Events {
    /// The next event.
    pub receiver: Receiver<Event>,
    /// For the threads that read pipes.
    pub sender: Sender<Event>,
    /// We were told to stop.
    pub stopping: Arc<AtomicBool>,
}

/// Begins to listen. A signal that is caught is not ignored by PID 1, and has its default again in what is executed.
pub fn listen() -> io::Result<Events> {
    let (sender, receiver) = channel();
    let stopping = Arc::new(AtomicBool::new(false));
    let mut signals =
        Signals::new([SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH])?;
    let (to, stop) = (sender.clone(), Arc::clone(&stopping));
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let event = match signal {
                SIGCHLD => Event::Child,
                SIGTERM | SIGINT => {
                    stop.store(true, Ordering::SeqCst);
                    Event::Stop(signal)
                }
                other => Event::Other(other),
            };
            if to.send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(Events { receiver, sender, stopping })
}
