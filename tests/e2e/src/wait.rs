//! How long the tests wait.

use std::{fmt::Display, time::Duration};

use agentloop_test_support::eventually as support;
use anyhow::Result;
use tokio::time::{Instant, sleep};

/// How long it waits between two looks.
const INTERVAL: Duration = Duration::from_millis(150);

/// How long anything may take that ought to be quick. Generous: it only costs time when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How long this many iterations may take while other tests run.
pub fn iterations(count: u32) -> Duration {
    PATIENCE + Duration::from_secs(20) * count
}

/// Calls `look` until it returns `Ok`, and returns that. Its `Err` is the state that it found instead.
pub async fn eventually<T, E, F>(within: Duration, what: &str, look: impl FnMut() -> F) -> Result<T>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    Ok(support::eventually(within, what, look).await?)
}

/// Calls `look` for as long as `how_long`, and fails as soon as it returns `Err`.
pub(crate) async fn all_the_time(
    how_long: Duration,
    mut look: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + how_long;
    while Instant::now() < deadline {
        look().await?;
        sleep(INTERVAL).await;
    }
    Ok(())
}
