//! The decision of leader election, as a pure function: who has the Lease, and what to do next.
//!
//! As in client-go, expiry is measured from the moment when *this* process observed the Lease to change, on its own
//! monotonic clock. The times inside the Lease come from other machines' clocks: they are compared only for change.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// The intervals of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How long after a renewal others leave the Lease alone.
    pub duration: Duration,
    /// How long a holder may go without a renewal before it stops. Shorter than `duration`, so that it has stopped before
    /// another process starts.
    pub renew_deadline: Duration,
    /// The time between two checks.
    pub retry: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The holder; empty after a release.
    pub holder: String,
    /// When the holder acquired it, by the holder's clock.
    pub acquired: Option<Timestamp>,
    /// When the holder last renewed it, by the holder's clock.
    pub renewed: Option<Timestamp>,
    /// How long after each renewal the holder wants it left alone.
    pub duration: Option<Duration>,
    /// How often the holder has changed.
    pub transitions: i32,
}

/// A record, and when this process first observed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseObservation {
    /// What the Lease said.
    pub record: Record,
    /// When this process first read it, on its own clock.
    pub since: Instant,
}

impl LeaseObservation {
    /// An observation of the record just read. If the record has not changed, the time of the first observation stays.
    pub fn update(before: Option<&Self>, record: Record, now: Instant) -> Self {
        match before {
            Some(before) if before.record == record => before.clone(),
            _ => Self { record, since: now },
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionStep {
    /// Write ourselves as the new holder.
    Acquire {
        /// How often the holder has changed, for the new record.
        transitions: i32,
    },
    /// Write a new renewal time.
    Renew,
    /// Leave the Lease alone until then, unless it changes.
    Wait(Instant),
    /// Stop working now.
    Lost(Loss),
}

/// Why leadership ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// Another process holds the Lease.
    #[error("lost the lease: {0} holds it now")]
    Taken(String),
    /// No renewal succeeded in time.
    #[error("lost the lease: it could not be renewed within {} s", .0.as_secs_f32())]
    Deadline(Duration),
}

/// Decides what to do about a Lease.
///
/// * `observed`: the Lease as it was last read, if it exists.
/// * `held`: while this process leads, when it *sent* the last successful renewal.
pub fn decide(
    observed: Option<&LeaseObservation>,
    identity: &str,
    held: Option<Instant>,
    timings: &Timings,
    now: Instant,
) -> ElectionStep {
    if held.is_some_and(|renewed| now.saturating_duration_since(renewed) >= timings.renew_deadline) {
        return ElectionStep::Lost(Loss::Deadline(timings.renew_deadline));
    }
    let Some(LeaseObservation { record, since }) = observed else {
        return ElectionStep::Acquire { transitions: 0 };
    };
    if record.holder == identity {
        // Also if this process does not lead yet: then the answer to its write was lost.
        return ElectionStep::Renew;
    }
    if record.holder.is_empty() {
        return ElectionStep::Acquire { transitions: record.transitions.saturating_add(1) };
    }
    if held.is_some() {
        // Even if it looks expired: the process that wrote it assumed that we were gone.
        return ElectionStep::Lost(Loss::Taken(record.holder.clone()));
    }
    let expiry = *since + record.duration.unwrap_or(timings.duration);
    if now < expiry {
        return ElectionStep::Wait(expiry);
    }
    ElectionStep::Acquire { transitions: record.transitions.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "me";
    const OTHER: &str = "other";

    fn timings() -> Timings {
        Timings::default()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn record(holder: &str, renewed: i64) -> Record {
        Record {
            holder: holder.to_owned(),
            acquired: None,
            renewed: Some(Timestamp::from_second(renewed).unwrap()),
            duration: Some(seconds(15)),
            transitions: 4,
        }
    }

    fn seen(holder: &str, since: Instant) -> LeaseObservation {
        LeaseObservation { record: record(holder, 0), since }
    }

    fn follower(observed: Option<&LeaseObservation>, now: Instant) -> ElectionStep {
        decide(observed, ME, None, &timings(), now)
    }

    #[test]
    fn a_missing_lease_is_created() {
        assert_eq!(follower(None, Instant::now()), ElectionStep::Acquire { transitions: 0 });
    }

    #[test]
    fn a_released_lease_is_taken_immediately() {
        let now = Instant::now();
        assert_eq!(follower(Some(&seen("", now)), now), ElectionStep::Acquire { transitions: 5 });
    }

    #[test]
    fn another_holders_lease_is_left_alone_until_it_expires() {
        let start = Instant::now();
        let lease = seen(OTHER, start);
        assert_eq!(follower(Some(&lease), start + seconds(14)), ElectionStep::Wait(start + seconds(15)));
        assert_eq!(follower(Some(&lease), start + seconds(15)), ElectionStep::Acquire { transitions: 5 });
    }

    #[test]
    fn each_renewal_by_another_holder_restarts_the_wait() {
        let start = Instant::now();
        let first = LeaseObservation::update(None, record(OTHER, 100), start);
        let same = LeaseObservation::update(Some(&first), record(OTHER, 100), start + seconds(9));
        assert_eq!(same.since, start);
        let renewed = LeaseObservation::update(Some(&same), record(OTHER, 102), start + seconds(14));
        assert_eq!(follower(Some(&renewed), start + seconds(16)), ElectionStep::Wait(start + seconds(29)));
    }

    #[test]
    fn clocks_that_are_wrong_by_years_change_nothing() {
        let start = Instant::now();
        for renewed in [-1_000_000_000, 4_000_000_000] {
            let lease = LeaseObservation { record: record(OTHER, renewed), since: start };
            assert_eq!(follower(Some(&lease), start + seconds(14)), ElectionStep::Wait(start + seconds(15)));
            assert_eq!(follower(Some(&lease), start + seconds(15)), ElectionStep::Acquire { transitions: 5 });
        }
        // A holder whose clock runs backwards still renews: the record changes.
        let first = LeaseObservation::update(None, record(OTHER, 100), start);
        assert_eq!(
            LeaseObservation::update(Some(&first), record(OTHER, 40), start + seconds(5)).since,
            start + seconds(5)
        );
    }

    #[test]
    fn the_duration_in_the_lease_counts() {
        let start = Instant::now();
        let mut lease = seen(OTHER, start);
        lease.record.duration = Some(seconds(240));
        assert_eq!(follower(Some(&lease), start + seconds(100)), ElectionStep::Wait(start + seconds(240)));
        lease.record.duration = None;
        assert_eq!(follower(Some(&lease), start + seconds(15)), ElectionStep::Acquire { transitions: 5 });
    }

    #[test]
    fn an_acquisition_whose_answer_was_lost_is_renewed() {
        let now = Instant::now();
        assert_eq!(follower(Some(&seen(ME, now)), now), ElectionStep::Renew);
    }

    #[test]
    fn a_leader_renews_until_its_deadline_and_then_stops() {
        let start = Instant::now();
        let lease = seen(ME, start);
        let leader = |now| decide(Some(&lease), ME, Some(start), &timings(), now);
        assert_eq!(leader(start + seconds(9)), ElectionStep::Renew);
        assert_eq!(leader(start + seconds(10)), ElectionStep::Lost(Loss::Deadline(seconds(10))));
        assert!(timings().renew_deadline < timings().duration);
    }

    #[test]
    fn a_leader_stops_if_another_process_holds_the_lease_even_if_it_looks_expired() {
        let start = Instant::now();
        let lease = seen(OTHER, start);
        for after in [1, 9] {
            let now = start + seconds(after + 100);
            let step = decide(Some(&lease), ME, Some(start + seconds(100)), &timings(), now);
            assert_eq!(step, ElectionStep::Lost(Loss::Taken(OTHER.to_owned())));
        }
    }

    #[test]
    fn a_leader_whose_lease_was_deleted_or_released_acquires_it_again() {
        let now = Instant::now();
        assert_eq!(decide(None, ME, Some(now), &timings(), now), ElectionStep::Acquire { transitions: 0 });
        let emptied = seen("", now);
        assert_eq!(
            decide(Some(&emptied), ME, Some(now), &timings(), now),
            ElectionStep::Acquire { transitions: 5 }
        );
    }
}
