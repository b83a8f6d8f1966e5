//! The clients, and requests with a timeout.
//!
//! Neither client retries a request. kube's retry would repeat a POST for minutes inside one await, long after the state
//! that justified the write is gone, and delay the start of a watch as long; watches and reconciles have their own
//! backoff. [`with_timeout`] limits every single request.

use std::future::Future;
use std::time::Duration;

use agentloop_core::sync::Failure;
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::config::{InferConfigError, KubeConfigOptions};
use kube::core::Status;
use kube::{Client, Config};
use tokio::time;

use crate::NAME;

/// How long one write may take.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one read of a single object or of a page may take.
pub const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// How long connecting may take: a server in the same cluster that needs longer is not available.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection of the reading client may be silent after a request. The server closes a watch after at most
/// 290 s, so no healthy watch is cut off; but a list, or the start of a watch, has no other limit.
const SILENCE: Duration = Duration::from_secs(330);
/// How long a write to a connection may block.
const SOCKET_WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The clients of one API server.
#[derive(Clone)]
pub struct Clients {
    /// For reads and watches. Its read timeout is long, because a watch may be quiet: use [`with_timeout`] for single reads.
    pub read: Client,
    /// For writes. Use it through [`Writer`](crate::write::Writer).
    pub write: Client,
    /// The namespace of the client configuration: the pod's, or that of the kubeconfig's context.
    pub namespace: String,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account was found.
    #[error("found no Kubernetes API server: set KUBECONFIG, or run in a pod with a service account ({0})")]
    NoConfig(#[from] Box<InferConfigError>),
    /// `KUBECONFIG` names a file that cannot be used.
    #[error("cannot use KUBECONFIG={path}: {source}")]
    Kubeconfig {
        /// The variable's value.
        path: String,
        /// What is wrong with it.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The configuration has something that cannot be used (a proxy, an exec plugin, an invalid certificate).
    #[error("cannot create the Kubernetes client: {0}")]
    Build(#[from] Box<kube::Error>),
}

impl Clients {
    /// Clients from `KUBECONFIG`, `~/.kube/config` or the pod's service account, in this order.
    ///
    /// A `KUBECONFIG` that is set but invalid is an error: the next source might be another cluster.
    pub async fn connect() -> Result<Self, ConnectError> {
        let mut config = match std::env::var("KUBECONFIG") {
            Ok(path) if !path.is_empty() => Config::from_kubeconfig(&KubeConfigOptions::default())
                .await
                .map_err(|source| ConnectError::Kubeconfig { path, source: Box::new(source) })?,
            _ => Config::infer().await.map_err(Box::new)?,
        };
        config.headers.push((USER_AGENT, user_agent()));
        Self::from_config(config)
    }

    /// Clients from a configuration, whose timeouts and retries are replaced.
    pub fn from_config(mut config: Config) -> Result<Self, ConnectError> {
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.write_timeout = Some(SOCKET_WRITE_TIMEOUT);
        let namespace = config.default_namespace.clone();
        config.default_retry = false;
        let mut reading = config.clone();
        reading.read_timeout = Some(SILENCE);
        reading.reset_reader_on_write = true;
        let read = Client::try_from(reading).map_err(Box::new)?;
        let write = Client::try_from(config).map_err(Box::new)?;
        Ok(Self { read, write, namespace })
    }
}

fn user_agent() -> HeaderValue {
    HeaderValue::from_static(concat!("agentloop/", env!("CARGO_PKG_VERSION")))
}

/// Parameters of a patch as `agentloop`.
pub fn patch_params() -> kube::api::PatchParams {
    kube::api::PatchParams { field_manager: Some(NAME.to_owned()), ..Default::default() }
}

/// Parameters of a create or a replace as `agentloop`.
pub fn post_params() -> kube::api::PostParams {
    kube::api::PostParams { field_manager: Some(NAME.to_owned()), ..Default::default() }
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No answer arrived in time. A write may still have happened.
    #[error("no answer from the API server within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The server refused.
    #[error("{} ({} {})", .0.message, .0.code, .0.reason)]
    Refused(Box<Status>),
    /// The request or its answer was lost. A write may still have happened.
    #[error("{}", full(.0))]
    Failed(Box<kube::Error>),
}

/// An error with its causes: kube's text often says only "client error".
fn full(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = inner.source();
    }
    text
}

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            other => Self::Failed(Box::new(other)),
        }
    }
}

impl RequestError {
    /// A stable name for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TimedOut(_) => "timeout",
            Self::Failed(_) => "transport",
            Self::Refused(status) => match (status.code, status.reason.as_str()) {
                (409, "AlreadyExists") => "exists",
                (409, _) => "conflict",
                (422, _) if names_another_uid(status) => "conflict",
                (404, _) => "not_found",
                (401 | 403, _) => "forbidden",
                (429, _) => "throttled",
                (500.., _) => "server",
                _ => "invalid",
            },
        }
    }

    /// The object has changed since it was read, or another one has its name now: read and decide again.
    pub fn is_conflict(&self) -> bool {
        self.reason() == "conflict"
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason() == "not_found"
    }

    /// An object of this name already exists.
    pub fn already_exists(&self) -> bool {
        self.reason() == "exists"
    }

    /// The failure, as the machine that made the request knows it.
    pub fn failure(&self) -> Failure {
        match (self.reason(), self) {
            ("not_found", _) => Failure::NotFound,
            ("exists", _) => Failure::Exists,
            ("conflict", _) => Failure::Conflict,
            (_, Self::TimedOut(limit)) => Failure::TimedOut(limit.as_secs()),
            (_, Self::Failed(_)) => Failure::Lost,
            (_, Self::Refused(status)) => {
                Failure::Rejected { code: status.code, message: status.message.clone() }
            }
        }
    }

    /// The server's status, if it answered.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Refused(status) => Some(status),
            _ => None,
        }
    }
}

/// If a patch has the uid of an object that is gone, the server refuses it as an attempt to change the uid of the object
/// that has the name now.
fn names_another_uid(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.field == "metadata.uid")
}

/// The request's answer, unless it takes longer than `limit`.
pub async fn with_timeout<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, RequestError> {
    match time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(RequestError::from),
        Err(_) => Err(RequestError::TimedOut(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, reason: &str) -> RequestError {
        let status = Status::failure("words", reason).with_code(code);
        RequestError::from(kube::Error::Api(Box::new(status)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_an_answer_ends_at_its_timeout() {
        let started = time::Instant::now();
        let error = with_timeout::<()>(WRITE_TIMEOUT, std::future::pending()).await.unwrap_err();
        assert_eq!(error.reason(), "timeout");
        assert_eq!(started.elapsed(), WRITE_TIMEOUT);
        assert_eq!(error.to_string(), "no answer from the API server within 5 s");
    }

    #[test]
    fn an_existing_name_is_not_a_conflict() {
        assert!(refused(409, "AlreadyExists").already_exists());
        assert!(!refused(409, "AlreadyExists").is_conflict());
        assert!(refused(409, "Conflict").is_conflict());
    }

    #[test]
    fn a_patch_with_another_uid_is_a_conflict_and_not_invalid_input() {
        let status: Status = serde_json::from_value(serde_json::json!({
            "status": "Failure", "code": 422, "reason": "Invalid", "message": "field is immutable",
            "details": { "causes": [{ "reason": "FieldValueInvalid", "field": "metadata.uid", "message": "" }] },
        }))
        .unwrap();
        assert!(RequestError::from(kube::Error::Api(Box::new(status))).is_conflict());
        assert_eq!(refused(422, "Invalid").reason(), "invalid");
    }

    #[test]
    fn an_answer_is_lost_only_if_none_came_or_the_server_gave_up_on_it() {
        assert!(RequestError::TimedOut(WRITE_TIMEOUT).failure().is_ambiguous());
        assert!(refused(504, "Timeout").failure().is_ambiguous());
        for (code, reason) in [
            (403, "Forbidden"),
            (409, "Conflict"),
            (422, "Invalid"),
            (429, "TooManyRequests"),
            (500, "InternalError"),
            (502, "BadGateway"),
            (503, "ServiceUnavailable"),
        ] {
            assert!(!refused(code, reason).failure().is_ambiguous(), "{code}");
        }
    }

    /// A server that answers every request with 503, and counts the requests.
    async fn busy_server() -> (Config, std::sync::Arc<std::sync::atomic::AtomicU32>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let count = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = count.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                drop(stream.read(&mut buffer).await);
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let words = "HTTP/1.1 503 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                drop(stream.write_all(words.as_bytes()).await);
            }
        });
        (Config::new(url), count)
    }

    #[tokio::test]
    async fn a_request_is_sent_once() {
        let (config, count) = busy_server().await;
        let clients = Clients::from_config(config).unwrap();
        let request = || http::Request::post("/api").body(Vec::new()).unwrap();
        let sent = || count.load(std::sync::atomic::Ordering::Relaxed);
        drop(with_timeout(WRITE_TIMEOUT, clients.write.request_text(request())).await.unwrap_err());
        assert_eq!(sent(), 1);
        drop(
            with_timeout(Duration::from_millis(500), clients.read.request_text(request())).await.unwrap_err(),
        );
        assert_eq!(sent(), 2);
    }
}
