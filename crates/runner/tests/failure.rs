//! A runner that fails itself still reports.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail where it stands")]

use std::{env, fs, process::Command};

use agentloop_contract::report::{End, Report};
use agentloop_runner::delivery;

const LOG: &str = "TEST_TERMINATION_LOG";

/// The test's own name: it starts itself again, as the runner that fails.
const NAME: &str = "an_internal_error_is_reported_without_its_words";

#[test]
fn an_internal_error_is_reported_without_its_words() {
    if let Some(log) = env::var_os(LOG) {
        delivery::prepare(log.as_ref()).expect("prepared");
        panic!("words of the agent");
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let log = folder.path().join("log");
    let output = Command::new(env::current_exe().expect("own program"))
        .args(["--exact", NAME, "--nocapture"])
        .env(LOG, &log)
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(125));
    let report = Report::decode(&fs::read_to_string(&log).expect("report")).expect("whole");
    let summary = report.error.map(|error| error.summary).unwrap_or_default();
    assert_eq!(report.end, End::RunnerFailed);
    assert!(
        summary.starts_with("RunnerFailed: internal error at ") && !summary.contains("words"),
        "{summary}"
    );
}
