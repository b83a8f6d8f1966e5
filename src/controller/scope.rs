//! Everything that the reconciles of one set of watches need: of the whole cluster, or of one namespace.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentloop_core::sync::{Memory, OrphanMemory};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cached_pod::CachedPod;
use super::cached_task::CachedTask;
use super::context::ControllerContext;
use super::elsewhere::Elsewhere;
use super::handles::Live;
use super::memories::Memories;
use super::object_cache::ObjectCache;
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
    pub(super) tasks: ObjectCache<CachedTask>,
    tasks_synced: Synced,
    pub(super) pods: ObjectCache<CachedPod>,
    pods_synced: Synced,
    pub(super) memories: Memories<Memory<Live>>,
    pub(super) orphan_memories: Memories<OrphanMemory<Live>>,
    pub(super) elsewhere: Elsewhere,
    pub(super) task_failures: Failures,
    pub(super) pod_failures: Failures,
    shutdown: CancellationToken,
}

impl WatchScope {
    pub(super) fn new(
        context: Arc<ControllerContext>,
        namespace: Option<String>,
        tasks: Cache<CachedTask>,
        pods: Cache<CachedPod>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            context,
            namespace: namespace.unwrap_or_else(|| ALL.to_owned()),
            since: Instant::now(),
            is_unlisted: AtomicBool::new(false),
            tasks: tasks.objects,
            tasks_synced: tasks.synced,
            pods: pods.objects,
            pods_synced: pods.synced,
            memories: Memories::default(),
            orphan_memories: Memories::default(),
            elsewhere: Elsewhere::default(),
            task_failures: Failures::default(),
            pod_failures: Failures::default(),
            shutdown,
        }
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

    /// Forgets the objects that are no longer in the caches, and keeps those that do not change in less memory.
    pub(super) fn clean_up(&self) {
        self.memories.retain(|uid| self.tasks.has_of_task(uid));
        let pods = self.pods.all();
        let uids_of_pods: HashSet<&str> = pods.iter().map(|pod| pod.facts.uid.as_str()).collect();
        self.orphan_memories.retain(|uid| uids_of_pods.contains(uid));
        self.elsewhere.retain(|uid| self.tasks.has_of_task(uid) || self.pods.has_of_task(uid));
        self.task_failures.retain(|task| self.tasks.get(task).is_some());
        self.pod_failures.retain(|pod| self.pods.get(pod).is_some());
        self.tasks.compact();
    }
}
