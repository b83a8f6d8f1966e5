//! A pod that has not started is made again when the operator has another runner for it.

use crate::support::{World, kubelet};
use agentloop_core::{api::WaitReason, facts::Obstacle, pod::Injection};
use serde_json::json;

const MARK: &str = "agentloop.dev/runner";

/// A world whose first pod waits unstarted, as old as that.
fn waiting(seconds: i64) -> World {
    let mut world = World::new(&json!({}));
    world.go();
    assert_eq!(world.active(), Some((1, 0)));
    world.pass(seconds);
    world
}

fn in_the_way(world: &mut World, reason: WaitReason, message: &str) {
    world.events = Some(Obstacle { reason, message: message.to_owned() });
}

fn mark(world: &mut World, value: &serde_json::Value) {
    kubelet::change(world.pod(), &json!({ "metadata": { "annotations": { MARK: value } } }));
}

#[test]
fn a_waiting_pod_is_replaced_uncharged_when_the_runners_image_or_pull_policy_changes() {
    let image = Injection { image: "example/runner:2".to_owned(), ..crate::support::injection() };
    let policy = Injection { pull_policy: Some("Always".to_owned()), ..crate::support::injection() };
    for other in [image, policy] {
        let mut world = waiting(60);
        world.injection = other.clone();
        world.go();
        assert_eq!((world.iterations(), world.active()), (0, Some((1, 1))), "at once, and uncharged");
        let pod = world.pod();
        assert_eq!(pod.metadata.annotations.as_ref().unwrap()[MARK], other.mark());
    }
}

#[test]
fn a_pod_whose_agent_runs_keeps_its_runner() {
    let mut world = waiting(60);
    world.run();
    world.injection.image = "example/runner:2".to_owned();
    world.injection.image_volume = true;
    world.go();
    assert_eq!(world.active(), Some((1, 0)));
}

#[test]
fn another_way_alone_replaces_no_pod_that_waits_for_something_else() {
    let others = [
        None,
        Some((WaitReason::ImagePullFailed, "container agent: example/agent:1: not found")),
        Some((WaitReason::VolumePending, "MountVolume.SetUp failed for volume \"pvc-1\"")),
        Some((WaitReason::StartFailed, "sidecar proxy: CrashLoopBackOff (restarts: 3)")),
        Some((WaitReason::PromptMissing, "configmap \"goal\" not found")),
        Some((WaitReason::Unschedulable, "0/3 nodes are available")),
    ];
    for other in others {
        let mut world = waiting(60);
        if let Some((reason, message)) = other {
            in_the_way(&mut world, reason, message);
        }
        world.injection.image_volume = true;
        world.go();
        assert_eq!(world.active(), Some((1, 0)), "{other:?}");
    }
}

#[test]
fn another_way_replaces_a_pod_that_cannot_start_because_of_its_own() {
    let because = [
        (WaitReason::ImagePullFailed, "container agentloop-install: back-off pulling"),
        (WaitReason::ImagePullFailed, "container agent: failed to pull \"example/runner:1\""),
        (WaitReason::VolumePending, "unmounted volumes=[agentloop-bin]: no volume plugin matched"),
        (WaitReason::StartFailed, "container agent: CreateContainerError: failed to mkdir \"\""),
        (WaitReason::StartFailed, "container agent: exec /agentloop/bin/agentloop-runner: not found"),
    ];
    for (reason, message) in because {
        let mut world = waiting(60);
        in_the_way(&mut world, reason, message);
        world.go();
        assert_eq!(world.active(), Some((1, 0)), "the same way would help nobody: {message}");
        world.injection.image_volume = true;
        world.go();
        assert_eq!((world.iterations(), world.active()), (0, Some((1, 1))), "{message}");
    }
}

#[test]
fn a_mark_that_is_absent_or_unreadable_replaces_nothing() {
    for value in
        [json!(null), json!(""), json!("x"), json!("0123456789abcdef/by-magic"), json!("12/image-volume")]
    {
        let mut world = waiting(60);
        mark(&mut world, &value);
        world.injection.image = "example/runner:2".to_owned();
        world.go();
        assert_eq!(world.active(), Some((1, 0)), "{value}");
    }
}

#[test]
fn two_operators_in_turn_replace_young_pods_ever_later() {
    let mut world = waiting(0);
    let mut delays = Vec::new();
    for turn in 0..5 {
        world.injection.image = format!("example/runner:{}", if turn % 2 == 0 { 2 } else { 1 });
        world.go();
        assert_eq!((world.iterations(), world.active()), (0, None));
        assert_eq!(world.waits_for(), Some(WaitReason::StartFailed));
        delays.push(world.held_for());
        world.pass(world.held_for());
    }
    assert_eq!(delays, [10, 20, 40, 80, 160]);
}

#[test]
fn a_webhook_that_edits_the_mark_slows_its_own_pods_down() {
    let mut world = waiting(0);
    let mut delays = Vec::new();
    for _ in 0..4 {
        mark(&mut world, &json!("0123456789abcdef/image-volume"));
        world.go();
        delays.push(world.held_for());
        world.pass(world.held_for());
    }
    assert_eq!((world.iterations(), delays), (0, vec![10, 20, 40, 80]));
}
