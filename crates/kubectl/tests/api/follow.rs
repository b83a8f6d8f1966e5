//! Commands that create tasks and follow them.

use std::process::Stdio;

use agentloop_core::api::AgentTask;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time;

use crate::cluster::{PATIENCE, TestNamespace, ended, stopped};

const RUN: [&str; 4] = ["run", "x", "--image", "none"];

#[tokio::test]
async fn a_task_is_created_from_flags_and_a_prompt() {
    let ns = TestNamespace::new().await;
    let args =
        [&RUN[..], &["--prompt", "Do it.", "--max", "4", "--verify", "true", "--", "agent", "-v"]].concat();
    let dry = ns.ok(&[&args[..4], &["--dry-run=server", "-o", "yaml"], &args[4..]].concat()).await;
    assert!(dry.contains("maxIterations: 4") && dry.contains("uid:"), "the API server answered: {dry}");
    let shown = ns.ok(&[&args[..4], &["--show-kubectl"], &args[4..]].concat()).await;
    assert!(
        shown.starts_with("kubectl create -f - <<'YAML'\napiVersion: agentloop.dev/v1alpha1\n"),
        "{shown}"
    );
    assert!(ns.api::<AgentTask>().get_opt("x").await.expect("an answer").is_none(), "nothing is created");
    assert_eq!(ns.ok(&args).await, "agenttask.agentloop.dev/x created\n");
    let spec = ns.spec("x").await;
    assert_eq!((&spec["prompt"], &spec["maxIterations"]), (&json!("Do it."), &json!(4)));
    let error = ns.fails(1, &args).await;
    assert!(error.contains("x already exists in namespace NS: choose another name"), "{error}");
    ns.end().await;
}

#[tokio::test]
async fn a_prompt_is_read_from_standard_input() {
    let ns = TestNamespace::new().await;
    let mut command =
        ns.command(&[&RUN[..], &["--until-exit", "--ephemeral", "-o", "name", "--", "agent"]].concat());
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("standard input");
    stdin.write_all(b"From a pipe.\n").await.expect("it is read");
    drop(stdin);
    let output = child.wait_with_output().await.expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "agenttask.agentloop.dev/x\n");
    let spec = ns.spec("x").await;
    assert_eq!(spec["prompt"], "From a pipe.\n");
    assert_eq!(spec["completion"], json!({ "policy": "ExitCode" }));
    let error = ns.fails(2, &[&RUN[..], &["--", "agent"]].concat()).await;
    assert!(error.contains("the prompt is empty"), "{error}");
    ns.end().await;
}

#[tokio::test]
async fn what_the_api_refuses_is_reported_in_its_words() {
    let ns = TestNamespace::new().await;
    let error = ns.fails(1, &["run", "Not_A_Name", "--image", "i", "-p", "x", "--", "agent"]).await;
    assert!(error.contains("create agenttasks \"Not_A_Name\" in namespace \"NS\""), "{error}");
    ns.end().await;
}

#[tokio::test]
async fn waiting_ends_with_the_exit_code_of_the_stop() {
    let ns = TestNamespace::new().await;
    for (name, phase, reason, code) in [
        ("a", "Succeeded", "Completed", 0),
        ("b", "IterationLimitReached", "IterationLimit", 10),
        ("c", "CircuitOpen", "SameError", 11),
        ("d", "Failed", "ExitCode", 12),
    ] {
        ns.task(name, json!({}), stopped(phase, reason, 3, 10)).await;
        let ran = ns.run(&["wait", name, "--for=stopped"]).await;
        assert_eq!(ran.code, code, "{ran:?}");
        assert_eq!(ran.out, format!("agenttask.agentloop.dev/{name} {phase}: stopped: {reason}\n"));
    }
    ns.task("new", json!({}), Value::Null).await;
    let error = ns.fails(124, &["wait", "new", "--timeout", "1s"]).await;
    assert!(error.contains("new did not stop within 1 s"), "{error}");
    ns.fails(1, &["wait", "none"]).await;
    ns.end().await;
}

#[tokio::test]
async fn a_task_that_runs_is_followed_until_it_stops() {
    let ns = TestNamespace::new().await;
    let args = [&RUN[..], &["--prompt", "Do it.", "--watch", "--", "agent"]].concat();
    let mut child = ns.command(&args).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("standard output")).lines();
    let mut next = async || {
        let line = time::timeout(PATIENCE, lines.next_line()).await.expect("a line").expect("text");
        line.map(|line| ns.named(&line))
    };
    assert_eq!(next().await.as_deref(), Some("agenttask.agentloop.dev/x created"));
    assert!(next().await.is_some_and(|line| line.starts_with("NS/x  Pending  -  no operator has seen")));
    let running =
        json!({ "phase": "Running", "progress": "0/10", "maxIterations": 10, "message": "iteration 1" });
    ns.set_status("x", running).await;
    assert_eq!(next().await.as_deref(), Some("NS/x  Running  0/10  iteration 1"));
    ns.set_status("x", json!({ "iterations": 1 })).await;
    ns.set_status("x", stopped("CircuitOpen", "NoChange", 2, 10)).await;
    assert_eq!(next().await.as_deref(), Some("NS/x  CircuitOpen  2/10  stopped: NoChange"));
    assert_eq!(next().await, None);
    let status = time::timeout(PATIENCE, child.wait()).await.expect("it ends").expect("a status");
    assert_eq!(status.code(), Some(11));
    ns.end().await;
}

#[tokio::test]
async fn a_task_that_is_deleted_while_it_is_waited_for_is_an_error() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({ "suspend": true }), Value::Null).await;
    let mut command = ns.command(&["wait", "x"]);
    let mut child = command.spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("standard error")).lines();
    let first = time::timeout(PATIENCE, lines.next_line()).await.expect("a line").expect("text");
    assert!(first.is_some_and(|line| line.contains("x is suspended, and does not stop until")));
    ns.api::<AgentTask>().delete("x", &kube::api::DeleteParams::default()).await.expect("it is deleted");
    let last = time::timeout(PATIENCE, lines.next_line()).await.expect("a line").expect("text");
    assert!(last.is_some_and(|line| line.contains("or was deleted")));
    assert_eq!(child.wait().await.expect("a status").code(), Some(1));
    ns.end().await;
}

#[tokio::test]
async fn all_tasks_are_followed_with_a_line_for_each_change() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), Value::Null).await;
    let mut child = ns.command(&["watch"]).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("standard output")).lines();
    let mut next = async || {
        let line = time::timeout(PATIENCE, lines.next_line()).await.expect("a line").expect("text");
        ns.named(&line.unwrap_or_default())
    };
    assert!(next().await.starts_with("NS/x  Pending"));
    ns.set_status("x", json!({ "phase": "Running", "message": "iteration 1" })).await;
    assert_eq!(next().await, "NS/x  Running  -  iteration 1");
    ns.api::<AgentTask>().delete("x", &kube::api::DeleteParams::default()).await.expect("it is deleted");
    assert_eq!(next().await, "NS/x  deleted");
    ns.end().await;
}

#[tokio::test]
async fn costs_are_summed_up() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), stopped("CircuitOpen", "NoChange", 2, 10)).await;
    assert_eq!(
        ns.ok(&["cost"]).await,
        "NAME    ITERATIONS   COST    PER-ITERATION   INPUT   CACHED   OUTPUT\n\
         x       2            $0.50   $0.25           1.0k             50\n\
         total   2            $0.50   $0.25           1.0k             50\n"
    );
    let one = ns.ok(&["cost", "x", "--no-headers"]).await;
    assert!(one.starts_with("others   1   $0.25"), "{one}");
    assert_eq!(ns.ok(&["cost", "-o", "jsonpath={.total.usage.costUSD}"]).await, "0.5");
    ns.end().await;
}

#[tokio::test]
async fn a_task_without_pods_has_no_log_and_says_why() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), Value::Null).await;
    let error = ns.fails(1, &["logs", "x"]).await;
    assert!(
        error.contains("there is no pod of agenttask.agentloop.dev/x, so there is no log: no operator"),
        "{error}"
    );
    ns.task("y", json!({}), stopped("CircuitOpen", "NoChange", 2, 10)).await;
    let followed = ended(ns.command(&["logs", "y", "--follow"])).await;
    assert_eq!((followed.code, followed.err.as_str()), (0, "stopped: NoChange\n"), "{followed:?}");
    ns.end().await;
}
