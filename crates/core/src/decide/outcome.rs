//! The outcome of one attempt: whether it is charged, what it does to the streaks, and whether it stops the task.
//!
//! docs/concepts.md has the same rules as a table, row by row.

use agentloop_contract::{
    report::{self, End, ProviderErrorKind, Report},
    text,
};
use jiff::Timestamp;

use crate::{
    api::{AgentTaskSpec, CompletionPolicy, IterationOutcome, StopReason, WorkspaceChange},
    facts::{AgentEnd, Ending},
    pod::completion_hash,
};

/// The kubelet's reason for a container in which a process was killed because memory ran out.
const OOM_KILLED: &str = "OOMKilled";

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptOutcome {
    /// Proven: the agent did not start. The same iteration is tried again.
    NotStarted {
        /// Why, as text.
        message: String,
    },
    /// The provider refused, and nothing was touched: the same iteration is tried again for free. If that happened too
    /// often, the attempt is charged like this.
    Refused(Box<Charge>),
    /// The attempt is charged.
    Charged(Box<Charge>),
}

/// What a charged attempt did.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    /// How it ended.
    pub outcome: IterationOutcome,
    /// Whether it changed the workspace, as far as is known.
    pub changed: WorkspaceChange,
    /// What it does to the no-change streak.
    pub no_change: NoChangeStreak,
    /// What it does to the same-error streak.
    pub error: SameErrorStreak,
    /// The stop that it causes, whatever the streaks are.
    pub stop: Option<StopReason>,
    /// The provider refused: the next try waits, at least until the time that the provider gave, if any.
    pub refused: Option<Option<Timestamp>>,
    /// The provider was unavailable, and did not limit the use.
    pub unavailable: bool,
    /// The agent's exit code.
    pub exit_code: Option<i32>,
    /// The runner's report, if one counts.
    pub report: Option<Report>,
    /// When the agent started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// What an iteration does to the no-change streak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChangeStreak {
    /// The streak stays.
    Keep,
    /// The streak starts again at zero.
    Reset,
    /// The streak grows by one.
    Count,
}

/// What an iteration does to the same-error streak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SameErrorStreak {
    /// The streak stays.
    Keep,
    /// No error: the streak starts again at zero.
    Reset,
    /// This error.
    Count(report::Error),
}

/// The outcome of a pod that has ended. `completion` is the completion hash that the pod was created with, if it has
/// one.
pub fn attempt_outcome(spec: &AgentTaskSpec, completion: Option<&str>, ending: &Ending) -> AttemptOutcome {
    // The report is about the goal and the completion policy at the time the pod was created. If they have changed
    // since, this report cannot complete the task; the next iteration can.
    let is_current = completion.is_none_or(|hash| hash == completion_hash(spec));
    match ending {
        Ending::NeverStarted { message } => AttemptOutcome::NotStarted { message: message.clone() },
        Ending::Ran(end) => match &end.report {
            Some(report) => with_report(spec, is_current, end, report),
            None => AttemptOutcome::Charged(Box::new(without_report(spec, end))),
        },
    }
}

/// The outcome of an active iteration whose pod is gone without a trace.
pub(super) fn lost() -> Charge {
    Charge {
        outcome: IterationOutcome::PodLost,
        changed: WorkspaceChange::Unknown,
        no_change: NoChangeStreak::Keep,
        error: SameErrorStreak::Keep,
        stop: None,
        refused: None,
        unavailable: false,
        exit_code: None,
        report: None,
        started: None,
        finished: None,
    }
}

/// The agent may have run, but no trustworthy report says what it did.
fn without_report(spec: &AgentTaskSpec, end: &AgentEnd) -> Charge {
    // If the container was stopped from outside, its exit code is not the agent's own.
    let ended_itself = !end.disrupted && !end.deadline;
    let fail = ended_itself && end.exit_code.is_some_and(|code| spec.fail_on_exit_codes.contains(&code));
    let refused = end.exit_code.is_some_and(|code| spec.retry_on_exit_codes().contains(&code));
    let killed_by = |reason: &str| match end.exit_code {
        Some(code) => format!("{reason} (exit code {code})"),
        None => reason.to_owned(),
    };
    let oom = end.reason.as_deref() == Some(OOM_KILLED);
    let (outcome, error) = if end.deadline {
        (IterationOutcome::TimedOut, SameErrorStreak::Count(report::Error::new("IterationTimeout")))
    } else if end.disrupted && !oom {
        (IterationOutcome::Interrupted, SameErrorStreak::Keep)
    } else {
        let by_probe = end.probe.filter(|_| matches!(end.exit_code, Some(137 | 143)) && !oom);
        let error = match (&end.own_disk, by_probe, end.reason.as_deref()) {
            (Some(_), ..) | (None, Some(_), None) => unrequested_stop(end),
            (.., reason) => {
                let reason = reason.unwrap_or("the agent's container ended without a readable report");
                report::Error::new(&killed_by(reason))
            }
        };
        (IterationOutcome::Killed, SameErrorStreak::Count(error))
    };
    Charge {
        outcome,
        error: if refused { SameErrorStreak::Keep } else { error },
        stop: fail.then_some(StopReason::ExitCode),
        refused: (refused && !fail).then_some(None),
        exit_code: end.exit_code,
        started: end.started,
        finished: end.finished,
        ..lost()
    }
}

fn with_report(spec: &AgentTaskSpec, is_current: bool, end: &AgentEnd, report: &Report) -> AttemptOutcome {
    let changed = match report.changed {
        report::Change::Changed => WorkspaceChange::Changed,
        report::Change::Unchanged => WorkspaceChange::Unchanged,
        report::Change::Unknown => WorkspaceChange::Unknown,
    };
    // If a signal ended the container, the agent may have written the report, because the runner had no chance to
    // overwrite it. Such a report neither completes the task nor makes the attempt free, unless the runner signed it.
    let is_believed = end.authentic || end.exit_code.is_some_and(|code| code <= 128);
    let done = is_believed && is_current && is_done(spec, report);
    let unauthenticated =
        report.provider_refused.as_ref().is_some_and(|r| r.kind == ProviderErrorKind::Unauthenticated);
    // An agent that was stopped may exit with any code, so that code does not count. If the command cannot be executed,
    // the container has the runner's code, as in a shell: 126 or 127.
    let own_code = match report.end {
        End::Exited => report.exit_code,
        End::CommandNotFound => end.exit_code,
        _ => None,
    };
    let fails = own_code.is_some_and(|code| spec.fail_on_exit_codes.contains(&code));
    let stop = if done {
        Some(StopReason::Completed)
    } else if fails {
        Some(StopReason::ExitCode)
    } else if unauthenticated {
        Some(StopReason::Unauthenticated)
    } else {
        None
    };
    let refusal = report
        .provider_refused
        .as_ref()
        .filter(|refusal| refusal.kind == ProviderErrorKind::RateLimited && stop.is_none());
    // A runner that signs its reports also says whether anything was touched, including what does not count as a
    // change.
    let is_untouched = if end.keyed {
        report.untouched && changed != WorkspaceChange::Changed
    } else {
        changed == WorkspaceChange::Unchanged
    };
    let is_free = is_untouched && report.end == End::Exited && is_believed;
    // The agent was killed because memory ran out, and the runner survived: that is the error, whatever was printed
    // last.
    let was_killed = report.signal.is_some() || report.exit_code.is_some_and(|code| code > 128);
    let out_of_memory = end.reason.as_deref() == Some(OOM_KILLED) && was_killed;
    // The runner received SIGTERM, although nobody deleted or evicted the pod: this will happen again, so it is an
    // error.
    let is_unrequested = report.end == End::Interrupted && !end.disrupted && !end.deadline;
    let outcome = match report.end {
        End::Exited if out_of_memory => IterationOutcome::Killed,
        End::Interrupted if is_unrequested => IterationOutcome::Killed,
        End::Exited if refusal.is_some() => IterationOutcome::ProviderRefused,
        End::Exited => IterationOutcome::Exited,
        End::TimedOut => IterationOutcome::TimedOut,
        End::Interrupted => IterationOutcome::Interrupted,
        End::AlreadyRan => IterationOutcome::AlreadyRan,
        End::CommandNotFound => IterationOutcome::CommandNotFound,
        End::RunnerFailed => IterationOutcome::RunnerFailed,
    };
    let kept = refusal.is_some() || (report.end == End::Interrupted && !is_unrequested);
    let no_change = match changed {
        WorkspaceChange::Changed => NoChangeStreak::Reset,
        WorkspaceChange::Unchanged if !kept => NoChangeStreak::Count,
        _ => NoChangeStreak::Keep,
    };
    let error = if out_of_memory {
        SameErrorStreak::Count(report::Error::new(OOM_KILLED))
    } else if is_unrequested && !kept {
        SameErrorStreak::Count(unrequested_stop(end))
    } else if kept {
        SameErrorStreak::Keep
    } else if report.end == End::TimedOut {
        SameErrorStreak::Count(report::Error::new("IterationTimeout"))
    } else {
        report.error.clone().map_or(SameErrorStreak::Reset, SameErrorStreak::Count)
    };
    let charge = Box::new(Charge {
        outcome,
        changed,
        no_change,
        error,
        stop,
        refused: refusal.map(|refusal| refusal.until),
        unavailable: refusal.is_some_and(|refusal| refusal.unavailable),
        exit_code: report.exit_code.or(end.exit_code),
        report: Some(report.clone()),
        started: report.started_at.or(end.started),
        finished: report.finished_at.or(end.finished),
    });
    if is_free && refusal.is_some() {
        AttemptOutcome::Refused(charge)
    } else {
        AttemptOutcome::Charged(charge)
    }
}

/// The error of an agent that was stopped although its pod was neither deleted nor evicted.
fn unrequested_stop(end: &AgentEnd) -> report::Error {
    let words = match (&end.own_disk, end.probe) {
        (Some(disk), _) => format!("Evicted: {disk}"),
        (None, Some(probe)) => {
            format!(
                "the agent's container was stopped, most likely because its {probe} failed: remove the probe from spec.template"
            )
        }
        (None, None) => {
            "the agent's container received SIGTERM, although its pod was neither deleted nor evicted"
                .to_owned()
        }
    };
    report::Error::new(&words)
}

/// Whether the task is done by its policy, and by the verify command if there is one.
fn is_done(spec: &AgentTaskSpec, report: &Report) -> bool {
    let passed = report.verify.as_ref().map(|verify| verify.passed);
    let exited_well = report.end == End::Exited && report.exit_code == Some(0);
    let ready = report.gate.as_ref().is_some_and(|gate| gate.ready);
    let verified = if spec.verify().is_some() { passed == Some(true) } else { true };
    match spec.policy() {
        CompletionPolicy::Gate => exited_well && ready && verified,
        // An agent that exits 0 after a refusal of the provider has done nothing, and Succeeded is final.
        CompletionPolicy::ExitCode => exited_well && verified && report.provider_refused.is_none(),
        CompletionPolicy::Verify => matches!(report.end, End::Exited | End::TimedOut) && passed == Some(true),
    }
}

/// The line about an error in the status.
pub(super) fn summary_of(error: &SameErrorStreak, report: Option<&Report>) -> Option<String> {
    match error {
        SameErrorStreak::Count(error) => Some(error.summary.clone()),
        _ => report.and_then(|report| report.error.as_ref()).map(|error| error.summary.clone()),
    }
    .map(|summary| text::cut(&summary, report::LINE_CHARS))
}
