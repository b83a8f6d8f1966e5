//! Commands that only read.

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::cluster::{TestNamespace, ended, kubeconfig, stopped};

/// Nothing that a program printed controls a terminal.
#[track_caller]
fn is_safe(text: &str) {
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

#[tokio::test]
async fn tasks_are_listed_in_every_format() {
    let ns = TestNamespace::new().await;
    assert_eq!(ns.run(&["list"]).await.err, format!("There are no tasks in namespace {}.\n", ns.name));
    ns.task("idle", json!({}), stopped("CircuitOpen", "NoChange", 3, 10)).await;
    ns.task("new", json!({}), Value::Null).await;
    let list = ns.ok(&["list"]).await;
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines[0], "NAME   PHASE         PROGRESS   REASON     COST    AGE");
    assert!(lines[1].starts_with("idle   CircuitOpen   3/10       NoChange   $0.50   "), "{list}");
    assert!(lines[2].starts_with("new    Pending                                     "), "{list}");
    assert_eq!(ns.ok(&["list", "--needs-me", "-o", "name"]).await, "agenttask.agentloop.dev/idle\n");
    assert_eq!(ns.ok(&["list", "-l", "app=new", "-o", "name"]).await, "agenttask.agentloop.dev/new\n");
    assert!(!ns.ok(&["list", "--no-headers"]).await.contains("PHASE"));
    let wide = ns.ok(&["ls", "-o", "wide"]).await;
    assert!(wide.contains("SAME-ERROR") && wide.contains("stopped: NoChange"), "{wide}");
    let json = ns.ok(&["list", "-o", "json"]).await;
    let read: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(read["items"][0]["kind"], "AgentTask");
    assert_eq!(read["items"][0]["metadata"]["managedFields"], Value::Null);
    let error = &read["items"][0]["status"]["history"][0]["error"];
    assert_eq!(*error, "agent \u{1b}[31msaid\u{9b}2J so", "the value is kept");
    let names = ns.ok(&["list", "-o", "jsonpath={.items[*].metadata.name}"]).await;
    assert_eq!(names, "idle new");
    let yaml = ns.ok(&["list", "-o", "yaml"]).await;
    let all = ns.ok(&["list", "-A"]).await;
    assert!(all.starts_with("NAMESPACE") && all.lines().any(|line| line.starts_with("NS ")), "{all}");
    for text in [list, wide, json, yaml] {
        is_safe(&text);
    }
    ns.end().await;
}

#[tokio::test]
async fn one_task_is_shown_as_a_tree_and_explained() {
    let ns = TestNamespace::new().await;
    ns.task("idle", json!({}), stopped("CircuitOpen", "NoChange", 3, 10)).await;
    // The pod of the only iteration is gone, so it is not named.
    assert_eq!(
        ns.ok(&["get", "idle"]).await,
        "NS/idle   CircuitOpen   3/10   $0.50, 1.0k in, 50 out\n\
         stopped: NoChange\n\
         ├─ 3   exited with 0  changed nothing  $0.25\n\
         │      error: \"agent said so\"\n\
         └─ 1 to 2: no longer in the status\n"
    );
    assert_eq!(ns.ok(&["get", "idle", "-o", "name"]).await, "agenttask.agentloop.dev/idle\n");
    assert_eq!(ns.ok(&["get", "idle", "-o", "jsonpath={.status.phase}"]).await, "CircuitOpen");
    assert_eq!(
        ns.ok(&["why", "idle"]).await,
        "NS/idle is CircuitOpen (NoChange)\n  stopped: NoChange\n\nEvidence\n  \
         iteration 3: exited with 0, changed nothing, error: \"agent said so\"\n\nThresholds\n  \
         iterations                  3 of 10   agentloop's default\n  \
         changed nothing, in a row   0 of 3    agentloop's default\n  \
         same error, in a row        0 of 5    agentloop's default\n  \
         hard limit of iterations    50        agentloop's default\n  \
         duration of an iteration    3600 s    agentloop's default\n\nTo resume\n  \
         kubectl agentloop -n NS resume idle   # streaks at zero\n"
    );
    let missing = ns.fails(1, &["get", "none"]).await;
    assert!(missing.contains("agenttasks \"none\" in namespace \"NS\": not found"), "{missing}");
    ns.end().await;
}

#[tokio::test]
async fn a_reader_that_closes_the_pipe_is_no_failure() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({ "prompt": "x".repeat(100_000) }), Value::Null).await;
    let line = format!("{} -n {} list -o json | true", env!("CARGO_BIN_EXE_kubectl-agentloop"), ns.name);
    let mut shell = tokio::process::Command::new("bash");
    shell.args(["-o", "pipefail", "-c", &line]).env("KUBECONFIG", kubeconfig());
    shell.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = ended(shell).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    ns.end().await;
}

#[tokio::test]
async fn versions_are_those_of_plugin_and_api() {
    let ns = TestNamespace::new().await;
    let version = env!("CARGO_PKG_VERSION");
    let text = ns.ok(&["version"]).await;
    assert!(
        text.starts_with(&format!("plugin: {version}\nAPI: agentloop.dev/v1alpha1\noperator: ")),
        "{text}"
    );
    assert_eq!(ns.ok(&["version", "--client"]).await, format!("plugin: {version}\n"));
    ns.end().await;
}

#[tokio::test]
async fn a_cluster_that_cannot_be_reached_is_named_with_what_to_check() {
    let ns = TestNamespace::new().await;
    let error = ns.fails(1, &["list", "--context", "none"]).await;
    assert!(error.contains("context: none; choose another with --kubeconfig or KUBECONFIG"), "{error}");
    ns.end().await;
}

#[tokio::test]
async fn a_proxy_is_used_except_for_this_machine() {
    let ns = TestNamespace::new().await;
    let proxy = ("HTTPS_PROXY", "http://127.0.0.1:9");
    let mut here = ns.command(&["list"]);
    here.env(proxy.0, proxy.1);
    assert_eq!(ended(here).await.code, 0);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kubeconfig");
    let elsewhere =
        std::fs::read_to_string(kubeconfig()).expect("the kubeconfig").replace("127.0.0.1", "api.invalid");
    std::fs::write(&file, elsewhere).expect("a kubeconfig");
    let mut through = ns.command(&["list"]);
    through.env(proxy.0, proxy.1).env("KUBECONFIG", &file);
    let ran = ended(through).await;
    assert!(ran.code == 1 && ran.err.contains("tunnel error"), "{ran:?}");
    let mut beside = ns.command(&["list"]);
    beside.env(proxy.0, proxy.1).env("NO_PROXY", ".invalid").env("KUBECONFIG", &file);
    let ran = ended(beside).await;
    assert!(ran.code == 1 && ran.err.contains("dns error"), "{ran:?}");
    ns.end().await;
}

#[tokio::test]
async fn a_thousand_tasks_are_listed_in_less_than_a_second() {
    let ns = TestNamespace::new().await;
    let create = stream::iter(0..1000).for_each_concurrent(8, |n| {
        let ns = &ns;
        async move {
            ns.task(&format!("t{n}"), json!({ "prompt": "x".repeat(2000) }), Value::Null).await;
        }
    });
    create.await;
    let mut fastest = Duration::MAX;
    // Other tests use the same processors.
    for _ in 0..5 {
        let since = Instant::now();
        assert_eq!(ns.ok(&["list"]).await.lines().count(), 1001);
        fastest = fastest.min(since.elapsed());
    }
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    ns.end().await;
}
