//! The records of an iteration: its transcripts and its full report.

use std::sync::MutexGuard;

use agentloop_contract::report::Report;
use jiff::Timestamp;

use crate::{
    lock,
    output::{OutputCollector, OutputSummary},
    process::EndedCommand,
    secrets,
    workspace::state_dir::{StateDir, StateDirError},
};

/// Keeps the output of a command in the workspace.
pub(super) fn keep_transcript(state_dir: &StateDir, name: &str, ended: &EndedCommand) {
    let output = collector(ended);
    if !output.transcript().is_empty() {
        let parts = output.transcript().parts();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        kept(state_dir.write(name, &parts));
    }
}

/// Keeps the full report in the workspace.
pub(super) fn keep_report(state_dir: &StateDir, report: &Report) {
    let mut report = report.clone();
    secrets::own().report(&mut report);
    let json = serde_json::to_vec_pretty(&report).unwrap_or_default();
    kept(state_dir.write("report.json", &[&json, b"\n"]));
}

/// Logs a record that cannot be saved. The iteration does not fail because of it.
fn kept(result: Result<(), StateDirError>) {
    if let Err(error) = result {
        secrets::log(format_args!("cannot save the iteration's records: {error}"));
    }
}

/// The summary of a command's output, without credentials. Output after the final event of its stream does not count.
pub(super) fn summarize(ended: &EndedCommand) -> OutputSummary {
    let output = ended.finished.clone().unwrap_or_else(|| collector(ended).summary(Timestamp::now()));
    secrets::own().output(output)
}

fn collector(ended: &EndedCommand) -> MutexGuard<'_, OutputCollector> {
    lock(&ended.output)
}
