//! The obstacle that keeps a pod from starting its agent.

use agentloop_contract::names::GATE_START;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::{Obstacle, condition};
use crate::{api::WaitReason, pod::waits_for_the_runners_image};

/// The beginning of the message if the runner's image cannot be pulled, which no change of the template can fix.
pub(crate) const RUNNERS_IMAGE: &str = "the runner's image, for ";

/// The kubelet's reasons for a container that waits because of its image.
const IMAGE_REASONS: &[&str] = &[
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];

/// The kubelet's reasons for a container that it cannot create and tries again.
const CREATE_REASONS: &[&str] = &[
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "PreCreateHookError",
    "PreStartHookError",
];

pub(super) fn obstacle(pod: &Pod, status: &PodStatus) -> Option<Obstacle> {
    let scheduled = condition(status, "PodScheduled").filter(|condition| condition.status == "False");
    if let Some(condition) = scheduled {
        let message = condition.message.clone().unwrap_or_default();
        return match condition.reason.as_deref() {
            Some("SchedulingGated") => {
                let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_deref()).unwrap_or_default();
                let others: Vec<&str> =
                    gates.iter().map(|gate| gate.name.as_str()).filter(|name| *name != GATE_START).collect();
                (!others.is_empty())
                    .then(|| Obstacle { reason: WaitReason::SchedulingGated, message: others.join(", ") })
            }
            Some(_) if message.to_lowercase().contains("persistentvolumeclaim") => {
                Some(Obstacle { reason: WaitReason::VolumePending, message })
            }
            Some(_) => Some(Obstacle { reason: WaitReason::Unschedulable, message }),
            None => None,
        };
    }
    if let Some(failing) = failing_sidecar(pod, status) {
        return Some(failing);
    }
    let containers =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in containers {
        let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) else {
            continue;
        };
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.as_deref().unwrap_or(reason);
        if IMAGE_REASONS.contains(&reason) {
            let name = container.name.as_str();
            let whose = if waits_for_the_runners_image(pod, name, message) { RUNNERS_IMAGE } else { "" };
            let message = format!("{whose}container {name}: {message}");
            return Some(Obstacle { reason: WaitReason::ImagePullFailed, message });
        }
        if CREATE_REASONS.contains(&reason) {
            let message = format!("container {}: {reason}: {message}", container.name);
            return Some(Obstacle { reason: WaitReason::StartFailed, message });
        }
    }
    None
}

/// The status of each sidecar: an init container that keeps running beside the agent. The agent starts only when all of
/// them have started.
fn sidecars<'a>(pod: &'a Pod, status: &'a PodStatus) -> impl Iterator<Item = &'a ContainerStatus> {
    let all = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let is_sidecar =
        |name: &str| all.iter().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"));
    status.init_container_statuses.iter().flatten().filter(move |container| is_sidecar(&container.name))
}

/// A sidecar that restarts and has never started successfully.
fn failing_sidecar(pod: &Pod, status: &PodStatus) -> Option<Obstacle> {
    let failing = sidecars(pod, status)
        .find(|container| container.restart_count > 0 && container.started != Some(true))?;
    let state = failing.state.as_ref();
    let waits = state.and_then(|state| state.waiting.as_ref());
    let reason = waits.and_then(|waiting| waiting.reason.as_deref());
    let message = waits.and_then(|waiting| waiting.message.as_deref());
    let why = [reason, message].into_iter().flatten().collect::<Vec<_>>().join(": ");
    let why = if why.is_empty() { "it does not start".to_owned() } else { why };
    let count = failing.restart_count;
    let message = format!("sidecar {}: {why} (restarts: {count})", failing.name);
    Some(Obstacle { reason: WaitReason::StartFailed, message })
}

/// A sidecar that is running but has not passed its startup probe, and since when it is running.
pub(super) fn slow_sidecar(pod: &Pod) -> Option<(Timestamp, Obstacle)> {
    let status = pod.status.as_ref()?;
    sidecars(pod, status).filter(|container| container.started != Some(true)).find_map(|container| {
        let since = container.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0;
        let message = format!("sidecar {} is running, but has not passed its startupProbe", container.name);
        Some((since, Obstacle { reason: WaitReason::StartFailed, message }))
    })
}

/// The obstacle that a pod's Events report. The status does not report all of them: if a volume cannot be mounted, it
/// only says `ContainerCreating`.
pub fn obstacle_from_events<'a>(
    events: impl IntoIterator<Item = (&'a str, &'a str)>,
    input_volume: &str,
) -> Option<Obstacle> {
    events.into_iter().find_map(|(reason, message)| {
        let reason = match reason {
            "FailedMount" if message.contains(&format!("\"{input_volume}\"")) => WaitReason::PromptMissing,
            "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => WaitReason::VolumePending,
            "FailedCreatePodSandBox" => WaitReason::StartFailed,
            _ => return None,
        };
        Some(Obstacle { reason, message: message.to_owned() })
    })
}
