//! How the runner gets into pods: an image volume where the cluster has them, else an init container.

use agentloop_core::pod::Injection;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use tracing::info;

use crate::cli::{RunnerArgs, RunnerInjection};
use crate::client::{READ_TIMEOUT, bounded};

/// The first minor version of Kubernetes 1 that has image volumes switched on by itself (KEP-4639).
const FIRST_SERVER: u32 = 35;
/// The first versions of the runtimes that mount them.
const FIRST_RUNTIMES: &[(&str, (u32, u32))] = &[("containerd", (2, 1)), ("cri-o", (1, 31))];

/// Chooses once, at the start.
pub(super) async fn choose(client: &Client, args: &RunnerArgs) -> Injection {
    let image_volume = match args.injection {
        RunnerInjection::ImageVolume => true,
        RunnerInjection::InitContainer => false,
        RunnerInjection::Auto => has_image_volumes(client).await,
    };
    info!(image = args.image, image_volume, "the runner's way into pods");
    Injection {
        image: args.image.clone(),
        pull_policy: args.pull_policy.as_str().map(str::to_owned),
        image_volume,
        resources: args.resources.clone().map(|json| json.0),
        security_context: args.security_context.clone().map(|json| json.0),
    }
}

/// Whether server and nodes are known to have image volumes. What cannot be asked is not known.
async fn has_image_volumes(client: &Client) -> bool {
    let Ok(version) = bounded(READ_TIMEOUT, client.apiserver_version()).await else { return false };
    let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    if minor.parse::<u32>().unwrap_or(0) < FIRST_SERVER {
        return false;
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let Ok(nodes) = bounded(READ_TIMEOUT, nodes.list(&ListParams::default())).await else { return false };
    let runtime =
        |node: &Node| Some(node.status.as_ref()?.node_info.as_ref()?.container_runtime_version.clone());
    !nodes.items.is_empty() && nodes.iter().all(|node| runtime(node).is_some_and(|name| mounts_images(&name)))
}

/// Whether a runtime such as `containerd://2.1.4` mounts images as volumes.
fn mounts_images(runtime: &str) -> bool {
    let Some((name, version)) = runtime.split_once("://") else { return false };
    let mut numbers =
        version.trim_start_matches('v').split(['.', '-', '+']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    FIRST_RUNTIMES.iter().any(|(known, first)| *known == name && version >= *first)
}

#[cfg(test)]
mod tests {
    use super::mounts_images;

    #[test]
    fn a_runtime_is_known_by_name_and_version() {
        assert!(mounts_images("containerd://2.1.0"));
        assert!(mounts_images("containerd://v2.4.2"));
        assert!(mounts_images("cri-o://1.33.1"));
        for old in ["containerd://1.7.27", "containerd://2.0.5", "cri-o://1.30.0", "docker://28.0", "", "x"] {
            assert!(!mounts_images(old), "{old}");
        }
    }
}
