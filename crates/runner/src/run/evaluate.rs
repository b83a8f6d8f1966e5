//! Evaluates how the agent ended.

use std::{os::fd::OwnedFd, path::Path};

use agentloop_contract::{
    context::Context,
    report::{End, Report},
};

use super::{comparison::WorkspaceBefore, failure::exit_code_of};
use crate::{
    completion_gate, evaluation,
    output::OutputSummary,
    process::{EndedCommand, Status, Supervisor},
};

/// Fills in the results of the agent itself. Returns the exit code, and whether the verify command must run now.
pub(super) fn evaluate_agent(
    report: &mut Report,
    context: &Context,
    supervisor: &Supervisor,
    workspace: (&Path, &OwnedFd),
    before: &WorkspaceBefore,
    ended: &EndedCommand,
    output: &OutputSummary,
) -> (i32, bool) {
    report.end = match (ended.timed_out, ended.interrupted) {
        (true, _) => End::TimedOut,
        (false, true) => End::Interrupted,
        (false, false) => End::Exited,
    };
    let status = own_status(report.end, ended, output);
    match status {
        Status::Exited(code) => report.exit_code = Some(code),
        Status::Killed(signal) => report.signal = Some(signal),
    }
    let found = completion_gate::find(&output.text);
    // Compared before the verify command runs, so that what it builds does not count as the agent's work.
    before.compare(report, context, supervisor, workspace);
    let verify = evaluation::needs_verify(context, report.end, status, &found);
    match found {
        Ok(gate) => report.gate = Some(gate),
        Err(why) => report.no_gate = Some(why),
    }
    report.provider_refused = evaluation::provider_error(context, status, output);
    report.error = evaluation::error(report, status_of_error(ended), output);
    report.usage.clone_from(&output.usage);
    (exit_code_of(report), verify)
}

/// The agent's exit status, corrected by its own stream. If the last turn failed, an exit code of 0 is no success. If
/// the agent did not exit after its final event, the stream alone decides.
fn own_status(end: End, ended: &EndedCommand, output: &OutputSummary) -> Status {
    let failed = output.failed.is_some() || output.ended.is_some_and(|turn| turn.failed);
    match ended.status {
        _ if ended.finished.is_some() => Status::Exited(i32::from(failed)),
        Status::Exited(0) if end == End::Exited && failed => Status::Exited(1),
        status => status,
    }
}

/// The exit status that an error message names: never a signal that the runner sent.
pub(super) fn status_of_error(ended: &EndedCommand) -> Status {
    if ended.finished.is_some() { Status::Exited(0) } else { ended.status }
}
