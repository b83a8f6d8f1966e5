//! Requests and responses whose bodies are read to the end, so that they can be changed and sent again.

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kube::client::Body;
use serde_json::{Value, json};

/// A request of an operator.
#[derive(Clone, Debug)]
pub struct BufferedRequest {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The query, without the question mark.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null if there is none.
    pub body: Value,
}

impl BufferedRequest {
    /// Reads a request to the end.
    pub async fn read(request: Request<Incoming>) -> Result<Self> {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        Ok(Self {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
            body: if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? },
        })
    }

    /// The request for the real API server.
    pub fn to_request(&self) -> Result<Request<Body>> {
        let uri =
            if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) };
        let mut request = Request::builder().method(self.method.clone()).uri(uri);
        for name in [header::ACCEPT, header::CONTENT_TYPE, header::USER_AGENT] {
            if let Some(value) = self.headers.get(&name) {
                request = request.header(name, value);
            }
        }
        let bytes = if self.body.is_null() { Vec::new() } else { serde_json::to_vec(&self.body)? };
        Ok(request.body(Body::from(bytes))?)
    }
}

/// A response of the API server, or one that takes its place.
#[derive(Clone, Debug)]
pub struct BufferedResponse {
    /// The status code.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

impl BufferedResponse {
    /// An error as the API server returns it.
    pub fn error(code: u16) -> Self {
        let reason = match code {
            409 => "Conflict",
            422 => "Invalid",
            429 => "TooManyRequests",
            500 => "InternalError",
            _ => "ServiceUnavailable",
        };
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "as planned", "reason": reason, "code": code,
        });
        Self {
            status: StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            body: body.to_string().into(),
        }
    }

    /// A successful response with this body.
    pub fn success(body: &Value) -> Self {
        Self { status: StatusCode::OK, body: body.to_string().into() }
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}
