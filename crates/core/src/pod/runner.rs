//! Which runner a pod was made with, and whether that is why it does not start.

use agentloop_contract::names::RUNNER_FILE;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{BIN_VOLUME, Injection, digest, install};
use crate::{api::WaitReason, facts::Obstacle};

const IMAGE_VOLUME: &str = "image-volume";
const INIT_CONTAINER: &str = "init-container";

impl Injection {
    /// What a pod's annotation says of this injection: a hash of image and pull policy, and the way.
    pub fn mark(&self) -> String {
        format!("{}/{}", self.image_hash(), self.way())
    }

    /// Whether a pod with this mark was made with another image or pull policy. A mark that is absent or
    /// cannot be read shows nothing: an operator of another version made the pod.
    pub fn has_another_image(&self, mark: Option<&str>) -> bool {
        parsed(mark).is_some_and(|(hash, _)| hash != self.image_hash())
    }

    /// Whether a pod with this mark was made in another way.
    pub fn has_another_way(&self, mark: Option<&str>) -> bool {
        parsed(mark).is_some_and(|(_, way)| way != self.way())
    }

    /// Whether the obstacle comes from the runner: from its image, its volume or its container.
    pub fn is_in_the_way(&self, obstacle: &Obstacle) -> bool {
        let message = &obstacle.message;
        let is_runners = (!self.image.is_empty() && message.contains(&self.image))
            || [BIN_VOLUME, install::NAME, RUNNER_FILE].iter().any(|name| message.contains(name));
        match obstacle.reason {
            WaitReason::ImagePullFailed | WaitReason::VolumePending => is_runners,
            // A runtime without image volumes fails to create the container, in words that name no volume.
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

    fn way(&self) -> &'static str {
        if self.image_volume { IMAGE_VOLUME } else { INIT_CONTAINER }
    }
}

/// Whether it is the runner's image that keeps this container waiting, in these words of the kubelet: the image
/// of the init container that copies the runner, or of the volume that holds it. A kubelet that cannot pull a
/// volume's image says so of the container that mounts the volume, as if it were the container's own.
pub(crate) fn waits_for_the_runners_image(pod: &Pod, container: &str, told: &str) -> bool {
    let spec = pod.spec.as_ref();
    let volume = spec.and_then(|spec| spec.volumes.iter().flatten().find(|volume| volume.name == BIN_VOLUME));
    let Some(image) = volume.and_then(|volume| volume.image.as_ref()) else {
        return container == install::NAME;
    };
    let Some(runners) = image.reference.as_deref().filter(|image| !image.is_empty()) else { return false };
    let containers = spec.iter().flat_map(|spec| {
        spec.init_containers.iter().flatten().chain(&spec.containers).filter(|c| c.name == container)
    });
    let own = containers.filter_map(|c| c.image.as_deref()).find(|own| told.contains(*own));
    // The container's own image may have a name that the runner's is a part of.
    told.contains(runners) && !own.is_some_and(|own| own.contains(runners))
}

/// Hash and way of a mark that this version could have written.
fn parsed(mark: Option<&str>) -> Option<(&str, &str)> {
    let (hash, way) = mark?.split_once('/')?;
    let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hash && [IMAGE_VOLUME, INIT_CONTAINER].contains(&way)).then_some((hash, way))
}
