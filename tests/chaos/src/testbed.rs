//! Prepares the API server for the tests: the CRD, a node, and namespaces that are used repeatedly.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentloop_test_support::eventually::eventually;
use agentloop_test_support::json;
use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::json;

use crate::history::ServerHistory;
use crate::kubelet::NODE;
use crate::server::{AdminClient, Format};

/// The API server and its recorded history.
#[derive(Clone)]
pub struct Testbed {
    /// A connection with an administrator's rights.
    pub server: AdminClient,
    /// The watches.
    pub history: Arc<ServerHistory>,
}

/// The longest wait for the server's own controllers.
const PATIENCE: Duration = Duration::from_mins(2);

impl Testbed {
    /// Prepares the server at this kubeconfig.
    pub async fn open(kubeconfig: &Path) -> Result<Self> {
        let server = AdminClient::connect(kubeconfig).await?;
        let mut crd = serde_json::to_value(agentloop_core::api::crd())?;
        if let Some(crd) = crd.as_object_mut() {
            crd.insert("apiVersion".to_owned(), json!("apiextensions.k8s.io/v1"));
            crd.insert("kind".to_owned(), json!("CustomResourceDefinition"));
        }
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let path = format!("{crds}/{}?fieldManager=chaos&force=true", json::name(&crd));
        server.must(Method::PATCH, &path, Some((Format::Apply, &crd))).await?;
        exists(&server, "/apis/agentloop.dev/v1alpha1/agenttasks?limit=1").await?;
        let node = json!({ "metadata": { "name": NODE } });
        let (status, _) = server.send(Method::POST, "/api/v1/nodes", Some((Format::Json, &node))).await?;
        if !status.is_success() && status != http::StatusCode::CONFLICT {
            bail!("the node {NODE} cannot be created: {status}");
        }
        let history = ServerHistory::open(&server).await?;
        Ok(Self { server, history })
    }

    /// Creates a namespace with settings for short delays.
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
        // The server refuses every pod until this service account exists.
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        exists(&self.server, &account).await
    }

    /// Deletes a namespace with all that is in it.
    pub async fn drop_namespace(&self, name: &str) -> Result<()> {
        self.server.delete(&format!("/api/v1/namespaces/{name}"), "", None).await
    }
}

async fn exists(server: &AdminClient, path: &str) -> Result<()> {
    let what = format!("{path} exists");
    let found = eventually(PATIENCE, &what, async || match server.get(path).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err("it does not exist".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    });
    Ok(found.await?)
}
