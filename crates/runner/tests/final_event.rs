//! Agents that have said their last word: whether they exit or not, their own stream decides.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail where it stands")]

mod common;

use std::time::{Duration, Instant};

use agentloop_contract::report::{End, RefusalKind};
use common::{Outcome, Pod, process_with};

const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"s1"}"#;
const READY: &str = r#"{"type":"result","subtype":"success","is_error":false,"result":"<COMPLETION_GATE>\nready: true\n</COMPLETION_GATE>","session_id":"s1"}"#;
const FAILED: &str =
    r#"{"type":"result","is_error":true,"result":"Internal server error","session_id":"s1"}"#;
const REFUSED: &str =
    r#"{"type":"result","is_error":true,"api_error_status":429,"result":"Slow down","session_id":"s1"}"#;

/// A script that prints lines as they stand.
fn print(lines: &[&str]) -> String {
    lines.iter().fold(String::new(), |script, line| script + "printf '%s\\n' '" + line + "'\n")
}

/// With a short grace period, so that a test need not wait for long.
fn pod() -> Pod {
    Pod::new().with("exitGraceSeconds", 1).with("graceSeconds", 1)
}

/// Runs an agent; what came of it, long before its timeout.
#[track_caller]
fn run(pod: &Pod, script: &str) -> Outcome {
    let begun = Instant::now();
    let outcome = pod.run(script);
    assert!(begun.elapsed() < Duration::from_secs(30), "{outcome:?}");
    outcome
}

#[test]
fn an_agent_that_hangs_after_its_final_event_has_succeeded() {
    let pod = pod().verify("touch asked");
    let outcome = run(&pod, &format!("{}sleep 1000", print(&[INIT, READY])));
    let report = outcome.report();
    assert_eq!((outcome.code, report.end, report.exit_code), (Some(0), End::Exited, Some(0)), "{outcome:?}");
    assert_eq!((report.signal, report.error), (None, None));
    assert!(report.gate.is_some_and(|gate| gate.ready));
    assert!(report.verify.is_some_and(|verify| verify.passed) && pod.path("workspace/asked").exists());
    assert!(outcome.stderr.contains("did not exit"), "{outcome:?}");
}

#[test]
fn an_agent_that_hangs_after_a_failed_turn_has_failed() {
    let pod = pod().with("policy", "ExitCode").verify("touch asked");
    let outcome = run(&pod, &format!("{}sleep 1000", print(&[INIT, FAILED])));
    let report = outcome.report();
    assert_eq!((outcome.code, report.end, report.exit_code), (Some(1), End::Exited, Some(1)), "{outcome:?}");
    assert_eq!((report.signal, outcome.error().as_str()), (None, "failed turn: Internal server error"));
    assert_eq!(report.verify, None);
    let outcome = run(&self::pod(), &format!("{}sleep 1000", print(&[INIT, REFUSED])));
    let refused = outcome.report().provider_refused.map(|refusal| refusal.kind);
    assert_eq!((outcome.report().end, refused), (End::Exited, Some(RefusalKind::RateLimited)));
}

#[test]
fn at_its_timeout_too_the_stream_of_an_agent_decides() {
    let pod = || Pod::new().with("iterationTimeoutSeconds", 1).with("graceSeconds", 1);
    let outcome = run(&pod(), &format!("{}sleep 1000", print(&[INIT, READY])));
    assert_eq!((outcome.code, outcome.report().end), (Some(0), End::Exited), "{outcome:?}");
    let outcome = run(&pod(), &format!("{}sleep 1000", print(&[INIT, FAILED])));
    assert_eq!((outcome.code, outcome.report().end), (Some(1), End::Exited), "{outcome:?}");
    // Without the end of the last line, and while something is still printed.
    let busy = format!("printf '%s' '{READY}'; while :; do sleep 0.1; echo . >&2; done");
    let outcome = run(&pod(), &busy);
    assert_eq!((outcome.code, outcome.report().end), (Some(0), End::Exited), "{outcome:?}");
    // In the middle of another turn, it has not ended.
    let outcome = run(&pod(), &format!("{}sleep 1000", print(&[INIT, READY, INIT])));
    assert_eq!((outcome.code, outcome.report().end), (Some(124), End::TimedOut), "{outcome:?}");
}

#[test]
fn who_is_not_silent_or_has_not_ended_is_left_alone() {
    for (what, script) in [
        (
            "one that prints on",
            format!("{}for i in 1 2 3 4 5 6; do sleep 0.4; echo $i >&2; done", print(&[INIT, READY])),
        ),
        ("one in its next turn", format!("{}sleep 2.5; {}", print(&[INIT, FAILED, INIT]), print(&[READY]))),
        ("one that thinks", format!("{}sleep 2.5; {}", print(&[INIT]), print(&[READY]))),
        ("one that prints plain text", "echo thinking; sleep 2.5; echo done".to_owned()),
    ] {
        let outcome = run(&pod(), &format!("{script}\ntouch $AGENTLOOP_WORKSPACE/end; exit 0"));
        let report = outcome.report();
        assert_eq!((report.end, report.exit_code), (End::Exited, Some(0)), "{what}: {outcome:?}");
        assert_eq!(report.files, ["end"], "{what}");
    }
}

#[test]
fn what_an_agent_prints_because_it_is_stopped_does_not_count() {
    let script = format!(
        "stop() {{ {}echo stopped >&2; exit 9; }}; trap stop TERM; {}while :; do sleep 0.05; done",
        print(&[FAILED]),
        print(&[INIT, READY])
    );
    let outcome = run(&pod(), &script);
    assert_eq!((outcome.code, outcome.report().exit_code), (Some(0), Some(0)), "{outcome:?}");
    assert!(outcome.report().gate.is_some_and(|gate| gate.ready) && outcome.stderr.contains("stopped"));
}

#[test]
fn what_is_deaf_to_a_polite_stop_after_its_final_event_is_killed() {
    let script =
        format!("trap '' TERM; setsid sleep 98795 & {}sleep 98795; sleep 98795", print(&[INIT, READY]));
    let outcome = run(&pod(), &script);
    assert_eq!((outcome.code, outcome.report().end), (Some(0), End::Exited), "{outcome:?}");
    assert!(!process_with("98795"));
}

#[test]
fn told_to_stop_while_it_hangs_it_is_interrupted() {
    let pod = pod().with("exitGraceSeconds", 1000);
    let running = pod.start(&format!("{}touch $AGENTLOOP_WORKSPACE/up; sleep 1000", print(&[INIT, READY])));
    running.until("up").signal("TERM");
    let outcome = running.outcome();
    assert_eq!((outcome.code, outcome.report().end), (Some(143), End::Interrupted), "{outcome:?}");
}

#[test]
fn a_failed_turn_is_no_success_whatever_the_exit_code_says() {
    let pod = Pod::new().with("policy", "ExitCode").verify("touch asked");
    let outcome = run(&pod, &print(&[INIT, FAILED]));
    assert_eq!((outcome.code, outcome.report().exit_code), (Some(1), Some(1)), "{outcome:?}");
    assert_eq!(outcome.error(), "failed turn: Internal server error");
    assert!(!pod.path("workspace/asked").exists());
    // Its own code says more.
    let outcome = run(&Pod::new(), &format!("{}exit 7", print(&[INIT, FAILED])));
    assert_eq!((outcome.code, outcome.report().exit_code), (Some(7), Some(7)), "{outcome:?}");
    // Where the verify command alone decides, it is asked.
    let pod = Pod::new().with("policy", "Verify").verify("touch asked");
    assert!(run(&pod, &print(&[INIT, FAILED])).report().verify.is_some_and(|verify| verify.passed));
}
