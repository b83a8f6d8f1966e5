//! A runner that panics still reports.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::{env, fs, process::Command};

use agentloop_contract::{
    completion_gate::CompletionGate,
    mac::{Signature, check},
    report::{Change, End, ProviderError, ProviderErrorKind, Report, Verified},
};
use agentloop_runner::termination_message;

const LOG: &str = "TEST_TERMINATION_LOG";

/// The test's name: it starts itself again, as the runner that panics.
const NAME: &str = "an_internal_error_is_reported_without_its_message";

/// Everything that could complete a task or make an iteration free.
fn everything() -> Report {
    Report {
        exit_code: Some(0),
        changed: Change::Unchanged,
        untouched: true,
        gate: Some(CompletionGate { ready: true, ..CompletionGate::default() }),
        verify: Some(Verified { passed: true, exit_code: Some(0), timed_out: false, last_lines: Vec::new() }),
        provider_refused: Some(ProviderError {
            kind: ProviderErrorKind::RateLimited,
            until: None,
            unavailable: false,
        }),
        started_at: Some(jiff::Timestamp::UNIX_EPOCH),
        ..Report::of(End::Exited)
    }
}

#[test]
fn an_internal_error_is_reported_without_its_message() {
    if let Some(log) = env::var_os(LOG) {
        termination_message::prepare(log.as_ref(), Some(b"key")).expect("prepared");
        termination_message::note(&everything());
        panic!("text of the agent");
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let log = folder.path().join("log");
    let output = Command::new(env::current_exe().expect("own program"))
        .args(["--exact", NAME, "--nocapture"])
        .env(LOG, &log)
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(125));
    let message = fs::read_to_string(&log).expect("report");
    assert_eq!(check(&message, b"key"), Signature::Valid);
    let report = Report::decode(&message).expect("whole");
    let error = report.error.clone();
    let summary = error.as_ref().map(|error| error.summary.clone()).unwrap_or_default();
    // Only the start time is kept.
    let rest = Report { error, started_at: everything().started_at, ..Report::of(End::RunnerFailed) };
    assert_eq!(report, rest);
    assert!(
        summary.starts_with("RunnerFailed: internal error at ") && !summary.contains("text"),
        "{summary}"
    );
}
