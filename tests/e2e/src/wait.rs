//! Waiting for a condition, with a deadline and the last state seen.

use std::{fmt::Display, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Between two looks.
const BETWEEN: Duration = Duration::from_millis(150);

/// How long anything may take that ought to be quick. Generous: it only costs time where a test fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How long so many iterations may take, with other tests beside them.
pub fn iterations(count: u32) -> Duration {
    PATIENCE + Duration::from_secs(20) * count
}

/// Looks until `look` answers `Ok`, and returns that; its `Err` is what was seen instead.
pub async fn eventually<T, E: Display>(
    within: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(state) if Instant::now() >= deadline => {
                bail!("after {} s it is still not so that {what}; last state: {state}", within.as_secs())
            }
            Err(_) => sleep(BETWEEN).await,
        }
    }
}

/// Looks for as long as `how_long`, and fails as soon as `look` answers `Err`.
pub(crate) async fn all_the_time(
    how_long: Duration,
    mut look: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + how_long;
    while Instant::now() < deadline {
        look().await?;
        sleep(BETWEEN).await;
    }
    Ok(())
}
