//! The bounds of a walk over the workspace: time, entries and memory. Shared by its threads.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::lock;

/// The limits of one walk.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// Wall clock.
    pub time: Duration,
    /// Files and folders.
    pub entries: usize,
    /// About how much memory names, patterns and lists of tracked files may take.
    pub bytes: usize,
    /// How many files and folders are kept, to name those that changed.
    pub kept: usize,
    /// Set by an order to stop. The walk then gives up soon.
    pub stop: Option<&'a AtomicBool>,
    /// How long the walk may continue after that order.
    pub after_stop: Duration,
}

impl Default for Limits<'_> {
    fn default() -> Self {
        Self {
            time: Duration::from_mins(2),
            entries: 2_000_000,
            bytes: 512 << 20,
            kept: 200_000,
            stop: None,
            after_stop: Duration::ZERO,
        }
    }
}

/// The limits of one walk, and how much of them is used up.
pub(super) struct Bounds<'a> {
    pub(super) limits: Limits<'a>,
    deadline: Option<Instant>,
    pub(super) count: AtomicUsize,
    pub(super) bytes: AtomicUsize,
    given_up: AtomicBool,
    why: Mutex<Option<String>>,
    /// When the stop was noticed.
    stopped: OnceLock<Instant>,
}

impl<'a> Bounds<'a> {
    /// Starts the clock.
    pub(super) fn new(limits: Limits<'a>) -> Self {
        Self {
            limits,
            deadline: Instant::now().checked_add(limits.time),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            given_up: AtomicBool::new(false),
            why: Mutex::new(None),
            stopped: OnceLock::new(),
        }
    }

    /// Ends the walk. The first reason is kept.
    pub(super) fn give_up(&self, why: &str) {
        lock(&self.why).get_or_insert_with(|| why.to_owned());
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Counts an entry, and returns how many came before it.
    pub(super) fn count(&self) -> usize {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        if count >= self.limits.entries {
            self.give_up(&format!("more than {} files", self.limits.entries));
        }
        count
    }

    /// Counts bytes that are kept in memory, and returns whether they are within the limit. Bytes that are freed later
    /// still count, so the memory in use is never above the limit.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let reserved = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if reserved > self.limits.bytes {
            self.give_up(&format!("names and patterns take more than {} MiB", self.limits.bytes >> 20));
        }
        reserved <= self.limits.bytes
    }

    /// How many more bytes may be kept.
    pub(super) fn room(&self) -> usize {
        self.limits.bytes.saturating_sub(self.bytes.load(Ordering::Relaxed))
    }

    /// Whether the walk may continue.
    pub(super) fn may_continue(&self) -> bool {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.give_up(&format!("not finished within {} s", self.limits.time.as_secs()));
        }
        if self.limits.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
            && self.stopped.get_or_init(Instant::now).elapsed() >= self.limits.after_stop
        {
            self.give_up("the pod is being stopped");
        }
        !self.given_up.load(Ordering::Relaxed)
    }

    /// Why the walk was ended early; `None` if it was not.
    pub(super) fn why(self) -> Option<String> {
        self.why.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
