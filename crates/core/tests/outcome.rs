//! The outcome of an attempt: the specification's table row by row, and what takes precedence.

use crate::support::{
    after, done, exited, failed_with, idled, interrupted, rate_limited, spec, timed_out, unauthenticated,
    worked,
};
use agentloop_contract::{
    completion_gate::CompletionGate,
    report::{Change, End, Error, Report, Verified},
};
use agentloop_core::{
    api::{IterationOutcome, StopReason, WorkspaceChange as Changed},
    decide::{AttemptOutcome, Charge, NoChangeStreak, SameErrorStreak, attempt_outcome},
    facts::{AgentEnd, Ending},
};
use serde_json::{Value, json};

fn outcome_of(more: &Value, end: AgentEnd) -> AttemptOutcome {
    attempt_outcome(&spec(more), None, &Ending::Ran(Box::new(end)))
}

#[track_caller]
fn charged(more: &Value, end: AgentEnd) -> Charge {
    match outcome_of(more, end) {
        AttemptOutcome::Charged(charge) => *charge,
        other => panic!("{other:?} is not charged"),
    }
}

fn with_report(report: &Report) -> AgentEnd {
    AgentEnd { exit_code: report.container_exit_code(), report: Some(report.clone()), ..AgentEnd::default() }
}

fn silent(code: i32) -> AgentEnd {
    AgentEnd { exit_code: Some(code), ..AgentEnd::default() }
}

fn verified(passed: bool) -> Verified {
    Verified { passed, exit_code: Some(i32::from(!passed)), timed_out: false, last_lines: vec![] }
}

fn error(charge: &Charge) -> &str {
    match &charge.error {
        SameErrorStreak::Count(error) => &error.summary,
        other => panic!("{other:?} is no error"),
    }
}

#[test]
fn times_and_codes_of_the_kubelet_are_kept_with_and_without_a_report() {
    let (started, finished) = (Some(after(10)), Some(after(70)));
    for end in [silent(137), with_report(&worked())] {
        let exit_code = end.exit_code;
        let charge = charged(&json!({}), AgentEnd { started, finished, ..end });
        assert_eq!((charge.exit_code, charge.started, charge.finished), (exit_code, started, finished));
    }
}

// === The table ===

#[test]
fn an_agent_that_ran_is_charged_and_the_streak_follows_the_change() {
    let rows = [
        (Change::Changed, NoChangeStreak::Reset),
        (Change::Unchanged, NoChangeStreak::Count),
        (Change::Unknown, NoChangeStreak::Keep),
    ];
    for (change, streak) in rows {
        let charge = charged(&json!({}), with_report(&exited(change)));
        assert_eq!((charge.outcome, charge.no_change, charge.stop), (IterationOutcome::Exited, streak, None));
        assert_eq!(charge.error, SameErrorStreak::Reset);
    }
}

#[test]
fn an_error_counts_whether_or_not_the_workspace_changed() {
    for report in [failed_with("boom"), Report { changed: Change::Unchanged, ..failed_with("boom") }] {
        assert_eq!(error(&charged(&json!({}), with_report(&report))), "boom");
    }
}

#[test]
fn without_a_readable_report_the_containers_reason_is_the_error() {
    let end = AgentEnd { reason: Some("OOMKilled".to_owned()), ..silent(137) };
    let charge = charged(&json!({}), end);
    assert_eq!((charge.outcome, charge.no_change), (IterationOutcome::Killed, NoChangeStreak::Keep));
    assert_eq!(error(&charge), "OOMKilled (exit code 137)");
    let charge = charged(&json!({}), silent(0));
    assert_eq!(charge.stop, None, "an exit code alone completes nothing");
    assert!(error(&charge).contains("without a readable report"));
}

#[test]
fn a_timeout_is_charged_with_its_own_error() {
    let charge = charged(&json!({}), with_report(&timed_out(Change::Unchanged)));
    assert_eq!((charge.outcome, charge.no_change), (IterationOutcome::TimedOut, NoChangeStreak::Count));
    assert_eq!(error(&charge), "IterationTimeout");
    let charge = charged(&json!({}), with_report(&timed_out(Change::Changed)));
    assert_eq!(charge.no_change, NoChangeStreak::Reset, "a timeout with changes is progress");
    let backstop = charged(&json!({}), AgentEnd { deadline: true, ..silent(137) });
    assert_eq!((backstop.outcome, error(&backstop)), (IterationOutcome::TimedOut, "IterationTimeout"));
}

#[test]
fn a_refusal_for_now_is_free_only_if_the_workspace_is_proven_unchanged() {
    let until = Some(after(99));
    let free = outcome_of(&json!({}), with_report(&rate_limited(Change::Unchanged, until)));
    assert!(matches!(&free, AttemptOutcome::Refused(charge) if charge.refused == Some(until)), "{free:?}");
    for (change, streak) in
        [(Change::Changed, NoChangeStreak::Reset), (Change::Unknown, NoChangeStreak::Keep)]
    {
        let charge = charged(&json!({}), with_report(&rate_limited(change, until)));
        assert_eq!((charge.outcome, charge.no_change), (IterationOutcome::ProviderRefused, streak));
        assert_eq!((charge.error, charge.refused), (SameErrorStreak::Keep, Some(until)));
    }
}

#[test]
fn an_exit_code_that_means_not_now_waits_even_without_a_report() {
    let charge = charged(&json!({}), silent(75));
    assert_eq!((charge.refused, charge.error), (Some(None), SameErrorStreak::Keep));
    assert_eq!(charged(&json!({ "retryOnExitCodes": [] }), silent(75)).refused, None);
    assert_eq!(charged(&json!({ "retryOnExitCodes": [9] }), silent(9)).refused, Some(None));
}

#[test]
fn a_disrupted_agent_is_charged_and_the_streaks_stay() {
    for (change, streak) in
        [(Change::Changed, NoChangeStreak::Reset), (Change::Unchanged, NoChangeStreak::Keep)]
    {
        let charge = charged(&json!({}), AgentEnd { disrupted: true, ..with_report(&interrupted(change)) });
        assert_eq!((charge.outcome, charge.no_change), (IterationOutcome::Interrupted, streak));
        assert_eq!(charge.error, SameErrorStreak::Keep);
    }
    let charge = charged(&json!({}), AgentEnd { disrupted: true, ..silent(137) });
    assert_eq!((charge.outcome, charge.error), (IterationOutcome::Interrupted, SameErrorStreak::Keep));
    let oom = AgentEnd { disrupted: true, reason: Some("OOMKilled".to_owned()), ..silent(137) };
    assert_eq!(charged(&json!({}), oom).outcome, IterationOutcome::Killed);
}

#[test]
fn an_agent_that_never_started_is_free() {
    let ending = Ending::NeverStarted { message: "why".to_owned() };
    assert_eq!(
        attempt_outcome(&spec(&json!({})), None, &ending),
        AttemptOutcome::NotStarted { message: "why".to_owned() }
    );
}

#[test]
fn what_the_runner_did_not_execute_is_charged() {
    let rows = [
        (End::AlreadyRan, IterationOutcome::AlreadyRan),
        (End::CommandNotFound, IterationOutcome::CommandNotFound),
        (End::RunnerFailed, IterationOutcome::RunnerFailed),
    ];
    for (end, outcome) in rows {
        let report = Report { error: Some(Error::new("why")), ..Report::of(end) };
        let charge = charged(&json!({}), with_report(&report));
        assert_eq!((charge.outcome, charge.changed, error(&charge)), (outcome, Changed::Unknown, "why"));
    }
}

// === Done ===

#[test]
fn the_gate_must_say_ready_and_the_agent_exit_0() {
    let gate = |ready| Some(CompletionGate { ready, ..CompletionGate::default() });
    let stop = |report: &Report| charged(&json!({}), with_report(report)).stop;
    assert_eq!(stop(&done()), Some(StopReason::Completed));
    assert_eq!(stop(&worked()), None, "no gate");
    assert_eq!(stop(&Report { gate: gate(false), ..worked() }), None);
    assert_eq!(stop(&Report { exit_code: Some(1), ..done() }), None);
    assert_eq!(stop(&Report { exit_code: None, signal: Some(15), ..done() }), None);
    for end in [End::TimedOut, End::Interrupted, End::AlreadyRan, End::RunnerFailed] {
        assert_eq!(stop(&Report { end, ..done() }), None, "{end:?}");
    }
}

#[test]
fn a_disruption_does_not_undo_a_success() {
    let end = AgentEnd { disrupted: true, reason: Some("Evicted".to_owned()), ..with_report(&done()) };
    assert_eq!(charged(&json!({}), end).stop, Some(StopReason::Completed));
}

#[test]
fn a_failed_verify_overrules_the_policy() {
    for policy in ["Gate", "ExitCode"] {
        let spec = json!({ "completion": { "policy": policy, "verify": { "command": ["t"] } } });
        let stop = |verify| charged(&spec, with_report(&Report { verify, ..done() })).stop;
        assert_eq!(stop(Some(verified(true))), Some(StopReason::Completed));
        assert_eq!(stop(Some(verified(false))), None);
        assert_eq!(stop(None), None, "a verify that did not run has not passed");
    }
}

#[test]
fn the_policy_verify_depends_on_the_command_only() {
    let spec = json!({ "completion": { "policy": "Verify", "verify": { "command": ["t"] } } });
    let stop = |report: Report| charged(&spec, with_report(&report)).stop;
    let passes = |report: Report| Report { verify: Some(verified(true)), ..report };
    assert_eq!(stop(passes(failed_with("x"))), Some(StopReason::Completed));
    assert_eq!(stop(passes(timed_out(Change::Changed))), Some(StopReason::Completed));
    assert_eq!(stop(passes(interrupted(Change::Changed))), None);
    assert_eq!(stop(done()), None, "whatever the agent says");
}

#[test]
fn the_policy_exit_code_accepts_0_only() {
    let spec = json!({ "completion": { "policy": "ExitCode" } });
    assert_eq!(charged(&spec, with_report(&idled())).stop, Some(StopReason::Completed));
    assert_eq!(charged(&spec, with_report(&failed_with("x"))).stop, None);
}

// === Failed ===

#[test]
fn done_takes_precedence_over_failed_and_failed_over_a_refusal() {
    let spec = json!({ "failOnExitCodes": [1], "completion": {
        "policy": "Verify", "verify": { "command": ["t"] },
    } });
    let passed = Report { verify: Some(verified(true)), ..failed_with("x") };
    assert_eq!(charged(&spec, with_report(&passed)).stop, Some(StopReason::Completed));
    let refused = charged(&spec, with_report(&rate_limited(Change::Unchanged, None)));
    assert_eq!((refused.stop, refused.refused), (Some(StopReason::ExitCode), None));
    let credential = charged(&json!({}), with_report(&unauthenticated()));
    assert_eq!(credential.stop, Some(StopReason::Unauthenticated));
    assert_eq!(charged(&spec, silent(1)).stop, Some(StopReason::ExitCode), "a report or none");
}

#[test]
fn only_an_agent_that_ended_by_itself_can_fail_by_its_exit_code() {
    let spec = json!({ "failOnExitCodes": [1, 137, 143] });
    for report in [interrupted(Change::Unknown), timed_out(Change::Unknown)] {
        let report = Report { exit_code: Some(1), ..report };
        assert_eq!(charged(&spec, with_report(&report)).stop, None, "{:?}", report.end);
    }
    assert_eq!(charged(&spec, AgentEnd { disrupted: true, ..silent(137) }).stop, None);
    assert_eq!(charged(&spec, AgentEnd { deadline: true, ..silent(137) }).stop, None);
    assert_eq!(charged(&spec, silent(137)).stop, Some(StopReason::ExitCode));
}

#[test]
fn a_command_that_cannot_be_executed_has_the_exit_code_of_a_shell() {
    for code in [126, 127] {
        let end = AgentEnd { exit_code: Some(code), ..with_report(&Report::of(End::CommandNotFound)) };
        let stop = |codes: &Value| charged(&json!({ "failOnExitCodes": codes }), end.clone()).stop;
        assert_eq!(stop(&json!([code])), Some(StopReason::ExitCode));
        assert_eq!(stop(&json!([1, 125])), None);
    }
}

// === Reports that cannot be believed ===

#[test]
fn a_report_from_a_container_that_a_signal_ended_completes_nothing_and_is_not_free() {
    let verify = json!({ "completion": { "policy": "Verify", "verify": { "command": ["true"] } } });
    let forged = Report { exit_code: Some(137), verify: Some(verified(true)), ..exited(Change::Changed) };
    assert_eq!(charged(&verify, with_report(&forged)).stop, None);
    let honest = Report { exit_code: Some(1), ..forged };
    assert_eq!(charged(&verify, with_report(&honest)).stop, Some(StopReason::Completed));

    let refusal = Report { exit_code: Some(137), ..rate_limited(Change::Unchanged, None) };
    assert_eq!(charged(&json!({}), with_report(&refusal)).outcome, IterationOutcome::ProviderRefused);
}

#[test]
fn an_exit_with_0_after_a_refusal_does_not_complete_the_policy_exit_code() {
    let policy = json!({ "completion": { "policy": "ExitCode" } });
    let refused = Report { exit_code: Some(0), ..rate_limited(Change::Unchanged, None) };
    assert!(matches!(outcome_of(&policy, with_report(&refused)), AttemptOutcome::Refused { .. }));
    assert_eq!(charged(&policy, with_report(&exited(Change::Unchanged))).stop, Some(StopReason::Completed));
}

#[test]
fn an_agent_killed_for_memory_has_that_error_whatever_it_printed_last() {
    for line in ["building 1", "linking 2"] {
        let report = Report { exit_code: None, signal: Some(9), ..failed_with(line) };
        let end =
            AgentEnd { reason: Some("OOMKilled".to_owned()), exit_code: Some(137), ..with_report(&report) };
        let charge = charged(&json!({}), end);
        assert_eq!((charge.outcome, error(&charge)), (IterationOutcome::Killed, "OOMKilled"));
        assert_eq!(charge.no_change, NoChangeStreak::Reset, "what it changed is known anyway");
    }
}
