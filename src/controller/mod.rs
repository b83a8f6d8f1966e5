//! The reconcile loop: watches tasks, pods and the configuration, and brings each task on.
//!
//! One set of watches and one queue for each watched namespace, or one for all. The decision itself is
//! `agentloop_core::decide`; `reconcile` gathers what it needs and carries out what it says.

mod cached_pod;
mod configuration;
mod elsewhere;
mod events;
mod guard;
mod injection;
pub(crate) use injection::LOOK_AT_NODES;
mod live;
mod memories;
mod merge;
mod orphans;
mod panics;
mod perform;
mod reconcile;
pub(crate) use reconcile::LONGEST;
mod report;
mod told;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentloop_core::api::Phase;
use agentloop_core::decide::served::Serving;
use agentloop_core::decide::{self, Decision, Observed};
use agentloop_core::facts::PodFacts;
use futures::future::{join_all, select_all};
use futures::{FutureExt, StreamExt};
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::cached_pod::CachedPod;
use self::guard::Guarded;
use crate::cli::RunnerArgs;
use crate::client::Clients;
use crate::health::{Health, Heartbeat, Stage};
use crate::metrics::{Metrics, Place, Reconciled};
use crate::namespaces::{ALL, Namespaces};
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
    pub rules: Rules,
    /// Which release this is: the tasks of others are left alone.
    pub serving: Serving,
    /// How many reconciles may run at the same time.
    pub concurrency: u16,
    /// How often `--runner-injection auto` looks at the nodes again.
    pub look_at_nodes: Duration,
    /// How long one reconcile goes on with new steps.
    pub longest: Duration,
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

/// The rules that the loop carries out.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What becomes of a task.
    pub decide: fn(&Observed<'_>) -> Decision,
    /// What becomes of the pods of a task that is gone.
    pub stop_all: fn(&[PodFacts]) -> Decision,
}

impl Default for Rules {
    fn default() -> Self {
        Self { decide: decide::decide, stop_all: decide::stop_all }
    }
}

/// How long one reconcile may take. It begins nothing new after a minute, and its longest step (the Events, a volume
/// claim's owner, a write and a read) takes 60 seconds where every request is answered at the last moment.
pub const RECONCILE: Duration = Duration::from_mins(3);

/// How often the loop shows that it goes on.
pub const BEAT: Duration = Duration::from_secs(10);

/// How long a namespace's first list may take before the others are ready without it.
const FIRST_LIST: Duration = Duration::from_mins(1);

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
    injection: injection::Chosen,
    events: events::Events,
    told: told::Told,
    rules: Rules,
    serving: Serving,
    longest: Duration,
}

/// What the reconciles of one watch share.
struct Scope {
    shared: Arc<Shared>,
    /// The namespace, or `all namespaces`.
    namespace: String,
    /// When its watches began.
    since: time::Instant,
    /// It was found so at the last look.
    is_unlisted: AtomicBool,
    tasks: Store<Guarded>,
    tasks_synced: watch::Synced,
    pods: Store<CachedPod>,
    pods_synced: watch::Synced,
    memories: memories::Memories,
    elsewhere: elsewhere::Elsewhere,
    failures: Failures,
    /// Who may work now, first come, first served. kube's own bound takes from what waits in no order, and of
    /// many busy tasks one may never be taken: not even to be suspended.
    turns: Semaphore,
    shutdown: CancellationToken,
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
        told: told::Told::new(setup.clients.read.clone()),
        injection: injection::Chosen::new(&setup.clients.read, &setup.runner).await,
        clients: setup.clients,
        writer: setup.writer,
        metrics: setup.metrics,
        heartbeat: setup.heartbeat,
        configuration,
        events,
        rules: setup.rules,
        serving: setup.serving,
        longest: setup.longest,
    });

    let tasks = setup.namespaces.apis::<Guarded>(&shared.clients.read);
    let pods = setup.namespaces.apis::<CachedPod>(&shared.clients.read);
    let mut loops = JoinSet::new();
    let mut scopes = Vec::new();
    for (tasks, pods) in tasks.into_iter().zip(pods) {
        let scope = watch(&shared, tasks, pods, setup.concurrency, &setup.shutdown, &mut loops);
        scopes.push(scope);
    }

    let synced = {
        let (scopes, health, shared) = (scopes.clone(), setup.health.clone(), shared.clone());
        async move {
            shared.configuration.synced().await;
            let settled = join_all(scopes.iter().map(|scope| scope.settled()));
            // One that is not answered at all is not waited for either.
            drop(time::timeout(FIRST_LIST, settled).await);
            // One namespace that may not be listed keeps nobody else from being served.
            select_all(scopes.iter().map(|scope| Box::pin(scope.synced()))).await;
            show_troubles(&scopes, &shared.metrics, &health);
            health.set(Stage::Working);
            info!("caches have synced");
        }
    };
    loops.spawn(synced.map(|()| None));

    let follow = {
        let (shared, client, stop) = (shared.clone(), shared.clients.read.clone(), setup.shutdown.clone());
        async move {
            tokio::select! {
                () = shared.injection.follow(&client, setup.look_at_nodes) => {}
                () = stop.cancelled() => {}
            }
            None
        }
    };
    loops.spawn(follow);

    let mut beats = time::interval(BEAT);
    loop {
        tokio::select! {
            _ = beats.tick() => {
                shared.heartbeat.beat();
                if let Err(words) = panics::caught_now(|| look_around(&scopes, &shared, &setup.health)) {
                    shared.metrics.panicked(Place::Count);
                    error!(panic = words, "agentloop panicked while it counted tasks");
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

/// Sets up one set of watches and the two controllers that they feed.
fn watch(
    shared: &Arc<Shared>,
    tasks: Api<Guarded>,
    pods: Api<CachedPod>,
    concurrency: u16,
    shutdown: &CancellationToken,
    loops: &mut JoinSet<Option<String>>,
) -> Arc<Scope> {
    let name = format!("tasks at {}", tasks.resource_url());
    let namespace = tasks.namespace().unwrap_or(ALL).to_owned();
    let (task_store, task_changes, tasks_synced) = watch::tasks(tasks);
    let (pods, watch_of_pods) = watch::pods(pods);
    let scope = Arc::new(Scope {
        shared: shared.clone(),
        namespace,
        since: time::Instant::now(),
        is_unlisted: AtomicBool::new(false),
        tasks: task_store.clone(),
        tasks_synced,
        pods: pods.store.clone(),
        pods_synced: pods.synced,
        memories: memories::Memories::default(),
        elsewhere: elsewhere::Elsewhere::default(),
        failures: Failures::default(),
        turns: Semaphore::new(concurrency.into()),
        shutdown: shutdown.clone(),
    });
    let controller = Controller::for_stream(task_changes, task_store)
        .reconcile_on(pods.tasks)
        .reconcile_all_on(pods.filled)
        .reconcile_all_on(shared.configuration.changes())
        .reconcile_all_on(shared.injection.changes())
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(
            reconcile::reconcile,
            |task, error, scope| reconcile::on_error(&task, error, &scope),
            scope.clone(),
        )
        .for_each(|_| futures::future::ready(()));
    loops.spawn(controller.map(move |()| Some(name)));

    let sweeper = Controller::for_stream(pods.changed, pods.store)
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(orphans::sync, |pod, error, scope| orphans::on_error(&pod, error, &scope), scope.clone())
        .for_each(|_| futures::future::ready(()));
    loops.spawn(sweeper.map(|()| Some("the sweep".to_owned())));

    let stop = shutdown.clone().cancelled_owned();
    let watch_of_pods = async move {
        tokio::select! {
            () = watch_of_pods => {}
            () = stop => {}
        }
        Some("the watch of pods".to_owned())
    };
    loops.spawn(watch_of_pods);
    scope
}

impl Scope {
    /// Keeps what is remembered of tasks as small as the cache of tasks.
    fn forget_what_is_gone(&self) {
        let there: HashSet<String> =
            self.tasks.state().iter().filter_map(|task| task.meta().uid.clone()).collect();
        self.memories.retain(|uid| there.contains(uid));
        let has_pods: HashSet<String> =
            self.pods.state().iter().filter_map(|pod| pod.facts.task_uid.clone()).collect();
        let tasks = self.tasks.state();
        let pods = self.pods.state();
        self.failures.retain(|| {
            let tasks = tasks.iter().map(|task| Failures::key(task.as_ref()));
            tasks.chain(pods.iter().map(|pod| Failures::key(pod.as_ref()))).collect()
        });
        self.elsewhere.retain(|uid| there.contains(uid) || has_pods.contains(uid));
    }

    /// Waits for a turn; `None` where there is none any more, because the process stops.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let permit = self.turns.acquire().await.ok()?;
        (!self.shutdown.is_cancelled()).then_some(permit)
    }

    /// Waits until both caches hold all that there is.
    async fn synced(&self) {
        self.tasks_synced.wait().await;
        self.pods_synced.wait().await;
    }

    /// Waits until both caches are filled and the configuration was seen; false where the process stops before.
    async fn is_ready(&self) -> bool {
        let ready = async {
            self.synced().await;
            self.shared.configuration.synced().await;
        };
        tokio::select! {
            () = ready => true,
            () = self.shutdown.cancelled() => false,
        }
    }

    /// Waits until both caches are filled, or it is known why one cannot be.
    async fn settled(&self) {
        self.tasks_synced.settled().await;
        self.pods_synced.settled().await;
    }

    /// Why the caches cannot be filled.
    fn trouble(&self) -> Option<String> {
        let told = self.tasks_synced.trouble().or_else(|| self.pods_synced.trouble());
        let is_full = self.tasks_synced.is_full() && self.pods_synced.is_full();
        let is_slow = !is_full && self.since.elapsed() >= FIRST_LIST;
        told.or_else(|| is_slow.then(|| "no answer to the first list yet".to_owned()))
    }
}

/// What is done at each beat.
fn look_around(scopes: &[Arc<Scope>], shared: &Shared, health: &Health) {
    count_phases(scopes, &shared.metrics);
    show_troubles(scopes, &shared.metrics, health);
    shared.told.forget_what_is_old();
    for scope in scopes {
        scope.forget_what_is_gone();
    }
}

/// Says which namespaces cannot be listed, and why.
fn show_troubles(scopes: &[Arc<Scope>], metrics: &Metrics, health: &Health) {
    let mut unlisted = Vec::new();
    for scope in scopes {
        let trouble = scope.trouble();
        metrics.unlisted(&scope.namespace, trouble.is_some());
        let was_listed = !scope.is_unlisted.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(why) => {
                if was_listed {
                    error!(
                        namespace = scope.namespace,
                        why, "the namespace cannot be listed; others are served"
                    );
                }
                unlisted.push(format!("{}: {why}", scope.namespace));
            }
            None if !was_listed => info!(namespace = scope.namespace, "the namespace is listed again"),
            None => {}
        }
    }
    health.unlisted(unlisted);
}

fn count_phases(scopes: &[Arc<Scope>], metrics: &Metrics) {
    let mut count: HashMap<Phase, i64> = HashMap::new();
    let mut elsewhere = 0;
    for scope in scopes {
        for task in scope.tasks.state() {
            let task = task.0.as_ref().ok();
            if task.is_some_and(|task| scope.shared.serving.other_release(task).is_some()) {
                elsewhere += 1;
                continue;
            }
            let phase = task.and_then(|task| task.status.as_ref()?.phase);
            *count.entry(phase.unwrap_or(Phase::Pending)).or_default() += 1;
        }
    }
    metrics.tasks(|phase| count.get(&phase).copied().unwrap_or_default());
    metrics.tasks_elsewhere(elsewhere);
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

    /// Forgets the objects that are not there any more; `there` is asked for only where something is remembered.
    fn retain(&self, there: impl FnOnce() -> HashSet<String>) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !failures.is_empty() {
            let there = there();
            failures.retain(|key, _| there.contains(key));
        }
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("team".to_owned());
        pod
    }

    #[test]
    fn an_object_that_vanished_while_it_failed_is_forgotten() {
        let failures = Failures::default();
        for name in ["stays", "vanished"] {
            failures.next(&pod(name));
            failures.next(&pod(name));
        }
        failures.retain(|| HashSet::from([Failures::key(&pod("stays"))]));
        let kept: Vec<(String, u32)> =
            failures.0.lock().unwrap().iter().map(|(key, count)| (key.clone(), *count)).collect();
        assert_eq!(kept, [(Failures::key(&pod("stays")), 2)]);
        failures.forget(&pod("stays"));
        failures.retain(|| panic!("nothing is remembered"));
    }
}
