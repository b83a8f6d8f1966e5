//! What keeps a pod from starting, and which pods must not start at all.

use crate::support::merge;
use agentloop_core::{
    api::WaitReason,
    facts::{PodFacts, PodState, obstacle_from_events},
    pod::INPUT_VOLUME,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

fn pod(more: &Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": "x-0a1b2c3d-1-0" },
        "spec": { "restartPolicy": "Never", "containers": [
            { "name": "agent", "image": "a", "command": ["/agentloop/bin/agentloop-runner", "run", "--", "x"] },
        ] },
        "status": { "phase": "Pending" },
    });
    merge(&mut pod, more);
    serde_json::from_value(pod).unwrap()
}

fn unscheduled(reason: &str, message: &str) -> Value {
    json!({ "status": { "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": reason, "message": message },
    ] } })
}

fn container_waits(list: &str, reason: &str, message: &str) -> Value {
    json!({ "spec": { "nodeName": "n" }, "status": { list: [{
        "name": "agent", "image": "example/agent:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": reason, "message": message } },
    }] } })
}

fn obstacle(more: &Value) -> Option<(WaitReason, String)> {
    match PodFacts::of(&pod(more)).state {
        PodState::Starting(obstacle) => obstacle.map(|o| (o.reason, o.message)),
        other => panic!("{other:?} has started"),
    }
}

#[test]
fn a_pod_without_a_status_has_no_obstacle_yet() {
    assert_eq!(obstacle(&json!({})), None);
    assert_eq!(obstacle(&json!({ "status": null })), None);
    assert_eq!(obstacle(&container_waits("containerStatuses", "ContainerCreating", "")), None);
}

#[test]
fn the_schedulers_message_is_passed_on() {
    let words = "0/3 nodes are available: 3 Insufficient cpu.";
    assert_eq!(
        obstacle(&unscheduled("Unschedulable", words)),
        Some((WaitReason::Unschedulable, words.into()))
    );
    let words = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    assert_eq!(
        obstacle(&unscheduled("Unschedulable", words)),
        Some((WaitReason::VolumePending, words.into()))
    );
}

#[test]
fn only_scheduling_gates_of_others_are_an_obstacle() {
    let gates = |names: &[&str]| {
        let gates: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        let mut pod =
            unscheduled("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates");
        merge(&mut pod, &json!({ "spec": { "schedulingGates": gates } }));
        obstacle(&pod)
    };
    assert_eq!(gates(&["agentloop.dev/start"]), None);
    let queue = Some((WaitReason::SchedulingGated, "kueue.x-k8s.io/admission".to_owned()));
    assert_eq!(gates(&["agentloop.dev/start", "kueue.x-k8s.io/admission"]), queue);
    assert_eq!(gates(&["kueue.x-k8s.io/admission"]), queue);
}

#[test]
fn an_image_that_cannot_be_pulled_is_named_with_its_container() {
    for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"] {
        for list in ["containerStatuses", "initContainerStatuses"] {
            let (reason, message) = obstacle(&container_waits(list, reason, "not found")).unwrap();
            assert_eq!(reason, WaitReason::ImagePullFailed);
            assert_eq!(message, "container agent: not found");
        }
    }
}

/// The message for a pod with these volumes, one of whose containers waits for an image with this message.
fn image_waits(volumes: &Value, list: &str, container: &str, words: &str) -> String {
    let mut waits = container_waits(list, "ImagePullBackOff", words);
    waits["status"][list][0]["name"] = json!(container);
    let containers = json!([{ "name": container, "image": "example/agent:1" }]);
    let own = if list == "containerStatuses" { "containers" } else { "initContainers" };
    merge(&mut waits, &json!({ "spec": { "volumes": volumes, own: containers } }));
    let (reason, message) = obstacle(&waits).unwrap();
    assert_eq!(reason, WaitReason::ImagePullFailed);
    message
}

#[test]
fn the_runners_image_is_distinguished_from_the_templates_whichever_way_it_is_injected() {
    let copied = json!([{ "name": "agentloop-bin", "emptyDir": {} }]);
    let words = "Back-off pulling image \"example/runner:1\"";
    assert_eq!(
        image_waits(&copied, "initContainerStatuses", "agentloop-install", words),
        format!("the runner's image, for container agentloop-install: {words}")
    );
    for name in ["agent", "clone"] {
        let list = if name == "agent" { "containerStatuses" } else { "initContainerStatuses" };
        assert_eq!(image_waits(&copied, list, name, words), format!("container {name}: {words}"));
    }

    let mounted = |image: &str| json!([{ "name": "agentloop-bin", "image": { "reference": image } }]);
    let of_agent =
        |image: &str, words: &str| image_waits(&mounted(image), "containerStatuses", "agent", words);
    assert_eq!(
        of_agent("example/runner:1", words),
        format!("the runner's image, for container agent: {words}")
    );
    let own = "Back-off pulling image \"example/agent:1\"";
    assert_eq!(of_agent("example/runner:1", own), format!("container agent: {own}"));
    assert_eq!(of_agent("agent:1", own), format!("container agent: {own}"), "a part of the agent's name");
    assert_eq!(of_agent("", own), format!("container agent: {own}"));
}

#[test]
fn a_container_that_cannot_be_created_is_a_failed_start() {
    let waits =
        container_waits("containerStatuses", "CreateContainerConfigError", "secret \"key\" not found");
    let (reason, message) = obstacle(&waits).unwrap();
    assert_eq!(reason, WaitReason::StartFailed);
    assert_eq!(message, "container agent: CreateContainerConfigError: secret \"key\" not found");
}

#[test]
fn events_distinguish_a_missing_prompt_from_a_missing_volume() {
    let prompt =
        format!("MountVolume.SetUp failed for volume \"{INPUT_VOLUME}\" : references non-existent key");
    let found =
        obstacle_from_events([("Pulled", "ok"), ("FailedMount", prompt.as_str())], INPUT_VOLUME).unwrap();
    assert_eq!((found.reason, found.message), (WaitReason::PromptMissing, prompt));
    let other = "MountVolume.SetUp failed for volume \"data\" : not found";
    let found = obstacle_from_events([("FailedMount", other)], INPUT_VOLUME).unwrap();
    assert_eq!(found.reason, WaitReason::VolumePending);
    for (event, reason) in [
        ("FailedAttachVolume", WaitReason::VolumePending),
        ("FailedMapVolume", WaitReason::VolumePending),
        ("FailedCreatePodSandBox", WaitReason::StartFailed),
    ] {
        assert_eq!(obstacle_from_events([(event, "why")], INPUT_VOLUME).unwrap().reason, reason);
    }
    assert_eq!(obstacle_from_events([("Scheduled", "ok")], INPUT_VOLUME), None);
}

#[test]
fn a_pod_that_webhooks_could_make_run_twice_is_rejected() {
    let rejected = |more: &Value| PodFacts::of(&pod(more)).rejected;
    assert_eq!(rejected(&json!({})), None);
    let containers = |list: &str, container: &Value| {
        let mut agent = json!({
            "name": "agent", "command": ["/agentloop/bin/agentloop-runner", "run", "--", "x"],
        });
        if list == "agent" {
            merge(&mut agent, container);
            return json!({ "spec": { "containers": [agent] } });
        }
        let mut other = json!({ "name": "other", "image": "o" });
        merge(&mut other, container);
        if list == "containers" {
            json!({ "spec": { "containers": [agent, other] } })
        } else {
            json!({ "spec": { "containers": [agent], "initContainers": [other] } })
        }
    };
    let rule = |action: &str| json!({ "restartPolicyRules": [{ "action": action, "exitCodes": { "operator": "In", "values": [1] } }] });
    assert!(rejected(&json!({ "spec": { "restartPolicy": "Always" } })).is_some());
    assert!(rejected(&containers("agent", &json!({ "command": ["/vault/env"] }))).is_some());
    assert!(rejected(&containers("agent", &json!({ "restartPolicy": "OnFailure" }))).is_some());
    assert!(rejected(&containers("agent", &rule("Restart"))).is_some());
    assert!(rejected(&containers("containers", &rule("RestartAllContainers"))).is_some());
    assert!(rejected(&containers("initContainers", &rule("RestartAllContainers"))).is_some());
    assert_eq!(rejected(&containers("agent", &json!({ "restartPolicy": "Never" }))), None);
    assert_eq!(
        rejected(&containers("initContainers", &json!({ "restartPolicy": "Always" }))),
        None,
        "a sidecar"
    );
    assert_eq!(rejected(&containers("containers", &rule("Restart"))), None, "others may restart alone");
}
