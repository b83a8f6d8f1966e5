//! A client of the API server with an administrator's rights: raw requests, JSON in and out.

use std::path::Path;

use agentloop_test_support::json;
use anyhow::{Context, Result, bail};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

/// The path of the API group.
const TASKS: &str = "/apis/agentloop.dev/v1alpha1";

/// The path of a namespace's tasks, or of one of them.
pub fn tasks(namespace: &str, name: &str) -> String {
    join(format!("{TASKS}/namespaces/{namespace}/agenttasks"), name)
}

/// The path of a namespace's pods, or of one of them.
pub fn pods(namespace: &str, name: &str) -> String {
    join(format!("/api/v1/namespaces/{namespace}/pods"), name)
}

fn join(collection: String, name: &str) -> String {
    if name.is_empty() { collection } else { format!("{collection}/{name}") }
}

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A whole object.
    Json,
    /// A merge patch.
    Merge,
    /// A server-side apply.
    Apply,
}

impl Format {
    fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Merge => "application/merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// A connection pool to the API server, with an administrator's rights.
#[derive(Clone)]
pub struct AdminClient {
    client: Client,
}

impl AdminClient {
    /// Connects with the kubeconfig at `path`.
    pub async fn connect(path: &Path) -> Result<Self> {
        let kubeconfig =
            Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        Ok(Self { client: Client::try_from(config)? })
    }

    /// Passes a request on unchanged. The body of the response is not read yet.
    pub async fn pass(&self, request: Request<Body>) -> Result<http::Response<Body>> {
        Ok(self.client.send(request).await?)
    }

    /// Sends one request and returns the status code and the body, whatever they are.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(Format, &Value)>,
    ) -> Result<(StatusCode, Value)> {
        let mut request = Request::builder().method(method.clone()).uri(path);
        let bytes = match body {
            None => Vec::new(),
            Some((format, body)) => {
                request = request.header(http::header::CONTENT_TYPE, format.as_str());
                serde_json::to_vec(body)?
            }
        };
        let answer =
            self.pass(request.body(Body::from(bytes))?).await.with_context(|| format!("{method} {path}"))?;
        let (head, body) = answer.into_parts();
        let bytes = body.collect().await?.to_bytes();
        Ok((head.status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Sends one request that must succeed.
    pub async fn must(&self, method: Method, path: &str, body: Option<(Format, &Value)>) -> Result<Value> {
        let (status, answer) = self.send(method.clone(), path, body).await?;
        if !status.is_success() {
            bail!("{method} {path}: {status}: {}", json::text(&answer, "/message"));
        }
        Ok(answer)
    }

    /// Reads an object; `None` if there is none.
    pub async fn get(&self, path: &str) -> Result<Option<Value>> {
        let (status, answer) = self.send(Method::GET, path, None).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer)),
            status => bail!("GET {path}: {status}: {}", json::text(&answer, "/message")),
        }
    }

    /// Merges a patch into an object. Returns false if it is gone.
    pub async fn merge(&self, path: &str, change: &Value) -> Result<bool> {
        let (status, answer) = self.send(Method::PATCH, path, Some((Format::Merge, change))).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            status => bail!("PATCH {path}: {status}: {}", json::text(&answer, "/message")),
        }
    }

    /// Deletes an object unless it is gone. `grace` is in seconds; `None` means the object's own grace period.
    pub async fn delete(&self, path: &str, uid: &str, grace: Option<u32>) -> Result<()> {
        let mut options =
            json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background" });
        if let Some(options) = options.as_object_mut() {
            if !uid.is_empty() {
                options.insert("preconditions".to_owned(), json!({ "uid": uid }));
            }
            if let Some(grace) = grace {
                options.insert("gracePeriodSeconds".to_owned(), json!(grace));
            }
        }
        let (status, answer) = self.send(Method::DELETE, path, Some((Format::Json, &options))).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(()),
            // Another object has the name meanwhile.
            StatusCode::CONFLICT if !uid.is_empty() => Ok(()),
            status if status.is_success() => Ok(()),
            status => bail!("DELETE {path}: {status}: {}", json::text(&answer, "/message")),
        }
    }
}
