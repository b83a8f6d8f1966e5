//! A model for a coding agent: an HTTP server that speaks the Responses API and answers from a script.
//!
//! The script is JSON in the environment variable `SCRIPT`:
//!
//! ```json
//! {
//!   "key": "the one key that is accepted",
//!   "refuse": { "first": 2, "error": { "type": "rate_limit_exceeded", "message": "…" }, "retryAfter": 1 },
//!   "iterations": [
//!     [{ "run": "make", "tokens": [100, 60, 7] }, { "say": "make printed: {output}", "tokens": [200, 160, 9] }]
//!   ]
//! }
//! ```
//!
//! The prompt says which iteration it is. Each request takes the next step of the iteration: a command for the agent to
//! run, or the last message, in which `{output}` stands for the output of the previous command. `tokens` are input, cached
//! input and output tokens. The number of first requests in `refuse` gets a 429; if the error has `resetsIn`, the response
//! contains that time. Every request is logged as a line on standard output.

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

struct ModelRequest {
    line: String,
    key: String,
    body: Vec<u8>,
}

struct ModelResponse {
    status: &'static str,
    headers: String,
    body: String,
    /// For the log.
    log: String,
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
        let response = self.respond(&request);
        println!("{}", response.log);
        let ModelResponse { status, headers, body, .. } = response;
        let length = body.len();
        let mut stream = stream;
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
    }

    fn respond(&self, request: &ModelRequest) -> ModelResponse {
        if !(request.line.starts_with("POST ") && request.line.contains("/responses ")) {
            return plain("404 Not Found", &json!({ "message": "only /responses exists" }), &request.line);
        }
        let key = self.script.get("key").and_then(Value::as_str).unwrap_or_default();
        if request.key != format!("Bearer {key}") {
            let error = json!({ "type": "invalid_request_error", "code": "invalid_api_key", "message": "Incorrect API key provided" });
            return plain("401 Unauthorized", &error, "refused: 401");
        }
        let before = self.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(refuse) = self.script.get("refuse").filter(|refuse| before < number(refuse, "first")) {
            return refusal(refuse);
        }
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        self.step(&body, before)
    }

    /// The step that the conversation has reached.
    fn step(&self, request: &Value, id: u64) -> ModelResponse {
        let items = request.get("input").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let outputs: Vec<&str> = items
            .iter()
            .filter(|item| item.get("type").is_some_and(|kind| kind == "function_call_output"))
            .map(|item| item.get("output").and_then(Value::as_str).unwrap_or_default())
            .collect();
        let Some(iteration) = iteration(&request.to_string()) else {
            let error = json!({ "message": "the prompt does not say which iteration it is" });
            return plain("400 Bad Request", &error, "no iteration");
        };
        let steps = self.script.get("iterations").and_then(|all| all.get(iteration.saturating_sub(1)));
        let Some(step) = steps.and_then(|steps| steps.get(outputs.len())) else {
            let error = json!({ "message": "the script has ended" });
            return plain("400 Bad Request", &error, &format!("iteration {iteration} is not in the script"));
        };
        // The agent reports the exit code of the command, and then its output.
        let last = outputs.last().copied().unwrap_or_default();
        let output = last.split_once("Output:\n").map_or(last, |(_, output)| output).trim();
        let text = |name: &str| step.get(name).and_then(Value::as_str);
        let item = match (text("run"), text("say")) {
            (Some(command), _) => json!({
                "type": "function_call", "id": format!("fc_{id}"), "call_id": format!("call_{id}"),
                "name": "exec_command", "arguments": json!({ "cmd": command }).to_string(),
            }),
            (None, text) => json!({
                "type": "message", "id": format!("msg_{id}"), "role": "assistant",
                "content": [{ "type": "output_text", "text": text.unwrap_or_default().replace("{output}", output) }],
            }),
        };
        let tokens = |at: usize| {
            step.get("tokens").and_then(|tokens| tokens.get(at)).and_then(Value::as_u64).unwrap_or(0)
        };
        let usage = json!({
            "input_tokens": tokens(0), "input_tokens_details": { "cached_tokens": tokens(1) },
            "output_tokens": tokens(2), "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": tokens(0) + tokens(2),
        });
        let response = format!("resp_{id}");
        let events = [
            json!({ "type": "response.created", "response": { "id": response } }),
            json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
            json!({ "type": "response.completed", "response": { "id": response, "usage": usage } }),
        ];
        let event = |event: &Value| {
            let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
            format!("event: {kind}\ndata: {event}\n\n")
        };
        ModelResponse {
            status: "200 OK",
            headers: "content-type: text/event-stream\r\n".to_owned(),
            body: events.iter().map(event).collect(),
            log: format!("iteration {iteration} step {}: {step}; last output {output:?}", outputs.len()),
        }
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn plain(status: &'static str, error: &Value, log: &str) -> ModelResponse {
    ModelResponse {
        status,
        headers: "content-type: application/json\r\n".to_owned(),
        body: json!({ "error": error }).to_string(),
        log: log.to_owned(),
    }
}

fn refusal(refuse: &Value) -> ModelResponse {
    let mut error = refuse.get("error").cloned().unwrap_or_default();
    if let Some(seconds) = error.get("resetsIn").and_then(Value::as_u64)
        && let Some(at) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()
        && let Some(fields) = error.as_object_mut()
    {
        fields.insert("resets_at".to_owned(), json!(at.as_secs() + seconds));
    }
    let mut response = plain("429 Too Many Requests", &error, "refused: 429");
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
            "authorization" => value.trim().clone_into(&mut request.key),
            _ => {}
        }
    }
    stream.take(BODY_BYTES.min(length)).read_to_end(&mut request.body)?;
    request.line = request.line.trim_end().to_owned();
    Ok(request)
}
