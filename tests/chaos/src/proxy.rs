//! The operator connects to this proxy instead of the API server. The proxy serves plain HTTP and passes requests on to
//! the real server, unless the plan has a fault for a request.
//!
//! Each request is carried out in its own task, so that it still arrives if its sender is killed, as on a real network.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::buffered::{BufferedRequest, BufferedResponse};
use crate::classify::RequestClass;
use crate::experiment::Experiment;
use crate::nemesis::{self, Disposition};

type ProxyResponse = Response<Either<Full<Bytes>, Channel<Bytes, Infallible>>>;

/// The connection ends without a response.
#[derive(Debug)]
pub struct ConnectionCut;

impl std::fmt::Display for ConnectionCut {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("the connection is cut")
    }
}

impl std::error::Error for ConnectionCut {}

/// Serves one operator until it is dropped.
pub struct Proxy {
    /// The address that the operator connects to.
    pub address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// A proxy for the operator with this index.
    pub async fn open(experiment: &Arc<Experiment>, index: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot open a port for the proxy")?;
        let address = listener.local_addr()?;
        let experiment = experiment.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // Removes the connections that have ended.
                while connections.try_join_next().is_some() {}
                let experiment = experiment.clone();
                let _ = stream.set_nodelay(true);
                connections.spawn(async move {
                    let service = service_fn(|request| handle(experiment.clone(), index, request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, _serving: serving })
    }
}

async fn handle(
    experiment: Arc<Experiment>,
    index: usize,
    request: Request<Incoming>,
) -> Result<ProxyResponse, ConnectionCut> {
    if experiment.network.is_down() {
        return Err(ConnectionCut);
    }
    let request = BufferedRequest::read(request).await.map_err(|_| ConnectionCut)?;
    let class = RequestClass::of(&request.method, &request.path, &request.query, &request.body);
    let response = match class {
        RequestClass::Watch => {
            return watch(experiment, index, request).await.map_err(|error| cut(&error));
        }
        RequestClass::Exempt => experiment.pass(&request).await.map_err(|error| cut(&error))?,
        class => {
            let carried_out =
                tokio::spawn(async move { carry_out(&experiment, index, &class, request).await });
            match carried_out.await {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) | Err(_) => return Err(ConnectionCut),
                Ok(Err(error)) => return Err(cut(&error)),
            }
        }
    };
    buffered(response).map_err(|_| ConnectionCut)
}

/// A failure between the proxy and the real server is not planned. To the operator it is a cut connection.
fn cut(error: &anyhow::Error) -> ConnectionCut {
    if std::env::var_os("CHAOS_DEBUG").is_some() {
        eprintln!("proxy: {error:#}");
    }
    ConnectionCut
}

fn buffered(response: BufferedResponse) -> Result<ProxyResponse> {
    let head = Response::builder().status(response.status).header(header::CONTENT_TYPE, "application/json");
    Ok(head.body(Either::Left(Full::new(response.body)))?)
}

/// Carries out one request with every fault that the plan has for it. `None`: the operator gets no response.
async fn carry_out(
    experiment: &Arc<Experiment>,
    index: usize,
    class: &RequestClass,
    mut request: BufferedRequest,
) -> Result<Option<BufferedResponse>> {
    let numbers = experiment.schedule.count(class);
    match nemesis::before(experiment, index, &numbers, &request).await? {
        Disposition::Pass => {}
        Disposition::Respond(response) => return Ok(Some(response)),
        Disposition::Drop => return Ok(None),
    }
    if *class == RequestClass::CacheList
        && let Some(body) = experiment.lists.take(index, &request.path)
    {
        return Ok(Some(BufferedResponse { status: StatusCode::OK, body }));
    }
    if let Some(mutator) = &experiment.mutator
        && let Some(response) = mutator.before(class, &mut request).await?
    {
        return Ok(Some(response));
    }
    let mut response = experiment.pass(&request).await?;
    if let Some(mutator) = &experiment.mutator {
        response = mutator.after(class, &request, response).await?;
    }
    match nemesis::after(experiment, index, &numbers).await? {
        Disposition::Pass => Ok(Some(response)),
        Disposition::Respond(response) => Ok(Some(response)),
        Disposition::Drop => Ok(None),
    }
}

/// Passes on the lines of a watch, or delays or drops them.
async fn watch(experiment: Arc<Experiment>, index: usize, request: BufferedRequest) -> Result<ProxyResponse> {
    // A stale list is served as a list: this server does not stream lists.
    if request.query.contains("sendInitialEvents") && experiment.lists.has(index, &request.path) {
        return buffered(BufferedResponse::error(422));
    }
    let mut connection = experiment.network.connect_watch(index);
    let upstream = experiment.server.pass(request.to_request()?).await?;
    let (head, mut body) = upstream.into_parts();
    if head.status != StatusCode::OK {
        let body = body.collect().await?.to_bytes();
        return buffered(BufferedResponse { status: head.status, body });
    }
    let (mut out, channel) = Channel::new(16);
    tokio::spawn(async move {
        let mut rest = Vec::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = connection.cut() => break,
            };
            let Some(Ok(frame)) = frame else { break };
            let Ok(bytes) = frame.into_data() else { continue };
            rest.extend_from_slice(&bytes);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            let mut lines: Vec<u8> = rest.drain(..=end).collect();
            if let Some(other) = experiment.mutator.as_ref().and_then(|mutator| mutator.mutate_watch(&lines))
            {
                lines = other;
            }
            tokio::select! {
                () = connection.delay() => {}
                () = connection.cut() => break,
            }
            if out.send_data(lines.into()).await.is_err() {
                return;
            }
        }
        if connection.has_expired() {
            let gone = json!({ "type": "ERROR", "object": {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410,
            } });
            let _ = out.send_data(format!("{gone}\n").into()).await;
        }
    });
    let head = Response::builder().header(header::CONTENT_TYPE, "application/json");
    Ok(head.body(Either::Right(channel))?)
}
