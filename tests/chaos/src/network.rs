//! The network between the operators and the API server, and its faults.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{self, Instant};

/// The state of the network of one plan.
pub struct Network {
    watches: watch::Sender<WatchFaults>,
    down_until: Mutex<Option<Instant>>,
}

/// The faults of watches.
#[derive(Clone, Copy, Debug)]
struct WatchFaults {
    /// How often the watches of the operator with this index were cut.
    cuts: [u64; 2],
    /// Whether the last cut ends watches with 410 Gone.
    expired: bool,
    /// All lines are delayed until then.
    late_until: Option<Instant>,
    /// Each line is delayed by this duration.
    delay: Duration,
}

impl Default for Network {
    fn default() -> Self {
        let none = WatchFaults { cuts: [0; 2], expired: false, late_until: None, delay: Duration::ZERO };
        Self { watches: watch::channel(none).0, down_until: Mutex::default() }
    }
}

impl Network {
    /// Ends every open watch, with 410 Gone if `expired`.
    pub fn cut_watches(&self, expired: bool) {
        self.watches.send_modify(|faults| {
            faults.expired = expired;
            faults.cuts.iter_mut().for_each(|cuts| *cuts += 1);
        });
    }

    /// Ends the watches of one operator, and delays all lines of watches for the time `late`.
    pub fn cut_watches_of(&self, index: usize, late: Option<Duration>) {
        self.watches.send_modify(|faults| {
            faults.cuts.iter_mut().skip(index).take(1).for_each(|cuts| *cuts += 1);
            if let Some(late) = late {
                faults.late_until = Some(Instant::now() + late);
            }
        });
    }

    /// Delays every line of every watch from now on.
    pub fn delay_watches(&self, delay: Duration) {
        self.watches.send_modify(|faults| faults.delay = delay);
    }

    /// Blocks all traffic for this long.
    pub fn take_down(&self, length: Duration) {
        *self.down_until.lock() = Some(Instant::now() + length);
        self.cut_watches(false);
    }

    /// Whether all traffic is blocked now.
    pub fn is_down(&self) -> bool {
        self.down_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// The connection of a watch that starts now.
    pub fn connect_watch(&self, index: usize) -> WatchConnection {
        let watches = self.watches.subscribe();
        let cuts = watches.borrow().cuts.get(index).copied().unwrap_or_default();
        WatchConnection { index, cuts, watches }
    }
}

/// The connection of one watch.
pub struct WatchConnection {
    index: usize,
    cuts: u64,
    watches: watch::Receiver<WatchFaults>,
}

impl WatchConnection {
    /// Waits until the connection is cut.
    pub async fn cut(&mut self) {
        let (index, cuts) = (self.index, self.cuts);
        let is_cut = |faults: &WatchFaults| faults.cuts.get(index).is_some_and(|current| *current != cuts);
        // An error means that the plan is over.
        drop(self.watches.wait_for(is_cut).await);
    }

    /// Whether the last cut ends watches with 410 Gone.
    pub fn has_expired(&self) -> bool {
        self.watches.borrow().expired
    }

    /// Waits as long as a line that has just arrived is delayed.
    pub fn delay(&self) -> impl Future<Output = ()> + 'static {
        let faults = *self.watches.borrow();
        async move {
            if let Some(until) = faults.late_until {
                time::sleep_until(until).await;
            }
            if !faults.delay.is_zero() {
                time::sleep(faults.delay).await;
            }
        }
    }
}
