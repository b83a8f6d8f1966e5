//! Before the steps: is this an uninstall? Steps 1 and 2: stop the operator, and keep others from starting.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch};
use kube::core::Selector;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{Error, Hook, POLL_INTERVAL, named};
use crate::client::{READ_TIMEOUT, patch_params, with_timeout};
use crate::lease::Election;
use crate::lease::decide::Timings;
use crate::metrics::Verb;

/// The annotations that Helm puts on everything that it installs: the release's name and namespace.
const HELM_RELEASE: &str = "meta.helm.sh/release-name";
const HELM_NAMESPACE: &str = "meta.helm.sh/release-namespace";

impl Hook {
    // === before the steps: is this an uninstall? ===

    /// Whether Helm installed the Deployment as this release: Helm annotates what it installs, and rendered templates do not
    /// have these annotations. True if there is no Deployment.
    pub(super) async fn is_helms(&self, release: &str) -> Result<bool, Error> {
        let api: Api<Deployment> = Api::namespaced(self.clients.read.clone(), &self.namespace);
        let read = with_timeout(READ_TIMEOUT, api.get_opt(&self.deployment)).await;
        let doing = || format!("reading Deployment {}/{}", self.namespace, self.deployment);
        let found = read.map_err(|source| Error::Request { doing: doing(), source })?;
        let mark = |deployment: &Deployment, name| deployment.annotations().get(name).cloned();
        Ok(found.is_none_or(|deployment| {
            mark(&deployment, HELM_RELEASE).as_deref() == Some(release)
                && mark(&deployment, HELM_NAMESPACE).as_deref() == Some(self.namespace.as_str())
        }))
    }

    pub(super) fn applied_by_hand(&self, release: &str) -> String {
        let Self { namespace, deployment, .. } = self;
        format!(
            "Nothing to do: Deployment {namespace}/{deployment} does not have the annotations of the Helm release {release} \
             ({HELM_RELEASE}), so this Job was applied together with all other objects, and this is not an uninstall. \
             Delete this Job. To uninstall, create it on purpose: helm template {release} CHART --namespace {namespace} --set uninstallJob=always \
             --show-only templates/release-rbac.yaml --show-only templates/release-job.yaml | kubectl create -f -"
        )
    }

    // === step 1: stop the operator ===

    pub(super) async fn stop_operator(&self, report: &mut (dyn FnMut(String) + Send)) -> Result<(), Error> {
        let named = format!("Deployment {}/{}", self.namespace, self.deployment);
        let api: Api<Deployment> = Api::namespaced(self.writer.client().clone(), &self.namespace);
        let zero = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
        match self.writer.send(Verb::Patch, api.patch_scale(&self.deployment, &patch_params(), &zero)).await {
            Ok(_) => report(format!("{named} is scaled to zero.")),
            Err(error) if error.is_not_found() => {
                report(format!("{named} does not exist: there is no operator to stop."));
                return Ok(());
            }
            Err(source) => return Err(Error::Request { doing: format!("scaling {named} to zero"), source }),
        }
        loop {
            let left = self.operator_pods(&named).await?;
            let Some(left) = left else { return Ok(()) };
            if Instant::now() >= self.deadline {
                return Err(Error::StillThere { deployment: named, pods: left, after: self.timeout });
            }
            time::sleep(POLL_INTERVAL).await;
        }
    }

    /// What is left of the operator, if anything. The hook's own pod may have the same labels, but only pods of a ReplicaSet
    /// belong to the Deployment.
    async fn operator_pods(&self, named: &str) -> Result<Option<String>, Error> {
        let fail =
            |source| Error::Request { doing: format!("waiting for the pods of {named} to end"), source };
        let api: Api<Deployment> = Api::namespaced(self.clients.read.clone(), &self.namespace);
        let Some(deployment) =
            with_timeout(READ_TIMEOUT, api.get_opt(&self.deployment)).await.map_err(fail)?
        else {
            return Ok(None);
        };
        let status = deployment.status.unwrap_or_default();
        let settled = status.observed_generation >= deployment.metadata.generation;
        let selector = Selector::try_from(deployment.spec.selector)
            .map_err(|error| Error::Selector(self.deployment.clone(), error))?;
        let pods: Api<Pod> = Api::namespaced(self.clients.read.clone(), &self.namespace);
        let params = ListParams::default().labels_from(&selector);
        let pods = with_timeout(READ_TIMEOUT, pods.list(&params)).await.map_err(fail)?;
        let left: Vec<String> = pods.iter().filter(|pod| works(pod)).map(describe).collect();
        Ok(match (left.is_empty(), settled && status.replicas.unwrap_or(0) == 0) {
            (true, true) => None,
            (true, false) => Some("its ReplicaSets are not scaled down yet".to_owned()),
            (false, _) => Some(left.join(", ")),
        })
    }

    // === step 2: keep other operators from starting ===

    /// Takes the Lease for as long as the hook can run, so that it need not be renewed.
    pub(super) async fn take_lease(&self) -> Result<Election, Error> {
        let timings = Timings { duration: self.timeout, ..Timings::default() };
        // The same for every run: after a run that was interrupted, the next one need not wait.
        let identity = format!("release-of-{}", self.deployment);
        let mut election =
            Election::new(self.writer.client().clone(), &self.namespace, &self.lease, &identity, timings);
        let late = CancellationToken::new();
        let (deadline, over) = (self.deadline, late.clone());
        let timer = tokio::spawn(async move {
            time::sleep_until(deadline).await;
            over.cancel();
        });
        let taken = election.acquire(&late, |_| {}).await;
        timer.abort();
        if taken {
            return Ok(election);
        }
        Err(Error::LeaseHeld {
            lease: format!("{}/{}", self.namespace, self.lease),
            holder: Some(election.holder())
                .filter(|holder| !holder.is_empty())
                .unwrap_or("an unknown holder")
                .to_owned(),
            after: self.timeout,
        })
    }
}

/// Whether this is a pod of the Deployment that may still be running.
fn works(pod: &Pod) -> bool {
    let of_replica_set = pod.owner_references().iter().any(|owner| owner.kind == "ReplicaSet");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    of_replica_set && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn describe(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    match node {
        Some(node) => format!("{} on node {node}", named("Pod", pod)),
        None => named("Pod", pod),
    }
}
