//! A period in which the API server refuses every status write, and how much an operator may send meanwhile.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The maximum number of status writes of one task in ten seconds. Delays that grow from half a second allow six; each
/// change of a pod meanwhile allows one more. Without delays there were more than a hundred.
const MAX_STATUSES: u32 = 16;
/// The maximum number of all requests in that time: after a conflict the operator reads the task again, and a new
/// operator fills its caches.
const MAX_REQUESTS: u32 = 60;

/// The planned period, once it has begun.
#[derive(Default)]
pub struct Refusals(Mutex<Option<Period>>);

struct Period {
    code: u16,
    end: Instant,
    statuses: u32,
    requests: u32,
    reported: bool,
}

impl Refusals {
    /// Begins the period now.
    pub fn begin(&self, code: u16, length: Duration) {
        let end = Instant::now() + length;
        *self.0.lock() = Some(Period { code, end, statuses: 0, requests: 0, reported: false });
    }

    /// Counts a request. Returns the status code with which it is refused, if it is. Returns an error once if there are
    /// too many requests.
    pub fn count(&self, is_status: bool) -> Result<Option<u16>, String> {
        let mut planned = self.0.lock();
        let Some(now) = planned.as_mut().filter(|now| Instant::now() < now.end) else { return Ok(None) };
        now.requests += 1;
        now.statuses += u32::from(is_status);
        if !now.reported && (now.statuses > MAX_STATUSES || now.requests > MAX_REQUESTS) {
            now.reported = true;
            let (statuses, requests, code) = (now.statuses, now.requests, now.code);
            return Err(format!(
                "the operator sent {statuses} statuses, and {requests} requests in total, while every status was refused with {code}"
            ));
        }
        Ok(is_status.then_some(now.code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn statuses_are_refused_until_the_end_and_too_many_are_reported_once() {
        let refusals = Refusals::default();
        assert_eq!(refusals.count(true), Ok(None));
        refusals.begin(500, Duration::from_secs(10));
        assert_eq!(refusals.count(false), Ok(None));
        for _ in 0..MAX_STATUSES {
            assert_eq!(refusals.count(true), Ok(Some(500)));
        }
        assert!(refusals.count(true).is_err());
        assert_eq!(refusals.count(true), Ok(Some(500)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(refusals.count(true), Ok(None));
    }
}
