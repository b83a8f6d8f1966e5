//! What a terminal shows: tmux is the terminal.

use std::process::Stdio;

use agentloop_test_support::eventually::eventually;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::{PATIENCE, TestNamespace, ended, kubeconfig, stopped};

/// A terminal of its own server, which ends with it.
struct Screen {
    socket: String,
}

impl Screen {
    async fn open(name: &str, columns: u32, line: &str) -> Self {
        let screen = Self { socket: format!("agentloop-{}-{name}", std::process::id()) };
        let width = columns.to_string();
        // The program's end must not close the terminal before it is read.
        // Ctrl-C is for the program, not for the shell.
        let line = format!("trap : INT; {line}; echo END; exec sleep 60");
        let config = format!("KUBECONFIG={}", kubeconfig());
        let session = ["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", "50", "-e", &config];
        let started = screen.tmux(&[&session[..], &["sh", "-c", &line]].concat()).await;
        assert_eq!(started.code, 0, "{started:?}");
        screen
    }

    async fn tmux(&self, args: &[&str]) -> crate::cluster::Ran {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket]).args(args).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ended(command).await
    }

    async fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-", "-t", "0"]).await.out
    }

    /// The same, with lines joined that the terminal has wrapped.
    async fn joined(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-", "-t", "0"]).await.out
    }

    /// Waits until the terminal shows this.
    async fn shows(&self, what: &str) -> String {
        let found = eventually(PATIENCE, what, || async {
            let text = self.text().await;
            if text.contains(what) { Ok(text) } else { Err(text) }
        });
        found.await.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = std::process::Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

fn plugin(ns: &TestNamespace, args: &str) -> String {
    format!("{} -n {} {args}", env!("CARGO_BIN_EXE_kubectl-agentloop"), ns.name)
}

fn without_blanks(text: &str) -> Vec<&str> {
    text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect()
}

#[tokio::test]
async fn views_fit_a_terminal_of_40_to_200_columns() {
    let ns = TestNamespace::new().await;
    ns.task("a-task-with-a-long-name", json!({}), stopped("CircuitOpen", "NoChange", 3, 10)).await;
    ns.task("new", json!({}), Value::Null).await;
    let one = "a-task-with-a-long-name";
    let all = ["list", "list -A", "cost", &format!("get {one}"), &format!("watch {one}"), "doctor"]
        .map(|args| plugin(&ns, args))
        .join("; ");
    for columns in [40, 41, 57, 80, 120, 200] {
        let screen = Screen::open(&format!("fit{columns}"), columns, &all).await;
        let text = screen.shows("END").await;
        assert!(text.contains("Circ"), "{text}");
        assert_eq!(without_blanks(&text), without_blanks(&screen.joined().await), "{columns} columns");
    }
    ns.end().await;
}

#[tokio::test]
async fn a_live_view_follows_the_task_and_leaves_its_last_state() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), Value::Null).await;
    let screen = Screen::open("live", 80, &plugin(&ns, "watch x; echo code $?")).await;
    screen.shows("x   Pending").await;
    let running =
        json!({ "phase": "Running", "progress": "0/10", "maxIterations": 10, "message": "iteration 1" });
    ns.set_status("x", running).await;
    let text = screen.shows("x   Running   0/10").await;
    assert!(!text.contains("Pending"), "the earlier state is overwritten: {text}");
    ns.set_status("x", json!({ "iterations": 1 })).await;
    ns.set_status("x", stopped("CircuitOpen", "NoChange", 2, 10)).await;
    let text = screen.shows("code 11").await;
    assert!(text.contains("iterations        2/10   ████░░░░░░░░░░░░░░░░"), "{text}");
    assert!(text.contains("error: \"agent said so\""), "{text}");
    ns.end().await;
}

#[tokio::test]
async fn a_live_view_of_all_tasks_ends_with_ctrl_c() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), Value::Null).await;
    let screen = Screen::open("all", 80, &plugin(&ns, "watch; echo code $?")).await;
    screen.shows("x      Pending").await;
    let sent = screen.tmux(&["send-keys", "-t", "0", "C-c"]).await;
    assert_eq!(sent.code, 0, "{sent:?}");
    screen.shows("code 0").await;
    ns.end().await;
}

#[tokio::test]
async fn colours_are_for_terminals_only_and_can_be_switched_off() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), stopped("CircuitOpen", "NoChange", 3, 10)).await;
    let red = "\u{1b}[31mCircuitOpen";
    for (name, before, expected) in [("colour", "", true), ("plain", "NO_COLOR=1 ", false)] {
        let screen = Screen::open(name, 80, &format!("{before}{}", plugin(&ns, "list"))).await;
        screen.shows("END").await;
        let coloured = screen.tmux(&["capture-pane", "-p", "-e", "-t", "0"]).await.out;
        assert_eq!(coloured.contains(red), expected, "{coloured:?}");
    }
    ns.end().await;
}
