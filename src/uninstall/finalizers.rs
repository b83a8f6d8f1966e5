//! Step 4: the pods from which our finalizer is removed. Which of them, and when, is `agentloop_core::sync`'s.

use std::sync::Arc;

use agentloop_contract::names::{FINALIZER_SETTLE, LABEL_TASK_UID};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::PartialObjectMeta;

use super::error::unlisted;
use super::sync::HeldPod;
use super::{Error, Hook, page};
use crate::client::{READ_TIMEOUT, with_timeout};

impl Hook {
    /// All pods of tasks that have our finalizer.
    pub(super) async fn pods_with_finalizer(&self) -> Result<Vec<Arc<HeldPod>>, Error> {
        let mut held = Vec::new();
        for api in self.namespaces.apis::<Pod>(&self.clients.read) {
            let mut token = None;
            loop {
                let params = page(token).labels(LABEL_TASK_UID);
                let list = with_timeout(READ_TIMEOUT, api.list_metadata(&params))
                    .await
                    .map_err(|source| unlisted("pods of tasks", api.namespace(), source))?;
                token = list.metadata.continue_.filter(|token| !token.is_empty());
                held.extend(
                    list.items.iter().filter(|pod| has_finalizer(pod)).map(HeldPod::of).map(Arc::new),
                );
                if token.is_none() {
                    break;
                }
            }
        }
        Ok(held)
    }
}

fn has_finalizer(pod: &PartialObjectMeta<Pod>) -> bool {
    pod.finalizers().iter().any(|name| name == FINALIZER_SETTLE)
}

impl HeldPod {
    fn of(pod: &PartialObjectMeta<Pod>) -> Self {
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            task_uid: pod.labels().get(LABEL_TASK_UID).cloned().unwrap_or_default(),
        }
    }
}
