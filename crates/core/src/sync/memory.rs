//! What the operator remembers about a task from one reconcile to the next, and about an orphaned pod from one check to
//! the next.
//!
//! Counting does not depend on it, because every write is guarded by the API server. It saves conflicts, futile writes
//! and reads.

use std::time::Duration;

use super::objects::{Environment, Handles};

/// How long an answer is remembered if the cache does not catch up with it. After that, the cache is right.
pub const ANSWER_LIFETIME: Duration = Duration::from_mins(1);

/// The memory about one task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Memory<H: Handles> {
    /// The newest answer to a read or write of the task.
    task: Option<(H::Time, H::Task)>,
    /// The newest answers to writes and single reads of its pods.
    pods: Vec<(H::Time, H::Pod)>,
    /// Pods that are gone although the cache may still show them, and since when that is known.
    gone: Vec<(H::Time, H::PodId)>,
    /// The iteration whose pod this process has started.
    pub(super) started: Option<H::Active>,
    /// When a create was first rejected because a new namespace does not have everything yet.
    pub(super) namespace_not_ready: Option<H::Time>,
    /// The generation of the spec against which the owner of the workspace PVC was checked.
    pub(super) pvc_checked: Option<i64>,
}

impl<H: Handles> Default for Memory<H> {
    fn default() -> Self {
        Self {
            task: None,
            pods: Vec::new(),
            gone: Vec::new(),
            started: None,
            namespace_not_ready: None,
            pvc_checked: None,
        }
    }
}

impl<H: Handles> Memory<H> {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.task.is_none()
            && self.pods.is_empty()
            && self.gone.is_empty()
            && self.started.is_none()
            && self.namespace_not_ready.is_none()
            && self.pvc_checked.is_none()
    }

    /// Forgets old answers. The object of an answer that never appeared in the cache may be gone.
    pub fn forget_answers(&mut self, is_old: impl Fn(&H::Time) -> bool) {
        self.task.take_if(|(time, _)| is_old(time));
        self.pods.retain(|(time, _)| !is_old(time));
        self.gone.retain(|(time, _)| !is_old(time));
    }

    /// Whether answers are remembered.
    pub fn has_answers(&self) -> bool {
        self.task.is_some() || !self.pods.is_empty() || !self.gone.is_empty()
    }

    /// The remembered answers about the task and about its pods.
    pub fn answers(&mut self) -> (Option<&mut H::Task>, impl Iterator<Item = &mut H::Pod>) {
        (self.task.as_mut().map(|(_, task)| task), self.pods.iter_mut().map(|(_, pod)| pod))
    }

    /// The remembered versions of pods.
    pub fn pods(&self) -> impl Iterator<Item = &H::Pod> {
        self.pods.iter().map(|(_, pod)| pod)
    }

    /// The newer version of the task: the cached one, or the answer to a request.
    pub fn newest_task<E: Environment<H> + ?Sized>(&mut self, environment: &E, cached: H::Task) -> H::Task {
        match &self.task {
            Some((_, known)) if environment.is_newer_task(known, &cached) => known.clone(),
            _ => {
                // The cache has caught up.
                self.task = None;
                cached
            }
        }
    }

    /// Whether a pod of the task is remembered that the cache does not show.
    pub(super) fn has_uncached_pod<E: Environment<H> + ?Sized>(
        &self,
        environment: &E,
        task: &H::Task,
    ) -> bool {
        let cached = environment.cached_pods(task);
        let is_cached = |pod: &H::Pod| cached.iter().any(|cached| environment.is_same_pod(cached, pod));
        self.pods().any(|pod| environment.belongs_to(pod, task) && !is_cached(pod))
    }

    /// Remembers a version of the task.
    pub(super) fn remember_task<E: Environment<H> + ?Sized>(&mut self, environment: &E, task: H::Task) {
        self.task = Some((environment.now(), task));
    }

    /// The newer version of each pod: the cached one, or the answer to a request. Includes pods that are not in the
    /// cache yet, and not those that are gone although the cache still shows them.
    pub(super) fn newest_pods<E: Environment<H> + ?Sized>(
        &mut self,
        environment: &E,
        task: &H::Task,
    ) -> Vec<H::Pod> {
        let mut pods = Vec::new();
        let mut cached_pods = environment.cached_pods(task);
        self.gone.retain(|(_, gone)| cached_pods.iter().any(|pod| environment.is_version_of(pod, gone)));
        cached_pods.retain(|pod| !self.gone.iter().any(|(_, gone)| environment.is_version_of(pod, gone)));
        for cached in cached_pods {
            let known = self.pods.iter().position(|(_, known)| environment.is_same_pod(known, &cached));
            match known.and_then(|place| Some((place, self.pods.get(place)?))) {
                Some((_, (_, known))) if environment.is_newer_pod(known, &cached) => pods.push(known.clone()),
                Some((place, _)) => {
                    self.pods.remove(place);
                    pods.push(cached);
                }
                None => pods.push(cached),
            }
        }
        for (_, known) in self.pods.iter().filter(|(_, pod)| environment.belongs_to(pod, task)) {
            if !pods.iter().any(|pod| environment.is_same_pod(pod, known)) {
                pods.push(known.clone());
            }
        }
        pods
    }

    /// Remembers a version of a pod, unless a newer one is remembered.
    pub(super) fn remember_pod<E: Environment<H> + ?Sized>(&mut self, environment: &E, pod: H::Pod) {
        let now = environment.now();
        match self.pods.iter_mut().find(|(_, known)| environment.is_same_pod(known, &pod)) {
            Some((_, known)) if environment.is_newer_pod(known, &pod) => {}
            Some(known) => *known = (now, pod),
            None => self.pods.push((now, pod)),
        }
    }

    /// Forgets a pod.
    pub(super) fn forget_pod<E: Environment<H> + ?Sized>(&mut self, environment: &E, pod: &H::PodId) {
        self.pods.retain(|(_, known)| !environment.is_version_of(known, pod));
    }

    /// Remembers that a pod is gone, or that it has ended and nothing keeps it any more.
    pub(super) fn remember_gone<E: Environment<H> + ?Sized>(&mut self, environment: &E, pod: H::PodId) {
        self.forget_pod(environment, &pod);
        self.gone.retain(|(_, known)| *known != pod);
        self.gone.push((environment.now(), pod));
    }
}

/// The memory about one orphaned pod: the answer to the last write of the cleanup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OrphanMemory<H: Handles> {
    /// When the answer came, and the pod as it was then; no pod if it was gone.
    answer: Option<(H::Time, Option<H::Pod>)>,
}

impl<H: Handles> Default for OrphanMemory<H> {
    fn default() -> Self {
        Self { answer: None }
    }
}

impl<H: Handles> OrphanMemory<H> {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.answer.is_none()
    }

    /// Forgets an old answer.
    pub fn forget_answers(&mut self, is_old: impl Fn(&H::Time) -> bool) {
        self.answer.take_if(|(time, _)| is_old(time));
    }

    /// What the cleanup knows of a pod that the cache shows as `cached`.
    ///
    /// Of two answers with the same version, that of the write counts: if the removal of our finalizer removes the pod,
    /// the API server answers with the pod's last version.
    pub(super) fn newest<E: Environment<H> + ?Sized>(
        &mut self,
        environment: &E,
        cached: H::Pod,
    ) -> KnownOrphan<H> {
        let is_old = |time: &H::Time| age(environment, time) >= ANSWER_LIFETIME;
        let is_passed = |known: &H::Pod| environment.is_newer_pod(&cached, known);
        self.answer.take_if(|(time, known)| is_old(time) || known.as_ref().is_some_and(is_passed));
        match &self.answer {
            None => KnownOrphan::Cached(cached),
            Some((_, Some(known))) => KnownOrphan::Answered(known.clone()),
            Some((_, None)) => KnownOrphan::Gone(cached),
        }
    }

    /// Remembers the pod as the API server has answered a write, or that it is gone.
    pub(super) fn remember<E: Environment<H> + ?Sized>(&mut self, environment: &E, pod: Option<H::Pod>) {
        self.answer = Some((environment.now(), pod));
    }

    /// When the answer is forgotten.
    pub(super) fn expires_after<E: Environment<H> + ?Sized>(&self, environment: &E) -> Option<Duration> {
        let (time, _) = self.answer.as_ref()?;
        Some(ANSWER_LIFETIME.saturating_sub(age(environment, time)))
    }
}

/// What the cleanup knows of a pod.
pub(super) enum KnownOrphan<H: Handles> {
    /// What the cache shows.
    Cached(H::Pod),
    /// The answer to a write, which the cache does not show yet.
    Answered(H::Pod),
    /// It is gone. The cache still shows this.
    Gone(H::Pod),
}

/// How long ago an answer came.
fn age<H: Handles, E: Environment<H> + ?Sized>(environment: &E, time: &H::Time) -> Duration {
    environment.since(time).try_into().unwrap_or_default()
}
