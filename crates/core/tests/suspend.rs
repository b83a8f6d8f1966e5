//! Suspending a task, and resuming it.

use crate::support::{Simulation, done, idled, interrupted, invalid_pod, kubelet, rate_limited, worked};
use agentloop_contract::report::Change;
use agentloop_core::api::{IterationOutcome, Phase};
use serde_json::json;

#[test]
fn a_task_that_is_suspended_before_its_start_starts_nothing() {
    let mut sim = Simulation::new(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.created.len()), (Phase::Suspended, 0));
    assert_eq!(sim.requeue_at, None, "only an edit resumes it");
    assert_eq!(sim.status().progress.as_deref(), Some("0/10"));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 0)));
}

#[test]
fn suspending_stops_the_running_pod_and_charges_it() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate_times(2, &idled());
    sim.run();
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    assert!(kubelet::is_deleting(sim.pod()));
    assert_eq!(sim.phase(), Phase::Suspended);
    sim.stop_deleted_pods();
    sim.reconcile();
    let status = sim.status();
    assert_eq!((status.iterations, status.history[0].outcome), (3, IterationOutcome::Interrupted));
    assert_eq!(status.breaker.consecutive_no_change, 2, "unchanged");
    sim.pass(3600);
    assert_eq!(sim.created.len(), 3);
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((4, 0)), "nothing is lost");
}

#[test]
fn an_attempt_that_is_suspended_before_its_agent_started_is_free() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!((sim.iterations(), sim.active()), (0, None));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 1)), "immediately: nothing failed");
}

#[test]
fn a_suspension_does_not_reset_the_attempts() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&rate_limited(Change::Unchanged, None));
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 1)));
}

#[test]
fn an_active_iteration_without_a_pod_gets_none_while_suspended() {
    let mut sim = Simulation::new(&json!({}));
    sim.refusal = Some(invalid_pod());
    sim.reconcile();
    sim.refusal = None;
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.created.len()), (Phase::Suspended, 0));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.created, [(1, 0)]);
}

#[test]
fn a_stopped_task_keeps_its_thresholds_while_it_is_suspended() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 1 }));
    sim.iterate(&worked());
    sim.edit(&json!({ "suspend": true, "maxIterations": 5 }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.status().max_iterations), (Phase::Suspended, Some(1)));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.status().max_iterations), (Phase::Running, Some(5)));
}

#[test]
fn a_suspended_task_shows_a_new_limit_of_its_spec_but_no_newer_setting() {
    let mut sim = Simulation::new(&json!({ "suspend": true }));
    sim.reconcile();
    assert_eq!(sim.status().max_iterations, Some(10));
    sim.configure(&[("defaultMaxIterations", "7")]);
    sim.reconcile();
    assert_eq!(sim.status().max_iterations, Some(10), "the task was not edited");
    sim.edit(&json!({ "maxIterations": 3 }));
    sim.reconcile();
    assert_eq!(sim.status().max_iterations, Some(3));
}

#[test]
fn an_agent_that_is_done_when_it_is_suspended_succeeds() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.edit(&json!({ "suspend": true }));
    sim.end(&done());
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Succeeded);
}

#[test]
fn the_exit_code_of_an_agent_that_was_asked_to_stop_fails_nothing() {
    let mut sim = Simulation::new(&json!({ "failOnExitCodes": [1, 137, 143] }));
    sim.reconcile();
    sim.run();
    sim.edit(&json!({ "suspend": true }));
    sim.reconcile();
    let report = agentloop_contract::report::Report { exit_code: Some(1), ..interrupted(Change::Unknown) };
    sim.end(&report);
    sim.reconcile();
    assert_eq!((sim.phase(), sim.iterations()), (Phase::Suspended, 1));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Running);
    sim.run();
    sim.delete_pod();
    sim.end_silently(137, "Error");
    sim.reconcile();
    assert_eq!((sim.phase(), sim.iterations()), (Phase::Running, 2), "killed after its grace");
}

#[test]
fn a_limit_that_is_reached_while_suspended_is_shown_once_the_task_is_resumed() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 1 }));
    sim.reconcile();
    sim.edit(&json!({ "suspend": true }));
    sim.end(&worked());
    sim.reconcile();
    assert_eq!((sim.phase(), sim.iterations()), (Phase::Suspended, 1));
    sim.edit(&json!({ "suspend": false }));
    sim.reconcile();
    assert_eq!((sim.phase(), sim.created.len()), (Phase::IterationLimitReached, 1));
}
