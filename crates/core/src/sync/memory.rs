//! What the operator remembers of a task from one reconcile to the next.
//!
//! Nothing that is counted rests on it: every write is guarded by the API server. It saves conflicts, pods that are
//! created twice for nothing, and reads.

use super::objects::{Environment, Handles};

/// What is remembered of one task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Memory<H: Handles> {
    /// The newest answer to a read or write of the task.
    task: Option<(H::Time, H::Task)>,
    /// The newest answers to writes of its pods, and to reads of a single one.
    pods: Vec<(H::Time, H::Pod)>,
    /// The iteration whose pod this process has started.
    pub(super) started: Option<H::Active>,
    /// When a create was first refused for what a new namespace does not have yet.
    pub(super) unsettled: Option<H::Time>,
    /// The generation of the spec that the owner of the workspace's PVC was checked against.
    pub(super) pvc_checked: Option<i64>,
}

impl<H: Handles> Default for Memory<H> {
    fn default() -> Self {
        Self { task: None, pods: Vec::new(), started: None, unsettled: None, pvc_checked: None }
    }
}

impl<H: Handles> Memory<H> {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.task.is_none()
            && self.pods.is_empty()
            && self.started.is_none()
            && self.unsettled.is_none()
            && self.pvc_checked.is_none()
    }

    /// Forgets answers that are too old: the cache is no reason to trust them any longer, the object may be gone.
    pub fn forget_answers(&mut self, is_old: impl Fn(&H::Time) -> bool) {
        self.task.take_if(|(time, _)| is_old(time));
        self.pods.retain(|(time, _)| !is_old(time));
    }

    /// Whether answers are remembered.
    pub fn has_answers(&self) -> bool {
        self.task.is_some() || !self.pods.is_empty()
    }

    /// Every answer that is remembered of the task, and every one of a pod.
    pub fn answers(&mut self) -> (Option<&mut H::Task>, impl Iterator<Item = &mut H::Pod>) {
        (self.task.as_mut().map(|(_, task)| task), self.pods.iter_mut().map(|(_, pod)| pod))
    }

    /// The versions of pods that are remembered.
    pub fn pods(&self) -> impl Iterator<Item = &H::Pod> {
        self.pods.iter().map(|(_, pod)| pod)
    }

    /// The newer of what the cache holds of the task and what a request was answered with.
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

    /// Remembers an answer that is a version of the task.
    pub(super) fn remember_task<E: Environment<H> + ?Sized>(&mut self, environment: &E, task: H::Task) {
        self.task = Some((environment.now(), task));
    }

    /// Of each pod the newer of what the cache holds and what a request was answered with; and those that have not
    /// reached the cache.
    pub(super) fn newest_pods<E: Environment<H> + ?Sized>(
        &mut self,
        environment: &E,
        task: &H::Task,
    ) -> Vec<H::Pod> {
        let mut pods = Vec::new();
        for cached in environment.cached_pods(task) {
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

    /// Remembers an answer that is a version of a pod, unless a newer one is remembered.
    pub(super) fn remember_pod<E: Environment<H> + ?Sized>(&mut self, environment: &E, pod: H::Pod) {
        let now = environment.now();
        match self.pods.iter_mut().find(|(_, known)| environment.is_same_pod(known, &pod)) {
            Some((_, known)) if environment.is_newer_pod(known, &pod) => {}
            Some(known) => *known = (now, pod),
            None => self.pods.push((now, pod)),
        }
    }

    /// Forgets what is remembered of a pod.
    pub(super) fn forget_pod<E: Environment<H> + ?Sized>(&mut self, environment: &E, pod: &H::PodId) {
        self.pods.retain(|(_, known)| !environment.is_version_of(known, pod));
    }
}
