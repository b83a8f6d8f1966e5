//! Watches: they fill a cache, report when it is complete, and find the task that a changed pod belongs to.
//!
//! kube's shared streams are not used: they do not pass deletions on, and lose a wake-up if an object is gone before it is
//! processed. Nor is `Store::wait_until_ready`: if several wait for one cache, it wakes only the last one, and here each
//! reconcile waits.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use agentloop_contract::names::LABEL_TASK_UID;
use agentloop_contract::text::cut_bytes;
use futures::channel::mpsc::{self, UnboundedReceiver};
use futures::{Stream, StreamExt, future};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::cached_pod::CachedPod;
use super::guard::Guarded;

/// How complete a cache is.
#[derive(Clone, Default)]
struct Filling {
    /// It has received a complete list.
    full: bool,
    /// The last error of its watch, and when that happened.
    trouble: Option<(Instant, String)>,
}

/// An error that has not been repeated for so long is over: a watch retries at least every half minute.
const TROUBLE_LASTS: Duration = Duration::from_secs(90);
/// Most bytes that are kept of an error's message.
const TROUBLE_BYTES: usize = 300;

/// Whether a cache is complete.
pub(super) struct Synced(watch::Receiver<Filling>);

impl Synced {
    pub(super) async fn wait(&self) {
        // An error means that the watch has ended, and with it the process.
        drop(self.0.clone().wait_for(|filling| filling.full).await);
    }

    /// Waits until the cache is complete, or it is known why it cannot be filled.
    pub(super) async fn settled(&self) {
        drop(self.0.clone().wait_for(|filling| filling.full || filling.trouble.is_some()).await);
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.borrow().full
    }

    /// Why the cache cannot be filled or kept up to date.
    pub(super) fn trouble(&self) -> Option<String> {
        let filling = self.0.borrow();
        let (since, message) = filling.trouble.as_ref()?;
        (since.elapsed() < TROUBLE_LASTS).then(|| message.clone())
    }
}

/// Notes what an event of the watch means for its cache.
fn follow<K>(filling: &watch::Sender<Filling>, event: &Event<K>) {
    filling.send_if_modified(|filling| match event {
        Ok(event) => {
            let is_full = matches!(event, watcher::Event::InitDone);
            let is_news = filling.trouble.take().is_some() || (is_full && !filling.full);
            filling.full |= is_full;
            is_news
        }
        Err(error) => {
            filling.trouble = Some((Instant::now(), cut_bytes(&message(error), TROUBLE_BYTES)));
            true
        }
    });
}

/// The server's message, if it has answered.
fn message(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        WatchError(status)
        | InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Objects in one page of a list. A page is in memory as a whole before it is decoded.
pub(super) const PAGE: u32 = 50;

type Event<K> = Result<watcher::Event<K>, watcher::Error>;

/// Each object as it is, and then its changes. A server that can stream a list sends one object after another; from one
/// that cannot (Kubernetes before 1.34, by default) the list is read in pages.
fn objects<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>> + Send + 'static
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let streamed = watcher(api.clone(), config.clone().streaming_lists()).default_backoff();
    let streamed = streamed.take_while(|event| {
        let is_refused = matches!(event, Err(error) if does_not_stream(error));
        if is_refused {
            info!("the API server does not stream lists; reading them in pages");
        }
        future::ready(!is_refused)
    });
    streamed.chain(watcher(api, config.page_size(PAGE)).default_backoff())
}

/// Whether the server does not stream lists: it rejects the request for one as invalid.
fn does_not_stream(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if matches!(status.code, 400 | 422))
}

/// The objects of a watch.
pub(super) struct Cache<K>
where
    K: Resource + 'static,
    K::DynamicType: Eq + Hash,
{
    pub(super) store: Store<K>,
    pub(super) synced: Synced,
}

/// A cache, and the events that fill it as they are polled.
fn cache<K>(api: Api<K>, config: watcher::Config) -> (Cache<K>, impl Stream<Item = Event<K>> + Send + 'static)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
{
    let (store, writer) = reflector::store();
    let (filling, synced) = watch::channel(Filling::default());
    let events = reflector::reflector(writer, objects(api, config)).inspect(move |event| {
        follow(&filling, event);
        if let Err(error) = event {
            warn!(%error, "the watch was interrupted; resuming");
        }
    });
    (Cache { store, synced: Synced(synced) }, events)
}

/// The tasks' cache, and the changes for a controller.
pub(super) fn tasks(
    api: Api<Guarded>,
) -> (Cache<Guarded>, impl Stream<Item = Result<Guarded, watcher::Error>> + Send + 'static) {
    let (cache, events) = cache(api, watcher::Config::default());
    (cache, events.touched_objects())
}

/// The changes of pods, for the controllers.
pub(super) struct PodChanges {
    /// The task of each pod that was changed or deleted.
    pub(super) tasks: UnboundedReceiver<ObjectRef<Guarded>>,
    /// Each pod that was changed.
    pub(super) changed: UnboundedReceiver<Result<CachedPod, watcher::Error>>,
    /// A signal after each complete list: a pod may have disappeared unnoticed.
    pub(super) filled: UnboundedReceiver<()>,
}

/// Watches the pods of tasks. The future is the watch: it runs as long as it is polled.
pub(super) fn pods(
    api: Api<CachedPod>,
) -> (Cache<CachedPod>, PodChanges, impl Future<Output = ()> + Send + 'static) {
    let (cache, events) = cache(api, watcher::Config::default().labels(LABEL_TASK_UID));
    let (to_tasks, tasks) = mpsc::unbounded();
    let (to_changed, changed) = mpsc::unbounded();
    let (to_filled, filled) = mpsc::unbounded();
    // A receiver is gone only if its controller has ended; then the process ends too.
    let notify = move |pod: &CachedPod| {
        if let Some(task) = pod.task() {
            let _ = to_tasks.unbounded_send(task);
        }
    };
    let watch = events.for_each(move |event| {
        match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                notify(&pod);
                let _ = to_changed.unbounded_send(Ok(pod));
            }
            Ok(watcher::Event::Delete(pod)) => notify(&pod),
            Ok(watcher::Event::InitDone) => drop(to_filled.unbounded_send(())),
            Ok(watcher::Event::Init) | Err(_) => {}
        }
        future::ready(())
    });
    (cache, PodChanges { tasks, changed, filled }, watch)
}
