//! The protocol's invariants hold whatever happens to a task, in any order: the simulation checks them at every write
//! and after every request.

use crate::support::{
    Simulation, done, failed_with, idled, interrupted, kubelet, quota_exceeded, rate_limited,
    simulation::Call, timed_out, unauthenticated, worked,
};
use agentloop_contract::{
    completion_gate::CompletionGate,
    report::{Change, End, Error, Report, Usage, Verified},
};
use agentloop_core::{api::Phase, sync::Failure};
use agentloop_test_support::invariants::Invariant;
use proptest::prelude::*;
use serde_json::json;

/// What can happen to a task.
#[derive(Clone, Debug)]
enum Event {
    Turn,
    Pass(i64),
    Bind,
    Run,
    End(Ends),
    DeletePod,
    KubeletsObey,
    CollectGarbage,
    LeaveSidecar,
    Refuse(bool),
    Suspend(bool),
    Limit(Option<i32>),
    Threshold(i32),
    Token(u8),
    Prompt(u8),
    Configure(u8),
    StaleCache,
    Restart,
    Uninstall,
    /// One request of this kind does not succeed, or its answer does not arrive.
    Fault(Call, Option<Failure>),
    /// The caches lag from now on, or catch up.
    Lag(bool),
}

#[derive(Clone, Copy, Debug)]
enum Ends {
    Worked,
    Idled,
    Failed,
    RateLimited(Change),
    Unauthenticated,
    TimedOut,
    Interrupted,
    Killed,
    NeverStarted,
    Done,
}

fn ends() -> impl Strategy<Value = Ends> {
    prop_oneof![
        6 => Just(Ends::Worked),
        4 => Just(Ends::Idled),
        4 => Just(Ends::Failed),
        1 => Just(Ends::RateLimited(Change::Unchanged)),
        1 => Just(Ends::RateLimited(Change::Changed)),
        1 => Just(Ends::RateLimited(Change::Unknown)),
        1 => Just(Ends::Unauthenticated),
        1 => Just(Ends::TimedOut),
        1 => Just(Ends::Interrupted),
        1 => Just(Ends::Killed),
        2 => Just(Ends::NeverStarted),
        1 => Just(Ends::Done),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Turn),
        4 => prop_oneof![1..5_i64, 1..400_i64, 1..4000_i64].prop_map(Event::Pass),
        2 => Just(Event::Bind),
        4 => Just(Event::Run),
        12 => ends().prop_map(Event::End),
        1 => Just(Event::DeletePod),
        3 => Just(Event::KubeletsObey),
        1 => Just(Event::CollectGarbage),
        1 => Just(Event::LeaveSidecar),
        1 => any::<bool>().prop_map(Event::Refuse),
        2 => any::<bool>().prop_map(Event::Suspend),
        2 => proptest::option::of(1..12).prop_map(Event::Limit),
        1 => (1..6).prop_map(Event::Threshold),
        2 => (0..4_u8).prop_map(Event::Token),
        1 => (0..3_u8).prop_map(Event::Prompt),
        2 => (0..6_u8).prop_map(Event::Configure),
        1 => Just(Event::StaleCache),
        1 => Just(Event::Restart),
        1 => Just(Event::Uninstall),
        4 => fault(),
        2 => any::<bool>().prop_map(Event::Lag),
    ]
}

/// A conflict, an error, or an answer that is lost with or without the request.
fn fault() -> impl Strategy<Value = Event> {
    let calls = [
        Call::WriteStatus,
        Call::ReadTask,
        Call::ConfirmTask,
        Call::ReadPod,
        Call::CreatePod,
        Call::RemoveSchedulingGate,
        Call::AddFinalizer,
        Call::RemoveFinalizer,
        Call::DeletePod,
    ];
    let failures = [
        None,
        Some(Failure::Lost),
        Some(Failure::Conflict),
        Some(Failure::TimedOut(5)),
        Some(Failure::Rejected { code: 500, message: "etcdserver: leader changed".to_owned() }),
    ];
    (proptest::sample::select(calls.to_vec()), proptest::sample::select(failures.to_vec()))
        .prop_map(|(call, failure)| Event::Fault(call, failure))
}

/// Lets the event happen, if it can.
fn happen(sim: &mut Simulation, event: &Event) {
    // A pod in which an agent may run: it exists, has no scheduling gate and has not ended.
    let is_live = sim.has_pod() && {
        let pod = sim.pod();
        !kubelet::is_gated(pod)
            && !kubelet::is_ended(pod)
            && (kubelet::is_bound(pod) || !kubelet::is_deleting(pod))
    };
    if is_live && kubelet::has_ended_agent(sim.pod()) && matches!(event, Event::End(_)) {
        return kubelet::end_sidecars(sim.pod_mut());
    }
    let is_live = is_live && !kubelet::has_ended_agent(sim.pod());
    let is_running = is_live && kubelet::is_running(sim.pod());
    match event {
        Event::Turn => drop(sim.step()),
        Event::Pass(seconds) => sim.now += jiff::SignedDuration::from_secs(*seconds),
        Event::Bind if is_live && !is_running => kubelet::bind(sim.pod_mut()),
        Event::Run if is_live && !is_running => sim.run(),
        Event::End(Ends::NeverStarted) if is_live && !is_running => sim.fail_to_start(),
        Event::End(end) if is_live => end_with(sim, *end),
        Event::DeletePod if sim.has_pod() => sim.delete_pod(),
        Event::KubeletsObey => sim.stop_deleted_pods(),
        Event::CollectGarbage if is_live && kubelet::is_bound(sim.pod()) => {
            sim.expect_charge(true);
            kubelet::collect_garbage(sim.pod_mut());
        }
        Event::LeaveSidecar if is_running => {
            sim.expect_charge(true);
            let now = sim.now;
            kubelet::leave_sidecars(sim.pod_mut(), &kubelet::reported(&idled(), now), now);
        }
        Event::Refuse(refuses) => {
            sim.refusal = refuses.then(quota_exceeded);
        }
        Event::Suspend(suspend) => sim.edit(&json!({ "suspend": suspend })),
        Event::Limit(limit) => sim.edit(&json!({ "maxIterations": limit })),
        Event::Threshold(value) => sim.edit(&json!({ "breaker": { "noChangeThreshold": value } })),
        Event::Token(number) => sim.edit(&json!({ "resetToken": format!("token-{number}") })),
        Event::Prompt(number) => sim.edit(&json!({ "prompt": format!("goal {number}") })),
        Event::Configure(number) => configure(sim, *number),
        Event::StaleCache => sim.cached = agentloop_core::settings::Configuration::absent(),
        Event::Restart => {
            sim.cached = sim.real.clone();
            sim.restart();
        }
        Event::Uninstall => sim.uninstall(),
        Event::Fault(call, None) => sim.lose_answer(*call),
        Event::Fault(call, Some(failure)) => sim.fail(*call, failure.clone()),
        Event::Lag(true) => sim.freeze_caches(),
        Event::Lag(false) => sim.thaw_caches(),
        _ => {}
    }
}

fn end_with(sim: &mut Simulation, end: Ends) {
    match end {
        Ends::Worked => sim.end(&worked()),
        Ends::Idled => sim.end(&idled()),
        Ends::Failed => sim.end(&failed_with("tests fail")),
        Ends::RateLimited(changed) => sim.end(&rate_limited(changed, None)),
        Ends::Unauthenticated => sim.end(&unauthenticated()),
        Ends::TimedOut => sim.end(&timed_out(Change::Unchanged)),
        Ends::Interrupted => sim.end(&interrupted(Change::Unchanged)),
        Ends::Killed => sim.end_silently(137, "OOMKilled"),
        Ends::Done => sim.end(&done()),
        Ends::NeverStarted => {}
    }
}

fn configure(sim: &mut Simulation, number: u8) {
    match number {
        0 => sim.configure(&[]),
        1 => sim.configure(&[("defaultMaxIterations", "5")]),
        2 => sim.configure(&[("hardLimit", "7")]),
        3 => sim.configure(&[("hardLimit", "zero")]),
        4 => sim.configure(&[("paused", "true")]),
        _ => sim.configure(&[("noChangeThreshold", "1"), ("sameErrorThreshold", "2")]),
    }
}

/// After the last fault, the task comes to an end on its own.
fn recover(sim: &mut Simulation) {
    sim.refusal = None;
    sim.remove_faults();
    sim.thaw_caches();
    sim.configure(&[]);
    sim.edit(&json!({ "suspend": false }));
    for _ in 0..200 {
        sim.reconcile();
        sim.stop_deleted_pods();
        sim.reconcile();
        match sim.phase() {
            Phase::Succeeded | Phase::Failed | Phase::CircuitOpen | Phase::IterationLimitReached => return,
            Phase::Waiting if sim.active().is_none() => {
                sim.pass_wait();
            }
            _ if sim.has_pod() && kubelet::has_ended_agent(sim.pod()) => {
                kubelet::end_sidecars(sim.pod_mut());
            }
            _ if sim.has_pod() => sim.end(&worked()),
            _ => sim.pass(400),
        }
    }
    panic!("the loop does not end: {:?}", sim.status());
}

fn long_report(fill: &str, number: usize) -> Report {
    let text = format!("{number} {}", fill.repeat(300));
    Report {
        end: End::Exited,
        exit_code: Some(1),
        files_changed: Some(i64::MAX),
        gate: Some(CompletionGate {
            ready: false,
            reason: Some(text.clone()),
            progress: Some(text.clone()),
            blockers: vec![text.clone(); 5],
        }),
        verify: Some(Verified {
            passed: false,
            exit_code: Some(1),
            timed_out: false,
            last_lines: vec![text.clone(); 5],
        }),
        error: Some(Error { signature: text.clone(), summary: text.clone() }),
        usage: Some(Usage {
            input_tokens: Some(i64::MAX),
            cached_input_tokens: Some(i64::MAX),
            output_tokens: Some(i64::MAX),
            cost_usd: Some("999999999999999.999999999".to_owned()),
            model: Some(text),
        }),
        ..worked()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_whatever_happens(
        limit in proptest::option::of(1..12_i32),
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut sim = Simulation::new(&json!({ "maxIterations": limit, "podHistoryLimit": 3 }));
        for event in &events {
            happen(&mut sim, event);
        }
        recover(&mut sim);
        // Then nothing more is written.
        let writes = sim.writes;
        sim.pass(30 * 24 * 3600);
        sim.restart();
        sim.reconcile();
        prop_assert_eq!(sim.writes, writes, "{}", Invariant::L2);
        prop_assert!(sim.pods().len() <= 3 + usize::from(sim.status().active.is_some()));
    }

    #[test]
    fn reconciling_again_after_a_rest_changes_nothing(
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut sim = Simulation::new(&json!({}));
        for event in &events {
            happen(&mut sim, event);
            // It comes to rest after a few reconciles, or panics, and then it stays at rest.
            sim.reconcile();
            // A write to a pod that is gone changes nothing, but shows that it is gone. The next reconcile acts on that.
            sim.reconcile();
            prop_assert!(!sim.step());
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_status_stays_small_whatever_agents_report(
        fill in prop_oneof![Just("\""), Just("\\"), Just("𝕏"), Just("\u{1}"), Just("é"), Just("\u{2028}"), Just("<")],
        token in "[\"\\\\𝕏<]{253}",
        words in prop_oneof![Just("𝕏"), Just("\""), Just("&")],
    ) {
        let mut sim = Simulation::new(&json!({
            "maxIterations": 60, "breaker": { "noChangeThreshold": 10_000, "sameErrorThreshold": 10_000 },
            "resetToken": token,
        }));
        sim.task_mut().metadata.name = Some("n".repeat(63));
        sim.task_mut().metadata.namespace = Some("s".repeat(63));
        for number in 0..50 {
            sim.iterate(&long_report(fill, number));
        }
        prop_assert_eq!((sim.phase(), sim.iterations()), (Phase::IterationLimitReached, 50));
        sim.configure(&[("hardLimit", "60")]);
        sim.refusal = Some(Failure::Rejected { code: 422, message: words.repeat(2000) });
        sim.edit(&json!({ "maxIterations": 61 }));
        sim.reconcile();
        prop_assert_eq!(sim.phase(), Phase::Waiting);
    }
}
