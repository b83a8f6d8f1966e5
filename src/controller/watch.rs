//! Watches: what fills a cache, tells when it is full, and says which tasks a pod's change is about.
//!
//! kube's shared streams are not used: they do not tell of deletions, and lose their wake-up where an object
//! is gone before it is looked at. Nor is `Store::wait_until_ready`: of several that wait for one cache it
//! wakes only the last that looked, and each controller waits for its own.

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

use super::Guarded;
use super::cached_pod::CachedPod;

/// How far a cache has come.
#[derive(Clone, Default)]
struct Filling {
    /// It holds all that there is, or did once.
    full: bool,
    /// Why it could not be filled, or followed, when that was last tried.
    trouble: Option<(Instant, String)>,
}

/// A trouble that was not met again for so long is over: each try comes within half a minute of the one before.
const TROUBLE_LASTS: Duration = Duration::from_secs(90);
/// Bytes of a trouble's own words.
const TROUBLE_BYTES: usize = 300;

/// Becomes true once a cache holds all that there is.
#[derive(Clone)]
pub(super) struct Synced(watch::Receiver<Filling>);

impl Synced {
    pub(super) async fn wait(&self) {
        // An error says that the watch is gone, which is the end of the process anyway.
        drop(self.0.clone().wait_for(|filling| filling.full).await);
    }

    /// Waits until the cache is full, or it is known why it is not.
    pub(super) async fn settled(&self) {
        drop(self.0.clone().wait_for(|filling| filling.full || filling.trouble.is_some()).await);
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.borrow().full
    }

    /// Why the cache cannot be filled, or followed.
    pub(super) fn trouble(&self) -> Option<String> {
        let filling = self.0.borrow();
        let (since, words) = filling.trouble.as_ref()?;
        (since.elapsed() < TROUBLE_LASTS).then(|| words.clone())
    }
}

/// What an event of a watch says of its cache.
fn follow<K>(filling: &watch::Sender<Filling>, event: &Event<K>) {
    filling.send_if_modified(|filling| match event {
        Ok(event) => {
            let is_full = matches!(event, watcher::Event::InitDone);
            let is_news = filling.trouble.take().is_some() || (is_full && !filling.full);
            filling.full |= is_full;
            is_news
        }
        Err(error) => {
            filling.trouble = Some((Instant::now(), cut_bytes(&words(error), TROUBLE_BYTES)));
            true
        }
    });
}

/// The server's own words, where it has answered.
fn words(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        WatchError(status)
        | InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Objects in one page of a list. A page is held as one body before it is read.
pub(super) const PAGE: u32 = 50;

type Event<K> = Result<watcher::Event<K>, watcher::Error>;

/// Each object as it is, and then its changes. A server that streams a list sends one object after another; from one
/// that does not (Kubernetes before 1.34, by default) the list is read in pages.
fn objects<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>> + Send + 'static
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let streamed = watcher(api.clone(), config.clone().streaming_lists()).default_backoff();
    let streamed = streamed.take_while(|event| {
        let is_refused = matches!(event, Err(error) if does_not_stream(error));
        if is_refused {
            info!("the server does not stream lists; they are read in pages");
        }
        future::ready(!is_refused)
    });
    streamed.chain(watcher(api, config.page_size(PAGE)).default_backoff())
}

/// Whether the server said that it streams no lists: it calls a request for one invalid.
fn does_not_stream(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if matches!(status.code, 400 | 422))
}

/// A cache, the events that fill it as they are polled, and the word that it is full.
fn cache<K>(
    api: Api<K>,
    config: watcher::Config,
) -> (Store<K>, impl Stream<Item = Event<K>> + Send + 'static, Synced)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
{
    let (store, writer) = reflector::store();
    let (filling, synced) = watch::channel(Filling::default());
    let events = reflector::reflector(writer, objects(api, config)).inspect(move |event| {
        follow(&filling, event);
        if let Err(error) = event {
            warn!(%error, "a watch is disturbed; it goes on");
        }
    });
    (store, events, Synced(synced))
}

/// The tasks' cache and the changes that a controller works on.
pub(super) fn tasks(
    api: Api<Guarded>,
) -> (Store<Guarded>, impl Stream<Item = Result<Guarded, watcher::Error>> + Send + 'static, Synced) {
    let (store, events, synced) = cache(api, watcher::Config::default());
    (store, events.touched_objects(), synced)
}

/// The pods' cache, and what their changes concern.
pub(super) struct Pods {
    pub(super) store: Store<CachedPod>,
    pub(super) synced: Synced,
    /// The task of each pod that was changed or deleted.
    pub(super) tasks: UnboundedReceiver<ObjectRef<Guarded>>,
    /// Each pod that was changed.
    pub(super) changed: UnboundedReceiver<Result<CachedPod, watcher::Error>>,
    /// A signal whenever the cache was filled anew: a pod may have gone unseen.
    pub(super) filled: UnboundedReceiver<()>,
}

/// Watches the pods of tasks. The future is the watch: it goes on as long as it is polled.
pub(super) fn pods(api: Api<CachedPod>) -> (Pods, impl Future<Output = ()> + Send + 'static) {
    let (store, events, synced) = cache(api, watcher::Config::default().labels(LABEL_TASK_UID));
    let (to_tasks, tasks) = mpsc::unbounded();
    let (to_changed, changed) = mpsc::unbounded();
    let (to_filled, filled) = mpsc::unbounded();
    // A receiver that is gone belongs to a loop that has ended; the process ends with it.
    let tell = move |pod: &CachedPod| {
        if let Some(task) = pod.task() {
            let _ = to_tasks.unbounded_send(task);
        }
    };
    let watch = events.for_each(move |event| {
        match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                tell(&pod);
                let _ = to_changed.unbounded_send(Ok(pod));
            }
            Ok(watcher::Event::Delete(pod)) => tell(&pod),
            Ok(watcher::Event::InitDone) => drop(to_filled.unbounded_send(())),
            Ok(watcher::Event::Init) | Err(_) => {}
        }
        future::ready(())
    });
    (Pods { store, synced, tasks, changed, filled }, watch)
}
