//! The reconcile loop.

use std::time::Duration;

use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cli::RunnerArgs;
use crate::client::Clients;
use crate::health::{Health, Heartbeat, Stage};
use crate::metrics::Metrics;
use crate::namespaces::Namespaces;
use crate::write::Writer;

/// Everything that the loop works with.
pub struct Setup {
    /// For reads and watches: `clients.read`.
    pub clients: Clients,
    /// For writes.
    pub writer: Writer,
    /// The namespaces to serve.
    pub namespaces: Namespaces,
    /// The operator's own namespace.
    pub namespace: String,
    /// Name of the ConfigMap with the settings, in the operator's own namespace.
    pub config_map: String,
    /// How the runner gets into an agent's pod.
    pub runner: RunnerArgs,
    /// How many reconciles may run at the same time.
    pub concurrency: u16,
    /// Who this process is, for events.
    pub identity: String,
    /// What Prometheus sees.
    pub metrics: Metrics,
    /// To be told [`Stage::Working`] once the caches have synced.
    pub health: Health,
    /// To be beaten at least every [`BEAT`], from the task that polls the loop; each reconcile is a piece of work.
    pub heartbeat: Heartbeat,
    /// Cancelled when the process is to stop: nothing new is begun, what runs may finish.
    pub shutdown: CancellationToken,
}

/// How often the loop shows that it goes on.
pub const BEAT: Duration = Duration::from_secs(10);

/// Why the loop ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// Runs the loop until it is told to stop and all reconciles have ended.
pub async fn run(setup: Setup) -> Result<(), Error> {
    info!(namespaces = %setup.namespaces, config_map = setup.config_map, "the reconcile loop starts");
    setup.health.set(Stage::Working);
    let mut beats = time::interval(BEAT);
    loop {
        tokio::select! {
            () = setup.shutdown.cancelled() => return Ok(()),
            _ = beats.tick() => setup.heartbeat.beat(),
        }
    }
}
