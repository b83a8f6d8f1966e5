//! The reconcile loop: watches tasks, pods and the configuration, and advances each task.
//!
//! The decision itself is `agentloop_core::decide`. This module gathers what a decision needs and carries it out.
//! Each file uses only files below it:
//!
//! ```text
//! mod                     starts everything, and watches over it
//! housekeeping            what is done at every beat: counts, reports, forgets
//! reconcile, orphans      one task; one pod whose task is gone
//! perform, environment    the requests, and the questions, of the machine in agentloop_core::sync
//! scope                   one set of watches: all namespaces, or one
//! context                 what all reconciles share
//! watch, configuration, injection, events, …
//! ```

mod cached_pod;
mod configuration;
mod context;
mod elsewhere;
mod environment;
mod event_obstacles;
mod events;
mod guard;
mod handles;
mod housekeeping;
mod injection;
mod memories;
mod merge;
mod orphans;
mod panics;
mod perform;
mod reconcile;
mod report;
mod requeue;
mod scope;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use agentloop_core::decide::served::Serving;
use futures::future::{join_all, select_all};
use futures::{FutureExt, StreamExt};
use kube::Api;
use kube::runtime::Controller;
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::cached_pod::CachedPod;
use self::context::ControllerContext;
pub use self::context::RuleSet;
use self::guard::Guarded;
pub(crate) use self::injection::NODE_CHECK_INTERVAL;
pub(crate) use self::reconcile::NO_NEW_STEPS_AFTER;
use self::scope::WatchScope;
use crate::cli::RunnerArgs;
use crate::client::Clients;
use crate::health::{Health, Heartbeat, ProcessStage};
use crate::metrics::{Metrics, PanicSource};
use crate::namespaces::Namespaces;
use crate::telemetry::LogControl;
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
    /// The rules.
    pub rules: RuleSet,
    /// Which release this is. It leaves the tasks of other releases alone.
    pub serving: Serving,
    /// How many reconciles may run at the same time.
    pub concurrency: u16,
    /// How often `--runner-injection auto` checks the nodes.
    pub node_check_interval: Duration,
    /// How long one reconcile may begin new steps.
    pub no_new_steps_after: Duration,
    /// The name of this process in Events.
    pub identity: String,
    /// The process's metrics.
    pub metrics: Metrics,
    /// Set to the log level of the configuration.
    pub logs: LogControl,
    /// Set to [`ProcessStage::Working`] once the caches have synced.
    pub health: Health,
    /// Beats at least every [`BEAT`], from the task that polls the loop. Each reconcile is a piece of work.
    pub heartbeat: Heartbeat,
    /// Cancelled when the process stops: no new work starts, and running reconciles may finish.
    pub shutdown: CancellationToken,
}

/// How long one reconcile may take. It begins nothing new after a minute, and its longest step (the Events, the owner
/// of a PVC, a write and a read) takes 60 seconds if every request is answered at the last moment.
pub const MAX_RECONCILE: Duration = Duration::from_mins(3);

/// How often the loop shows that it is alive.
pub const BEAT: Duration = Duration::from_secs(10);

/// Why the loop ended although it was not asked to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace's loop ended, or panicked.
    #[error("the loop over {0} ended unexpectedly")]
    Ended(String),
}

/// Runs the loop until it is asked to stop and all reconciles have ended.
pub async fn run(setup: Setup) -> Result<(), Error> {
    info!(namespaces = %setup.namespaces, config_map = setup.config_map, "starting the reconcile loop");
    let events = events::Events::new(setup.clients.write.clone(), setup.identity.clone());
    let configuration = configuration::watch(
        &setup.clients.read,
        &setup.namespace,
        &setup.config_map,
        configuration::Reporter { metrics: setup.metrics.clone(), events: events.clone(), logs: setup.logs },
    );
    let context = Arc::new(ControllerContext {
        event_obstacles: event_obstacles::EventObstacles::new(setup.clients.read.clone()),
        injection: injection::Chosen::new(&setup.clients.read, &setup.runner).await,
        clients: setup.clients,
        writer: setup.writer,
        metrics: setup.metrics,
        heartbeat: setup.heartbeat,
        configuration,
        events,
        rules: setup.rules,
        serving: setup.serving,
        no_new_steps_after: setup.no_new_steps_after,
    });

    let tasks = setup.namespaces.apis::<Guarded>(&context.clients.read);
    let pods = setup.namespaces.apis::<CachedPod>(&context.clients.read);
    let mut loops = JoinSet::new();
    let mut scopes = Vec::new();
    for (tasks, pods) in tasks.into_iter().zip(pods) {
        scopes.push(start(&context, tasks, pods, setup.concurrency, &setup.shutdown, &mut loops));
    }
    loops.spawn(report_sync(scopes.clone(), context.clone(), setup.health.clone()).map(|()| None));
    let check_nodes = check_nodes(context.clone(), setup.node_check_interval, setup.shutdown.clone());
    loops.spawn(check_nodes.map(|()| None));

    let mut beats = time::interval(BEAT);
    loop {
        tokio::select! {
            _ = beats.tick() => {
                context.heartbeat.beat();
                let done = panics::caught_now(|| housekeeping::run(&scopes, &context, &setup.health));
                if let Err(message) = done {
                    context.metrics.panicked(PanicSource::Count);
                    error!(panic = message, "panic while counting tasks; continuing");
                }
            }
            ended = loops.join_next() => match ended {
                None => return Ok(()),
                Some(Ok(Some(name))) if !setup.shutdown.is_cancelled() => return Err(Error::Ended(name)),
                Some(Ok(_)) => {}
                Some(Err(_)) => return Err(Error::Ended("a namespace".to_owned())),
            },
        }
    }
}

/// Starts one set of watches and the two controllers that they feed.
fn start(
    context: &Arc<ControllerContext>,
    tasks: Api<Guarded>,
    pods: Api<CachedPod>,
    concurrency: u16,
    shutdown: &CancellationToken,
    loops: &mut JoinSet<Option<String>>,
) -> Arc<WatchScope> {
    let name = format!("tasks at {}", tasks.resource_url());
    let namespace = tasks.namespace().map(str::to_owned);
    let (tasks, task_changes) = watch::tasks(tasks);
    let (pods, pod_changes, pod_watch) = watch::pods(pods);
    let (task_store, pod_store) = (tasks.store.clone(), pods.store.clone());
    let scope = WatchScope::new(context.clone(), namespace, tasks, pods, concurrency, shutdown.clone());
    let scope = Arc::new(scope);

    let controller = Controller::for_stream(task_changes, task_store)
        .reconcile_on(pod_changes.tasks)
        .reconcile_all_on(pod_changes.filled)
        .reconcile_all_on(context.configuration.changes())
        .reconcile_all_on(context.injection.changes())
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(reconcile::reconcile, |task, _, scope| reconcile::on_error(&task, &scope), scope.clone())
        .for_each(|_| futures::future::ready(()));
    loops.spawn(controller.map(move |()| Some(name)));

    let orphans = Controller::for_stream(pod_changes.changed, pod_store)
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(orphans::reconcile, |pod, _, scope| orphans::on_error(&pod, &scope), scope.clone())
        .for_each(|_| futures::future::ready(()));
    loops.spawn(orphans.map(|()| Some("orphaned pods".to_owned())));

    let stop = shutdown.clone().cancelled_owned();
    let pod_watch = async move {
        tokio::select! {
            () = pod_watch => {}
            () = stop => {}
        }
        Some("the watch of pods".to_owned())
    };
    loops.spawn(pod_watch);
    scope
}

/// Reports the process as working once the caches have synced.
async fn report_sync(scopes: Vec<Arc<WatchScope>>, context: Arc<ControllerContext>, health: Health) {
    context.configuration.synced().await;
    let settled = join_all(scopes.iter().map(|scope| scope.settled()));
    // A namespace whose list is not answered at all must not delay the others.
    drop(time::timeout(scope::FIRST_LIST, settled).await);
    // Nor must a namespace that the operator may not list: one that has synced is enough.
    select_all(scopes.iter().map(|scope| Box::pin(scope.synced()))).await;
    housekeeping::report_unlisted(&scopes, &context.metrics, &health);
    health.set(ProcessStage::Working);
    info!("caches have synced");
}

/// Checks the nodes from time to time, until the process stops.
async fn check_nodes(context: Arc<ControllerContext>, interval: Duration, stop: CancellationToken) {
    tokio::select! {
        () = context.injection.follow(&context.clients.read, interval) => {}
        () = stop.cancelled() => {}
    }
}
