//! `/livez`, `/readyz` and `/metrics` over HTTP/1.1.
//!
//! Anybody in the cluster may talk to this port, so everything is bounded: connections, header bytes, the time of one
//! exchange. Bodies are never read, and a connection serves one request.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time;
use tracing::{debug, warn};

use crate::health::Health;
use crate::metrics::{self, Metrics};

const CONNECTIONS: usize = 64;
const EXCHANGE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(5);
const HEADER_BYTES: usize = 16 * 1024;
const AFTER_ERROR: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; charset=utf-8";

/// The address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (--http-address): {source}")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// A socket that listens, and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    /// The address, with the port that was chosen where 0 was asked for.
    pub address: SocketAddr,
}

impl Server {
    /// Listens on `address`.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let fail = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, address })
    }

    /// Answers until `stop` is ready.
    pub async fn serve(self, health: Health, metrics: Metrics, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.accept(health, metrics) => {}
        }
    }

    async fn accept(self, health: Health, metrics: Metrics) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        // Only closing the semaphore could end this loop, and nobody does.
        while let Ok(place) = places.clone().acquire_owned().await {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (health, metrics) = (health.clone(), metrics.clone());
                    tokio::spawn(async move {
                        exchange(stream, &health, &metrics).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, as a rule: accept would fail at once again.
                    warn!(%error, "cannot accept a connection");
                    time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }
}

async fn exchange(stream: TcpStream, health: &Health, metrics: &Metrics) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), health, metrics);
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
        Ok(Err(error)) => debug!(%error, "a request was not served"),
        Err(_) => debug!("a request took too long"),
    }
}

fn answer(method: &Method, path: &str, health: &Health, metrics: &Metrics) -> Response<Full<Bytes>> {
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
        "/metrics" => match metrics.encode() {
            Ok(samples) => reply(StatusCode::OK, metrics::CONTENT_TYPE, samples),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        _ => text(StatusCode::NOT_FOUND, "/livez, /readyz and /metrics are served here"),
    }
}

fn text(code: StatusCode, words: impl Into<String>) -> Response<Full<Bytes>> {
    let mut words = words.into();
    words.push('\n');
    reply(code, TEXT, words)
}

fn reply(code: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Stage;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn started(health: &Health) -> SocketAddr {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
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
        health.set(Stage::Working);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let hung = health.heartbeat("the loop", Duration::ZERO, Duration::ZERO);
        assert!(get(address, "/livez").await.contains("the loop has been silent"));
        drop(hung);
    }

    #[tokio::test]
    async fn metrics_are_served_as_what_they_are() {
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
    async fn a_client_that_says_nothing_is_sent_away() {
        let answer = exchange(started(&Health::default()).await, b"GET /livez HTT").await;
        assert!(!answer.contains("200"), "{answer}");
    }
}
