//! The reconcile loop: watches tasks, pods and the configuration, and brings each task on.
//!
//! One set of watches and one queue for each watched namespace, or one for all. The decision itself is
//! `agentloop_core::decide`; [`reconcile`] gathers what it needs and carries out what it says.

mod act;
mod configuration;
mod events;
mod injection;
mod latest;
mod merge;
mod reconcile;
mod sweep;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentloop_contract::names::LABEL_TASK_UID;
use agentloop_core::api::{AgentTask, Phase};
use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Resource};
use tokio::sync;
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::RunnerArgs;
use crate::client::Clients;
use crate::health::{Health, Heartbeat, Stage};
use crate::metrics::{Metrics, Reconciled};
use crate::namespaces::Namespaces;
use crate::write::Writer;

/// A task as the API server sent it, decoded or not: one that cannot be decoded must not hide the others.
type Guarded = DeserializeGuard<AgentTask>;

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

/// How often it is looked whether a cache has synced.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Pods that may wait to be seen before the watch is slowed down.
const SHARED_PODS: usize = 4096;
/// First and longest delay after a reconcile that failed.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Why the loop ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace's loop ended, or panicked.
    #[error("the loop over {0} ended unexpectedly")]
    Ended(String),
}

/// What all reconciles share.
struct Shared {
    clients: Clients,
    writer: Writer,
    metrics: Metrics,
    heartbeat: Heartbeat,
    configuration: configuration::Watched,
    injection: agentloop_core::pod::Injection,
    events: events::Events,
    /// Whether all caches hold all that there is.
    synced: sync::watch::Sender<bool>,
}

/// What the reconciles of one watch share.
struct Scope {
    shared: Arc<Shared>,
    tasks: Store<Guarded>,
    pods: Store<Pod>,
    newest_tasks: latest::Latest<AgentTask>,
    newest_pods: latest::Latest<Pod>,
    failures: Failures,
}

/// Runs the loop until it is told to stop and all reconciles have ended.
pub async fn run(setup: Setup) -> Result<(), Error> {
    info!(namespaces = %setup.namespaces, config_map = setup.config_map, "the reconcile loop starts");
    let events = events::Events::new(setup.clients.write.clone(), setup.identity.clone());
    let configuration = configuration::watch(
        &setup.clients.read,
        &setup.namespace,
        &setup.config_map,
        setup.metrics.clone(),
        events.clone(),
    );
    let shared = Arc::new(Shared {
        injection: injection::choose(&setup.clients.read, &setup.runner).await,
        clients: setup.clients,
        writer: setup.writer,
        metrics: setup.metrics,
        heartbeat: setup.heartbeat,
        configuration,
        events,
        synced: sync::watch::Sender::new(false),
    });

    let tasks = setup.namespaces.apis::<Guarded>(&shared.clients.read);
    let pods = setup.namespaces.apis::<Pod>(&shared.clients.read);
    let mut loops = JoinSet::new();
    let mut scopes = Vec::new();
    for (tasks, pods) in tasks.into_iter().zip(pods) {
        let scope = watch(&shared, tasks, pods, setup.concurrency, &setup.shutdown, &mut loops);
        scopes.push(scope);
    }

    let synced = {
        let (scopes, health, shared) = (scopes.clone(), setup.health.clone(), shared.clone());
        async move {
            for scope in &scopes {
                scope.synced().await;
            }
            shared.configuration.synced().await;
            shared.synced.send_replace(true);
            health.set(Stage::Working);
            info!("caches have synced");
        }
    };
    loops.spawn(synced.map(|()| None));

    let mut beats = time::interval(BEAT);
    loop {
        tokio::select! {
            _ = beats.tick() => {
                shared.heartbeat.beat();
                count_phases(&scopes, &shared.metrics);
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

/// Sets up one set of watches and the two controllers that they feed.
fn watch(
    shared: &Arc<Shared>,
    tasks: Api<Guarded>,
    pods: Api<Pod>,
    concurrency: u16,
    shutdown: &CancellationToken,
    loops: &mut JoinSet<Option<String>>,
) -> Arc<Scope> {
    let name = format!("tasks at {}", tasks.resource_url());
    let (pod_reader, pod_writer) = reflector::store_shared::<Pod>(SHARED_PODS);
    // The writer was made shared just above, so both are there.
    let of_tasks = pod_writer.subscribe().into_iter().collect::<futures::stream::SelectAll<_>>();
    let of_pods = pod_writer.subscribe().into_iter().collect::<futures::stream::SelectAll<_>>();

    let config = Config::default().concurrency(concurrency);
    let controller = Controller::new(tasks, watcher::Config::default())
        .with_config(config.clone())
        .owns_shared_stream(of_tasks)
        .reconcile_all_on(shared.configuration.changes())
        .reconcile_all_on(once_true(shared.synced.subscribe()))
        .graceful_shutdown_on(shutdown.clone().cancelled_owned());
    let scope = Arc::new(Scope {
        shared: shared.clone(),
        tasks: controller.store(),
        pods: pod_reader.clone(),
        newest_tasks: latest::Latest::default(),
        newest_pods: latest::Latest::default(),
        failures: Failures::default(),
    });
    let done = controller
        .run(
            reconcile::reconcile,
            |task, error, scope| reconcile::on_error(&task, error, &scope),
            scope.clone(),
        )
        .for_each(|_| futures::future::ready(()));
    loops.spawn(done.map(move |()| Some(name)));

    let sweeper = Controller::for_shared_stream(of_pods, pod_reader)
        .with_config(config)
        .reconcile_all_on(once_true(shared.synced.subscribe()))
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(sweep::sweep, |pod, error, scope| sweep::on_error(&pod, error, &scope), scope.clone())
        .for_each(|_| futures::future::ready(()));
    loops.spawn(sweeper.map(|()| Some("the sweep".to_owned())));

    let selector = watcher::Config::default().labels(LABEL_TASK_UID);
    let pods = reflector::reflector(pod_writer, watcher(pods, selector).default_backoff())
        .take_until(shutdown.clone().cancelled_owned())
        .for_each(|event| {
            if let Err(error) = event {
                warn!(%error, "the watch of pods is disturbed; it goes on");
            }
            futures::future::ready(())
        });
    loops.spawn(pods.map(|()| Some("the watch of pods".to_owned())));
    scope
}

impl Scope {
    /// Waits until both caches hold all that there is.
    async fn synced(&self) {
        ready(&self.tasks).await;
        ready(&self.pods).await;
    }
}

/// Waits until a cache holds all that there is.
///
/// Of several that wait for one cache, kube wakes only the last that looked, and each controller waits for
/// its own too. So this one looks again by itself, and whoever was passed over is woken by [`once_true`].
async fn ready<K>(store: &Store<K>)
where
    K: reflector::Lookup + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    // An error says that the writer is gone, which is the end of the process anyway.
    while time::timeout(LOOK_AGAIN, store.wait_until_ready()).await.is_err() {}
}

/// One signal, as soon as this is true.
fn once_true(mut flag: sync::watch::Receiver<bool>) -> impl Stream<Item = ()> + Send + 'static {
    futures::stream::once(async move { drop(flag.wait_for(|flag| *flag).await) })
}

fn count_phases(scopes: &[Arc<Scope>], metrics: &Metrics) {
    let mut count: HashMap<Phase, i64> = HashMap::new();
    for task in scopes.iter().flat_map(|scope| scope.tasks.state()) {
        let phase = task.0.as_ref().ok().and_then(|task| task.status.as_ref()?.phase);
        *count.entry(phase.unwrap_or(Phase::Pending)).or_default() += 1;
    }
    metrics.tasks(|phase| count.get(&phase).copied().unwrap_or_default());
}

/// How often each object's reconcile has failed in a row: what the delay before the next try is made of.
#[derive(Default)]
struct Failures(Mutex<HashMap<String, u32>>);

impl Failures {
    fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
        ObjectRef::from_obj(object).to_string()
    }

    fn forget<K: Resource<DynamicType = ()>>(&self, object: &K) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&Self::key(object));
    }

    /// The delay before the next try: doubled with each failure, with some jitter, so that many tasks that failed
    /// together do not come back together.
    fn next<K: Resource<DynamicType = ()>>(&self, object: &K) -> Action {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(Self::key(object)).or_default();
        let delay = RETRY_MIN.saturating_mul(1 << (*count).min(8)).min(RETRY_MAX);
        *count = count.saturating_add(1);
        Action::requeue(delay.mul_f64(0.8 + 0.4 * fastrand::f64()))
    }
}

impl Shared {
    fn measure(&self, started: time::Instant, how: Reconciled) {
        self.metrics.reconciled(how, started.elapsed());
    }
}
