//! The queue of objects to reconcile: each object is in it at most once, and is reconciled by one worker at a time.
//!
//! Why not kube's `Controller`: with a limit on concurrency, it takes waiting objects in no particular order, so that
//! among many busy tasks one may never get to run. Without a limit, every waiting object counts as running and is polled
//! again and again: with 1,000 busy tasks, this took a quarter of the operator's CPU. Nor does it know what is urgent:
//! after a restart, a pod that ended in the meantime waited behind thousands of tasks with nothing to do.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::time::{DelayQueue, delay_queue};

/// How soon an object is reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// Most likely there is nothing to do, as for most objects after a restart.
    Normal,
    /// Something has changed.
    High,
}

/// Of so many objects, one comes from those of normal priority if there is one: they must not wait forever.
const NORMAL_SHARE: u32 = 8;

/// An object that is due later than this is reconciled after this time, for nothing: timers have a longest delay.
const MAX_DELAY: Duration = Duration::from_hours(24);

/// Where objects are added to a queue. A clone adds to the same queue.
#[derive(Debug)]
pub(super) struct QueueSender<K>(UnboundedSender<(K, Priority)>);

impl<K> Clone for QueueSender<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> QueueSender<K> {
    /// Adds an object. If it waits already, it keeps its place or gets the better one.
    pub(super) fn add(&self, key: K, priority: Priority) {
        // The receiver is gone only if the process stops.
        let _ = self.0.send((key, priority));
    }
}

/// What [`work_off`] takes objects from.
pub(super) type QueueReceiver<K> = UnboundedReceiver<(K, Priority)>;

/// A new queue.
pub(super) fn queue<K>() -> (QueueSender<K>, QueueReceiver<K>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (QueueSender(sender), receiver)
}

/// A reconcile panicked outside of the code that catches panics.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker panicked")]
pub(super) struct WorkerPanicked;

/// Reconciles the objects of a queue, `workers` at a time, until `stop` is cancelled; then waits for those that are being
/// reconciled. `reconcile` returns when its object is reconciled again, unless something changes before.
pub(super) async fn work_off<K, F>(
    mut added: QueueReceiver<K>,
    workers: usize,
    stop: CancellationToken,
    reconcile: impl Fn(K) -> F,
) -> Result<(), WorkerPanicked>
where
    K: Clone + Eq + Hash + Send + 'static,
    F: Future<Output = Option<Duration>> + Send + 'static,
{
    let mut waiting = WaitingLine::<K>::default();
    let mut delayed = Delayed::<K>::default();
    let mut running = JoinSet::new();
    loop {
        while running.len() < workers
            && let Some(key) = waiting.take()
        {
            // The reconcile decides when the next one is due.
            delayed.cancel(&key);
            let work = reconcile(key.clone());
            running.spawn(async move { (key, work.await) });
        }
        tokio::select! {
            () = stop.cancelled() => break,
            Some((key, priority)) = added.recv() => waiting.add(key, priority),
            Some(key) = delayed.next() => waiting.add(key, Priority::Normal),
            Some(ended) = running.join_next() => {
                let (key, requeue_after) = ended.map_err(|_| WorkerPanicked)?;
                // If it was added in the meantime, it is reconciled again immediately.
                if !waiting.finish(&key) && let Some(delay) = requeue_after {
                    delayed.insert(key, delay);
                }
            }
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(|_| WorkerPanicked)?;
    }
    Ok(())
}

/// The objects that wait, in order, and those that are being reconciled.
struct WaitingLine<K> {
    high: VecDeque<K>,
    normal: VecDeque<K>,
    objects: HashMap<K, Place>,
    taken: u32,
}

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waits(Priority),
    /// It is being reconciled, and is reconciled again with this priority after that.
    Running(Option<Priority>),
}

impl<K> Default for WaitingLine<K> {
    fn default() -> Self {
        Self { high: VecDeque::new(), normal: VecDeque::new(), objects: HashMap::new(), taken: 0 }
    }
}

impl<K: Clone + Eq + Hash> WaitingLine<K> {
    fn add(&mut self, key: K, priority: Priority) {
        match self.objects.get_mut(&key) {
            Some(Place::Running(again)) => *again = (*again).max(Some(priority)),
            Some(Place::Waits(old)) if *old >= priority => {}
            // Its old entry is skipped when its turn comes.
            _ => {
                self.objects.insert(key.clone(), Place::Waits(priority));
                self.line(priority).push_back(key);
            }
        }
    }

    fn line(&mut self, priority: Priority) -> &mut VecDeque<K> {
        match priority {
            Priority::High => &mut self.high,
            Priority::Normal => &mut self.normal,
        }
    }

    /// The next object: it counts as running until [`Self::finish`].
    fn take(&mut self) -> Option<K> {
        self.taken = self.taken.wrapping_add(1);
        let first = if self.taken.is_multiple_of(NORMAL_SHARE) { Priority::Normal } else { Priority::High };
        let second = if first == Priority::High { Priority::Normal } else { Priority::High };
        for priority in [first, second] {
            while let Some(key) = self.line(priority).pop_front() {
                if let Some(place) = self.objects.get_mut(&key)
                    && *place == Place::Waits(priority)
                {
                    *place = Place::Running(None);
                    return Some(key);
                }
            }
        }
        None
    }

    /// The reconcile of an object has ended. True if the object waits again.
    fn finish(&mut self, key: &K) -> bool {
        match self.objects.remove(key) {
            Some(Place::Running(Some(priority))) => {
                self.add(key.clone(), priority);
                true
            }
            _ => false,
        }
    }
}

/// The objects that are reconciled later.
struct Delayed<K> {
    queue: DelayQueue<K>,
    keys: HashMap<K, delay_queue::Key>,
}

impl<K> Default for Delayed<K> {
    fn default() -> Self {
        Self { queue: DelayQueue::new(), keys: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Delayed<K> {
    fn insert(&mut self, key: K, delay: Duration) {
        self.cancel(&key);
        self.keys.insert(key.clone(), self.queue.insert(key, delay.min(MAX_DELAY)));
    }

    fn cancel(&mut self, key: &K) {
        if let Some(entry) = self.keys.remove(key) {
            self.queue.try_remove(&entry);
        }
    }

    /// The next object that is due; none if no object is delayed.
    async fn next(&mut self) -> Option<K> {
        let key = self.queue.next().await?.into_inner();
        self.keys.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::time::{self, Instant};

    use super::*;

    fn in_order(added: &[(u32, Priority)]) -> Vec<u32> {
        let mut waiting = WaitingLine::default();
        for (key, priority) in added {
            waiting.add(*key, *priority);
        }
        std::iter::from_fn(|| waiting.take()).collect()
    }

    #[test]
    fn objects_are_taken_in_the_order_in_which_they_were_added() {
        use Priority::{High, Normal};
        assert_eq!(in_order(&[(1, High), (2, High), (3, High)]), [1, 2, 3]);
        assert_eq!(in_order(&[(1, Normal), (2, Normal), (1, Normal)]), [1, 2], "each once");
    }

    #[test]
    fn a_change_comes_before_what_most_likely_has_nothing_to_do() {
        use Priority::{High, Normal};
        assert_eq!(in_order(&[(1, Normal), (2, Normal), (3, High), (2, High)]), [3, 2, 1]);
    }

    #[test]
    fn an_object_of_normal_priority_does_not_wait_forever() {
        let mut waiting = WaitingLine::default();
        waiting.add(0, Priority::Normal);
        let mut taken = Vec::new();
        for key in 1..=2 * NORMAL_SHARE {
            waiting.add(key, Priority::High);
            taken.extend(waiting.take());
        }
        assert!(taken.contains(&0), "{taken:?}");
    }

    #[test]
    fn an_object_that_is_added_while_it_is_reconciled_is_reconciled_again_afterwards() {
        let mut waiting = WaitingLine::default();
        waiting.add(1, Priority::High);
        assert_eq!(waiting.take(), Some(1));
        waiting.add(1, Priority::Normal);
        assert_eq!(waiting.take(), None, "never by two workers at once");
        assert!(waiting.finish(&1));
        assert_eq!(waiting.take(), Some(1));
        assert!(!waiting.finish(&1));
        assert_eq!(waiting.take(), None);
    }

    /// Works off a queue in which each object takes a second, and notes what began when.
    struct QueueRun {
        sender: QueueSender<u32>,
        begun: Arc<Mutex<Vec<(u32, u64)>>>,
        stop: CancellationToken,
        ended: tokio::task::JoinHandle<Result<(), WorkerPanicked>>,
    }

    impl QueueRun {
        fn new(workers: usize, requeue_after: Option<Duration>) -> Self {
            let (sender, receiver) = queue();
            let (begun, stop, start) = (Arc::default(), CancellationToken::new(), Instant::now());
            let log: Arc<Mutex<Vec<(u32, u64)>>> = Arc::clone(&begun);
            let work = move |key: u32| {
                let log = log.clone();
                async move {
                    log.lock().push((key, start.elapsed().as_secs()));
                    time::sleep(Duration::from_secs(1)).await;
                    requeue_after
                }
            };
            let ended = tokio::spawn(work_off(receiver, workers, stop.clone(), work));
            Self { sender, begun, stop, ended }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_workers_run_than_allowed_and_a_running_one_ends_after_the_stop() {
        let worker = QueueRun::new(2, None);
        for key in 1..=5 {
            worker.sender.add(key, Priority::High);
        }
        time::sleep(Duration::from_millis(1500)).await;
        worker.stop.cancel();
        assert_eq!(worker.ended.await.unwrap(), Ok(()));
        assert_eq!(*worker.begun.lock(), [(1, 0), (2, 0), (3, 1), (4, 1)], "the fifth does not begin");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_comes_back_after_its_delay_or_earlier_if_it_changes() {
        let worker = QueueRun::new(1, Some(Duration::from_secs(10)));
        worker.sender.add(1, Priority::High);
        time::sleep(Duration::from_secs(13)).await;
        assert_eq!(*worker.begun.lock(), [(1, 0), (1, 11)]);
        worker.sender.add(1, Priority::High);
        time::sleep(Duration::from_secs(12)).await;
        assert_eq!(*worker.begun.lock(), [(1, 0), (1, 11), (1, 13), (1, 24)], "and not at 22");
    }
}
