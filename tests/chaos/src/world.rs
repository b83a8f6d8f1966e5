//! The API server under test: our definition, a node, and namespaces that are used again and again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::json;
use tokio::time::{self, Instant};

use crate::history::ServerHistory;
use crate::json;
use crate::kubelet::NODE;
use crate::server::{Format, Server};

/// The server and what happens on it.
#[derive(Clone)]
pub struct World {
    /// The administrator's connection.
    pub server: Server,
    /// The watches.
    pub history: Arc<ServerHistory>,
}

/// How long the server may take for what it does by itself.
const PATIENCE: Duration = Duration::from_mins(2);

impl World {
    /// Prepares the server at this kubeconfig.
    pub async fn open(kubeconfig: &Path) -> Result<Self> {
        let server = Server::connect(kubeconfig).await?;
        let mut definition = serde_json::to_value(agentloop_core::api::crd())?;
        if let Some(definition) = definition.as_object_mut() {
            definition.insert("apiVersion".to_owned(), json!("apiextensions.k8s.io/v1"));
            definition.insert("kind".to_owned(), json!("CustomResourceDefinition"));
        }
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let path = format!("{definitions}/{}?fieldManager=chaos&force=true", json::name(&definition));
        server.must(Method::PATCH, &path, Some((Format::Apply, &definition))).await?;
        until("the definition of AgentTask is served", || async {
            server
                .get("/apis/agentloop.dev/v1alpha1/agenttasks?limit=1")
                .await
                .is_ok_and(|list| list.is_some())
        })
        .await?;
        let node = json!({ "metadata": { "name": NODE } });
        let (status, _) = server.send(Method::POST, "/api/v1/nodes", Some((Format::Json, &node))).await?;
        if !status.is_success() && status != http::StatusCode::CONFLICT {
            bail!("the node {NODE} cannot be created: {status}");
        }
        let history = ServerHistory::open(&server).await?;
        Ok(Self { server, history })
    }

    /// A namespace of this name, with delays that are short enough to be waited for.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let body = json!({ "metadata": { "name": name } });
        let (status, _) =
            self.server.send(Method::POST, "/api/v1/namespaces", Some((Format::Json, &body))).await?;
        if !status.is_success() && status != http::StatusCode::CONFLICT {
            bail!("the namespace {name} cannot be created: {status}");
        }
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "agentloop-config" },
            "data": {
                "startRetryMinSeconds": "1", "startRetryMaxSeconds": "2",
                "rateLimitMinSeconds": "1", "rateLimitMaxSeconds": "2",
            },
        });
        let path =
            format!("/api/v1/namespaces/{name}/configmaps/agentloop-config?fieldManager=chaos&force=true");
        self.server.must(Method::PATCH, &path, Some((Format::Apply, &map))).await.context("the settings")?;
        // Until it exists the server refuses every pod.
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        until(&format!("{name} has a service account"), || async {
            self.server.get(&account).await.is_ok_and(|account| account.is_some())
        })
        .await
    }

    /// Deletes a namespace with all that is in it.
    pub async fn drop_namespace(&self, name: &str) -> Result<()> {
        self.server.delete(&format!("/api/v1/namespaces/{name}"), "", None).await
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        if Instant::now() > deadline {
            bail!("not within {} s: {what}", PATIENCE.as_secs());
        }
        time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
