//! The operator's configuration: if it is invalid, old, deleted, or pauses all loops.

use crate::support::{Simulation, kubelet, quota_exceeded, worked};
use agentloop_core::{
    api::{Phase, WaitReason},
    settings::Configuration,
};
use serde_json::json;

#[test]
fn an_invalid_configuration_stops_only_tasks_without_thresholds() {
    let mut sim = Simulation::new(&json!({}));
    sim.configure(&[("hardLimit", "20"), ("defaultMaxIterations", "4")]);
    sim.iterate(&worked());
    sim.configure(&[("hardLimt", "2")]);
    sim.restart();
    sim.iterate_times(3, &worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 4));

    let mut sim = Simulation::new(&json!({ "maxIterations": 5 }));
    sim.configure(&[("hardLimt", "2")]);
    sim.reconcile();
    assert_eq!((sim.phase(), sim.waits_for()), (Phase::Waiting, Some(WaitReason::ConfigInvalid)));
    assert!(sim.message().contains("hardLimt"), "{}", sim.message());
    assert!(sim.created.is_empty());
    sim.configure(&[("hardLimit", "2")]);
    sim.iterate_times(2, &worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 2));
}

#[test]
fn a_raised_limit_is_bound_by_the_last_known_hard_limit_while_the_configuration_is_invalid() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 2 }));
    sim.configure(&[("hardLimit", "3")]);
    sim.iterate_times(2, &worked());
    sim.configure(&[("hardLimit", "many")]);
    sim.restart();
    sim.edit(&json!({ "maxIterations": 40 }));
    sim.iterate(&worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 3));
}

#[test]
fn an_operator_with_an_older_configuration_reads_it_before_it_starts_an_iteration() {
    let mut sim = Simulation::new(&json!({}));
    sim.configure(&[("hardLimit", "5")]);
    let old = sim.cached.clone();
    sim.configure(&[("hardLimit", "2")]);
    sim.iterate(&worked());
    sim.cached = old;
    sim.iterate(&worked());
    assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 2));
    assert_eq!(sim.status().thresholds.unwrap().config_version.as_deref(), Some("2"));
}

#[test]
fn a_deleted_configuration_is_confirmed_by_a_read_before_the_defaults_apply() {
    let mut sim = Simulation::new(&json!({}));
    sim.configure(&[("defaultMaxIterations", "2")]);
    sim.iterate(&worked());
    sim.cached = Configuration::absent();
    sim.iterate(&worked());
    assert_eq!(sim.phase(), Phase::IterationLimitReached, "a lagging cache removes no limit");

    let mut sim = Simulation::new(&json!({}));
    sim.configure(&[("defaultMaxIterations", "20")]);
    sim.iterate(&worked());
    sim.cached = Configuration::absent();
    sim.real = Configuration::absent();
    sim.iterate(&worked());
    assert_eq!(sim.status().max_iterations, Some(10));
}

#[test]
fn a_pause_prevents_new_pods_and_leaves_running_ones_alone() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.run();
    sim.configure(&[("paused", "yes please")]);
    sim.reconcile();
    assert_eq!((sim.phase(), sim.active()), (Phase::Running, Some((1, 0))));
    sim.end(&worked());
    sim.reconcile();
    assert_eq!((sim.waits_for(), sim.active(), sim.iterations()), (Some(WaitReason::Paused), None, 1));
    sim.configure(&[]);
    sim.reconcile();
    assert_eq!((sim.phase(), sim.active()), (Phase::Running, Some((2, 0))));
}

#[test]
fn a_pause_keeps_an_active_iteration_from_its_pod_and_a_gated_pod_from_its_start() {
    let mut sim = Simulation::new(&json!({}));
    sim.refusal = Some(quota_exceeded());
    sim.reconcile();
    sim.refusal = None;
    sim.configure(&[("paused", "true")]);
    sim.reconcile();
    sim.pass(3600);
    assert_eq!((sim.created.len(), sim.waits_for()), (0, Some(WaitReason::Paused)));

    let mut sim = Simulation::new(&json!({}));
    assert!(sim.step(), "the first iteration is active and has its pod");
    sim.restart();
    sim.configure(&[("paused", "true")]);
    sim.reconcile();
    assert!(kubelet::is_gated(sim.pod()));
    sim.configure(&[("paused", "false")]);
    sim.reconcile();
    assert!(!kubelet::is_gated(sim.pod()));
}
