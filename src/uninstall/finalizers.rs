//! Step 4: our finalizers are removed from pods.

use std::collections::BTreeSet;

use agentloop_contract::names::{FINALIZER_SETTLE, LABEL_TASK_UID};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::PartialObjectMeta;
use tokio::time::{self, Instant};

use super::error::{Troubles, unlisted};
use super::{Error, Hook, LOOK, named, page};
use crate::client::{READ_TIMEOUT, with_timeout};

impl Hook {
    pub(super) async fn remove_finalizers(
        &self,
        unmarked: &BTreeSet<String>,
        tell: &mut (dyn FnMut(String) + Send),
        troubles: &mut Troubles,
    ) -> Result<(), Error> {
        let mut released = 0_usize;
        // Until a look finds nothing: a request of an operator that is gone may still have arrived.
        loop {
            let pods = self.pods_with_finalizer(unmarked).await?;
            if pods.is_empty() {
                break;
            }
            let mut failed = Vec::new();
            for pod in pods {
                let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
                let uid = pod.uid().unwrap_or_default();
                match self.writer.remove_finalizer(&namespace, &name, &uid, false).await {
                    Ok(_) => released += 1,
                    Err(error) if error.is_not_found() => {}
                    Err(error) => failed.push((named("Pod", &pod), error)),
                }
            }
            let hopeless = failed.iter().any(|(_, error)| matches!(error.reason(), "forbidden" | "invalid"));
            if hopeless || Instant::now() >= self.deadline {
                for (named, error) in failed {
                    troubles.add(&format!("{named} keeps the finalizer {FINALIZER_SETTLE}: {error}"));
                }
                break;
            }
            if !failed.is_empty() {
                time::sleep(LOOK).await;
            }
        }
        tell(format!("{released} pod(s) without our finalizer now in {}.", self.namespaces));
        Ok(())
    }

    /// Pods that bear our finalizer, except those whose task could not be marked.
    async fn pods_with_finalizer(
        &self,
        unmarked: &BTreeSet<String>,
    ) -> Result<Vec<PartialObjectMeta<Pod>>, Error> {
        let mut held = Vec::new();
        for api in self.namespaces.apis::<Pod>(&self.clients.read) {
            let mut token = None;
            loop {
                let params = page(token).labels(LABEL_TASK_UID);
                let list = with_timeout(READ_TIMEOUT, api.list_metadata(&params))
                    .await
                    .map_err(|source| unlisted("pods of tasks", api.namespace(), source))?;
                token = list.metadata.continue_.filter(|token| !token.is_empty());
                held.extend(list.items.into_iter().filter(|pod| {
                    let of = pod.labels().get(LABEL_TASK_UID);
                    pod.finalizers().iter().any(|name| name == FINALIZER_SETTLE)
                        && of.is_none_or(|uid| !unmarked.contains(uid))
                }));
                if token.is_none() {
                    break;
                }
            }
        }
        Ok(held)
    }
}
