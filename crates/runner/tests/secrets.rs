//! Credentials do not leave the pod through what the runner writes.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::fs;

use agentloop_contract::report::End;
use common::{RunnerExit, TestPod, record};
use serde_json::json;

const SECRET: &str = "correct\"horse/battery";

fn before() -> [String; 2] {
    ["env".to_owned(), format!("DEPLOY_TOKEN={SECRET}")]
}

#[track_caller]
fn run(pod: &TestPod, agent: &[&str]) -> RunnerExit {
    let before = before();
    pod.start_with(&before.each_ref().map(String::as_str), agent).exit()
}

/// Whether a text contains the secret or a significant part of it.
fn leaks(text: &str) -> bool {
    ["correct", "horse", "battery"].iter().any(|part| text.contains(part))
}

#[test]
fn an_error_does_not_carry_the_agents_credential() {
    let pod = TestPod::new();
    let exit = run(&pod, &["sh", "-c", "echo \"> Authorization: $DEPLOY_TOKEN\" | tee /dev/stderr; exit 3"]);
    assert_eq!(exit.error(), "exit code 3: > Authorization: ***");
    // The agent's own output stays unchanged.
    assert!(exit.stdout.contains(SECRET) && exit.stderr.contains(SECRET), "{exit:?}");
    assert!(pod.read(&record("output.log")).contains(SECRET));
    assert!(!leaks(&pod.read(&record("report.json"))));
    assert!(!leaks(&exit.message));
}

#[test]
fn neither_gate_nor_files_nor_the_verify_command_carry_a_credential() {
    let pod =
        TestPod::new().with("policy", "Verify").verify("echo \"could not push with $DEPLOY_TOKEN\"; exit 1");
    let script = "cd $AGENTLOOP_WORKSPACE; name=$(echo \"$DEPLOY_TOKEN\" | tr / x); echo 1 >\"x$name\"; \
                  mkdir -p \"$DEPLOY_TOKEN\"; echo 1 >\"$DEPLOY_TOKEN/file\"; \
                  printf '<COMPLETION_GATE>\\nready: false\\nreason: used %s\\nprogress: \"%s\"\\nblockers:\\n  - see %s\\n</COMPLETION_GATE>\\n' \
                  \"$DEPLOY_TOKEN\" \"$DEPLOY_TOKEN\" \"$DEPLOY_TOKEN\"";
    let exit = run(&pod, &["sh", "-c", script]);
    let report = exit.report();
    assert_eq!(report.end, End::Exited);
    assert_eq!(report.gate.as_ref().and_then(|gate| gate.reason.as_deref()), Some("used ***"));
    assert_eq!(
        report.verify.map(|verify| verify.last_lines),
        Some(vec!["could not push with ***".to_owned()])
    );
    assert!(report.files.contains(&"***/file".to_owned()), "{:?}", report.files);
    assert!(!exit.message.contains(SECRET) && !exit.message.contains(&SECRET.replace('"', "\\\"")));
    let kept = pod.read(&record("report.json"));
    assert!(!kept.contains(SECRET) && !kept.contains(&SECRET.replace('"', "\\\"")), "{kept}");
}

#[test]
fn a_credential_in_a_json_gate_is_masked() {
    let unpacked = r#"printf '<COMPLETION_GATE>\n{"ready": false, "reason": "\\u0063orrect\\"horse/battery"}\n</COMPLETION_GATE>\n'"#;
    let exit = run(&TestPod::new(), &["sh", "-c", unpacked]);
    assert_eq!(exit.report().gate.and_then(|gate| gate.reason).as_deref(), Some("***"));
}

#[test]
fn the_runners_own_log_carries_no_credential() {
    let exit = run(&TestPod::new(), &[&format!("/no/{SECRET}/agent"), "x"]);
    assert_eq!(exit.report().end, End::CommandNotFound);
    assert!(!leaks(&exit.stderr) && exit.stderr.contains("***"), "{exit:?}");
    assert!(!leaks(&exit.message) && exit.message.contains("***"), "{exit:?}");
}

#[test]
fn the_next_prompt_carries_no_credential_except_in_the_users_own_prompt() {
    let past = json!([{
        "iteration": 6, "outcome": "Exited", "exitCode": 1, "changed": "Changed",
        "error": format!("refused: {SECRET}"),
        "gate": {"ready": false, "reason": format!("because of {SECRET}"), "blockers": [format!("{SECRET}!")]}
    }]);
    let pod = TestPod::new().with("history", past).prompt(&format!("Log in with {SECRET}.\n"));
    let exit = run(&pod, &["cat"]);
    let rest = exit.stdout.strip_prefix(&format!("Log in with {SECRET}.\n")).expect("the user's prompt");
    assert!(!leaks(rest) && rest.contains("refused: ***") && rest.contains("***!"), "{rest}");
}

#[test]
fn a_credential_that_the_tail_cuts_is_still_masked() {
    // All except its first bytes are in the last 256 KiB, in a line of that length.
    let script =
        format!("printf '%s' \"$DEPLOY_TOKEN\"; head -c {} /dev/zero | tr '\\0' x; exit 1", (256 << 10) - 15);
    let error = run(&TestPod::new(), &["sh", "-c", &script]).error();
    assert!(error.starts_with("exit code 1: ***xxxx"), "{error}");
    let script = format!("head -c {} /dev/zero | tr '\\0' y; printf '%s' \"$DEPLOY_TOKEN\"; exit 1", 190);
    assert!(!leaks(&run(&TestPod::new(), &["sh", "-c", &script]).error()));
}

#[test]
fn an_error_is_the_same_when_its_credential_is_renewed() {
    let signature = |token: &str| {
        let before = ["env", &format!("A_KEY={token}")].map(str::to_owned);
        let pod = TestPod::new();
        let script = "echo \"the key $A_KEY has expired\" >&2; exit 1";
        let exit = pod.start_with(&before.each_ref().map(String::as_str), &["sh", "-c", script]).exit();
        exit.report().error.expect("an error").signature
    };
    assert_eq!(signature("swordfish"), signature("open sesame!"));
}

#[test]
fn a_large_environment_does_not_slow_the_runner_down() {
    let large: Vec<String> = (0..1000).map(|line| format!("line {line} of a large credential")).collect();
    let large = format!("A_SECRET={}", large.join("\n"));
    let pod = TestPod::new();
    let script =
        "for i in 1 2 3 4 5 6 7 8; do echo \"$A_SECRET\"; done; echo \"$A_SECRET\" | tail -n 1 >&2; exit 1";
    let begun = std::time::Instant::now();
    let exit = pod.start_with(&["env", &large], &["sh", "-c", script]).exit();
    assert_eq!(exit.error(), "exit code 1: ***");
    assert!(begun.elapsed() < common::PATIENCE / 4, "{:?}", begun.elapsed());
    assert!(fs::metadata(pod.path(&record("output.log"))).is_ok());
}
