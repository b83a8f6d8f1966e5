//! What stands in the way of a pod that has not started its agent.

use agentloop_contract::names::GATE_START;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::{Obstacle, condition};
use crate::api::WaitReason;

/// Reasons for which the kubelet keeps a container waiting because of its image.
const IMAGE_REASONS: &[&str] = &[
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];

/// Reasons for which the kubelet cannot make a container and tries again.
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
        let detail = condition.message.clone().unwrap_or_default();
        return match condition.reason.as_deref() {
            Some("SchedulingGated") => {
                let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_deref()).unwrap_or_default();
                let others: Vec<&str> =
                    gates.iter().map(|gate| gate.name.as_str()).filter(|name| *name != GATE_START).collect();
                (!others.is_empty()).then(|| Obstacle {
                    reason: WaitReason::SchedulingGated,
                    detail: format!("scheduling gate {}", others.join(", ")),
                })
            }
            Some(_) if detail.to_lowercase().contains("persistentvolumeclaim") => {
                Some(Obstacle { reason: WaitReason::VolumePending, detail })
            }
            Some(_) => Some(Obstacle { reason: WaitReason::Unschedulable, detail }),
            None => None,
        };
    }
    let containers =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in containers {
        let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) else {
            continue;
        };
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let told = waiting.message.as_deref().unwrap_or(reason);
        if IMAGE_REASONS.contains(&reason) {
            let detail = format!("container {}: {told}", container.name);
            return Some(Obstacle { reason: WaitReason::ImagePull, detail });
        }
        if CREATE_REASONS.contains(&reason) {
            let detail = format!("container {}: {reason}: {told}", container.name);
            return Some(Obstacle { reason: WaitReason::StartFailed, detail });
        }
    }
    None
}

/// The obstacle that a pod's Events tell, where its status is silent: a volume that cannot be mounted
/// shows as `ContainerCreating` and no more.
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
        Some(Obstacle { reason, detail: message.to_owned() })
    })
}
