//! An API server that answers some requests with an error: a proxy in front of the real one that counts the requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agentloop_operator::client::Clients;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::{Client, Config};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;

use crate::namespace::TestNamespace;

/// A request: its method, its path with the query, and its body.
#[derive(Clone, Debug)]
pub struct Sent {
    pub method: Method,
    pub path: String,
    pub body: Bytes,
}

impl Sent {
    pub fn is_status_write(&self) -> bool {
        self.method == Method::PATCH && self.path.contains("/agenttasks/") && self.path.contains("/status")
    }

    pub fn is_patch_of_a_pod(&self) -> bool {
        self.method == Method::PATCH && self.path.contains("/pods/")
    }

    /// Whether this adds our finalizer to a pod.
    pub fn adds_finalizer(&self) -> bool {
        self.is_patch_of_a_pod() && String::from_utf8_lossy(&self.body).contains("\"finalizers\":[")
    }
}

/// The code with which a request is answered instead of being passed on.
type FaultFor = Arc<dyn Fn(&Sent) -> Option<u16> + Send + Sync>;

pub struct Faulty {
    address: SocketAddr,
    state: Arc<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    fault: Mutex<Option<FaultFor>>,
    /// How long the answer to a write takes beyond the server's own time.
    delay: Mutex<Duration>,
    sent: Mutex<Vec<Sent>>,
}

impl Faulty {
    pub async fn before(ns: &TestNamespace) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let state = Arc::<ProxyState>::default();
        let (client, shared) = (ns.clients.read.clone(), state.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, shared) = (client.clone(), shared.clone());
                let service = service_fn(move |request| answer(client.clone(), shared.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, state }
    }

    /// Clients that talk to this server.
    pub fn clients(&self, namespace: &str) -> Clients {
        let mut config = Config::new(format!("http://{}", self.address).parse().expect("a URL"));
        namespace.clone_into(&mut config.default_namespace);
        Clients::from_config(config).expect("clients")
    }

    /// Uses this fault from now on.
    pub fn set(&self, fault: impl Fn(&Sent) -> Option<u16> + Send + Sync + 'static) {
        *self.state.fault.lock() = Some(Arc::new(fault));
        self.state.sent.lock().clear();
    }

    /// Delays the answer to each write from now on.
    pub fn answer_writes_after(&self, delay: Duration) {
        *self.state.delay.lock() = delay;
    }

    /// Passes all requests on from now on.
    pub fn heal(&self) {
        *self.state.fault.lock() = None;
    }

    /// The requests since the last change of the fault that pass `wanted`.
    pub fn count(&self, wanted: impl Fn(&Sent) -> bool) -> usize {
        self.state.sent.lock().iter().filter(|sent| wanted(sent)).count()
    }
}

async fn answer(
    client: Client,
    state: Arc<ProxyState>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let body = body.collect().await.expect("a whole request").to_bytes();
    let sent = Sent { method: head.method.clone(), path: path.to_owned(), body: body.clone() };
    state.sent.lock().push(sent.clone());
    let fault = state.fault.lock().clone();
    if let Some(code) = fault.and_then(|fault| fault(&sent)) {
        return Ok(refusal(code));
    }
    let mut request = Request::builder().method(head.method).uri(path);
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = head.headers.get(&name) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Body::from(body)).expect("a request");
    let answer = client.send(request).await.unwrap_or_else(|error| {
        eprintln!("the API server does not answer: {error}");
        refusal(502)
    });
    let delay = *state.delay.lock();
    if sent.method != Method::GET {
        tokio::time::sleep(delay).await;
    }
    Ok(answer)
}

fn refusal(code: u16) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the test wants this error", "reason": "InternalError", "code": code,
    });
    Response::builder()
        .status(StatusCode::from_u16(code).expect("a code"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(status.to_string().into_bytes()))
        .expect("an answer")
}
