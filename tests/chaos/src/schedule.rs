//! Which faults of a plan are due: it counts requests and compares the counts with the plan's moments.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time;

use crate::classify::RequestClass;
use crate::plan::{InjectedFault, Moment, PlannedFault, RequestKind};

/// The faults of a plan, and the requests so far.
pub struct Schedule {
    faults: Mutex<Vec<(PlannedFault, bool)>>,
    counts: Mutex<HashMap<RequestKind, u32>>,
    writes: watch::Sender<u32>,
}

impl Schedule {
    /// A schedule of these faults, before the first request.
    pub fn new(faults: &[PlannedFault]) -> Self {
        let faults = faults.iter().map(|planned| (planned.clone(), false)).collect();
        Self { faults: Mutex::new(faults), counts: Mutex::default(), writes: watch::channel(0).0 }
    }

    /// Counts a request. Returns its kinds, and its number within each kind.
    pub fn count(&self, class: &RequestClass) -> Vec<(RequestKind, u32)> {
        let mut counts = self.counts.lock();
        let mut numbers = Vec::new();
        for kind in class.kinds() {
            let count = counts.entry(kind).or_default();
            *count += 1;
            numbers.push((kind, *count));
            if kind == RequestKind::Write {
                self.writes.send_replace(*count);
            }
        }
        numbers
    }

    /// The faults whose moment is reached; each is returned once.
    pub fn due(&self, reached: impl Fn(Moment) -> bool) -> Vec<InjectedFault> {
        let mut faults = self.faults.lock();
        let due = faults.iter_mut().filter(|(planned, happened)| !*happened && reached(planned.at));
        due.map(|(planned, happened)| {
            *happened = true;
            planned.fault.clone()
        })
        .collect()
    }

    /// For each planned fault, whether it happened.
    pub fn happened(&self) -> Vec<bool> {
        self.faults.lock().iter().map(|(_, happened)| *happened).collect()
    }

    /// How many writes the operators have sent.
    pub fn writes(&self) -> u32 {
        *self.writes.borrow()
    }

    /// Waits for this many more writes, at most for `limit`.
    pub async fn more_writes(&self, count: u32, limit: Duration) {
        let mut writes = self.writes.subscribe();
        let target = *writes.borrow() + count;
        drop(time::timeout(limit, writes.wait_for(|sent| *sent >= target)).await);
    }
}
