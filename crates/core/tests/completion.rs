//! A completion that is edited while an iteration runs: the report is about the old one.

use crate::support::{Simulation, done, failed_with, worked};
use agentloop_contract::report::{Report, Verified};
use agentloop_core::api::Phase;
use serde_json::{Value, json};

/// A report that completes the task under every policy.
fn done_by_any_rule() -> Report {
    let verify = Verified { passed: true, exit_code: Some(0), timed_out: false, last_lines: Vec::new() };
    Report { verify: Some(verify), ..done() }
}

fn completions() -> Vec<Value> {
    let verify = |command: &str| json!({ "command": ["make", command] });
    vec![
        json!({ "policy": "Gate" }),
        json!({ "policy": "Gate", "verify": verify("unit") }),
        json!({ "policy": "ExitCode" }),
        json!({ "policy": "ExitCode", "verify": verify("unit") }),
        json!({ "policy": "Verify", "verify": verify("unit") }),
        json!({ "policy": "Verify", "verify": verify("e2e") }),
        json!({ "policy": "Verify", "verify": { "command": ["make", "unit"], "timeoutSeconds": 5 } }),
    ]
}

#[test]
fn a_completion_that_no_pod_was_asked_for_completes_nothing() {
    for before in completions() {
        for after in completions() {
            let mut sim = Simulation::new(&json!({ "completion": before }));
            sim.reconcile();
            sim.run();
            sim.edit(&json!({ "completion": null }));
            sim.edit(&json!({ "completion": after }));
            sim.end(&done_by_any_rule());
            sim.reconcile();
            assert_eq!(sim.iterations(), 1, "{before} became {after}: the iteration is charged");
            if before == after {
                assert_eq!(sim.phase(), Phase::Succeeded, "{before} was put back");
                continue;
            }
            assert_eq!(sim.active(), Some((2, 0)), "{before} became {after}: the loop continues");
            sim.end(&done_by_any_rule());
            sim.reconcile();
            assert_eq!(sim.phase(), Phase::Succeeded, "{after} was asked for");
        }
    }
}

#[test]
fn a_verify_command_that_is_added_or_removed_makes_another_completion() {
    let verify = json!({ "verify": { "command": ["make", "e2e"] } });
    for (before, after) in [(json!({}), verify.clone()), (verify, json!({ "verify": null }))] {
        let mut sim = Simulation::new(&json!({ "completion": before }));
        sim.reconcile();
        sim.run();
        sim.edit(&json!({ "completion": after }));
        sim.end(&done_by_any_rule());
        sim.reconcile();
        assert_eq!((sim.phase(), sim.active()), (Phase::Running, Some((2, 0))));
    }
}

#[test]
fn a_goal_that_is_edited_while_an_iteration_runs_is_not_reached_by_it() {
    let from =
        json!({ "prompt": null, "promptFrom": { "configMapKeyRef": { "name": "goal", "key": "text" } } });
    for edit in [json!({ "prompt": "something else" }), from] {
        let mut sim = Simulation::new(&json!({ "prompt": "a goal" }));
        sim.reconcile();
        sim.run();
        sim.edit(&edit);
        sim.end(&done());
        sim.reconcile();
        assert_eq!((sim.phase(), sim.iterations(), sim.active()), (Phase::Running, 1, Some((2, 0))));
    }
}

#[test]
fn a_completion_that_spells_out_the_defaults_is_the_same_completion() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.edit(&json!({ "completion": { "policy": "Gate" }, "maxIterations": 7 }));
    sim.end(&done());
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Succeeded);
}

#[test]
fn a_failed_agent_fails_the_task_even_if_the_completion_has_changed() {
    let mut sim = Simulation::new(&json!({ "failOnExitCodes": [1] }));
    sim.reconcile();
    sim.run();
    sim.edit(&json!({ "completion": { "policy": "ExitCode" } }));
    sim.end(&failed_with("boom"));
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Failed);
}

#[test]
fn only_the_spec_decides_about_the_pod_of_an_older_operator() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.pod_mut().metadata.annotations.as_mut().unwrap().remove("agentloop.dev/completion-hash");
    sim.edit(&json!({ "completion": { "policy": "ExitCode" } }));
    sim.end(&worked());
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Succeeded);
}
