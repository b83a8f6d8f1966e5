//! The operator as Helm installs it: a shared one, or a test's own that the test may kill and uninstall.

use anyhow::{Context, Result};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    cluster::Cluster,
    wait::{PATIENCE, eventually},
};

const SHARED_NAMESPACE: &str = "agentloop-system";
const SHARED_RELEASE: &str = "agentloop";
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/agentloop");

/// A release of the chart.
pub struct OperatorRelease {
    cluster: Cluster,
    /// The name of the release and of its objects.
    pub release: String,
    /// Its namespace.
    pub namespace: String,
    watched: Option<String>,
}

impl OperatorRelease {
    /// The release that serves all namespaces, scaled up.
    pub(crate) async fn shared(cluster: &Cluster) -> Result<Self> {
        let operator = Self::shared_handle(cluster);
        operator.scale(1).await.context("the operator is not installed: run hack/e2e up")?;
        operator.is_ready().await?;
        Ok(operator)
    }

    fn shared_handle(cluster: &Cluster) -> Self {
        Self {
            cluster: cluster.clone(),
            release: SHARED_RELEASE.to_owned(),
            namespace: SHARED_NAMESPACE.to_owned(),
            watched: None,
        }
    }

    /// A release that serves one namespace, installed with these arguments to Helm. The shared one is scaled to zero,
    /// because it would serve that namespace too.
    pub(crate) async fn own(cluster: &Cluster, watched: &str, suffix: &str, values: &[&str]) -> Result<Self> {
        let shared = Self::shared_handle(cluster);
        if shared.deployments().get_opt(&shared.release).await?.is_some() {
            shared.scale(0).await?;
            shared.is_at_rest().await?;
        }
        let operator = Self {
            cluster: cluster.clone(),
            release: format!("{watched}{suffix}"),
            namespace: format!("{watched}-op{suffix}"),
            watched: Some(watched.to_owned()),
        };
        operator.install(values).await?;
        Ok(operator)
    }

    /// Installs or upgrades the release, and waits until the operator is ready.
    pub async fn install(&self, values: &[&str]) -> Result<()> {
        let watched = self.watched.as_deref().context("the shared release is installed by hack/e2e up")?;
        let namespaces = format!("watch.namespaces={{{watched}}}");
        let name = format!("fullnameOverride={}", self.release);
        let mut arguments =
            vec!["upgrade", &self.release, CHART, "--install", "--create-namespace", "--wait"];
        arguments.extend(["--namespace", &self.namespace, "--timeout", "3m"]);
        arguments.extend(["--set", &namespaces, "--set", &name]);
        arguments.extend(["--set", "crds.install=false", "--set", "rbac.aggregate=false"]);
        arguments.extend(values);
        self.cluster.helm(&arguments).await?.success().context("helm upgrade --install")?;
        self.is_ready().await
    }

    /// Uninstalls the release with its hooks.
    pub async fn uninstall(&self) -> Result<()> {
        let arguments = ["uninstall", &self.release, "--namespace", &self.namespace, "--wait"];
        self.cluster.helm(&arguments).await?.success().context("helm uninstall")?;
        Ok(())
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    fn pod_api(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// The operator's pods, including those that are being deleted.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let selector =
            format!("app.kubernetes.io/instance={},app.kubernetes.io/component=controller", self.release);
        Ok(self.pod_api().list(&ListParams::default().labels(&selector)).await?.items)
    }

    /// Sets the number of replicas, without waiting.
    pub async fn scale(&self, replicas: i32) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        self.deployments().patch_scale(&self.release, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Waits until all replicas are up to date and ready.
    pub async fn is_ready(&self) -> Result<()> {
        eventually(PATIENCE, "the operator is ready", async || {
            let deployment = self.deployments().get(&self.release).await.map_err(|e| e.to_string())?;
            let wanted = deployment.spec.replicas.unwrap_or(1);
            let status = deployment.status.unwrap_or_default();
            let ready = status.updated_replicas == Some(wanted) && status.ready_replicas == Some(wanted);
            if ready { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    /// Waits until none of its pods is left.
    pub async fn is_at_rest(&self) -> Result<()> {
        eventually(PATIENCE, "no pod of the operator is left", async || match self.pods().await {
            Ok(pods) if pods.is_empty() => Ok(()),
            Ok(pods) => Err(format!("{} pods", pods.len())),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Kills the operator as a crash would, if its process is visible from here, and replaces its pods immediately, so
    /// that the kubelet's back-off does not delay the next one.
    pub async fn kill(&self) -> Result<()> {
        kill_processes(&self.release).await;
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        for pod in self.pods().await? {
            match self.pod_api().delete(&pod.name_any(), &now).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Changes a key of the settings; `None` removes it.
    pub async fn set(&self, key: &str, value: Option<&str>) -> Result<()> {
        let name = format!("{}-config", self.release);
        let patch = json!({ "data": { key: value } }).to_string();
        let arguments = ["patch", "configmap", &name, "-n", &self.namespace, "--type", "merge", "-p", &patch];
        self.cluster.kubectl(&arguments).await?.success()?;
        Ok(())
    }

    /// The end of the operator's log.
    pub async fn log(&self) -> Result<String> {
        let selector = format!("app.kubernetes.io/instance={}", self.release);
        let arguments = ["logs", "-n", &self.namespace, "-l", &selector, "--tail", "60", "--prefix"];
        Ok(self.cluster.kubectl(&arguments).await?.text)
    }

    /// Removes the release and its namespace after the watched namespace was deleted. The hook's permissions were
    /// deleted with that namespace, and nothing is left for the hook to do.
    pub async fn remove(&self) -> Result<()> {
        if self.watched.is_none() {
            return Ok(());
        }
        let uninstall =
            ["uninstall", &self.release, "-n", &self.namespace, "--no-hooks", "--ignore-not-found"];
        self.cluster.helm(&uninstall).await?.success().context("helm uninstall --no-hooks")?;
        let delete = ["delete", "namespace", &self.namespace, "--wait=false"];
        self.cluster.kubectl(&delete).await?.success()?;
        Ok(())
    }
}

/// Ends all processes of a release's operator with SIGKILL if they run on this machine. The name of the Lease in their
/// command line identifies them.
async fn kill_processes(release: &str) {
    let lease = format!("--lease-name={release}");
    let Ok(mut entries) = tokio::fs::read_dir("/proc").await else { return };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let Ok(line) = tokio::fs::read(entry.path().join("cmdline")).await else { continue };
        let mut arguments = line.split(|byte| *byte == 0);
        let is_operator = arguments.next() == Some(b"/agentloop".as_slice())
            && arguments.any(|argument| argument == lease.as_bytes());
        if is_operator {
            let pid = entry.file_name();
            // It may have exited already.
            let _ = tokio::process::Command::new("kill").arg("-KILL").arg(pid).status().await;
        }
    }
}
