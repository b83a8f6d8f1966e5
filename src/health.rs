//! Whether the process is alive and ready.
//!
//! Alive: every loop that registered a [`Heartbeat`] still beats, and no piece of its work takes too long. The kubelet
//! restarts a process that is not alive. Nothing is lost: no state exists only in memory.
//!
//! Ready: the process leads and its caches have synced, or it stands by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ProcessStage {
    /// It is starting.
    Starting = 0,
    /// Another operator leads; this one takes over when that one stops.
    StandingBy = 1,
    /// It leads, and its caches have not synced yet.
    Syncing = 2,
    /// It leads and reconciles.
    Working = 3,
    /// It was asked to stop.
    Stopping = 4,
    /// It can neither read nor take the Lease.
    Unable = 5,
}

/// The state of the whole process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    shared: Arc<HealthState>,
}

#[derive(Debug, Default)]
struct HealthState {
    stage: AtomicU8,
    next: AtomicU64,
    unlisted: Mutex<Vec<String>>,
    beats: Mutex<BTreeMap<u64, Pulse>>,
}

#[derive(Debug)]
struct Pulse {
    name: &'static str,
    silence: Duration,
    work: Duration,
    last: Instant,
    running: BTreeMap<u64, Instant>,
}

impl Health {
    /// Sets what the process is doing.
    pub fn set(&self, stage: ProcessStage) {
        self.shared.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// What the process is doing.
    pub fn stage(&self) -> ProcessStage {
        match self.shared.stage.load(Ordering::Relaxed) {
            1 => ProcessStage::StandingBy,
            2 => ProcessStage::Syncing,
            3 => ProcessStage::Working,
            4 => ProcessStage::Stopping,
            5 => ProcessStage::Unable,
            _ => ProcessStage::Starting,
        }
    }

    /// Registers a loop that must beat at least every `silence`, and finish each piece of work within `work`, until the
    /// handle is dropped.
    pub fn heartbeat(&self, name: &'static str, silence: Duration, work: Duration) -> Heartbeat {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let pulse = Pulse { name, silence, work, last: Instant::now(), running: BTreeMap::new() };
        self.shared.beats.lock().insert(id, pulse);
        Heartbeat(Arc::new(Registered { shared: self.shared.clone(), id }))
    }

    /// Fails with what hangs, if something does.
    pub fn alive(&self) -> Result<(), String> {
        let now = Instant::now();
        for pulse in self.shared.beats.lock().values() {
            let quiet = now.saturating_duration_since(pulse.last);
            if quiet > pulse.silence {
                return Err(format!("{} has been silent for {} s", pulse.name, quiet.as_secs()));
            }
            let longest = pulse.running.values().min().map(|since| now.saturating_duration_since(*since));
            if let Some(took) = longest.filter(|took| *took > pulse.work) {
                return Err(format!("{} has been busy with one object for {} s", pulse.name, took.as_secs()));
            }
        }
        Ok(())
    }

    /// Sets which namespaces cannot be listed, each with the reason.
    pub fn unlisted(&self, namespaces: Vec<String>) {
        *self.shared.unlisted.lock() = namespaces;
    }

    /// Fails with what is missing.
    pub fn ready(&self) -> Result<String, String> {
        let mut unlisted = self.shared.unlisted.lock().join("\n");
        if !unlisted.is_empty() {
            unlisted.insert_str(0, "; these namespaces cannot be listed:\n");
        }
        match self.stage() {
            ProcessStage::Working => Ok(format!("working{unlisted}")),
            ProcessStage::StandingBy => Ok("standing by: another operator leads".to_owned()),
            ProcessStage::Starting => Err("starting".to_owned()),
            ProcessStage::Syncing => Err(format!("caches have not synced yet{unlisted}")),
            ProcessStage::Unable => Err("cannot read or take the lease: see the log".to_owned()),
            ProcessStage::Stopping => Err("stopping".to_owned()),
        }
    }
}

/// The handle of a registered loop; see [`Health::heartbeat`]. Clones belong to the same loop.
#[derive(Clone, Debug)]
pub struct Heartbeat(Arc<Registered>);

#[derive(Debug)]
struct Registered {
    shared: Arc<HealthState>,
    id: u64,
}

impl Heartbeat {
    /// The loop is alive. Call this from the task that polls the loop, so that a blocked poll is noticed.
    pub fn beat(&self) {
        if let Some(pulse) = self.0.shared.beats.lock().get_mut(&self.0.id) {
            pulse.last = Instant::now();
        }
    }

    /// A piece of work begins; it ends when the result is dropped.
    pub fn begin(&self) -> WorkInProgress {
        let work = self.0.shared.next.fetch_add(1, Ordering::Relaxed);
        if let Some(pulse) = self.0.shared.beats.lock().get_mut(&self.0.id) {
            pulse.running.insert(work, Instant::now());
        }
        WorkInProgress { of: self.0.clone(), work }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.beats.lock().remove(&self.id);
    }
}

/// A piece of work in progress.
#[derive(Debug)]
#[must_use = "the work ends when this is dropped"]
pub struct WorkInProgress {
    of: Arc<Registered>,
    work: u64,
}

impl Drop for WorkInProgress {
    fn drop(&mut self) {
        if let Some(pulse) = self.of.shared.beats.lock().get_mut(&self.of.id) {
            pulse.running.remove(&self.work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(30);
    const WORK: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_falls_silent_is_not_alive_until_it_beats() {
        let health = Health::default();
        let heartbeat = health.heartbeat("the loop", SILENCE, WORK);
        tokio::time::advance(SILENCE).await;
        assert_eq!(health.alive(), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(health.alive(), Err("the loop has been silent for 31 s".to_owned()));
        heartbeat.beat();
        assert_eq!(health.alive(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_hanging_piece_of_work_is_found_among_many_that_end() {
        let health = Health::default();
        let heartbeat = health.heartbeat("the loop", SILENCE, WORK);
        let hangs = heartbeat.begin();
        for _ in 0..7 {
            tokio::time::advance(Duration::from_secs(10)).await;
            heartbeat.beat();
            drop(heartbeat.begin());
        }
        assert_eq!(health.alive(), Err("the loop has been busy with one object for 70 s".to_owned()));
        drop(hangs);
        assert_eq!(health.alive(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_has_ended_need_not_beat() {
        let health = Health::default();
        drop(health.heartbeat("the loop", SILENCE, WORK));
        tokio::time::advance(SILENCE * 2).await;
        assert_eq!(health.alive(), Ok(()));
    }

    #[test]
    fn a_standby_is_ready_and_a_leader_whose_caches_have_not_synced_is_not() {
        let health = Health::default();
        assert!(health.ready().is_err());
        health.set(ProcessStage::StandingBy);
        assert!(health.ready().is_ok());
        health.set(ProcessStage::Unable);
        assert!(health.ready().is_err(), "it cannot take over");
        health.set(ProcessStage::Syncing);
        assert!(health.ready().is_err());
        health.set(ProcessStage::Working);
        assert!(health.ready().is_ok());
    }
}
