//! Whatever happens to a task and in whatever order, the protocol's invariants hold: the world checks
//! them at every write and after every decision.

use crate::support::{
    World, done, failed_with, idled, interrupted, kubelet, rate_limited, timed_out, unauthenticated, worked,
};
use agentloop_contract::{
    completion_gate::CompletionGate,
    report::{Change, End, Error, Report, Usage, Verified},
};
use agentloop_core::{
    api::{Phase, WaitReason},
    facts::Obstacle,
};
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
    ]
}

/// Lets the event happen, where it can.
fn happen(world: &mut World, event: &Event) {
    // A pod that could have an agent in it: there, past its gate, not ended.
    let is_live = world.has_pod() && {
        let pod = world.pod();
        !kubelet::is_gated(pod)
            && !kubelet::is_ended(pod)
            && (kubelet::is_bound(pod) || !kubelet::is_deleting(pod))
    };
    if is_live && kubelet::has_ended_agent(world.pod()) && matches!(event, Event::End(_)) {
        return kubelet::end_sidecars(world.pod());
    }
    let is_live = is_live && !kubelet::has_ended_agent(world.pod());
    let is_running = is_live && kubelet::is_running(world.pod());
    match event {
        Event::Turn => drop(world.turn()),
        Event::Pass(seconds) => world.now += jiff::SignedDuration::from_secs(*seconds),
        Event::Bind if is_live && !is_running => kubelet::bind(world.pod()),
        Event::Run if is_live && !is_running => world.run(),
        Event::End(Ends::NeverStarted) if is_live && !is_running => world.fail_to_start(),
        Event::End(end) if is_live => end_with(world, *end),
        Event::DeletePod if world.has_pod() => world.delete_pod(),
        Event::KubeletsObey => world.kubelets_obey(),
        Event::CollectGarbage if is_live && kubelet::is_bound(world.pod()) => {
            world.note_charge(true);
            kubelet::collect_garbage(world.pod());
        }
        Event::LeaveSidecar if is_running => {
            world.note_charge(true);
            let now = world.now;
            kubelet::leave_sidecars(world.pod(), &kubelet::reported(&idled(), now), now);
        }
        Event::Refuse(refuses) => {
            let refusal = Obstacle { reason: WaitReason::QuotaExceeded, message: "full".to_owned() };
            world.refusal = refuses.then_some(refusal);
        }
        Event::Suspend(suspend) => world.edit(&json!({ "suspend": suspend })),
        Event::Limit(limit) => world.edit(&json!({ "maxIterations": limit })),
        Event::Threshold(value) => world.edit(&json!({ "breaker": { "noChangeThreshold": value } })),
        Event::Token(number) => world.edit(&json!({ "resetToken": format!("token-{number}") })),
        Event::Prompt(number) => world.edit(&json!({ "prompt": format!("goal {number}") })),
        Event::Configure(number) => configure(world, *number),
        Event::StaleCache => world.cached = agentloop_core::settings::Configuration::absent(),
        Event::Restart => {
            world.cached = world.real.clone();
            world.restart();
        }
        Event::Uninstall => uninstall(world),
        _ => {}
    }
}

fn end_with(world: &mut World, end: Ends) {
    match end {
        Ends::Worked => world.end(&worked()),
        Ends::Idled => world.end(&idled()),
        Ends::Failed => world.end(&failed_with("tests fail")),
        Ends::RateLimited(changed) => world.end(&rate_limited(changed, None)),
        Ends::Unauthenticated => world.end(&unauthenticated()),
        Ends::TimedOut => world.end(&timed_out(Change::Unchanged)),
        Ends::Interrupted => world.end(&interrupted(Change::Unchanged)),
        Ends::Killed => world.end_silently(137, "OOMKilled"),
        Ends::Done => world.end(&done()),
        Ends::NeverStarted => {}
    }
}

fn configure(world: &mut World, number: u8) {
    match number {
        0 => world.configure(&[]),
        1 => world.configure(&[("defaultMaxIterations", "5")]),
        2 => world.configure(&[("hardLimit", "7")]),
        3 => world.configure(&[("hardLimit", "zero")]),
        4 => world.configure(&[("paused", "true")]),
        _ => world.configure(&[("noChangeThreshold", "1"), ("sameErrorThreshold", "2")]),
    }
}

/// The operator is uninstalled: the claim is marked, then the finalizers go.
fn uninstall(world: &mut World) {
    let Some(status) = &mut world.task.status else { return };
    if let Some(active) = &mut status.active {
        active.orphaned = true;
    }
    for pod in &mut world.pods {
        pod.metadata.finalizers = None;
    }
    if world.active().is_some() && !world.has_pod() {
        world.note_charge(true);
    }
}

/// After the last fault, the task comes to an end by itself.
fn recover(world: &mut World) {
    world.refusal = None;
    world.configure(&[]);
    world.edit(&json!({ "suspend": false }));
    for _ in 0..200 {
        world.go();
        world.kubelets_obey();
        world.go();
        match world.phase() {
            Phase::Succeeded | Phase::Failed | Phase::CircuitOpen | Phase::IterationLimitReached => return,
            Phase::Waiting if world.active().is_none() => {
                let held = world.held_for();
                world.pass(held);
            }
            _ if world.has_pod() && kubelet::has_ended_agent(world.pod()) => {
                kubelet::end_sidecars(world.pod());
            }
            _ if world.has_pod() => world.end(&worked()),
            _ => world.pass(400),
        }
    }
    panic!("the loop does not come to an end: {:?}", world.status());
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
        let mut world = World::new(&json!({ "maxIterations": limit, "podHistoryLimit": 3 }));
        for event in &events {
            happen(&mut world, event);
        }
        recover(&mut world);
        // Then nothing more is written.
        let writes = world.writes;
        world.pass(30 * 24 * 3600);
        world.restart();
        world.go();
        prop_assert_eq!(world.writes, writes, "{}", Invariant::L2);
        prop_assert!(world.pods.len() <= 3 + usize::from(world.status().active.is_some()));
    }

    #[test]
    fn deciding_again_on_what_was_just_done_does_nothing(
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut world = World::new(&json!({}));
        for event in &events {
            happen(&mut world, event);
            // Comes to rest within a few turns, or panics; and then stays at rest.
            world.go();
            prop_assert!(!world.turn());
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_status_stays_small_whatever_agents_say(
        fill in prop_oneof![Just("\""), Just("\\"), Just("𝕏"), Just("\u{1}"), Just("é"), Just("\u{2028}"), Just("<")],
        token in "[\"\\\\𝕏<]{253}",
        words in prop_oneof![Just("𝕏"), Just("\""), Just("&")],
    ) {
        let mut world = World::new(&json!({
            "maxIterations": 60, "breaker": { "noChangeThreshold": 10_000, "sameErrorThreshold": 10_000 },
            "resetToken": token,
        }));
        world.task.metadata.name = Some("n".repeat(63));
        world.task.metadata.namespace = Some("s".repeat(63));
        for number in 0..50 {
            world.iterate(&long_report(fill, number));
        }
        prop_assert_eq!((world.phase(), world.iterations()), (Phase::IterationLimitReached, 50));
        world.configure(&[("hardLimit", "60")]);
        world.refusal = Some(Obstacle { reason: WaitReason::PodRejected, message: words.repeat(2000) });
        world.edit(&json!({ "maxIterations": 61 }));
        world.go();
        prop_assert_eq!(world.phase(), Phase::Waiting);
    }
}
