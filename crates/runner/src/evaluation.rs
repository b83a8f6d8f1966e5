//! Evaluates the facts of an iteration: its error, and whether the verify command must run.

use agentloop_contract::{
    completion_gate::{CompletionGate, NoCompletionGate},
    context::{Context, Policy},
    report::{End, Error, ProviderError, ProviderErrorKind, Report, Verified},
};

use crate::{
    output::{OutputSummary, cause, last_lines},
    process::Status,
};

/// How many lines of a failed verify command are kept.
const VERIFY_LINES: usize = 100;

/// Whether the verify command must run: it does if the policy's own condition is met.
pub fn needs_verify(
    context: &Context,
    end: End,
    status: Status,
    gate: &Result<CompletionGate, NoCompletionGate>,
) -> bool {
    let succeeded = end == End::Exited && status == Status::Exited(0);
    match context.policy {
        Policy::Gate => succeeded && gate.as_ref().is_ok_and(|gate| gate.ready),
        Policy::ExitCode => succeeded,
        Policy::Verify => matches!(end, End::Exited | End::TimedOut),
    }
}

/// The result of the verify command.
pub fn verified(status: Status, timed_out: bool, output: &OutputSummary) -> Verified {
    let passed = status == Status::Exited(0) && !timed_out;
    let lines = || {
        let lines = last_lines(&output.text, VERIFY_LINES);
        // Test runners print their failures on either stream.
        let errors = last_lines(&output.stderr, VERIFY_LINES);
        if errors.is_empty() { lines } else { [lines, errors].concat() }
    };
    Verified {
        passed,
        exit_code: match status {
            Status::Exited(code) => Some(code),
            Status::Killed(_) => None,
        },
        timed_out,
        last_lines: if passed { Vec::new() } else { lines() },
    }
}

/// The iteration's error: the first of these that applies.
pub fn error(report: &Report, status: Status, output: &OutputSummary) -> Option<Error> {
    if report.end == End::TimedOut {
        return Some(Error::new("IterationTimeout"));
    }
    if let Some(verify) = report.verify.as_ref().filter(|verify| !verify.passed) {
        return Some(match (cause::error(&verify.last_lines), verify.exit_code) {
            (Some(error), _) => error,
            (None, _) if verify.timed_out => Error::new("VerifyTimeout"),
            (None, Some(code)) => Error::new(&format!("verify: exit code {code}")),
            (None, None) => Error::new("verify: killed"),
        });
    }
    if let Some(gate) = report.gate.as_ref().filter(|gate| !gate.ready) {
        let names = gate.blockers.iter().find(|blocker| !cause::is_constant(blocker));
        if let Some(blocker) = names.or(gate.blockers.first()) {
            return Some(Error::new(blocker));
        }
    }
    let how = match status {
        // A disruption is not an error of the agent.
        _ if report.end == End::Interrupted => return None,
        Status::Exited(0) if output.failed.is_some() => "failed turn".to_owned(),
        Status::Exited(0) => return None,
        Status::Exited(code) => format!("exit code {code}"),
        Status::Killed(signal) => format!("signal {signal}"),
    };
    Some(match output.error_line() {
        Some(line) => Error::new(&format!("{how}: {line}")),
        None => Error::new(&how),
    })
}

/// The provider's error, if any: according to the agent's own stream, or to an exit code that means "not now".
pub fn provider_error(context: &Context, status: Status, output: &OutputSummary) -> Option<ProviderError> {
    let by_code = match status {
        Status::Exited(code) => context.retry_on_exit_codes.contains(&code),
        Status::Killed(_) => false,
    };
    let limited = || ProviderError { kind: ProviderErrorKind::RateLimited, until: None, unavailable: false };
    output.provider_error.clone().or_else(|| by_code.then(limited))
}

#[cfg(test)]
mod tests {
    use agentloop_contract::report::Report;

    use super::*;

    fn facts() -> (Report, OutputSummary) {
        let gate = CompletionGate { blockers: vec!["the blocker".into()], ..CompletionGate::default() };
        let verify = Verified {
            passed: false,
            exit_code: Some(2),
            timed_out: false,
            last_lines: vec!["one".into(), "the line".into(), " ".into()],
        };
        let report = Report { gate: Some(gate), verify: Some(verify), ..Report::of(End::TimedOut) };
        (report, OutputSummary { stderr: "warning\nlast words\n".into(), ..OutputSummary::default() })
    }

    fn summary(report: &Report, status: Status, output: &OutputSummary) -> Option<String> {
        error(report, status, output).map(|error| error.summary)
    }

    #[test]
    fn the_first_error_that_applies_is_reported() {
        let (mut report, mut output) = facts();
        let failed = Status::Exited(3);
        let mut errors = Vec::new();
        errors.push(summary(&report, failed, &output));
        report.end = End::Exited;
        errors.push(summary(&report, failed, &output));
        report.verify = None;
        errors.push(summary(&report, failed, &output));
        report.gate = None;
        errors.push(summary(&report, failed, &output));
        errors.push(summary(&report, Status::Killed(9), &output));
        errors.push(summary(&report, Status::Exited(0), &output));
        output.failed = Some("model said no".into());
        errors.push(summary(&report, failed, &output));
        errors.push(summary(&report, Status::Exited(0), &output));
        let expected = [
            Some("IterationTimeout"),
            Some("the line"),
            Some("the blocker"),
            Some("exit code 3: last words"),
            Some("signal 9: last words"),
            None,
            Some("exit code 3: model said no"),
            Some("failed turn: model said no"),
        ];
        assert_eq!(errors, expected.map(|text| text.map(str::to_owned)));
    }

    #[test]
    fn a_disruption_is_not_an_error_of_the_agent() {
        let report = Report::of(End::Interrupted);
        assert_eq!(error(&report, Status::Exited(1), &facts().1), None);
    }

    #[test]
    fn blockers_of_a_ready_gate_are_not_an_error() {
        let (mut report, output) = facts();
        (report.end, report.verify) = (End::Exited, None);
        report.gate.iter_mut().for_each(|gate| gate.ready = true);
        assert_eq!(error(&report, Status::Exited(0), &output), None);
    }

    #[test]
    fn a_silent_verify_command_is_reported_by_its_exit_code() {
        let output = OutputSummary::default();
        let verify = |status, timed_out| Some(verified(status, timed_out, &output));
        let mut report = Report { verify: verify(Status::Exited(2), false), ..Report::of(End::Exited) };
        assert_eq!(summary(&report, Status::Exited(0), &output).as_deref(), Some("verify: exit code 2"));
        report.verify = verify(Status::Killed(9), true);
        assert_eq!(summary(&report, Status::Exited(0), &output).as_deref(), Some("VerifyTimeout"));
        report.verify = verify(Status::Exited(0), false);
        assert_eq!(summary(&report, Status::Exited(0), &output), None);
    }
}
