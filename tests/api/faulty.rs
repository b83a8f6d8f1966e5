//! An API server that answers some requests with a fault: a proxy before the real one, which counts what comes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use agentloop_operator::client::Clients;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::{Client, Config};
use serde_json::json;
use tokio::net::TcpListener;

use crate::world::World;

/// A request, by its method and its path with the query.
#[derive(Clone, Debug)]
pub struct Sent {
    pub method: Method,
    pub path: String,
}

impl Sent {
    pub fn is_status_write(&self) -> bool {
        self.method == Method::PATCH && self.path.contains("/agenttasks/") && self.path.contains("/status")
    }
}

/// What a request is answered with in place of the server's own answer.
type Fault = Arc<dyn Fn(&Sent) -> Option<u16> + Send + Sync>;

pub struct Faulty {
    address: SocketAddr,
    fault: Arc<Mutex<Option<Fault>>>,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Faulty {
    pub async fn before(world: &World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let fault: Arc<Mutex<Option<Fault>>> = Arc::default();
        let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
        let client = world.clients.read.clone();
        let (faults, log) = (fault.clone(), sent.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, faults, log) = (client.clone(), faults.clone(), log.clone());
                let service =
                    service_fn(move |request| answer(client.clone(), faults.clone(), log.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, fault, sent }
    }

    /// Clients that talk to this server.
    pub fn clients(&self, namespace: &str) -> Clients {
        let mut config = Config::new(format!("http://{}", self.address).parse().expect("a URL"));
        namespace.clone_into(&mut config.default_namespace);
        Clients::from_config(config).expect("clients")
    }

    /// Answers in this way from now on.
    pub fn set(&self, fault: impl Fn(&Sent) -> Option<u16> + Send + Sync + 'static) {
        *self.fault.lock().expect("not poisoned") = Some(Arc::new(fault));
        self.sent.lock().expect("not poisoned").clear();
    }

    /// Passes everything on from now on.
    pub fn heal(&self) {
        *self.fault.lock().expect("not poisoned") = None;
    }

    /// The requests since the last change of the fault that pass `wanted`.
    pub fn count(&self, wanted: impl Fn(&Sent) -> bool) -> usize {
        self.sent.lock().expect("not poisoned").iter().filter(|sent| wanted(sent)).count()
    }
}

async fn answer(
    client: Client,
    fault: Arc<Mutex<Option<Fault>>>,
    log: Arc<Mutex<Vec<Sent>>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let sent = Sent { method: head.method.clone(), path: path.to_owned() };
    log.lock().expect("not poisoned").push(sent.clone());
    let fault = fault.lock().expect("not poisoned").clone();
    if let Some(code) = fault.and_then(|fault| fault(&sent)) {
        return Ok(refusal(code));
    }
    let body = body.collect().await.expect("a whole request").to_bytes();
    let mut request = Request::builder().method(head.method).uri(path);
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = head.headers.get(&name) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Body::from(body)).expect("a request");
    Ok(client.send(request).await.unwrap_or_else(|error| {
        eprintln!("the API server does not answer: {error}");
        refusal(502)
    }))
}

fn refusal(code: u16) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "as the test wants it", "reason": "InternalError", "code": code,
    });
    Response::builder()
        .status(StatusCode::from_u16(code).expect("a code"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(status.to_string().into_bytes()))
        .expect("an answer")
}
