//! Which runner a pod was created with, and whether the runner keeps it from starting.

use agentloop_contract::names::RUNNER_FILE;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{BIN_VOLUME, Injection, digest, install};
use crate::{api::WaitReason, facts::Obstacle};

const IMAGE_VOLUME: &str = "image-volume";
const INIT_CONTAINER: &str = "init-container";

impl Injection {
    /// The value of a pod's annotation about this injection: a hash of image and pull policy, and the method.
    pub fn mark(&self) -> String {
        format!("{}/{}", self.image_hash(), self.method())
    }

    /// Whether a pod with this mark was created with another image or pull policy. False if the mark is absent or
    /// cannot be read, because then an operator of another version created the pod.
    pub fn has_another_image(&self, mark: Option<&str>) -> bool {
        parsed(mark).is_some_and(|(hash, _)| hash != self.image_hash())
    }

    /// Whether a pod with this mark was created with another method.
    pub fn has_another_method(&self, mark: Option<&str>) -> bool {
        parsed(mark).is_some_and(|(_, method)| method != self.method())
    }

    /// Whether the runner is the cause of the obstacle: its image, its volume or its container.
    pub fn is_cause_of(&self, obstacle: &Obstacle) -> bool {
        let message = &obstacle.message;
        let is_runners = (!self.image.is_empty() && message.contains(&self.image))
            || [BIN_VOLUME, install::NAME, RUNNER_FILE].iter().any(|name| message.contains(name));
        match obstacle.reason {
            WaitReason::ImagePullFailed | WaitReason::VolumePending => is_runners,
            // A runtime without image volumes fails to create the container, with a message that names no volume.
            WaitReason::StartFailed => {
                is_runners
                    || ["CreateContainerError", "RunContainerError"].iter().any(|r| message.contains(r))
            }
            _ => false,
        }
    }

    fn image_hash(&self) -> String {
        digest(json!([self.image, self.pull_policy]).to_string().as_bytes(), 8)
    }

    fn method(&self) -> &'static str {
        if self.image_volume { IMAGE_VOLUME } else { INIT_CONTAINER }
    }
}

/// Whether this container waits for the runner's image, according to the kubelet's message: the image of the init
/// container that copies the runner, or of the volume with the runner. If the kubelet cannot pull the image of a
/// volume, it reports that for the container that mounts the volume, as if it were the container's own image.
pub(crate) fn waits_for_the_runners_image(pod: &Pod, container: &str, message: &str) -> bool {
    let spec = pod.spec.as_ref();
    let volume = spec.and_then(|spec| spec.volumes.iter().flatten().find(|volume| volume.name == BIN_VOLUME));
    let Some(image) = volume.and_then(|volume| volume.image.as_ref()) else {
        return container == install::NAME;
    };
    let Some(runners) = image.reference.as_deref().filter(|image| !image.is_empty()) else { return false };
    let containers = spec.iter().flat_map(|spec| {
        spec.init_containers.iter().flatten().chain(&spec.containers).filter(|c| c.name == container)
    });
    let own = containers.filter_map(|c| c.image.as_deref()).find(|own| message.contains(*own));
    // The name of the container's own image may contain the name of the runner's image.
    message.contains(runners) && !own.is_some_and(|own| own.contains(runners))
}

/// Hash and method in a mark, if it has the format of this version.
fn parsed(mark: Option<&str>) -> Option<(&str, &str)> {
    let (hash, method) = mark?.split_once('/')?;
    let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hash && [IMAGE_VOLUME, INIT_CONTAINER].contains(&method)).then_some((hash, method))
}
