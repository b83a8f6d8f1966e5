//! Watches: they fill a cache, report when it is complete, and pass each event on.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use agentloop_contract::text::cut_bytes;
use futures::{Stream, StreamExt, future};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::object_cache::{CachedObject, ObjectCache, Received};

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
pub(super) struct Cache<T> {
    pub(super) objects: ObjectCache<T>,
    pub(super) synced: Synced,
}

/// A cache, and the watch that fills it: a future that runs as long as it is polled. `on_event` is called with each event
/// once the cache has it.
pub(super) fn cache<T: CachedObject>(
    api: Api<Received<T>>,
    config: watcher::Config,
    on_event: impl Fn(&watcher::Event<Received<T>>) + Send + 'static,
) -> (Cache<T>, impl Future<Output = ()> + Send + 'static) {
    let objects = ObjectCache::default();
    let cache = objects.clone();
    let (filling, synced) = watch::channel(Filling::default());
    let watch = self::objects(api, config).for_each(move |event| {
        match &event {
            Ok(event) => {
                cache.apply(event);
                on_event(event);
            }
            Err(error) => warn!(%error, "the watch was interrupted; resuming"),
        }
        // After the rest: who waits for a full cache finds all of it.
        follow(&filling, &event);
        future::ready(())
    });
    (Cache { objects, synced: Synced(synced) }, watch)
}
