//! What one iteration was: charged or not, what it did to the streaks, and whether it ends the task.
//!
//! The table of facts and consequences is docs/concepts.md's "How an iteration is judged", row by row.

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

/// The kubelet's reason for a container in which something was killed for memory.
const OOM_KILLED: &str = "OOMKilled";

/// What an iteration was.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptOutcome {
    /// Proven that no money was spent on it: the same iteration is tried again.
    NotStarted {
        /// Why, in words.
        message: String,
    },
    /// The provider refused and nothing was touched: the same iteration is tried again, unless that was
    /// granted too often. Then it counts like this.
    Refused(Box<Charge>),
    /// It counts.
    Charged(Box<Charge>),
}

/// What an iteration that counts did.
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
    /// The stop that it calls for by itself.
    pub verdict: Option<StopReason>,
    /// The provider refused: the next try waits, at least until then if it named a time.
    pub refused: Option<Option<Timestamp>>,
    /// It failed rather than refused.
    pub unavailable: bool,
    /// The agent's exit code.
    pub exit_code: Option<i32>,
    /// The runner's report, where there is one that counts.
    pub report: Option<Report>,
    /// When the agent started and ended.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// What an iteration does to the no-change streak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChangeStreak {
    /// It stays.
    Keep,
    /// It starts again.
    Reset,
    /// One more.
    Count,
}

/// What an iteration does to the same-error streak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SameErrorStreak {
    /// It stays.
    Keep,
    /// There was no error.
    Reset,
    /// There was this one.
    Count(report::Error),
}

/// Judges a pod that has ended. `completion` is the hash of what completes the task as the pod was made
/// from it, where the pod tells.
pub fn attempt_outcome(spec: &AgentTaskSpec, completion: Option<&str>, ending: &Ending) -> AttemptOutcome {
    // The report answers what the pod was asked. Where something else completes the task by now, nothing
    // has asked for that yet: the next iteration will.
    let is_asked = completion.is_none_or(|asked| asked == completion_hash(spec));
    match ending {
        Ending::NeverStarted { message } => AttemptOutcome::NotStarted { message: message.clone() },
        Ending::Ran(end) => match &end.report {
            Some(report) => reported(spec, is_asked, end, report),
            None => AttemptOutcome::Charged(Box::new(silent(spec, end))),
        },
    }
}

/// A claim whose pod is gone, let go when the operator was uninstalled.
pub(super) fn lost() -> Charge {
    Charge {
        outcome: IterationOutcome::PodLost,
        changed: WorkspaceChange::Unknown,
        no_change: NoChangeStreak::Keep,
        error: SameErrorStreak::Keep,
        verdict: None,
        refused: None,
        unavailable: false,
        exit_code: None,
        report: None,
        started: None,
        finished: None,
    }
}

/// The agent may have run, and nothing that can be trusted tells what it did.
fn silent(spec: &AgentTaskSpec, end: &AgentEnd) -> Charge {
    // With what code a container ends that was told to stop says nothing of its agent.
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
            (Some(_), ..) | (None, Some(_), None) => unasked(end),
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
        verdict: fail.then_some(StopReason::ExitCode),
        refused: (refused && !fail).then_some(None),
        exit_code: end.exit_code,
        started: end.started,
        finished: end.finished,
        ..lost()
    }
}

fn reported(spec: &AgentTaskSpec, is_asked: bool, end: &AgentEnd, report: &Report) -> AttemptOutcome {
    let changed = match report.changed {
        report::Change::Changed => WorkspaceChange::Changed,
        report::Change::Unchanged => WorkspaceChange::Unchanged,
        report::Change::Unknown => WorkspaceChange::Unknown,
    };
    // A container that a signal ended may bear a report of its agent's making: the runner had no chance to
    // write over it. Such a report neither completes a task nor makes an iteration free, unless the runner
    // signed it.
    let is_believed = end.authentic || end.exit_code.is_some_and(|code| code <= 128);
    let done = is_believed && is_asked && is_done(spec, report);
    let unauthenticated =
        report.provider_refused.as_ref().is_some_and(|r| r.kind == ProviderErrorKind::Unauthenticated);
    // An agent that was told to stop exits as it likes: that is no verdict of its own.
    // A command that cannot be executed has the code of the runner that tried, as in a shell: 126 or 127.
    let own_code = match report.end {
        End::Exited => report.exit_code,
        End::CommandNotFound => end.exit_code,
        _ => None,
    };
    let fails = own_code.is_some_and(|code| spec.fail_on_exit_codes.contains(&code));
    let verdict = if done {
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
        .filter(|refusal| refusal.kind == ProviderErrorKind::RateLimited && verdict.is_none());
    // A runner that can sign also says whether anything at all was touched, whatever counts as a change.
    let is_untouched = if end.keyed {
        report.untouched && changed != WorkspaceChange::Changed
    } else {
        changed == WorkspaceChange::Unchanged
    };
    let is_free = is_untouched && report.end == End::Exited && is_believed;
    // The agent was killed for memory and its runner lived to tell: one cause, whatever was printed last.
    let was_killed = report.signal.is_some() || report.exit_code.is_some_and(|code| code > 128);
    let out_of_memory = end.reason.as_deref() == Some(OOM_KILLED) && was_killed;
    // The runner was told to stop, and nobody had asked for the pod's end: it will happen again.
    let is_unasked = report.end == End::Interrupted && !end.disrupted && !end.deadline;
    let outcome = match report.end {
        End::Exited if out_of_memory => IterationOutcome::Killed,
        End::Interrupted if is_unasked => IterationOutcome::Killed,
        End::Exited if refusal.is_some() => IterationOutcome::ProviderRefused,
        End::Exited => IterationOutcome::Exited,
        End::TimedOut => IterationOutcome::TimedOut,
        End::Interrupted => IterationOutcome::Interrupted,
        End::AlreadyRan => IterationOutcome::AlreadyRan,
        End::CommandNotFound => IterationOutcome::CommandNotFound,
        End::RunnerFailed => IterationOutcome::RunnerFailed,
    };
    let kept = refusal.is_some() || (report.end == End::Interrupted && !is_unasked);
    let no_change = match changed {
        WorkspaceChange::Changed => NoChangeStreak::Reset,
        WorkspaceChange::Unchanged if !kept => NoChangeStreak::Count,
        _ => NoChangeStreak::Keep,
    };
    let error = if out_of_memory {
        SameErrorStreak::Count(report::Error::new(OOM_KILLED))
    } else if is_unasked && !kept {
        SameErrorStreak::Count(unasked(end))
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
        verdict,
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

/// The error of an agent that was stopped though nobody had asked for its pod's end.
fn unasked(end: &AgentEnd) -> report::Error {
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

/// Whether the task is done by its policy, and by the verify command where there is one.
fn is_done(spec: &AgentTaskSpec, report: &Report) -> bool {
    let passed = report.verify.as_ref().map(|verify| verify.passed);
    let exited_well = report.end == End::Exited && report.exit_code == Some(0);
    let ready = report.gate.as_ref().is_some_and(|gate| gate.ready);
    let verified = if spec.verify().is_some() { passed == Some(true) } else { true };
    match spec.policy() {
        CompletionPolicy::Gate => exited_well && ready && verified,
        // An agent that exits 0 over a provider's refusal has done nothing, and done is final.
        CompletionPolicy::ExitCode => exited_well && verified && report.provider_refused.is_none(),
        CompletionPolicy::Verify => matches!(report.end, End::Exited | End::TimedOut) && passed == Some(true),
    }
}

/// An error's line for the status.
pub(super) fn summary_of(error: &SameErrorStreak, report: Option<&Report>) -> Option<String> {
    match error {
        SameErrorStreak::Count(error) => Some(error.summary.clone()),
        _ => report.and_then(|report| report.error.as_ref()).map(|error| error.summary.clone()),
    }
    .map(|summary| text::cut(&summary, report::LINE_CHARS))
}
