//! Everything that the reconciles of one set of watches need: of the whole cluster, or of one namespace.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Resource;
use kube::runtime::reflector::Store;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cached_pod::CachedPod;
use super::context::ControllerContext;
use super::elsewhere::Elsewhere;
use super::guard::Guarded;
use super::memories::Memories;
use super::pod_index::PodIndex;
use super::requeue::Failures;
use super::watch::{Cache, Synced};
use crate::namespaces::ALL;

/// How long a namespace's first list may take before it counts as one that cannot be listed.
pub(super) const FIRST_LIST: Duration = Duration::from_mins(1);

/// What the reconciles of one set of watches share.
pub(super) struct WatchScope {
    pub(super) context: Arc<ControllerContext>,
    /// The namespace, or `all namespaces`.
    pub(super) namespace: String,
    /// When its watches began.
    since: Instant,
    /// The last check found that it cannot be listed.
    is_unlisted: AtomicBool,
    pub(super) tasks: Store<Guarded>,
    tasks_synced: Synced,
    pub(super) pods: Store<CachedPod>,
    pods_synced: Synced,
    pod_index: PodIndex,
    pub(super) memories: Memories,
    pub(super) elsewhere: Elsewhere,
    pub(super) failures: Failures,
    shutdown: CancellationToken,
}

impl WatchScope {
    pub(super) fn new(
        context: Arc<ControllerContext>,
        namespace: Option<String>,
        tasks: Cache<Guarded>,
        pods: Cache<CachedPod>,
        pod_index: PodIndex,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            context,
            namespace: namespace.unwrap_or_else(|| ALL.to_owned()),
            since: Instant::now(),
            is_unlisted: AtomicBool::new(false),
            tasks: tasks.store,
            tasks_synced: tasks.synced,
            pods: pods.store,
            pods_synced: pods.synced,
            pod_index,
            memories: Memories::default(),
            elsewhere: Elsewhere::default(),
            failures: Failures::default(),
            shutdown,
        }
    }

    /// The task's pods in the cache.
    pub(super) fn pods_of(&self, task_uid: &str) -> Vec<Arc<CachedPod>> {
        let names = self.pod_index.of(task_uid);
        let pods = names.iter().filter_map(|name| self.pods.get(name));
        // The cache may be newer than the index.
        pods.filter(|pod| pod.facts.task_uid.as_deref() == Some(task_uid)).collect()
    }

    /// Waits until both caches are complete.
    pub(super) async fn synced(&self) {
        self.tasks_synced.wait().await;
        self.pods_synced.wait().await;
    }

    /// Waits until both caches are complete and the configuration has been read; false if the process stops first.
    pub(super) async fn is_ready(&self) -> bool {
        let ready = async {
            self.synced().await;
            self.context.configuration.synced().await;
        };
        tokio::select! {
            () = ready => true,
            () = self.shutdown.cancelled() => false,
        }
    }

    /// Waits until both caches are complete, or it is known why one cannot be filled.
    pub(super) async fn settled(&self) {
        self.tasks_synced.settled().await;
        self.pods_synced.settled().await;
    }

    /// Why the caches cannot be filled.
    pub(super) fn trouble(&self) -> Option<String> {
        let reported = self.tasks_synced.trouble().or_else(|| self.pods_synced.trouble());
        let is_full = self.tasks_synced.is_full() && self.pods_synced.is_full();
        let is_slow = !is_full && self.since.elapsed() >= FIRST_LIST;
        reported.or_else(|| is_slow.then(|| "the first list has not been answered yet".to_owned()))
    }

    /// Remembers whether the namespace can be listed; returns what was remembered before.
    pub(super) fn set_unlisted(&self, is_unlisted: bool) -> bool {
        self.is_unlisted.swap(is_unlisted, Ordering::Relaxed)
    }

    /// Forgets the objects that are no longer in the caches.
    pub(super) fn forget_what_is_gone(&self) {
        let (tasks, pods) = (self.tasks.state(), self.pods.state());
        let task_uids: HashSet<String> = tasks.iter().filter_map(|task| task.meta().uid.clone()).collect();
        let uids_of_pods: HashSet<String> =
            pods.iter().filter_map(|pod| pod.facts.task_uid.clone()).collect();
        self.memories.retain(|uid| task_uids.contains(uid));
        self.elsewhere.retain(|uid| task_uids.contains(uid) || uids_of_pods.contains(uid));
        self.failures.retain(|| {
            let tasks = tasks.iter().map(|task| Failures::key(task.as_ref()));
            tasks.chain(pods.iter().map(|pod| Failures::key(pod.as_ref()))).collect()
        });
    }
}
