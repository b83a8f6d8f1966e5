//! A model for coding agents: an HTTP server that speaks the APIs of several providers and answers from a script.
//!
//! The script is JSON in the environment variable `SCRIPT`:
//!
//! ```json
//! {
//!   "key": "the one key that is accepted",
//!   "refuse": { "first": 2, "error": { "type": "rate_limit_exceeded", "message": "…" }, "retryAfter": 1 },
//!   "iterations": [
//!     [{ "run": "make", "tokens": [100, 60, 7] }, { "say": "make printed: {output}", "tokens": [200, 160, 9] }],
//!     [{ "hang": true }]
//!   ]
//! }
//! ```
//!
//! The prompt says which iteration it is. Each request takes the next step of the iteration: a command for the agent to
//! run, or the last message, in which `{output}` stands for the output of the previous command; a step that hangs gets no
//! answer. `tokens` are input (with the cached ones), cached input and output tokens. The number of first requests in
//! `refuse` gets a 429, or the `status` there; if the error has `resetsIn`, the response contains that time. Every request
//! is logged as a line on standard output.
//!
//! An API is a module with three functions: the outputs in a request, the events of an answer, and an error's body.

mod messages;
mod responses;

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

const ADDRESS: &str = "0.0.0.0:8080";
/// A prompt with its tools has about 40 KB.
const BODY_BYTES: u64 = 16 << 20;

struct Model {
    script: Value,
    /// Requests with the right key.
    requests: AtomicU64,
}

/// The APIs, by the path of a request.
#[derive(Clone, Copy)]
enum Api {
    Messages,
    Responses,
}

/// What the model answers to one request.
struct Step {
    /// Differs between the responses.
    id: u64,
    answer: Answer,
    /// Input, cached input and output tokens.
    tokens: [u64; 3],
}

enum Answer {
    /// A command for the agent to run.
    Run(String),
    /// The last message.
    Say(String),
}

struct ModelRequest {
    line: String,
    key: String,
    body: Vec<u8>,
}

struct ModelResponse {
    status: String,
    headers: String,
    body: String,
    /// For the log.
    log: String,
}

impl Api {
    fn of(line: &str) -> Option<Self> {
        let path = line.strip_prefix("POST ")?.split([' ', '?']).next()?;
        if path.ends_with("/v1/messages") {
            Some(Self::Messages)
        } else if path.ends_with("/responses") {
            Some(Self::Responses)
        } else {
            None
        }
    }

    fn outputs(self, request: &Value) -> Vec<String> {
        match self {
            Self::Messages => messages::outputs(request),
            Self::Responses => responses::outputs(request),
        }
    }

    fn events(self, step: &Step) -> Vec<Value> {
        match self {
            Self::Messages => messages::events(step),
            Self::Responses => responses::events(step),
        }
    }

    fn error(self, status: &str, error: &Value, log: &str) -> ModelResponse {
        let body = match self {
            Self::Messages => messages::error(error),
            Self::Responses => responses::error(error),
        };
        plain(status, &body, log)
    }
}

fn main() -> ExitCode {
    let script = env::var("SCRIPT").ok().and_then(|text| serde_json::from_str(&text).ok());
    let (Some(script), Ok(listener)) = (script, TcpListener::bind(ADDRESS)) else {
        eprintln!("SCRIPT must contain JSON, and {ADDRESS} must be free");
        return ExitCode::FAILURE;
    };
    let model = Arc::new(Model { script, requests: AtomicU64::new(0) });
    for stream in listener.incoming().flatten() {
        let model = Arc::clone(&model);
        thread::spawn(move || {
            if let Err(error) = model.serve(&stream) {
                println!("a request was not answered: {error}");
            }
        });
    }
    ExitCode::SUCCESS
}

impl Model {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let request = read(&mut BufReader::new(stream))?;
        // A probe only opens a connection.
        if request.line.is_empty() {
            return Ok(());
        }
        let mut stream = stream;
        let Some(response) = self.respond(&request) else {
            println!("no answer");
            stream.set_read_timeout(None)?;
            return stream.read(&mut [0]).map(drop);
        };
        println!("{}", response.log);
        let ModelResponse { status, headers, body, .. } = response;
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
    }

    /// Nothing if the request is to hang.
    fn respond(&self, request: &ModelRequest) -> Option<ModelResponse> {
        let Some(api) = Api::of(&request.line) else {
            let log = format!("unknown: {}", request.line);
            return Some(plain(
                "404 Not Found",
                &json!({ "error": { "message": "there is no such API" } }),
                &log,
            ));
        };
        let key = self.script.get("key").and_then(Value::as_str).unwrap_or_default();
        if request.key != key {
            let error = json!({ "type": "authentication_error", "code": "invalid_api_key", "message": "Incorrect API key provided" });
            return Some(api.error("401 Unauthorized", &error, "refused: 401"));
        }
        let before = self.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(refuse) = self.script.get("refuse").filter(|refuse| before < number(refuse, "first")) {
            return Some(refusal(api, refuse));
        }
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        self.step(api, &body, before)
    }

    /// The step that the conversation has reached.
    fn step(&self, api: Api, request: &Value, id: u64) -> Option<ModelResponse> {
        let outputs = api.outputs(request);
        let Some(iteration) = iteration(&request.to_string()) else {
            let error = json!({ "message": "the prompt does not say which iteration it is" });
            return Some(api.error("400 Bad Request", &error, "no iteration"));
        };
        let steps = self.script.get("iterations").and_then(|all| all.get(iteration.saturating_sub(1)));
        let Some(step) = steps.and_then(|steps| steps.get(outputs.len())) else {
            let error = json!({ "message": "the script has ended" });
            let log = format!("iteration {iteration} is not in the script");
            return Some(api.error("400 Bad Request", &error, &log));
        };
        if step.get("hang").is_some() {
            return None;
        }
        let output = outputs.last().map(|output| output.trim()).unwrap_or_default();
        let text = |name: &str| step.get(name).and_then(Value::as_str);
        let answer = match (text("run"), text("say")) {
            (Some(command), _) => Answer::Run(command.to_owned()),
            (None, text) => Answer::Say(text.unwrap_or_default().replace("{output}", output)),
        };
        let tokens = [0, 1, 2].map(|at: usize| {
            step.get("tokens").and_then(|tokens| tokens.get(at)).and_then(Value::as_u64).unwrap_or(0)
        });
        let event = |event: &Value| {
            let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
            format!("event: {kind}\ndata: {event}\n\n")
        };
        Some(ModelResponse {
            status: "200 OK".to_owned(),
            headers: "content-type: text/event-stream\r\n".to_owned(),
            body: api.events(&Step { id, answer, tokens }).iter().map(event).collect(),
            log: format!("iteration {iteration} step {}: {step}; last output {output:?}", outputs.len()),
        })
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn plain(status: &str, body: &Value, log: &str) -> ModelResponse {
    ModelResponse {
        status: status.to_owned(),
        headers: "content-type: application/json\r\n".to_owned(),
        body: body.to_string(),
        log: log.to_owned(),
    }
}

fn refusal(api: Api, refuse: &Value) -> ModelResponse {
    let mut error = refuse.get("error").cloned().unwrap_or_default();
    if let Some(seconds) = error.get("resetsIn").and_then(Value::as_u64)
        && let Some(at) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()
        && let Some(fields) = error.as_object_mut()
    {
        fields.insert("resets_at".to_owned(), json!(at.as_secs() + seconds));
    }
    let status = refuse.get("status").and_then(Value::as_u64).unwrap_or(429);
    let reason = if status == 429 { "Too Many Requests" } else { "Internal Server Error" };
    let mut response = api.error(&format!("{status} {reason}"), &error, &format!("refused: {status}"));
    if let Some(seconds) = refuse.get("retryAfter") {
        response.headers = format!("{}retry-after: {seconds}\r\n", response.headers);
    }
    response
}

/// The iteration in the prompt's section on the loop. Text that the agent itself adds comes before it.
fn iteration(request: &str) -> Option<usize> {
    let (_, rest) = request.rsplit_once("This is iteration ")?;
    rest.split(' ').next()?.parse().ok()
}

/// An HTTP/1.1 request with a Content-Length.
fn read(stream: &mut impl BufRead) -> io::Result<ModelRequest> {
    let mut request = ModelRequest { line: String::new(), key: String::new(), body: Vec::new() };
    stream.read_line(&mut request.line)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            "authorization" | "x-api-key" => {
                let value = value.trim();
                value.strip_prefix("Bearer ").unwrap_or(value).clone_into(&mut request.key);
            }
            _ => {}
        }
    }
    stream.take(BODY_BYTES.min(length)).read_to_end(&mut request.body)?;
    request.line = request.line.trim_end().to_owned();
    Ok(request)
}
