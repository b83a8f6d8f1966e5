//! The fake kubelet against an API server that only answers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentloop_chaos::server::AdminClient;
use agentloop_contract::report::Report;
use agentloop_test_support::json;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::kubelet::{Agent, Kubelet};

const SECOND: Duration = Duration::from_secs(10);

/// A server with one list of pods, and watches that report nothing.
struct Answering {
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    server: AdminClient,
    kubeconfig: PathBuf,
}

impl Drop for Answering {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

impl Answering {
    async fn with_pods(pods: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let seen = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, seen.clone(), pods.clone()));
            }
        });
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "c", "user": {} }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c" } }],
        });
        let path = std::env::temp_dir().join(format!("bench-{}-{}", std::process::id(), address.port()));
        std::fs::write(&path, kubeconfig.to_string()).expect("written");
        let server = AdminClient::connect(&path).await.expect("a client");
        Self { asked, server, kubeconfig: path }
    }

    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

/// Answers one request: a list with the pods, a watch with silence, anything else with an empty object.
async fn answer(mut stream: TcpStream, asked: Arc<Mutex<Vec<(String, Value)>>>, pods: Value) {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if stream.read_buf(&mut bytes).await.unwrap_or_default() == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            if name.eq_ignore_ascii_case("content-length") { value.parse::<usize>().ok() } else { None }
        });
        if body.len() >= length.unwrap_or_default() {
            break (head.to_owned(), body.to_owned());
        }
    };
    let request = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    if request.contains("watch=true") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        return;
    }
    let text = if request.contains("/pods?limit") {
        json!({ "metadata": { "resourceVersion": "1" }, "items": pods }).to_string()
    } else {
        asked.lock().expect("not poisoned").push((request, serde_json::from_str(&body).unwrap_or_default()));
        "{}".to_owned()
    };
    let answer =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn pod(name: &str, gates: &Value) -> Value {
    let key = json!({ "name": "AGENTLOOP_REPORT_KEY", "value": "a-key" });
    json!({
        "metadata": { "name": name, "uid": format!("uid-{name}"), "ownerReferences": [{ "name": "loop" }] },
        "spec": { "schedulingGates": gates, "containers": [{ "name": "agent", "env": [key] }] },
    })
}

#[tokio::test]
async fn the_kubelet_binds_runs_and_ends_a_pod_that_may_start_and_leaves_a_gated_one_alone() {
    let gate = json!([{ "name": "agentloop.dev/start" }]);
    let server = Answering::with_pods(json!([pod("free", &json!([])), pod("gated", &gate)])).await;
    let kubelet = Kubelet::start(&server.server, "ns", |owner, number| {
        assert_eq!((owner, number), ("loop", 1));
        Agent::Lasts(Duration::from_millis(20))
    });
    kubelet.until(SECOND, "it has ended", |state| (state.ended == 1).then_some(())).await.expect("an end");

    let asked = server.asked();
    let requests: Vec<&str> = asked.iter().map(|(request, _)| request.as_str()).collect();
    let own = "/api/v1/namespaces/ns/pods/free";
    let expected =
        [format!("POST {own}/binding"), format!("PATCH {own}/status"), format!("PATCH {own}/status")];
    assert_eq!(requests, expected);
    let phases: Vec<&str> = asked.iter().map(|(_, body)| json::text(body, "/status/phase")).collect();
    assert_eq!(phases, ["", "Running", "Succeeded"]);
    let (_, last) = asked.last().expect("a request");
    let message = json::text(last, "/status/containerStatuses/0/state/terminated/message");
    let report = Report::decode(message).expect("a report");
    assert_eq!(report.exit_code, Some(0));
    assert_ne!(super::played::report(None).as_deref(), Some(message), "it is signed with the pod's key");
    assert_eq!(super::played::report(Some("a-key")).as_deref(), Some(message));
}

#[tokio::test]
async fn an_agent_that_waits_ends_when_it_is_released() {
    let server = Answering::with_pods(json!([pod("held", &json!([]))])).await;
    let kubelet = Kubelet::start(&server.server, "ns", |_, _| Agent::UntilReleased);
    let runs = kubelet.until(SECOND, "it runs", |state| (state.running() == 1).then_some(()));
    runs.await.expect("it runs");
    assert_eq!(kubelet.state(|state| state.ended), 0);
    kubelet.state(|state| state.release("loop"));
    kubelet.until(SECOND, "it has ended", |state| (state.ended == 1).then_some(())).await.expect("an end");
    assert_eq!(kubelet.state(|state| state.waiting("lo")), 1, "the loop's next pod is awaited");
}
