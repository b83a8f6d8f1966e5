//! The objects behind the machine's handles: versions that the API server has sent, shared and never changed.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use agentloop_core::api::{ActiveIteration, AgentTask, AgentTaskStatus};
use agentloop_core::decide::PodRef;
use agentloop_core::settings::Configuration;
use agentloop_core::sync::Handles;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use tokio::time::Instant;

use super::cached_pod::CachedPod;

/// A shared object. Two handles are equal if they point to the same object.
#[derive(Debug)]
pub(super) struct Handle<T>(pub(super) Arc<T>);

impl<T> Handle<T> {
    pub(super) fn new(object: T) -> Self {
        Self(Arc::new(object))
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Handle<T> {}

impl<T> Hash for Handle<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// The machine's handles for real objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Live;

impl Handles for Live {
    type Task = Handle<AgentTask>;
    type Status = Handle<AgentTaskStatus>;
    type Active = ActiveIteration;
    type Pod = Handle<CachedPod>;
    type PodId = PodRef;
    type Pvc = Handle<PersistentVolumeClaim>;
    type Configuration = Handle<Configuration>;
    type Time = Instant;
}
