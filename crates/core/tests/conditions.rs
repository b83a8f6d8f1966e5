//! The conditions of a task.

use crate::support::{
    Simulation, done, idled, invalid_pod, quota_exceeded, rate_limited, simulation::Call, worked,
};
use agentloop_contract::report::{Change, Report};
use agentloop_core::api::{Phase, WaitReason};
use serde_json::json;

#[test]
fn a_task_is_reconciling_until_its_first_agent_has_run_and_never_again() {
    let is_reconciling = |sim: &Simulation| sim.condition("Reconciling").0 == "True";
    // The agent was seen while it ran.
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    assert!(is_reconciling(&sim));
    sim.run();
    sim.reconcile();
    assert!(!is_reconciling(&sim));
    // It was not, and its iteration counts.
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&worked());
    assert!(!is_reconciling(&sim));
    // It ran, and its iteration does not count.
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.reconcile();
    sim.end(&rate_limited(Change::Unchanged, None));
    sim.reconcile();
    assert_eq!(sim.iterations(), 0);
    assert!(!is_reconciling(&sim));
    // It never ran.
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.fail_to_start();
    sim.reconcile();
    assert!(is_reconciling(&sim));
}

#[test]
fn a_task_that_never_ran_is_stalled_if_a_person_must_act() {
    let status_of = |sim: &Simulation, type_: &str| sim.condition(type_).0;
    let mut suspended = Simulation::new(&json!({ "suspend": true }));
    suspended.reconcile();
    assert_eq!(status_of(&suspended, "Reconciling"), "False");
    assert_eq!(status_of(&suspended, "Stalled"), "False");
    for (refusal, reason, stalled) in [
        (Some(invalid_pod()), WaitReason::PodRejected, "True"),
        (None, WaitReason::NameConflict, "True"),
        (Some(quota_exceeded()), WaitReason::QuotaExceeded, "False"),
    ] {
        let mut sim = Simulation::new(&json!({}));
        sim.refusal = refusal;
        if reason == WaitReason::NameConflict {
            sim.before(Call::CreatePod, |sim| {
                let name = sim.pod_name();
                sim.leave_previous_pod(&name);
            });
        }
        sim.reconcile();
        assert_eq!(sim.waits_for(), Some(reason));
        assert_eq!(status_of(&sim, "Stalled"), stalled, "{reason:?}");
        assert_ne!(status_of(&sim, "Reconciling"), stalled, "{reason:?}");
    }
}

#[test]
fn a_condition_keeps_the_time_of_its_last_transition() {
    let since = |sim: &Simulation, type_: &str| {
        let found = sim.status().conditions.into_iter().find(|c| c.type_ == type_).unwrap();
        found.last_transition_time.0
    };
    let mut sim = Simulation::new(&json!({ "maxIterations": 1 }));
    sim.reconcile();
    let begun = sim.now;
    sim.pass(600);
    sim.iterate(&worked());
    let stopped = sim.now;
    assert!(stopped > begun);
    assert_eq!(since(&sim, "Stopped"), stopped, "it has become true");
    assert_eq!(since(&sim, "Succeeded"), begun, "it is still undecided");
    sim.pass(600);
    sim.edit(&json!({ "prompt": "more of the same" }));
    sim.reconcile();
    assert_eq!(since(&sim, "Stopped"), stopped, "it was true before");
}

#[test]
fn an_iteration_that_neither_stops_nor_waits_changes_no_condition() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 20 }));
    sim.iterate(&worked());
    let before = sim.status().conditions;
    for iteration in 2..12 {
        sim.pass(60);
        sim.reconcile();
        assert_eq!(sim.status().conditions, before, "while {iteration} waits for its node");
        sim.run();
        sim.reconcile();
        assert_eq!(sim.status().conditions, before, "while {iteration} runs");
        sim.end(&if iteration % 3 == 0 { idled() } else { worked() });
        sim.reconcile();
        assert_eq!((sim.iterations(), sim.status().conditions), (iteration, before.clone()));
    }
}

#[test]
fn that_an_iteration_has_run_is_known_without_the_conditions() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    assert_eq!(sim.status().first_run_time, None);
    sim.run();
    let ran = sim.now;
    sim.reconcile();
    sim.task_mut().status.as_mut().unwrap().conditions.clear();
    sim.pass(60);
    sim.end(&rate_limited(Change::Unchanged, None));
    sim.reconcile();
    assert_eq!(sim.condition("Reconciling"), ("False".to_owned(), "FirstIterationRan".to_owned()));
    assert_eq!(sim.status().first_run_time.map(|time| time.0), Some(ran));
}

#[test]
fn whether_a_task_has_succeeded_or_failed_is_unknown_until_it_is_decided() {
    let both = |sim: &Simulation| (sim.condition("Succeeded"), sim.condition("Failed"));
    let words = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    let undecided = (words("Unknown", "Undecided"), words("Unknown", "Undecided"));
    let mut sim = Simulation::new(&json!({ "maxIterations": 2, "failOnExitCodes": [9] }));
    sim.reconcile();
    assert_eq!(both(&sim), undecided, "nothing has run");
    sim.iterate_times(2, &worked());
    assert_eq!((sim.phase(), both(&sim)), (Phase::IterationLimitReached, undecided.clone()));
    sim.edit(&json!({ "maxIterations": 9 }));
    sim.iterate(&Report { exit_code: Some(9), ..worked() });
    assert_eq!(both(&sim), (words("False", "ExitCode"), words("True", "ExitCode")));
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!(sim.condition("Failed").0, "True", "a suspension does not change that");
    sim.edit(&json!({ "suspend": false, "resetToken": "again" }));
    sim.reconcile();
    assert_eq!(both(&sim), undecided, "it may still succeed");
    sim.iterate(&done());
    assert_eq!(both(&sim), (words("True", "Completed"), words("False", "Completed")));
    assert_eq!(sim.condition("Stopped"), words("True", "Succeeded"));
}

#[test]
fn suspended_is_a_condition_that_can_be_waited_for() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&worked());
    assert_eq!(sim.condition("Suspended").0, "False");
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!(sim.condition("Suspended").0, "True");
    assert_eq!(sim.condition("Stopped").0, "False", "no rule has stopped it");
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.condition("Suspended").0, "False");
}
