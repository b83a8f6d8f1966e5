//! What the operator takes for the API server: plain HTTP, passed on to the real one, unless the plan says
//! otherwise.
//!
//! Each request is carried out in a task of its own: a request whose operator is killed is on its way all the
//! same, as it is on a real network.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};

use crate::classify::RequestClass;
use crate::nemesis::{Disposition, Nemesis};

type Answer = Response<Either<Full<Bytes>, Channel<Bytes, Infallible>>>;

/// The connection ends without an answer.
#[derive(Debug)]
pub struct ConnectionCut;

impl std::fmt::Display for ConnectionCut {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("the connection is cut")
    }
}

impl std::error::Error for ConnectionCut {}

/// A request that has come whole.
#[derive(Clone, Debug)]
pub struct BufferedRequest {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// The header.
    pub headers: HeaderMap,
    /// The body; null where there is none.
    pub body: Value,
}

impl BufferedRequest {
    async fn of(request: Request<Incoming>) -> Result<Self> {
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

    /// As the real server gets it.
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

/// An answer that has come whole.
#[derive(Clone, Debug)]
pub struct BufferedResponse {
    /// The code.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

impl BufferedResponse {
    /// A refusal such as the API server gives.
    pub fn refusal(code: u16) -> Self {
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

    fn answer(self) -> Result<Answer> {
        let answer = Response::builder().status(self.status).header(header::CONTENT_TYPE, "application/json");
        Ok(answer.body(Either::Left(Full::new(self.body)))?)
    }
}

/// Takes connections for one operator until it is dropped.
pub struct Proxy {
    /// Where.
    pub address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// For the operator of this place.
    pub async fn open(nemesis: &Arc<Nemesis>, place: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the proxy")?;
        let address = listener.local_addr()?;
        let nemesis = nemesis.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // What has ended is let go now and then.
                while connections.try_join_next().is_some() {}
                let nemesis = nemesis.clone();
                let _ = stream.set_nodelay(true);
                connections.spawn(async move {
                    let service = service_fn(|request| handle(nemesis.clone(), place, request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, _serving: serving })
    }
}

async fn handle(
    nemesis: Arc<Nemesis>,
    place: usize,
    request: Request<Incoming>,
) -> Result<Answer, ConnectionCut> {
    if nemesis.is_cut_off() {
        return Err(ConnectionCut);
    }
    let sent = BufferedRequest::of(request).await.map_err(|_| ConnectionCut)?;
    let call = RequestClass::of(&sent.method, &sent.path, &sent.query, &sent.body);
    let told = match call {
        RequestClass::Watch => return watch(nemesis, place, sent).await.map_err(|error| note(&error)),
        RequestClass::Apart => {
            let passed = nemesis.pass(&sent).await;
            passed.map_err(|error| note(&error))?
        }
        call => {
            let carried_out = tokio::spawn(async move { carry_out(&nemesis, place, &call, sent).await });
            match carried_out.await {
                Ok(Ok(Some(told))) => told,
                Ok(Ok(None)) | Err(_) => return Err(ConnectionCut),
                Ok(Err(error)) => return Err(note(&error)),
            }
        }
    };
    told.answer().map_err(|_| ConnectionCut)
}

/// What goes wrong between us and the real server is not the plan's doing, but looks like a cut wire.
fn note(error: &anyhow::Error) -> ConnectionCut {
    if std::env::var_os("CHAOS_DEBUG").is_some() {
        eprintln!("proxy: {error:#}");
    }
    ConnectionCut
}

/// One request with all that the plan has in store for it. `None`: the answer never comes.
async fn carry_out(
    nemesis: &Arc<Nemesis>,
    place: usize,
    call: &RequestClass,
    mut sent: BufferedRequest,
) -> Result<Option<BufferedResponse>> {
    let numbers = nemesis.count(call);
    match nemesis.before(place, &numbers, &sent).await? {
        Disposition::Pass => {}
        Disposition::Answer(told) => return Ok(Some(told)),
        Disposition::Drop => return Ok(None),
    }
    if *call == RequestClass::CacheList
        && let Some(old) = nemesis.lists.take(place, &sent.path)
    {
        return Ok(Some(BufferedResponse { status: StatusCode::OK, body: old }));
    }
    if let Some(told) = nemesis.mutate_before(call, &mut sent).await? {
        return Ok(Some(told));
    }
    let told = nemesis.pass(&sent).await?;
    let told = nemesis.mutate_after(call, &sent, told).await?;
    match nemesis.after(place, &numbers).await? {
        Disposition::Pass => Ok(Some(told)),
        Disposition::Answer(told) => Ok(Some(told)),
        Disposition::Drop => Ok(None),
    }
}

/// A watch: lines are passed on one by one, late or not at all.
async fn watch(nemesis: Arc<Nemesis>, place: usize, sent: BufferedRequest) -> Result<Answer> {
    // An old list is served as a list: this server streams none.
    if sent.query.contains("sendInitialEvents") && nemesis.lists.has(place, &sent.path) {
        return BufferedResponse::refusal(422).answer();
    }
    let mut wire = nemesis.wire(place);
    let upstream = nemesis.server.pass(sent.to_request()?).await?;
    let (head, mut body) = upstream.into_parts();
    if head.status != StatusCode::OK {
        let body = body.collect().await?.to_bytes();
        return BufferedResponse { status: head.status, body }.answer();
    }
    let (mut out, answer) = Channel::new(16);
    tokio::spawn(async move {
        let mut rest = Vec::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = wire.cut() => break,
            };
            let Some(Ok(frame)) = frame else { break };
            let Ok(bytes) = frame.into_data() else { continue };
            rest.extend_from_slice(&bytes);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            let mut lines: Vec<u8> = rest.drain(..=end).collect();
            if let Some(other) = nemesis.mutation.and_then(|mutation| mutation.seen(&lines)) {
                lines = other;
            }
            tokio::select! {
                () = wire.late() => {}
                () = wire.cut() => break,
            }
            if out.send_data(lines.into()).await.is_err() {
                return;
            }
        }
        if wire.has_expired() {
            let gone = json!({ "type": "ERROR", "object": {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410,
            } });
            let _ = out.send_data(format!("{gone}\n").into()).await;
        }
    });
    let answer =
        Response::builder().header(header::CONTENT_TYPE, "application/json").body(Either::Right(answer))?;
    Ok(answer)
}

/// What watches are subject to.
#[derive(Clone, Copy, Debug)]
pub struct Wires {
    /// Goes up with each cut, for both operators.
    pub cuts: [u64; 2],
    /// The last cut says 410 Gone.
    pub expired: bool,
    /// Lines wait until then.
    pub late_until: Option<Instant>,
    /// And each line for as long after it came.
    pub delay: Duration,
}

/// One watch's view of them.
pub struct Wire {
    place: usize,
    cuts: u64,
    wires: tokio::sync::watch::Receiver<Wires>,
}

impl Wire {
    /// For a watch that starts now.
    pub fn new(place: usize, wires: tokio::sync::watch::Receiver<Wires>) -> Self {
        let cuts = wires.borrow().cuts.get(place).copied().unwrap_or_default();
        Self { place, cuts, wires }
    }

    async fn cut(&mut self) {
        let (place, cuts) = (self.place, self.cuts);
        let cut = self.wires.wait_for(|wires| wires.cuts.get(place).is_some_and(|now| *now != cuts)).await;
        // The plan is over where nobody is left to cut.
        drop(cut);
    }

    fn has_expired(&self) -> bool {
        self.wires.borrow().expired
    }

    fn late(&self) -> impl Future<Output = ()> + 'static {
        let (until, delay) = {
            let wires = self.wires.borrow();
            (wires.late_until, wires.delay)
        };
        async move {
            if let Some(until) = until {
                time::sleep_until(until).await;
            }
            if !delay.is_zero() {
                time::sleep(delay).await;
            }
        }
    }
}
