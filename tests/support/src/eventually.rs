//! Waits for a condition, with a deadline, and with the last state in the error.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The time between two checks.
const INTERVAL: Duration = Duration::from_millis(100);

/// A condition that was not met in time.
#[derive(Debug)]
pub struct TimedOut {
    what: String,
    limit: Duration,
    last: String,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "not within {} s: {}", self.limit.as_secs(), self.what)?;
        if self.last.is_empty() { Ok(()) } else { write!(out, "; last state: {}", self.last) }
    }
}

impl std::error::Error for TimedOut {}

/// Calls `check` until it returns `Ok`, and returns that. Its `Err` is the state that it found instead.
pub async fn eventually<T, E, F>(
    limit: Duration,
    what: &str,
    mut check: impl FnMut() -> F,
) -> Result<T, TimedOut>
where
    E: fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match check().await {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= deadline => {
                return Err(TimedOut { what: what.to_owned(), limit, last: last.to_string() });
            }
            Err(_) => sleep(INTERVAL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_returns_what_it_finds_and_reports_the_last_state_if_it_finds_nothing() {
        let mut count = 0;
        let found = eventually(Duration::from_secs(1), "the third check", || {
            count += 1;
            std::future::ready(if count == 3 { Ok(count) } else { Err("early") })
        });
        assert_eq!(found.await.ok(), Some(3));
        let never = eventually(Duration::from_secs(1), "it is there", async || Err::<(), _>("nothing"));
        let error = never.await.map_err(|error| error.to_string());
        assert_eq!(error, Err("not within 1 s: it is there; last state: nothing".to_owned()));
    }
}
