//! The parts of `agentloop controller`, and the order in which they start and stop.
//!
//! Start: probes, then the Lease, then the loop. Stop: running reconciles finish while the Lease is still renewed, then the
//! Lease is released, so that the successor never finds a reconcile half done.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::ControllerArgs;
use crate::client::{Clients, ConnectError};
use crate::controller::{self, Setup};
use crate::health::{Health, ProcessStage};
use crate::http::{BindError, HttpServer, Serves};
use crate::lease::decide::{Loss, Timings};
use crate::lease::{CandidateStatus, Election};
use crate::metrics::Metrics;
use crate::shutdown;
use crate::telemetry::LogControl;
use crate::write::Writer;

/// How long running reconciles may take to finish once the process is asked to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How long the loop may go without a beat: several times its interval.
const SILENCE: Duration = Duration::from_mins(1);

/// Why the operator ended although it was not asked to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No signal handlers.
    #[error("cannot install the signal handlers: {0}")]
    Signals(std::io::Error),
    /// No longer the leader.
    #[error("{0}; exiting, to restart as a standby")]
    Lost(#[from] Loss),
    /// The loop ended.
    #[error(transparent)]
    Controller(#[from] controller::Error),
    /// A part of the process ended that never should. If it panicked, the log line before this one says so.
    #[error("the {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Runs the operator until a signal asks it to stop.
pub async fn run(args: ControllerArgs, logs: LogControl) -> Result<(), Error> {
    let shutdown = shutdown::on_signal().map_err(Error::Signals)?;
    let clients = Clients::connect().await?;
    let (health, metrics) = (Health::default(), Metrics::new());
    let probes = HttpServer::bind(args.probe_address, Serves::Probes).await?;
    let server = HttpServer::bind(args.http_address, Serves::Everything).await?;
    info!(
        address = %server.address,
        probes = %probes.address,
        version = env!("CARGO_PKG_VERSION"),
        "serving probes and metrics"
    );
    // Probes are answered until the process exits, also while the loop finishes.
    for server in [probes, server] {
        tokio::spawn(server.serve(health.clone(), metrics.clone(), std::future::pending()));
    }

    let identity = args.lease.identity();
    let namespace = own_namespace(args.namespace.as_deref(), &clients);
    let leadership = if args.lease.leader_election {
        let name = &args.lease.lease_name;
        let mut election =
            Election::new(clients.write.clone(), &namespace, name, &identity, Timings::default());
        let beat = health.heartbeat("leader election", SILENCE, SILENCE);
        let seen = |seen| match seen {
            CandidateStatus::Checking => beat.beat(),
            CandidateStatus::StandingBy => health.set(ProcessStage::StandingBy),
            CandidateStatus::Unable => health.set(ProcessStage::Unable),
        };
        if !election.acquire(&shutdown, seen).await {
            return Ok(());
        }
        Some(Leadership::keep(election, &health))
    } else {
        warn!("leader election is off: run only one operator");
        None
    };
    metrics.leader(true);
    health.set(ProcessStage::Syncing);

    let serving = args.serving.serving(&namespace, &args.lease.lease_name);
    let setup = Setup {
        writer: Writer::new(clients.write.clone(), metrics.clone()),
        clients,
        namespaces: args.watch_namespaces,
        namespace,
        config_map: args.config_map,
        runner: args.runner,
        rules: controller::RuleSet::default(),
        serving,
        concurrency: args.concurrency.get(),
        node_check_interval: controller::NODE_CHECK_INTERVAL,
        no_new_steps_after: controller::NO_NEW_STEPS_AFTER,
        identity,
        metrics: metrics.clone(),
        logs,
        health: health.clone(),
        heartbeat: health.heartbeat("the reconcile loop", SILENCE, controller::MAX_RECONCILE),
        shutdown: shutdown.child_token(),
    };
    metrics.max_workers(setup.concurrency);
    work(setup, leadership, &shutdown, &health).await
}

/// Runs the loop for as long as this process leads.
async fn work(
    setup: Setup,
    leadership: Option<Leadership>,
    shutdown: &CancellationToken,
    health: &Health,
) -> Result<(), Error> {
    let metrics = setup.metrics.clone();
    let mut the_loop = tokio::spawn(controller::run(setup));
    let Some(mut leadership) = leadership else {
        return finished(&mut the_loop, shutdown, health).await;
    };
    let ended = tokio::select! {
        ended = finished(&mut the_loop, shutdown, health) => ended,
        lost = leadership.lost() => {
            // Do not wait: the protocol is safe at any point, and the successor may already be working.
            the_loop.abort();
            metrics.leader(false);
            return Err(lost);
        }
    };
    leadership.release().await;
    metrics.leader(false);
    ended
}

/// Waits until the loop ends: without a limit until the process is asked to stop, then for [`GRACE`].
async fn finished(
    the_loop: &mut JoinHandle<Result<(), controller::Error>>,
    shutdown: &CancellationToken,
    health: &Health,
) -> Result<(), Error> {
    tokio::select! {
        ended = &mut *the_loop => {
            ended.map_err(|_| Error::Ended("reconcile loop"))??;
            // Without a signal, the loop had no reason to end.
            return if shutdown.is_cancelled() { Ok(()) } else { Err(Error::Ended("reconcile loop")) };
        }
        () = shutdown.cancelled() => health.set(ProcessStage::Stopping),
    }
    if let Ok(ended) = time::timeout(GRACE, &mut *the_loop).await {
        return Ok(ended.map_err(|_| Error::Ended("reconcile loop"))??);
    }
    warn!(seconds = GRACE.as_secs(), "some reconciles did not finish in time; the next leader repeats them");
    the_loop.abort();
    Ok(())
}

/// The Lease, while it is renewed.
struct Leadership {
    renewing: JoinHandle<Result<(), Loss>>,
    stop: CancellationToken,
}

impl Leadership {
    fn keep(election: Election, health: &Health) -> Self {
        let stop = CancellationToken::new();
        let beat = health.heartbeat("lease renewal", SILENCE, SILENCE);
        let renewing = tokio::spawn(election.keep(stop.clone(), move || beat.beat()));
        Self { renewing, stop }
    }

    /// Waits until the Lease is lost.
    async fn lost(&mut self) -> Error {
        match (&mut self.renewing).await {
            Ok(Err(loss)) => Error::Lost(loss),
            Ok(Ok(())) | Err(_) => Error::Ended("lease renewal"),
        }
    }

    async fn release(self) {
        self.stop.cancel();
        if time::timeout(GRACE, self.renewing).await.is_err() {
            warn!("the lease was not released in time; it will expire");
        }
    }
}

/// The given namespace, unless it is empty; otherwise the one of the client configuration.
pub(crate) fn own_namespace(given: Option<&str>, clients: &Clients) -> String {
    given.filter(|name| !name.is_empty()).unwrap_or(&clients.namespace).to_owned()
}
