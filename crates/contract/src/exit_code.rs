//! The exit codes of the agent's container.
//!
//! The runner exits with them, and the operator compares a report with them. This is the only table:
//! `docs/writing-agents.md` shows it to users.

use crate::report::{End, Report};

/// The agent was stopped at the iteration's timeout.
pub const TIMED_OUT: i32 = 124;
/// The agent was not executed, or its iteration could not be evaluated.
pub const RUNNER_FAILED: i32 = 125;
/// The agent's command exists but cannot be executed.
pub const NOT_EXECUTABLE: i32 = 126;
/// The agent's command does not exist.
pub const NOT_FOUND: i32 = 127;
/// The runner received SIGTERM before the agent had ended.
pub const INTERRUPTED: i32 = 143;
/// The agent left a process that could not be ended and may overwrite the report. The code is above 128, because
/// an operator that does not know signed reports then lets no report complete a task or make an iteration free.
pub const SURVIVORS: i32 = 255;

impl Report {
    /// The exit code of the container whose runner writes this report; `None` if an agent exited with neither a
    /// code nor a signal. Two exceptions: [`NOT_EXECUTABLE`] and [`SURVIVORS`].
    pub fn container_exit_code(&self) -> Option<i32> {
        match self.end {
            End::Exited => self.exit_code.or_else(|| self.signal.and_then(|signal| signal.checked_add(128))),
            End::TimedOut => Some(TIMED_OUT),
            End::Interrupted => Some(INTERRUPTED),
            End::CommandNotFound => Some(NOT_FOUND),
            End::AlreadyRan | End::RunnerFailed => Some(RUNNER_FAILED),
        }
    }

    /// Whether a container with this exit code may have written the report. If another program wrote it and then
    /// killed the runner, the code is a different one.
    pub fn agrees_with(&self, container_exit_code: Option<i32>) -> bool {
        match self.end {
            End::CommandNotFound => matches!(container_exit_code, Some(NOT_EXECUTABLE | NOT_FOUND)),
            // Such a report neither completes a task nor makes an iteration free.
            End::AlreadyRan | End::RunnerFailed => container_exit_code != Some(0),
            // An end without a code agrees with nothing, not even with a container that has none.
            End::Exited | End::TimedOut | End::Interrupted => {
                self.container_exit_code().is_some_and(|code| Some(code) == container_exit_code)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(exit_code: Option<i32>, signal: Option<i32>) -> Report {
        Report { exit_code, signal, ..Report::of(End::Exited) }
    }

    /// The numbers are those of `docs/writing-agents.md`.
    #[test]
    fn each_end_has_the_documented_exit_code_and_agrees_with_it() {
        for (report, code) in [
            (exited(Some(3), None), 3),
            (exited(None, Some(9)), 137),
            (Report::of(End::TimedOut), 124),
            (Report::of(End::Interrupted), 143),
            (Report::of(End::CommandNotFound), 127),
            (Report::of(End::AlreadyRan), 125),
            (Report::of(End::RunnerFailed), 125),
        ] {
            assert_eq!(report.container_exit_code(), Some(code), "{:?}", report.end);
            assert!(report.agrees_with(Some(code)), "{:?}", report.end);
            assert!(!report.agrees_with(Some(0)), "{:?}", report.end);
        }
        assert!(Report::of(End::CommandNotFound).agrees_with(Some(126)));
        assert!(Report::of(End::RunnerFailed).agrees_with(Some(SURVIVORS)));
    }

    #[test]
    fn a_report_agrees_with_no_other_exit_code() {
        for (report, code) in [
            (exited(Some(0), None), 137),
            (exited(None, Some(i32::MAX)), i32::MAX),
            (Report::of(End::TimedOut), 137),
            (Report::of(End::Interrupted), 130),
            (Report::of(End::CommandNotFound), 125),
        ] {
            assert!(!report.agrees_with(Some(code)), "{:?} {code}", report.end);
            assert!(!report.agrees_with(None), "{:?}", report.end);
        }
        assert!(!exited(None, None).agrees_with(None), "an agent that ended has a code or a signal");
    }
}
