//! Whether a termination message is a report of the runner, and what it then decides.

use crate::support::{done, failed_with, idled, interrupted, rate_limited, spec, timed_out, worked};
use agentloop_contract::report::{Change, End, Report, Verified};
use agentloop_core::{
    api::{IterationOutcome, StopReason},
    decide::{AttemptOutcome, Charge, attempt_outcome},
    facts::{AgentEnd, Ending, PodFacts, PodState},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

const KEY: &str = "f00dfeedf00dfeed";

/// A pod that ended with this message and exit code; `more` is merged into its agent's container.
fn pod(more: &Value, message: &str, code: i32) -> Pod {
    let mut agent = json!({
        "name": "agent", "image": "i", "command": ["/agentloop/bin/agentloop-runner", "run", "--", "x"],
    });
    crate::support::merge(&mut agent, more);
    serde_json::from_value(json!({
        "metadata": { "name": "p", "uid": "u", "annotations": { "agentloop.dev/agent-container": "agent" } },
        "spec": { "nodeName": "n", "containers": [agent] },
        "status": { "phase": "Failed", "containerStatuses": [{
            "name": "agent", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": {
                "exitCode": code, "reason": "Error", "message": message,
                "startedAt": "2026-11-22T10:00:00Z", "finishedAt": "2026-11-22T10:05:00Z",
            } },
        }] },
    }))
    .unwrap()
}

fn ran(pod: &Pod) -> AgentEnd {
    match PodFacts::of(pod).state {
        PodState::Ended(Ending::Ran(end)) => *end,
        other => panic!("{other:?}"),
    }
}

fn keyed() -> Value {
    json!({ "env": [{ "name": "AGENTLOOP_REPORT_KEY", "value": KEY }] })
}

fn signed(report: &Report) -> String {
    report.encode(3072, Some(KEY.as_bytes())).unwrap()
}

fn unsigned(report: &Report) -> String {
    report.encode(3072, None).unwrap()
}

fn outcome_of(more: &Value, pod: &Pod) -> AttemptOutcome {
    attempt_outcome(&spec(more), None, &Ending::Ran(Box::new(ran(pod))))
}

#[track_caller]
fn charged(more: &Value, pod: &Pod) -> Charge {
    match outcome_of(more, pod) {
        AttemptOutcome::Charged(charge) => *charge,
        other => panic!("{other:?} is not charged"),
    }
}

fn verify_passes() -> (Value, Report) {
    let verify = Verified { passed: true, exit_code: Some(0), timed_out: false, last_lines: Vec::new() };
    let spec = json!({ "completion": { "policy": "Verify", "verify": { "command": ["true"] } } });
    (spec, Report { verify: Some(verify), ..worked() })
}

#[test]
fn a_signed_report_counts_whatever_the_exit_code() {
    for report in [done(), failed_with("boom"), timed_out(Change::Changed), interrupted(Change::Unknown)] {
        for code in [0, 1, 124, 137, 143, 255] {
            let end = ran(&pod(&keyed(), &signed(&report), code));
            assert_eq!((end.report, end.authentic), (Some(report.clone()), true), "{code}");
        }
    }
}

#[test]
fn an_agent_that_exits_above_128_is_done_when_verify_passes() {
    let (verify, passed) = verify_passes();
    for code in 129..=255 {
        let report = Report { exit_code: Some(code), ..passed.clone() };
        let charge = charged(&verify, &pod(&keyed(), &signed(&report), code));
        assert_eq!(charge.stop, Some(StopReason::Completed), "{code}");
        let older = charged(&verify, &pod(&json!({}), &unsigned(&report), code));
        assert_eq!(older.stop, None, "{code}: without a key, a kill may have left the report");
    }
}

#[test]
fn an_agent_that_exits_above_128_to_say_not_now_is_free() {
    let refused = Report { exit_code: Some(255), untouched: true, ..rate_limited(Change::Unchanged, None) };
    let pod = pod(&keyed(), &signed(&refused), 255);
    assert!(matches!(outcome_of(&json!({}), &pod), AttemptOutcome::Refused { .. }));
}

#[test]
fn with_a_key_an_attempt_is_free_only_if_nothing_was_touched() {
    let refused = Report { untouched: false, ..rate_limited(Change::Unchanged, None) };
    let free = |report: &Report, env: &Value, sign: fn(&Report) -> String| {
        let is_free =
            matches!(outcome_of(&json!({}), &pod(env, &sign(report), 1)), AttemptOutcome::Refused { .. });
        is_free
    };
    let untouched = Report { untouched: true, ..refused.clone() };
    assert!(free(&untouched, &keyed(), signed));
    assert!(!free(&refused, &keyed(), signed), "what counts as unchanged may still have been touched");
    let unknown = Report { changed: Change::Unknown, ..untouched.clone() };
    assert!(free(&unknown, &keyed(), signed), "the comparison of everything needs no fingerprint");
    let contradicts = Report { changed: Change::Changed, ..untouched.clone() };
    assert!(!free(&contradicts, &keyed(), signed));
    assert!(free(&refused, &json!({}), unsigned), "the runner of an older operator knows no more");
    for end in [End::TimedOut, End::Interrupted, End::RunnerFailed] {
        assert!(!free(&Report { end, ..untouched.clone() }, &keyed(), signed), "{end:?}");
    }
}

#[test]
fn a_report_that_is_signed_with_another_key_does_not_count() {
    let forged = done().encode(3072, Some(b"another")).unwrap();
    let end = ran(&pod(&keyed(), &forged, 0));
    assert_eq!((end.report, end.keyed, end.authentic), (None, true, false));
    let tampered = signed(&idled()).replace("Unchanged", "Changed");
    assert_eq!(ran(&pod(&keyed(), &tampered, 0)).report, None);
    let charge = charged(&json!({}), &pod(&keyed(), &forged, 0));
    assert_eq!((charge.outcome, charge.stop), (IterationOutcome::Killed, None));
}

#[test]
fn a_runner_that_does_not_sign_is_older_than_the_operator() {
    let charge = charged(&json!({}), &pod(&keyed(), &unsigned(&done()), 0));
    assert_eq!((charge.outcome, charge.stop), (IterationOutcome::RunnerFailed, None));
    let error = format!("{:?}", charge.error);
    assert!(error.contains("the runner's image is older than the operator"), "{error}");
}

#[test]
fn an_unsigned_report_that_contradicts_the_exit_code_does_not_count() {
    let end = ran(&pod(&keyed(), &unsigned(&done()), 137));
    assert_eq!((end.report, end.keyed), (None, true));
    assert_eq!(ran(&pod(&keyed(), "no report", 0)).report, None);
}

#[test]
fn the_last_key_counts_and_a_key_without_a_value_does_not() {
    let variable = |value: Value| json!({ "name": "AGENTLOOP_REPORT_KEY", "value": value });
    let env = |variables: &[Value]| json!({ "env": variables });
    let counts = |env: &Value, message: &str| ran(&pod(env, message, 0)).report.is_some_and(|r| r == done());
    assert!(counts(&env(&[variable(json!("template's")), variable(json!(KEY))]), &signed(&done())));
    assert!(!counts(&env(&[variable(json!(KEY)), variable(json!("other"))]), &signed(&done())));
    let from = json!({ "name": "AGENTLOOP_REPORT_KEY", "valueFrom": { "fieldRef": { "fieldPath": "x" } } });
    for none in [variable(json!("")), from] {
        let end = ran(&pod(&env(&[none]), &unsigned(&done()), 0));
        assert_eq!((end.report, end.keyed), (Some(done()), false), "the rules for a pod without a key apply");
    }
}

#[test]
fn the_exit_code_must_confirm_a_report_if_probes_can_see_the_key() {
    let exec = json!({ "exec": { "command": ["true"] } });
    let beside = [
        json!({ "livenessProbe": exec }),
        json!({ "readinessProbe": exec }),
        json!({ "startupProbe": exec }),
        json!({ "lifecycle": { "preStop": exec } }),
        json!({ "lifecycle": { "postStart": exec } }),
    ];
    let (verify, passed) = verify_passes();
    let at_255 = Report { exit_code: Some(255), ..passed };
    for more in beside {
        let mut container = keyed();
        crate::support::merge(&mut container, &more);
        let end = ran(&pod(&container, &signed(&done()), 0));
        assert_eq!((end.report, end.authentic), (Some(done()), false), "{more}");
        assert_eq!(ran(&pod(&container, &signed(&done()), 137)).report, None, "{more}");
        let charge = charged(&verify, &pod(&container, &signed(&at_255), 255));
        assert_eq!(charge.stop, None, "{more}: both rules hold");
        let forged = done().encode(3072, Some(b"another")).unwrap();
        assert_eq!(ran(&pod(&container, &forged, 0)).report, None, "{more}");
    }
    let mut http = keyed();
    crate::support::merge(&mut http, &json!({ "livenessProbe": { "httpGet": { "port": 80 } } }));
    assert!(ran(&pod(&http, &signed(&done()), 137)).authentic, "a request executes nothing");
}

#[test]
fn a_signed_report_of_an_agent_that_has_not_ended_decides_nothing() {
    let note = Report { exit_code: None, untouched: true, ..done() };
    for code in [0, 137] {
        assert_eq!(ran(&pod(&keyed(), &signed(&note), code)).report, None, "{code}");
    }
    let (verify, passed) = verify_passes();
    for end in [End::RunnerFailed, End::AlreadyRan, End::CommandNotFound, End::Interrupted] {
        let broken_off = Report { end, ..passed.clone() };
        let charge = charged(&verify, &pod(&keyed(), &signed(&broken_off), 0));
        assert_eq!(charge.stop, None, "{end:?}");
    }
}

#[test]
fn a_runner_that_is_killed_after_its_report_has_reported() {
    let mut pod = pod(&keyed(), &signed(&done()), 137);
    let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
    let state = statuses[0].state.as_mut().unwrap();
    state.terminated.as_mut().unwrap().reason = Some("OOMKilled".to_owned());
    let charge = charged(&json!({}), &pod);
    assert_eq!((charge.outcome, charge.stop), (IterationOutcome::Exited, Some(StopReason::Completed)));
}

#[test]
fn an_agent_killed_for_memory_has_that_error_even_if_its_report_is_signed() {
    let report = Report { exit_code: None, signal: Some(9), ..failed_with("linking 2") };
    let mut pod = pod(&keyed(), &signed(&report), 137);
    let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
    let state = statuses[0].state.as_mut().unwrap();
    state.terminated.as_mut().unwrap().reason = Some("OOMKilled".to_owned());
    let charge = charged(&json!({}), &pod);
    assert_eq!(charge.outcome, IterationOutcome::Killed);
    assert!(format!("{:?}", charge.error).contains("OOMKilled"));
}

#[test]
fn a_second_container_that_runs_the_runners_file_is_not_the_agent() {
    let decoy = json!({
        "name": "decoy", "image": "none", "command": ["/agentloop/bin/agentloop-runner", "run", "--", "x"],
    });
    let mut whole = serde_json::to_value(pod(&keyed(), &signed(&done()), 0)).unwrap();
    let containers = whole["spec"]["containers"].as_array_mut().unwrap();
    containers.insert(0, decoy);
    let mut waits = whole["status"]["containerStatuses"][0].clone();
    waits["name"] = json!("decoy");
    waits["state"] = json!({ "waiting": { "reason": "ImagePullBackOff" } });
    whole["status"]["containerStatuses"].as_array_mut().unwrap().insert(0, waits);
    assert_eq!(ran(&serde_json::from_value(whole.clone()).unwrap()).report, Some(done()));
    // If a webhook removed the runner from the agent, the decoy does not replace it.
    whole["spec"]["containers"][1]["command"] = json!(["/vault/env", "x"]);
    let facts = PodFacts::of(&serde_json::from_value(whole.clone()).unwrap());
    assert!(facts.rejected.is_some());
    // The pod of an older operator names no container: the first one that runs the runner is the agent.
    whole["metadata"]["annotations"] = Value::Null;
    assert_eq!(PodFacts::of(&serde_json::from_value(whole).unwrap()).rejected, None);
}
