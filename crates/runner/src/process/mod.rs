//! Runs a command: passes its output and signals through, stops it in time, and leaves none of its processes behind.
//!
//! The command leads its own process group. When it has ended, the processes that it left are killed: in a container
//! the kernel would do the same when PID 1 ends, and nothing may write to the workspace while its fingerprint is taken.

mod launch;
mod sweep;
mod terminal;

use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI32, AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
pub use launch::LaunchOptions;
use rustix::process::{Pid, Signal};
pub use sweep::Survivors;
use terminal::Terminal;

use crate::{
    lock,
    output::{OutputCollector, OutputSummary},
    signals::{SignalEvent, SignalEvents},
};

/// How long processes that the agent left may keep the pipes open before they are killed.
const LINGER: Duration = Duration::from_secs(2);
/// How long to wait for the rest of the output when no process writes anymore and no byte moves.
const STALLED: Duration = Duration::from_secs(10);
/// The same, if the runner has received an order to stop.
const STALLED_WHEN_STOPPING: Duration = Duration::from_secs(2);
/// The longest wait for an event, because a signal may be lost.
const POLL: Duration = Duration::from_secs(1);

/// Process group of the running command, or 0. A runner that panics kills it.
pub static RUNNING: AtomicI32 = AtomicI32::new(0);

/// How a command is run.
#[derive(Clone, Copy, Debug)]
pub struct CommandOptions {
    /// The time after which it is stopped.
    pub timeout: Duration,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Whether an order to stop is passed on to it. Otherwise it may continue for the grace period, to finish if it
    /// can.
    pub pass_stop: bool,
    /// How long it may stay silent after the final event of its own stream before it is stopped. `None` means forever.
    pub exit_grace: Option<Duration>,
    /// How it is started.
    pub launch: LaunchOptions,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Status {
    /// The status of a process that exited with a code or was killed by a signal; `None` if it has not ended.
    fn of(code: Option<i32>, signal: Option<i32>) -> Option<Self> {
        code.map(Self::Exited).or_else(|| signal.map(Self::Killed))
    }
}

/// A command that has ended.
pub struct EndedCommand {
    /// Its exit status.
    pub status: Status,
    /// The runner stopped it at its timeout.
    pub timed_out: bool,
    /// The output up to then, if the runner stopped it after the final event of its stream, because it stayed silent or
    /// reached its timeout. Its exit status then means nothing.
    pub finished: Option<OutputSummary>,
    /// The runner received an order to stop before the command had ended and before its timeout.
    pub interrupted: bool,
    /// What it printed.
    pub output: Arc<Mutex<OutputCollector>>,
    /// Processes of it that could not be killed. They may have caused anything that the runner observes afterwards.
    pub survivors: Option<Survivors>,
}

/// Runs commands, one after the other.
pub struct Supervisor {
    events: SignalEvents,
    terminal: Option<Terminal>,
}

/// Whether the command runs, or is being stopped.
#[derive(Clone, Copy)]
enum SupervisionPhase {
    Running { until: Option<Instant> },
    Stopping { kill: Instant },
}

impl Supervisor {
    /// Takes over the events, and adopts orphaned processes.
    pub fn new(events: SignalEvents) -> Self {
        sweep::adopt_orphans();
        Self { events, terminal: Terminal::open() }
    }

    /// Whether the runner has received an order to stop.
    pub fn stopping(&self) -> bool {
        self.events.stopping.load(Ordering::SeqCst)
    }

    /// The flag behind [`Self::stopping`].
    pub fn stop_flag(&self) -> &std::sync::atomic::AtomicBool {
        &self.events.stopping
    }

    /// Runs a command until all of its processes that can be killed are gone. An error means that it was not executed.
    pub fn run(&self, mut command: Command, options: CommandOptions) -> io::Result<EndedCommand> {
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Drops signals that were meant for an earlier command, except for an order to stop.
        let pending: Vec<SignalEvent> = self.events.receiver.try_iter().collect();
        for order in pending.into_iter().filter(|event| matches!(event, SignalEvent::Stop(_))) {
            let _ = self.events.sender.send(order);
        }
        let mut child = launch::spawn(&mut command, options.launch)?;
        let leader =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let pumps = Pumps { group: leader.as_raw_nonzero().get(), ..Pumps::default() };
        RUNNING.store(pumps.group, Ordering::SeqCst);
        self.terminal.iter().for_each(|terminal| terminal.give(leader));
        if let Some(pipe) = child.stdout.take() {
            pumps.start(pipe, io::stdout, OutputCollector::stdout, self.events.sender.clone());
        }
        if let Some(pipe) = child.stderr.take() {
            pumps.start(pipe, io::stderr, OutputCollector::stderr, self.events.sender.clone());
        }
        let mut ended = EndedCommand {
            status: Status::Exited(0),
            timed_out: false,
            finished: None,
            interrupted: false,
            output: Arc::clone(&pumps.output),
            survivors: None,
        };
        let mut closed = 0;
        ended.status = self.supervise(leader, options, &pumps, &mut ended, &mut closed);
        if !(ended.timed_out || ended.finished.is_some() || self.stopping()) {
            self.drain(&mut closed, Some(Instant::now() + LINGER), &pumps);
        }
        ended.survivors = sweep::sweep(leader);
        RUNNING.store(0, Ordering::SeqCst);
        self.terminal.iter().for_each(Terminal::take_back);
        self.drain(&mut closed, None, &pumps);
        Ok(ended)
    }

    /// Waits until the leader has ended. It stays a zombie, so that the number of its group is not reused.
    fn supervise(
        &self,
        leader: Pid,
        options: CommandOptions,
        pumps: &Pumps,
        ended: &mut EndedCommand,
        closed: &mut u32,
    ) -> Status {
        // An error means that the group no longer exists.
        let signal = |signal| _ = rustix::process::kill_process_group(leader, signal);
        let now = Instant::now();
        let mut phase = SupervisionPhase::Running { until: now.checked_add(options.timeout) };
        let mut silent = Silent { since: now, bytes: 0 };
        if self.stopping() && !options.pass_stop {
            ended.interrupted = true;
            phase = SupervisionPhase::Stopping { kill: now + options.grace };
        }
        loop {
            if let Some(status) = sweep::reap(leader) {
                return status;
            }
            let now = Instant::now();
            let due = match phase {
                SupervisionPhase::Running { until } => {
                    let end = options.exit_grace.and_then(|grace| silent.until(pumps, now, grace));
                    until.into_iter().chain(end).min().unwrap_or(now + POLL)
                }
                SupervisionPhase::Stopping { kill } => kill,
            };
            if now >= due {
                phase = if let SupervisionPhase::Running { .. } = phase {
                    ended.finished = options.exit_grace.and_then(|_| pumps.finished());
                    ended.timed_out = ended.finished.is_none();
                    signal(Signal::TERM);
                    SupervisionPhase::Stopping { kill: now + options.grace }
                } else {
                    signal(Signal::KILL);
                    // Once more later, because a process may have joined the group meanwhile.
                    SupervisionPhase::Stopping { kill: now + POLL }
                };
                continue;
            }
            match self.events.receiver.recv_timeout(POLL.min(due - now)) {
                Ok(SignalEvent::Stop(number)) => {
                    // It may have ended first. Then it was not interrupted.
                    if let Some(status) = sweep::reap(leader) {
                        return status;
                    }
                    if options.pass_stop {
                        pass(leader, number);
                    }
                    if let SupervisionPhase::Running { .. } = phase {
                        ended.interrupted = true;
                        phase = SupervisionPhase::Stopping { kill: Instant::now() + options.grace };
                    }
                }
                Ok(SignalEvent::Other(number)) => pass(leader, number),
                Ok(SignalEvent::Inside(number)) if options.pass_stop => pass(leader, number),
                Ok(SignalEvent::Closed(group)) => {
                    *closed += u32::from(group == leader.as_raw_nonzero().get());
                }
                Ok(SignalEvent::Child | SignalEvent::Inside(_)) | Err(RecvTimeoutError::Timeout) => {
                    self.terminal.iter().for_each(|terminal| terminal.wake(leader));
                }
                // Cannot happen, because this supervisor has a sender itself.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(POLL),
            }
        }
    }

    /// Waits until both pipes are closed, the deadline passes, or nothing moves anymore.
    fn drain(&self, closed: &mut u32, deadline: Option<Instant>, pumps: &Pumps) {
        let mut moved = (Instant::now(), pumps.bytes());
        while *closed < 2 {
            let now = Instant::now();
            if pumps.bytes() != moved.1 {
                moved = (now, pumps.bytes());
            }
            let stalled = if self.stopping() { STALLED_WHEN_STOPPING } else { STALLED };
            if deadline.is_some_and(|deadline| now >= deadline) || now >= moved.0 + stalled {
                return;
            }
            // A short wait, because neither a stop nor the progress of a pipe is an event here. Pipes of an earlier
            // command do not count.
            if self.events.receiver.recv_timeout(Duration::from_millis(50))
                == Ok(SignalEvent::Closed(pumps.group))
            {
                *closed += 1;
            }
        }
    }
}

/// Since when nothing has been printed.
struct Silent {
    since: Instant,
    bytes: u64,
}

impl Silent {
    /// When a command that has printed its final event will have been silent for long enough.
    fn until(&mut self, pumps: &Pumps, now: Instant, grace: Duration) -> Option<Instant> {
        if pumps.bytes() != self.bytes {
            *self = Self { since: now, bytes: pumps.bytes() };
        }
        pumps.output().has_ended().and_then(|_| self.since.checked_add(grace))
    }
}

fn pass(leader: Pid, number: i32) {
    if let Some(signal) = Signal::from_named_raw(number) {
        // The group may no longer exist.
        let _ = rustix::process::kill_process_group(leader, signal);
    }
}

/// The threads that pass output through.
#[derive(Default)]
struct Pumps {
    group: i32,
    output: Arc<Mutex<OutputCollector>>,
    bytes: Arc<AtomicU64>,
}

impl Pumps {
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn output(&self) -> MutexGuard<'_, OutputCollector> {
        lock(&self.output)
    }

    /// The summary of the output, if it contains the final event.
    fn finished(&self) -> Option<OutputSummary> {
        let output = self.output().summary(Timestamp::now());
        output.ended.is_some().then_some(output)
    }

    /// Passes the bytes of a pipe through, unchanged and immediately, and hands them to `keep`.
    fn start<W: Write + 'static>(
        &self,
        mut pipe: impl Read + Send + 'static,
        to: fn() -> W,
        keep: fn(&mut OutputCollector, &[u8]),
        events: Sender<SignalEvent>,
    ) {
        let (group, output, bytes) = (self.group, Arc::clone(&self.output), Arc::clone(&self.bytes));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            let mut open = true;
            loop {
                let piece = match pipe.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => buffer.get(..length).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => break,
                };
                keep(&mut lock(&output), piece);
                bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
                // If nothing reads the runner's output anymore, the agent must not notice.
                open = open && {
                    let mut to = to();
                    to.write_all(piece).and_then(|()| to.flush()).is_ok()
                };
            }
            let _ = events.send(SignalEvent::Closed(group));
        });
    }
}
