//! The control plane that everything is measured on.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use agentloop_chaos::server::{AdminClient, Format, pods, tasks};
use agentloop_test_support::eventually::eventually;
use agentloop_test_support::json;
use anyhow::{Context, Result, bail};
use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::api;
use crate::measure::process::Process;

/// The node that the fake kubelet binds all pods to.
pub const NODE: &str = "agentloop-bench";
/// The operator's own namespace, with its settings and its Lease.
pub const OPERATOR_NAMESPACE: &str = "agentloop-system";
/// The longest wait for the control plane.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// An API server with its etcd, and what is on this machine to work with them.
#[derive(Clone)]
pub struct BenchCluster {
    /// A connection with an administrator's rights.
    pub server: AdminClient,
    /// The kubeconfig.
    pub kubeconfig: PathBuf,
    /// The folder of the cluster, by which its processes are found.
    pub folder: PathBuf,
    /// Where logs of the measured programs go.
    pub logs: PathBuf,
    /// The operator's program.
    pub operator: PathBuf,
    /// Kubernetes' controller manager.
    pub controller_manager: PathBuf,
}

impl BenchCluster {
    /// Creates the fake kubelet's node, so that the garbage collector leaves its pods alone.
    pub async fn add_node(&self) -> Result<()> {
        self.create("/api/v1/nodes", &json!({ "metadata": { "name": NODE } })).await
    }

    /// Prepares the server: the CRD, and the operator's namespace with its settings.
    pub async fn prepare(&self) -> Result<()> {
        let mut crd = serde_json::to_value(agentloop_core::api::crd())?;
        if let Some(crd) = crd.as_object_mut() {
            crd.insert("apiVersion".to_owned(), json!("apiextensions.k8s.io/v1"));
            crd.insert("kind".to_owned(), json!("CustomResourceDefinition"));
        }
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let path = format!("{crds}/{}?fieldManager=bench&force=true", json::name(&crd));
        self.server.must(Method::PATCH, &path, Some((Format::Apply, &crd))).await?;
        let all = "/apis/agentloop.dev/v1alpha1/agenttasks?limit=1";
        self.exists(all).await?;
        let left = self.server.get(all).await?.unwrap_or_default();
        if !json::list(&left, "/items").is_empty() {
            bail!("the cluster has tasks already, which would be measured too: use a new one");
        }
        self.namespace(OPERATOR_NAMESPACE).await?;
        self.configure("1").await
    }

    /// Writes the operator's settings. `marker` changes a setting that no task here depends on.
    pub async fn configure(&self, marker: &str) -> Result<()> {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "agentloop-config" },
            "data": { "hardLimit": "10000", "rateLimitMinSeconds": marker },
        });
        let path = format!(
            "/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps/agentloop-config?fieldManager=bench&force=true"
        );
        self.server.must(Method::PATCH, &path, Some((Format::Apply, &map))).await.context("the settings")?;
        Ok(())
    }

    /// Creates a namespace in which pods can be created.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        self.create("/api/v1/namespaces", &json!({ "metadata": { "name": name } })).await?;
        self.exists(&format!("/api/v1/namespaces/{name}/serviceaccounts/default")).await
    }

    async fn create(&self, path: &str, body: &Value) -> Result<()> {
        let (status, answer) = self.server.send(Method::POST, path, Some((Format::Json, body))).await?;
        if !status.is_success() && status != StatusCode::CONFLICT {
            bail!("POST {path}: {status}: {}", json::text(&answer, "/message"));
        }
        Ok(())
    }

    async fn exists(&self, path: &str) -> Result<()> {
        let what = format!("{path} exists");
        let found = eventually(PATIENCE, &what, async || match self.server.get(path).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("it does not exist".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        });
        Ok(found.await?)
    }

    /// Waits until a namespace has no pod and no task any more.
    pub async fn is_empty(&self, namespace: &str) -> Result<()> {
        let what = format!("{namespace} is empty");
        let empty = eventually(10 * PATIENCE, &what, async || {
            for path in [pods(namespace, ""), tasks(namespace, "")] {
                let list = self
                    .server
                    .get(&format!("{path}?limit=1"))
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                let list = list.unwrap_or_default();
                let found = json::list(&list, "/items").len();
                let more = json::number(&list, "/metadata/remainingItemCount");
                if found > 0 {
                    return Err(format!("{path} has {more} objects and {found} more"));
                }
            }
            Ok(())
        });
        Ok(empty.await?)
    }

    /// The API server's process.
    pub fn api_server(&self) -> Result<Process> {
        Process::find("kube-apiserver", &self.folder)
    }

    /// etcd's process. Its command line names the folder's data.
    pub fn etcd(&self) -> Result<Process> {
        Process::find("etcd", &self.folder)
    }

    /// etcd's metrics.
    pub async fn etcd_metrics(&self) -> Result<String> {
        let arguments = self.etcd()?.arguments();
        let flag = arguments.iter().position(|argument| argument == "--listen-client-urls");
        let url = flag.and_then(|at| arguments.get(at.saturating_add(1)));
        let address = url.and_then(|url| url.strip_prefix("http://")).context("etcd's address is unknown")?;
        http_get(address, "/metrics").await
    }

    /// The API server's metrics.
    pub async fn api_server_metrics(&self) -> Result<String> {
        api::text(&self.server, "/metrics").await
    }

    /// Deletes all objects of a collection.
    pub async fn delete_all(&self, collection: &str) -> Result<()> {
        let now = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background" });
        let (status, answer) =
            self.server.send(Method::DELETE, collection, Some((Format::Json, &now))).await?;
        if !status.is_success() {
            bail!("DELETE {collection}: {status}: {}", json::text(&answer, "/message"));
        }
        Ok(())
    }

    /// Kills the API server and starts it again, and waits until it is ready.
    pub async fn restart_api_server(&self) -> Result<()> {
        let process = self.api_server()?;
        let arguments = process.arguments();
        let (program, rest) = arguments.split_first().context("the API server has no command line")?;
        let id = i32::try_from(process.0).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(id, Signal::KILL)?;
        // Its memory goes before its sockets do.
        eventually(PATIENCE, "the API server has ended", async || match self.server.get("/version").await {
            Err(_) if process.arguments().is_empty() => Ok(()),
            _ => Err("it runs"),
        })
        .await?;
        let log = self.folder.join("logs/kube-apiserver.log");
        let log = std::fs::OpenOptions::new().append(true).create(true).open(log)?;
        Command::new(program)
            .args(rest)
            .current_dir(&self.folder)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("starting the API server again")?;
        self.exists("/apis/agentloop.dev/v1alpha1/agenttasks?limit=1").await
    }
}

/// Reads a page by plain HTTP. Version 1.0, so that the server closes the connection and sends no chunks.
pub async fn http_get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.with_context(|| format!("reading http://{address}{path}"))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    Ok(body.to_owned())
}

/// The folder of the cluster that this kubeconfig belongs to.
pub fn cluster_folder(kubeconfig: &Path) -> Result<PathBuf> {
    let folder = kubeconfig.parent().context("the kubeconfig has no folder")?;
    if !folder.join("mode").exists() {
        bail!("{} is not a cluster of hack/cluster, whose processes can be measured", folder.display());
    }
    Ok(folder.to_owned())
}
