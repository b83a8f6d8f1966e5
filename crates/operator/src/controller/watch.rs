//! Watches: what fills a cache, tells when it is full, and says which tasks a pod's change is about.
//!
//! kube's shared streams are not used: they do not tell of deletions, and lose their wake-up where an object
//! is gone before it is looked at. Nor is `Store::wait_until_ready`: of several that wait for one cache it
//! wakes only the last that looked, and each controller waits for its own.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use agentloop_contract::names::{ANNOTATION_CONTEXT, ANNOTATION_PROMPT, LABEL_TASK, LABEL_TASK_UID};
use agentloop_core::api::AgentTask;
use agentloop_core::message::cut_bytes;
use futures::channel::mpsc::{self, UnboundedReceiver};
use futures::{Stream, StreamExt, future};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::Guarded;

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

/// Objects in one page of a list.
const PAGE: u32 = 50;

/// Takes out what nobody reads from a cache: who wrote which field, the last applied configuration, and the pods'
/// prompts and contexts, which are the biggest part of a pod by far.
fn strip(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    if let Some(notes) = &mut meta.annotations {
        for name in
            [ANNOTATION_PROMPT, ANNOTATION_CONTEXT, "kubectl.kubernetes.io/last-applied-configuration"]
        {
            notes.remove(name);
        }
    }
}

type Event<K> = Result<watcher::Event<K>, watcher::Error>;

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
    // A page is held as one body before it is read.
    let config = config.page_size(PAGE);
    let objects = watcher(api, config).default_backoff().modify(|object| strip(object.meta_mut()));
    let events = reflector::reflector(writer, objects).inspect(move |event| {
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
    pub(super) store: Store<Pod>,
    pub(super) synced: Synced,
    /// The task of each pod that was changed or deleted.
    pub(super) tasks: UnboundedReceiver<ObjectRef<Guarded>>,
    /// Each pod that was changed.
    pub(super) changed: UnboundedReceiver<Result<Pod, watcher::Error>>,
    /// A signal whenever the cache was filled anew: a pod may have gone unseen.
    pub(super) filled: UnboundedReceiver<()>,
}

/// Watches the pods of tasks. The future is the watch: it goes on as long as it is polled.
pub(super) fn pods(api: Api<Pod>) -> (Pods, impl Future<Output = ()> + Send + 'static) {
    let (store, events, synced) = cache(api, watcher::Config::default().labels(LABEL_TASK_UID));
    let (to_tasks, tasks) = mpsc::unbounded();
    let (to_changed, changed) = mpsc::unbounded();
    let (to_filled, filled) = mpsc::unbounded();
    // A receiver that is gone belongs to a loop that has ended; the process ends with it.
    let tell = move |pod: &Pod| {
        if let Some(task) = task_of(pod) {
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

/// The task that a pod belongs to, whether or not it is still there.
pub(super) fn task_of(pod: &Pod) -> Option<ObjectRef<Guarded>> {
    let kind = AgentTask::kind(&());
    let owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.filter(|owner| owner.kind == kind).find(|owner| owner.controller == Some(true));
    let name = owner
        .map(|owner| owner.name.as_str())
        .or_else(|| pod.labels().get(LABEL_TASK).map(String::as_str))?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_was_told_is_not_cached_and_what_the_rules_read_is() {
        let hash = agentloop_contract::names::ANNOTATION_TEMPLATE_HASH;
        let notes = [ANNOTATION_PROMPT, ANNOTATION_CONTEXT, hash, "example.com/kept"];
        let mut meta = ObjectMeta {
            annotations: Some(notes.map(|name| (name.to_owned(), "x".to_owned())).into()),
            managed_fields: Some(Vec::new()),
            ..ObjectMeta::default()
        };
        strip(&mut meta);
        let kept: Vec<String> = meta.annotations.unwrap_or_default().into_keys().collect();
        let mut wanted = vec![hash.to_owned(), "example.com/kept".to_owned()];
        wanted.sort();
        assert_eq!(kept, wanted);
        assert_eq!(meta.managed_fields, None);
    }
}
