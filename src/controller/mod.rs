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
//! feed                    what fills the queues: each change, and everything when it must be checked again
//! scope                   one set of watches: all namespaces, or one
//! context                 what all reconciles share
//! queue                   which object is next
//! watch, object_cache     the caches, and what fills them
//! configuration, injection, events, …
//! ```

mod cached_pod;
mod cached_task;
mod configuration;
mod context;
mod elsewhere;
mod environment;
mod event_obstacles;
mod events;
mod feed;
mod handles;
mod housekeeping;
mod injection;
mod memories;
mod merge;
mod object_cache;
mod orphans;
mod panics;
mod perform;
mod queue;
mod reconcile;
mod report;
mod requeue;
mod scope;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use agentloop_contract::names::LABEL_TASK_UID;
use agentloop_core::decide::served::Serving;
use futures::FutureExt;
use futures::future::{join_all, select_all};
use kube::Api;
use kube::runtime::watcher;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::cached_pod::CachedPod;
use self::cached_task::CachedTask;
use self::context::ControllerContext;
pub use self::context::RuleSet;
use self::feed::Queues;
pub(crate) use self::injection::NODE_CHECK_INTERVAL;
use self::object_cache::Received;
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
    /// A watch, or the work on a queue, ended or panicked.
    #[error("{0} ended unexpectedly")]
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

    let workers = usize::from(setup.concurrency);
    let (tasks, waiting_tasks) = queue::queue();
    let (orphans, waiting_orphans) = queue::queue();
    let queues = Queues { tasks, orphans };
    let tasks = setup.namespaces.apis::<Received<CachedTask>>(&context.clients.read);
    let pods = setup.namespaces.apis::<Received<CachedPod>>(&context.clients.read);
    let mut loops = JoinSet::new();
    let mut scopes = Vec::new();
    for (number, (tasks, pods)) in tasks.into_iter().zip(pods).enumerate() {
        let scope = start(&context, tasks, pods, &setup.shutdown, &mut loops, |scope, changes| {
            feed::feed(number, scope, changes, queues.clone(), setup.shutdown.clone())
        });
        scopes.push(scope);
    }
    let scopes: Arc<[Arc<WatchScope>]> = scopes.into();
    let of = scopes.clone();
    let reconcile_tasks =
        queue::work_off(waiting_tasks, workers, setup.shutdown.clone(), move |(number, task)| {
            let scope = of.get(number).cloned();
            async move { reconcile::reconcile(scope?, task).await }
        });
    loops.spawn(reconcile_tasks.map(|ended| ended.err().map(|error| format!("tasks: {error}"))));
    let of = scopes.clone();
    let clean_up = queue::work_off(waiting_orphans, workers, setup.shutdown.clone(), move |(number, pod)| {
        let scope = of.get(number).cloned();
        async move { orphans::reconcile(scope?, pod).await }
    });
    loops.spawn(clean_up.map(|ended| ended.err().map(|error| format!("orphaned pods: {error}"))));
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
                Some(Err(_)) => return Err(Error::Ended("a part of the loop".to_owned())),
            },
        }
    }
}

/// Starts one set of watches, and what feeds the queues with their changes.
fn start<F>(
    context: &Arc<ControllerContext>,
    tasks: Api<Received<CachedTask>>,
    pods: Api<Received<CachedPod>>,
    shutdown: &CancellationToken,
    loops: &mut JoinSet<Option<String>>,
    feed: impl FnOnce(Arc<WatchScope>, UnboundedReceiver<feed::ObjectChange>) -> F,
) -> Arc<WatchScope>
where
    F: Future<Output = ()> + Send + 'static,
{
    let namespace = tasks.namespace().map(str::to_owned);
    let watches = [tasks.resource_url(), pods.resource_url()].map(|url| format!("the watch of {url}"));
    let (report, changes) = mpsc::unbounded_channel();
    let on_task = feed::report_tasks(report.clone());
    let on_pod = feed::report_pods(report);
    let (tasks, task_watch) = watch::cache(tasks, watcher::Config::default(), on_task);
    let of_tasks = watcher::Config::default().labels(LABEL_TASK_UID);
    let (pods, pod_watch) = watch::cache(pods, of_tasks, on_pod);
    let scope = WatchScope::new(context.clone(), namespace, tasks, pods, shutdown.clone());
    let scope = Arc::new(scope);
    let [task_name, pod_name] = watches;
    loops.spawn(until(shutdown.clone(), task_watch).map(|()| Some(task_name)));
    loops.spawn(until(shutdown.clone(), pod_watch).map(|()| Some(pod_name)));
    loops.spawn(feed(scope.clone(), changes).map(|()| None));
    scope
}

/// Runs `work` until it ends or the process stops.
async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// Reports the process as working once the caches have synced.
async fn report_sync(scopes: Arc<[Arc<WatchScope>]>, context: Arc<ControllerContext>, health: Health) {
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
    until(stop, context.injection.follow(&context.clients.read, interval)).await;
}
