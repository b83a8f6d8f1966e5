//! The program as a process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use agentloop_core::api::Phase;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::config::Kubeconfig;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::kubelet::{AgentWork, Kubelet};
use crate::namespace::{PATIENCE, TestNamespace, config, eventually, kubeconfig_path};
use crate::relay::Relay;

fn agentloop() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentloop"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// The operator in its own process, serving one namespace.
pub struct OperatorProcess {
    child: Child,
    address: String,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl OperatorProcess {
    pub fn controller(ns: &TestNamespace) -> Self {
        Self::with_kubeconfig(ns, &kubeconfig_path())
    }

    fn with_kubeconfig(ns: &TestNamespace, kubeconfig: &Path) -> Self {
        let mut child = agentloop()
            .env("KUBECONFIG", kubeconfig)
            .args([
                "controller",
                "--http-address",
                "127.0.0.1:0",
                "--probe-address",
                "127.0.0.1:0",
                "--runner-image",
                "none",
                "--log-format",
                "json",
            ])
            .args(["--namespace", &ns.name, "--watch-namespaces", &ns.name])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let logs = BufReader::new(child.stderr.take().expect("its logs"));
        let (found, address) = mpsc::channel();
        let lines = Arc::<Mutex<Vec<Value>>>::default();
        let read = lines.clone();
        std::thread::spawn(move || {
            // Read to the end, or the program would block on a full pipe.
            for line in logs.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(address) = line.get("address").and_then(Value::as_str) {
                    let _ = found.send(address.to_owned());
                }
                read.lock().push(line);
            }
        });
        let address = address.recv_timeout(PATIENCE).expect("its address in the logs");
        Self { child, address, lines }
    }

    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// The log lines until now that pass `wanted`.
    fn lines(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.lines.lock().iter().filter(|line| wanted(line)).cloned().collect()
    }

    pub async fn ready(&self, how: &str) {
        eventually(how, || async { self.get("/readyz").contains(how).then_some(()) }).await;
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(done.expect("kill").success());
    }

    async fn ended(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the program does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for OperatorProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

#[tokio::test]
async fn a_second_operator_stands_by_and_takes_over_when_the_first_one_stops() {
    let ns = TestNamespace::with_tasks().await;
    let first = OperatorProcess::controller(&ns);
    first.ready("working").await;
    assert!(first.get("/metrics").contains("agentloop_leader 1"));
    let second = OperatorProcess::controller(&ns);
    second.ready("standing by").await;
    assert!(second.get("/metrics").contains("agentloop_leader 0"));

    // Twice in a row, as some tools do.
    first.signal("TERM");
    first.signal("TERM");
    assert_eq!(first.ended().await, Some(0));
    second.ready("working").await;
    assert!(second.get("/livez").starts_with("HTTP/1.1 200"));
    second.signal("INT");
    assert_eq!(second.ended().await, Some(0));
    let lease = ns.api::<Lease>().get("agentloop").await.expect("the lease");
    assert_eq!(lease.spec.and_then(|spec| spec.holder_identity).as_deref(), Some(""));
    ns.end().await;
}

#[tokio::test]
async fn the_log_lines_of_one_reconcile_share_an_id_that_no_other_reconcile_has() {
    let ns = TestNamespace::with_tasks().await;
    let operator = OperatorProcess::controller(&ns);
    let _kubelet = Kubelet::start(&ns, |_| AgentWork::ready());
    ns.create("logged", json!({})).await;
    ns.until_phase("logged", Phase::Succeeded).await;
    let lines = eventually("the end in the logs", || async {
        let lines = operator.lines(|line| line["span"]["name"] == "reconcile");
        lines.iter().any(|line| line["message"] == "iteration settled").then_some(lines)
    })
    .await;
    let mut messages: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in &lines {
        assert_eq!(line["span"]["task"], "logged", "{line}");
        let id = line["span"]["reconcile_id"].as_str().expect("every line of a reconcile has its id");
        messages.entry(id).or_default().extend(line["message"].as_str());
    }
    let started = messages.values().find(|of_one| of_one.contains(&"iteration started")).expect("a start");
    assert!(started.len() >= 2, "the Event of the start is logged with it: {messages:?}");
    assert!(!started.contains(&"iteration settled"), "the end came with another reconcile: {messages:?}");
    ns.end().await;
}

#[tokio::test]
async fn the_log_level_follows_the_configuration_while_the_operator_runs() {
    let ns = TestNamespace::with_tasks().await;
    let operator = OperatorProcess::controller(&ns);
    operator.ready("working").await;
    let is_at = |line: &Value, level: &str, own: bool| {
        line["level"] == level && line["target"].as_str().is_some_and(|t| t.starts_with("agentloop") == own)
    };
    let count = |message: &'static str| {
        operator.lines(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).len()
    };
    assert!(operator.lines(|line| line["level"] == "DEBUG").is_empty());

    ns.configure(json!({ "logLevel": "debug" })).await;
    eventually("the new level", || async { (count("changed the log level") == 1).then_some(()) }).await;
    ns.create("first", json!({ "suspend": true })).await;
    eventually("a message at the new level", || async {
        (!operator.lines(|line| is_at(line, "DEBUG", true)).is_empty()).then_some(())
    })
    .await;
    assert!(operator.lines(|line| is_at(line, "DEBUG", false)).is_empty(), "libraries keep their level");

    ns.configure(json!({ "logLevel": "loud" })).await;
    eventually("the ConfigMap is reported", || async {
        (count("the configuration is invalid") == 1).then_some(())
    })
    .await;
    let before = operator.lines(|line| is_at(line, "DEBUG", true)).len();
    ns.patch("first", json!({ "suspend": false })).await;
    eventually("still the level before", || async {
        (operator.lines(|line| is_at(line, "DEBUG", true)).len() > before).then_some(())
    })
    .await;

    ns.configure(json!({})).await;
    eventually("the level of the command line", || async {
        (count("changed the log level") == 2).then_some(())
    })
    .await;
    ns.end().await;
}

#[tokio::test]
async fn an_operator_that_loses_its_lease_exits_with_code_3() {
    let ns = TestNamespace::with_tasks().await;
    let operator = OperatorProcess::controller(&ns);
    operator.ready("working").await;
    let usurp = Patch::Merge(json!({ "spec": { "holderIdentity": "usurper" } }));
    ns.api::<Lease>().patch("agentloop", &PatchParams::default(), &usurp).await.expect("written");
    assert_eq!(operator.ended().await, Some(3));
    ns.end().await;
}

#[tokio::test]
async fn an_operator_that_cannot_read_the_lease_says_so_and_is_not_ready() {
    let ns = TestNamespace::with_tasks().await;
    let relay = Relay::to(&config().await).await;
    let through = relay.through(&config().await);
    let mut kubeconfig = Kubeconfig::read_from(kubeconfig_path()).expect("a kubeconfig");
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|cluster| cluster.cluster.as_mut()) {
        cluster.server = Some(through.cluster_url.to_string());
        cluster.tls_server_name.clone_from(&through.tls_server_name);
    }
    let path = std::env::temp_dir().join(format!("{}.kubeconfig", ns.name));
    std::fs::write(&path, serde_json::to_string(&kubeconfig).expect("JSON")).expect("written");

    let leader = OperatorProcess::controller(&ns);
    leader.ready("working").await;
    let follower = OperatorProcess::with_kubeconfig(&ns, &path);
    follower.ready("standing by: another operator leads").await;
    assert!(follower.get("/readyz").starts_with("HTTP/1.1 200"));
    relay.cut();
    follower.ready("cannot read or take the lease").await;
    assert!(follower.get("/readyz").starts_with("HTTP/1.1 503"));
    // At the start it knows of no leader, so it must not report one.
    let blind = OperatorProcess::with_kubeconfig(&ns, &path);
    blind.ready("cannot read or take the lease").await;
    assert!(blind.get("/livez").starts_with("HTTP/1.1 200"), "a restart would not help");
    std::fs::remove_file(path).expect("removed");
    ns.end().await;
}

#[test]
fn the_crd_is_printed_the_same_each_time_and_matches_the_types() {
    let first = output(agentloop().arg("crd"));
    assert!(first.status.success());
    assert_eq!(first.stdout, output(agentloop().arg("crd")).stdout);
    let text = String::from_utf8(first.stdout).expect("text");
    let read: Value = serde_saphyr::from_str(&text).expect("YAML");
    assert_eq!(read, agentloop_core::api::crd_document());
}

#[test]
fn an_invalid_kubeconfig_is_reported_and_no_other_is_tried() {
    let failed = output(agentloop().env("KUBECONFIG", "/nowhere/config").args([
        "controller",
        "--runner-image",
        "none",
    ]));
    assert_eq!(failed.status.code(), Some(1));
    let message = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(message.contains("cannot use KUBECONFIG=/nowhere/config"), "{message}");
}
