//! A status that a newer version wrote, with values that this version does not know: it is kept and shown, and the
//! task advances.

use crate::support::{Simulation, rate_limited, worked};
use agentloop_contract::report::Change;
use agentloop_core::{
    api::{AgentTaskStatus, IterationOutcome, Phase, StopReason, WaitReason, crd},
    decide::events_of_change,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde_json::{Value, json};

/// Gives the task a status with `more` merged into what it has.
fn written(sim: &mut Simulation, more: &Value) {
    let mut status = serde_json::to_value(sim.status()).unwrap();
    crate::support::merge(&mut status, more);
    sim.task_mut().status = Some(serde_json::from_value(status).expect("an older operator can read it"));
}

fn json(status: &AgentTaskStatus) -> Value {
    serde_json::to_value(status).unwrap()
}

#[test]
fn values_of_a_newer_version_survive_a_round_trip() {
    let before = json!({
        "phase": "Hibernating",
        "iterations": 1,
        "nextAttempt": 0,
        "waiting": { "reason": "BudgetExhausted", "startTime": "2026-11-22T10:00:00Z" },
        "breaker": { "consecutiveNoChange": 0, "consecutiveSameError": 0 },
        "history": [{ "iteration": 1, "attempt": 0, "outcome": "Teleported", "changed": "Partly" }],
        "thresholds": {
            "maxIterations": { "value": 10, "from": "Namespace" },
            "hardLimit": { "value": 50, "from": "Default" },
            "noChange": { "value": 3, "from": "Default" },
            "sameError": { "value": 5, "from": "Default" },
            "iterationTimeoutSeconds": { "value": 60, "from": "" },
        },
        "stop": { "phase": "OverBudget", "reason": "TooExpensive", "generation": 1 },
    });
    let status: AgentTaskStatus = serde_json::from_value(before.clone()).unwrap();
    assert_eq!(json(&status), before);
    assert_eq!(status.history[0].outcome.as_str(), "Teleported");
    let known: IterationOutcome = serde_json::from_value(json!("Exited")).unwrap();
    assert_eq!(known, IterationOutcome::Exited);
    let long: Phase = serde_json::from_value(json!("ä".repeat(40))).unwrap();
    assert_eq!(long.as_str(), "ä".repeat(31), "whole characters, as many as the schema allows");
}

#[test]
fn a_value_is_shown_as_it_is_in_the_api() {
    for word in ["Running", "CircuitOpen", "Hibernating"] {
        let phase: Phase = serde_json::from_value(json!(word)).unwrap();
        assert_eq!((phase.as_str(), phase.to_string().as_str()), (word, word));
        assert_eq!(serde_json::to_value(phase).unwrap(), json!(word));
    }
}

#[test]
fn a_task_whose_history_has_values_of_a_newer_version_advances() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 4 }));
    sim.iterate_times(2, &worked());
    let mut history = json(&sim.status())["history"].clone();
    history[0]["outcome"] = json!("Teleported");
    history[1]["changed"] = json!("Partly");
    let thresholds = json!({ "hardLimit": { "from": "Namespace" } });
    written(&mut sim, &json!({ "history": history, "phase": "Hibernating", "thresholds": thresholds }));
    sim.iterate_times(2, &worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 4));
    let shown = json(&sim.status());
    assert_eq!(shown["history"][2]["outcome"], "Teleported");
    assert_eq!(shown["history"][3]["changed"], "Partly");
}

#[test]
fn a_wait_that_only_a_newer_version_knows_lasts_until_its_retry_time() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&rate_limited(Change::Unchanged, None));
    written(&mut sim, &json!({ "waiting": { "reason": "BudgetExhausted" } }));
    sim.pass(30);
    sim.reconcile();
    assert!(matches!(sim.waits_for(), Some(WaitReason::Other(_))));
    assert_eq!((sim.phase(), sim.reason().as_str()), (Phase::Waiting, "BudgetExhausted"));
    assert!(sim.message().contains("newer version"), "{}", sim.message());
    sim.pass(70);
    sim.reconcile();
    assert_eq!(sim.active(), Some((1, 1)), "then the loop continues");
}

#[test]
fn a_stop_that_only_a_newer_version_knows_stays_in_effect_whatever_is_edited() {
    for (phase, reason) in [
        ("OverBudget", "TooExpensive"),
        ("OverBudget", "NoChange"),
        ("CircuitOpen", "TooExpensive"),
        ("Failed", "TooExpensive"),
        ("IterationLimitReached", "TooExpensive"),
    ] {
        let mut sim = Simulation::new(&json!({ "maxIterations": 1 }));
        sim.iterate(&worked());
        written(&mut sim, &json!({ "stop": { "phase": phase, "reason": reason } }));
        let stop = sim.status().stop;
        sim.reconcile();
        for edit in [
            json!({ "maxIterations": 9 }),
            json!({ "resetToken": "a" }),
            json!({ "suspend": true }),
            json!({ "suspend": false }),
            json!({ "prompt": "another" }),
        ] {
            sim.edit(&edit);
            sim.reconcile();
            assert_eq!((sim.status().stop, sim.active()), (stop.clone(), None), "{phase} {reason} {edit}");
        }
        assert_eq!(json(&sim.status())["phase"], phase);
        assert_eq!(sim.reason(), reason);
        assert!(sim.message().contains("newer version"), "{}", sim.message());
        assert_eq!(sim.status().last_handled_reset_token, None, "the newer version will act on it");
        assert_eq!(sim.condition("Stopped"), ("True".to_owned(), phase.to_owned()));
        events_of_change(None, &sim.status());
    }
}

#[test]
fn a_task_that_succeeded_for_a_reason_of_a_newer_version_has_succeeded() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&crate::support::done());
    written(&mut sim, &json!({ "stop": { "reason": "Approved" } }));
    sim.edit(&json!({ "resetToken": "a" }));
    sim.reconcile();
    assert_eq!(sim.phase(), Phase::Succeeded);
    assert!(matches!(sim.status().stop.unwrap().reason, StopReason::Other(_)));
}

/// Every schema below `schema`, with its path.
fn walk<'a>(schema: &'a JSONSchemaProps, path: &str, into: &mut Vec<(String, &'a JSONSchemaProps)>) {
    into.push((path.to_owned(), schema));
    for (name, inner) in schema.properties.iter().flatten() {
        walk(inner, &format!("{path}.{name}"), into);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        walk(items, &format!("{path}[]"), into);
    }
}

#[test]
fn the_crd_accepts_any_value_in_a_status_and_keys_the_history_by_iteration() {
    let crd = crd();
    let schema = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
    let status = &schema.properties.as_ref().unwrap()["status"];
    let mut all = Vec::new();
    walk(status, "status", &mut all);
    let find = |path: &str| all.iter().find(|(at, _)| at == path).unwrap_or_else(|| panic!("{path}")).1;
    assert!(all.iter().all(|(_, schema)| schema.enum_.is_none()));
    for (path, word) in [
        ("status.phase", "CircuitOpen"),
        ("status.waiting.reason", "ProviderUnavailable"),
        ("status.history[].outcome", "Exited"),
        ("status.history[].changed", "Unchanged"),
        ("status.stop.reason", "NoChange"),
        ("status.thresholds.hardLimit.from", "Config"),
    ] {
        let schema = find(path);
        let text = schema.description.as_deref().unwrap_or_default();
        assert!(text.contains("Known values: ") && text.contains(word), "{path}: {text}");
        assert_eq!((schema.type_.as_deref(), schema.max_length), (Some("string"), Some(63)), "{path}");
    }
    let history = find("status.history");
    assert_eq!(history.x_kubernetes_list_type.as_deref(), Some("map"));
    assert_eq!(history.x_kubernetes_list_map_keys.as_deref(), Some(&["iteration".to_owned()][..]));
    assert!(find("status.history[]").required.as_ref().unwrap().contains(&"iteration".to_owned()));
}
