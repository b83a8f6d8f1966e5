//! How long the tests wait.

use std::{fmt::Display, time::Duration};

use agentloop_test_support::eventually as support;
use anyhow::Result;
use tokio::time::{Instant, sleep};

/// The interval between two checks.
const INTERVAL: Duration = Duration::from_millis(150);

/// How long anything may take that should be quick. It is generous, because it costs time only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How long this many iterations may take while other tests run.
pub fn iterations(count: u32) -> Duration {
    PATIENCE + Duration::from_secs(20) * count
}

/// Calls `check` until it returns `Ok`, and returns that value. Its `Err` is the state that it found instead.
pub async fn eventually<T, E, F>(within: Duration, what: &str, check: impl FnMut() -> F) -> Result<T>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    Ok(support::eventually(within, what, check).await?)
}

/// Calls `check` again and again for `how_long`, and fails as soon as it returns `Err`.
pub(crate) async fn all_the_time(
    how_long: Duration,
    mut check: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + how_long;
    while Instant::now() < deadline {
        check().await?;
        sleep(INTERVAL).await;
    }
    Ok(())
}
