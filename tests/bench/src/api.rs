//! Requests that are made often: as little of the answers is read as possible, because the load generator shares its
//! machine with what it measures.

use agentloop_chaos::server::AdminClient;
use anyhow::{Context, Result, bail};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An answer of which only the metadata is needed.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The body of a request and its format.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// No body.
    None,
    /// A whole object.
    Object(&'a Value),
    /// A merge patch.
    Merge(&'a Value),
    /// A strategic merge patch.
    Strategic(&'a Value),
}

/// The metadata of an object, as far as it is read here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
}

/// An object of which only the metadata is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct MetadataOnly {
    /// Its metadata.
    pub metadata: Metadata,
}

async fn answer(
    server: &AdminClient,
    method: Method,
    path: &str,
    content: Content<'_>,
    accept: Option<&str>,
) -> Result<http::Response<Body>> {
    let mut request = Request::builder().method(method.clone()).uri(path);
    if let Some(accept) = accept {
        request = request.header(ACCEPT, accept);
    }
    let bytes = match content {
        Content::None => Vec::new(),
        Content::Object(body) => {
            request = request.header(CONTENT_TYPE, "application/json");
            serde_json::to_vec(body)?
        }
        Content::Merge(body) => {
            request = request.header(CONTENT_TYPE, "application/merge-patch+json");
            serde_json::to_vec(body)?
        }
        Content::Strategic(body) => {
            request = request.header(CONTENT_TYPE, "application/strategic-merge-patch+json");
            serde_json::to_vec(body)?
        }
    };
    server.pass(request.body(Body::from(bytes))?).await.with_context(|| format!("{method} {path}"))
}

async fn body(answer: http::Response<Body>) -> Result<(StatusCode, Vec<u8>)> {
    let (head, body) = answer.into_parts();
    Ok((head.status, body.collect().await?.to_bytes().to_vec()))
}

/// Sends a request and returns the answer's code and its text.
pub async fn send(
    server: &AdminClient,
    method: Method,
    path: &str,
    content: Content<'_>,
) -> Result<(StatusCode, Vec<u8>)> {
    body(answer(server, method, path, content, Some(METADATA_ONLY)).await?).await
}

/// Sends a request that must succeed, and returns the metadata of the object.
pub async fn must(
    server: &AdminClient,
    method: Method,
    path: &str,
    content: Content<'_>,
) -> Result<Metadata> {
    must_answering(server, method, path, content, Some(METADATA_ONLY)).await
}

/// The same, but the server answers with the whole object.
pub async fn must_whole(
    server: &AdminClient,
    method: Method,
    path: &str,
    content: Content<'_>,
) -> Result<Metadata> {
    must_answering(server, method, path, content, None).await
}

async fn must_answering(
    server: &AdminClient,
    method: Method,
    path: &str,
    content: Content<'_>,
    accept: Option<&str>,
) -> Result<Metadata> {
    let (status, bytes) = body(answer(server, method.clone(), path, content, accept).await?).await?;
    if !status.is_success() {
        bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&bytes));
    }
    Ok(serde_json::from_slice::<MetadataOnly>(&bytes).unwrap_or_default().metadata)
}

/// Reads an object or a list as `T`.
pub async fn read<T: DeserializeOwned>(server: &AdminClient, path: &str) -> Result<T> {
    let (status, bytes) = body(answer(server, Method::GET, path, Content::None, None).await?).await?;
    if !status.is_success() {
        bail!("GET {path}: {status}: {}", String::from_utf8_lossy(&bytes));
    }
    serde_json::from_slice(&bytes).with_context(|| format!("GET {path}: the answer is not what was expected"))
}

/// Reads a page of text.
pub async fn text(server: &AdminClient, path: &str) -> Result<String> {
    let (status, bytes) = body(answer(server, Method::GET, path, Content::None, None).await?).await?;
    if !status.is_success() {
        bail!("GET {path}: {status}");
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A watch: an answer that never ends, one JSON document a line.
pub struct Lines {
    body: Body,
    buffer: Vec<u8>,
    read: usize,
}

impl Lines {
    /// Starts a watch.
    pub async fn open(server: &AdminClient, path: &str) -> Result<Self> {
        let answer = answer(server, Method::GET, path, Content::None, None).await?;
        if !answer.status().is_success() {
            let (status, bytes) = body(answer).await?;
            bail!("GET {path}: {status}: {}", String::from_utf8_lossy(&bytes));
        }
        Ok(Self { body: answer.into_body(), buffer: Vec::new(), read: 0 })
    }

    /// The next line, decoded; `None` once the server has ended the watch.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            let rest = self.buffer.get(self.read..).unwrap_or_default();
            if let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest.get(..length).unwrap_or_default();
                let decoded = serde_json::from_slice(line);
                self.read = self.read.saturating_add(length).saturating_add(1);
                return decoded.map(Some).context("a watch sent a line that cannot be decoded");
            }
            self.buffer.drain(..self.read);
            self.read = 0;
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.context("reading a watch")?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}
