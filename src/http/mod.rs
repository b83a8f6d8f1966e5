//! `/livez`, `/readyz` and `/metrics` over HTTP/1.1.
//!
//! Any client in the cluster can connect to these ports, so everything has a limit: connections, header bytes, the time of
//! one exchange. Bodies are not read, and a connection serves one request. A new connection is always accepted: if there
//! are too many, the one that has been silent for longest is closed. So no client delays a probe, and probes also have
//! their own port.

mod slots;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;
use tracing::{debug, warn};

use self::slots::{ConnectionSlots, TrackedStream};
use crate::health::Health;
use crate::metrics::{self, Metrics};

const CONNECTIONS: usize = 64;
const EXCHANGE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(5);
const HEADER_BYTES: usize = 16 * 1024;
const AFTER_ERROR: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; charset=utf-8";

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({flag}): {source}")]
pub struct BindError {
    address: SocketAddr,
    flag: &'static str,
    source: std::io::Error,
}

/// What a port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// `/livez` and `/readyz`.
    Probes,
    /// `/metrics`, and the probes for people.
    Everything,
}

impl Serves {
    fn flag(self) -> &'static str {
        match self {
            Self::Probes => "--probe-address",
            Self::Everything => "--http-address",
        }
    }
}

/// A socket that listens but does not answer yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    port: Serves,
    /// The address, with the chosen port if 0 was requested.
    pub address: SocketAddr,
}

impl HttpServer {
    /// Listens on `address`.
    pub async fn bind(address: SocketAddr, port: Serves) -> Result<Self, BindError> {
        let fail = |source| BindError { address, flag: port.flag(), source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, port, address })
    }

    /// Answers until `stop` is ready.
    pub async fn serve(self, health: Health, metrics: Metrics, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.accept(health, metrics) => {}
        }
    }

    async fn accept(self, health: Health, metrics: Metrics) {
        let mut slots = ConnectionSlots::new(CONNECTIONS);
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (health, metrics, port) = (health.clone(), metrics.clone(), self.port);
                    slots.take(stream, |stream| async move {
                        exchange(stream, port, &health, &metrics).await;
                    });
                }
                Err(error) => {
                    // Usually there are no file descriptors left, and accept would fail again immediately.
                    warn!(%error, "cannot accept a connection");
                    time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }
}

async fn exchange(stream: TrackedStream<TcpStream>, port: Serves, health: &Health, metrics: &Metrics) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), port, health, metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match time::timeout(EXCHANGE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "cannot serve a request"),
        Err(_) => debug!("a request took too long"),
    }
}

fn answer(
    method: &Method,
    path: &str,
    port: Serves,
    health: &Health,
    metrics: &Metrics,
) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here");
    }
    match path {
        "/livez" => match health.alive() {
            Ok(()) => text(StatusCode::OK, "ok"),
            Err(what) => text(StatusCode::SERVICE_UNAVAILABLE, what),
        },
        "/readyz" => match health.ready() {
            Ok(how) => text(StatusCode::OK, how),
            Err(what) => text(StatusCode::SERVICE_UNAVAILABLE, what),
        },
        "/metrics" if port == Serves::Everything => match metrics.encode() {
            Ok(samples) => reply(StatusCode::OK, metrics::CONTENT_TYPE, samples),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            match port {
                Serves::Probes => "/livez and /readyz are served here",
                Serves::Everything => "/livez, /readyz and /metrics are served here",
            },
        ),
    }
}

fn text(code: StatusCode, message: impl Into<String>) -> Response<Full<Bytes>> {
    let mut message = message.into();
    message.push('\n');
    reply(code, TEXT, message)
}

fn reply(code: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::health::ProcessStage;

    async fn started(health: &Health) -> SocketAddr {
        serving(health, Serves::Everything).await
    }

    async fn serving(health: &Health, port: Serves) -> SocketAddr {
        let server = HttpServer::bind("127.0.0.1:0".parse().unwrap(), port).await.unwrap();
        let address = server.address;
        tokio::spawn(server.serve(health.clone(), Metrics::new(), std::future::pending()));
        address
    }

    async fn exchange(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        time::timeout(EXCHANGE * 2, stream.read_to_end(&mut answer)).await.expect("an end").unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        exchange(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
    }

    #[tokio::test]
    async fn probes_follow_the_process() {
        let health = Health::default();
        let address = started(&health).await;
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.set(ProcessStage::Working);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let hung = health.heartbeat("the loop", Duration::ZERO, Duration::ZERO);
        assert!(get(address, "/livez").await.contains("the loop has been silent"));
        drop(hung);
    }

    #[tokio::test]
    async fn metrics_have_their_content_type() {
        let answer = get(started(&Health::default()).await, "/metrics").await;
        assert!(answer.contains(metrics::CONTENT_TYPE), "{answer}");
        assert!(answer.contains("agentloop_build_info"), "{answer}");
    }

    #[tokio::test]
    async fn a_body_is_not_waited_for() {
        let answer = exchange(
            started(&Health::default()).await,
            b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_no_whole_request_is_disconnected() {
        let answer = exchange(started(&Health::default()).await, b"GET /livez HTT").await;
        assert!(!answer.contains("200"), "{answer}");
    }

    #[tokio::test]
    async fn the_probe_port_serves_no_metrics() {
        let address = serving(&Health::default(), Serves::Probes).await;
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn a_probe_is_answered_within_a_second_whatever_clients_do_on_either_port() {
        let health = Health::default();
        health.set(ProcessStage::Working);
        for port in [Serves::Probes, Serves::Everything] {
            let address = serving(&health, port).await;
            let mut idle = Vec::new();
            for _ in 0..500 {
                idle.push(TcpStream::connect(address).await.unwrap());
            }
            // A client that keeps sending and never ends its request.
            let slow = tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                while stream.write_all(b"GET /livez HTTP/1.1\r\nX: ").await.is_ok() {
                    time::sleep(Duration::from_millis(20)).await;
                }
            });
            for _ in 0..3 {
                for path in ["/livez", "/readyz"] {
                    let answer = time::timeout(Duration::from_secs(1), get(address, path)).await;
                    assert!(answer.expect("within a second").starts_with("HTTP/1.1 200"), "{port:?}");
                }
            }
            slow.abort();
        }
    }
}
