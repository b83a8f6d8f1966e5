//! Containers with `tty: true`, in which the agent may use its terminal.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::process::{Command, Stdio};

use agentloop_contract::report::{End, Report};
use common::{RUNNER, TestPod, gate, wait_for};

/// Runs a shell script as the agent, with the runner as the leader of a terminal's session. Also returns what the
/// terminal showed.
#[track_caller]
fn run(pod: &TestPod, script: &str) -> (Report, String) {
    run_after("exec", pod, script)
}

#[track_caller]
fn run_after(before: &str, pod: &TestPod, script: &str) -> (Report, String) {
    pod.write_context();
    let quoted: Vec<String> = [RUNNER.to_owned()]
        .into_iter()
        .chain(pod.arguments(&["sh", "-c", script]))
        .map(|word| format!("'{}'", word.replace('\'', "'\\''")))
        .collect();
    let screen = pod.path("screen");
    let mut child = Command::new("script")
        .args(["--quiet", "--flush", "--command", &format!("{before} {}; exit", quoted.join(" "))])
        .arg(&screen)
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("script, of util-linux");
    wait_for("the runner's end", || child.try_wait().expect("wait").is_some());
    let screen = std::fs::read(&screen).expect("what the terminal showed");
    let report = Report::decode(&pod.read("termination-log")).expect("a report");
    (report, String::from_utf8_lossy(&screen).into_owned())
}

#[test]
fn an_agent_may_set_up_its_terminal() {
    let (report, _) = run(&TestPod::new(), &format!("stty sane </dev/tty && {}", gate(true)));
    assert_eq!((report.end, report.exit_code), (End::Exited, Some(0)));
    assert!(report.gate.is_some_and(|gate| gate.ready));
}

#[test]
fn an_agent_that_uses_its_terminal_immediately_does_not_stay_stopped() {
    // The agent may be stopped before it is in the foreground, or at that moment; the runner continues it.
    for script in ["exec stty sane </dev/tty", "kill -s TTOU $$; exit 0", "kill -s TTIN 0; exit 0"] {
        let (report, _) = run(&TestPod::new().with("iterationTimeoutSeconds", 20), script);
        assert_eq!((report.end, report.exit_code), (End::Exited, Some(0)), "{script}");
    }
}

#[test]
fn the_output_of_an_agent_that_locks_its_terminal_is_still_passed_through() {
    let (report, screen) = run(
        &TestPod::new(),
        "stty tostop </dev/tty; echo =$((40+2))=; sleep 0.2; echo =$((50+3))= >&2; exit 3",
    );
    assert_eq!((report.end, report.exit_code), (End::Exited, Some(3)));
    assert!(screen.contains("=42=") && screen.contains("=53="), "{screen}");
}

#[test]
fn the_verify_command_may_set_up_the_terminal_too() {
    let pod = TestPod::new().with("policy", "ExitCode").verify("stty sane </dev/tty");
    let (report, _) = run(&pod, "stty -echo </dev/tty");
    assert_eq!(report.verify.map(|verify| verify.passed), Some(true));
}

#[test]
fn processes_of_an_agent_with_a_terminal_start_with_no_signal_blocked() {
    let (_, screen) = run(&TestPod::new(), "grep ^Sig''Blk /proc/self/status");
    assert!(screen.contains("SigBlk:\t0000000000000000"), "{screen}");
}

#[test]
fn the_agent_gets_the_foreground_only_if_the_runner_leads_the_session() {
    // The group of a process, and the one in the foreground of its terminal.
    let agents = "set -- $(cat /proc/$$/stat); test $5 = $8";
    let runners = "set -- $(cat /proc/$PPID/stat); test $5 = $8";
    // An agent may start just before it gets the foreground.
    let settled = |is: &str| format!("for _ in $(seq 100); do {agents} && break; sleep 0.05; done; {is}");
    assert_eq!(run(&TestPod::new(), &settled(agents)).0.exit_code, Some(0));
    assert_eq!(run(&TestPod::new(), &settled(runners)).0.exit_code, Some(1));
    // Started by hand, from a shell that controls its jobs.
    assert_eq!(run_after("", &TestPod::new(), agents).0.exit_code, Some(1));
    assert_eq!(run_after("", &TestPod::new(), runners).0.exit_code, Some(0));
}
