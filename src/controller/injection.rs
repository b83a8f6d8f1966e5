//! How the runner gets into pods: with an image volume if the cluster supports them, otherwise with an init container.

use std::sync::Arc;
use std::time::Duration;

use agentloop_core::pod::Injection;
use futures::Stream;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, ListParams, NotUsed, Object};
use kube::{Api, Client};
use serde::Deserialize;
use tokio::sync::watch;
use tracing::{debug, info};

use crate::cli::{RunnerArgs, RunnerInjection};
use crate::client::{READ_TIMEOUT, RequestError, with_timeout};

/// The first minor version of Kubernetes 1 in which image volumes are on by default (KEP-4639).
const FIRST_MINOR: u32 = 35;
/// The first versions of the container runtimes that mount them.
const FIRST_RUNTIMES: &[(&str, (u32, u32))] = &[("containerd", (2, 1)), ("cri-o", (1, 31))];

/// How often `auto` checks the nodes. Up to a quarter is added, so that several releases do not list nodes in step.
pub(crate) const NODE_CHECK_INTERVAL: Duration = Duration::from_mins(5);
/// Nodes in one page.
const PAGE: u32 = 100;
/// Most pages that are read: more nodes than Kubernetes supports.
const MAX_PAGES: usize = 1000;

/// The injection in use. Reconciles read it; only `auto` changes it.
pub(super) struct Chosen {
    is_auto: bool,
    now: watch::Sender<Arc<Injection>>,
}

impl Chosen {
    /// Chooses. If server and nodes cannot be checked, it is an init container, which works everywhere.
    pub(super) async fn new(client: &Client, args: &RunnerArgs) -> Self {
        let image_volume = match args.injection {
            RunnerInjection::ImageVolume => true,
            RunnerInjection::InitContainer => false,
            RunnerInjection::Auto => has_image_volumes(client).await.unwrap_or_else(|error| {
                info!(%error, "cannot check server and nodes for image volumes; using an init container");
                false
            }),
        };
        info!(image = args.image, image_volume, "chose how the runner gets into pods");
        let injection = Injection {
            image: args.image.clone(),
            pull_policy: args.pull_policy.as_str().map(str::to_owned),
            image_volume,
            resources: args.resources.clone().map(|json| json.0),
            security_context: args.security_context.clone().map(|json| json.0),
        };
        let is_auto = args.injection == RunnerInjection::Auto;
        Self { is_auto, now: watch::Sender::new(Arc::new(injection)) }
    }

    pub(super) fn get(&self) -> Arc<Injection> {
        self.now.borrow().clone()
    }

    /// A signal for each change.
    pub(super) fn changes(&self) -> impl Stream<Item = ()> + Send + 'static {
        futures::stream::unfold(self.now.subscribe(), |mut now| async move {
            now.changed().await.ok()?;
            Some(((), now))
        })
    }

    /// Chooses again as nodes come and go. If they cannot be checked, the choice stays as it is.
    pub(super) async fn follow(&self, client: &Client, every: Duration) {
        if !self.is_auto {
            return;
        }
        loop {
            tokio::time::sleep(every.mul_f64(1.0 + fastrand::f64() / 4.0)).await;
            match has_image_volumes(client).await {
                Ok(image_volume) => self.take(image_volume),
                Err(error) => {
                    debug!(%error, "cannot check nodes for image volumes; keeping the current choice");
                }
            }
        }
    }

    fn take(&self, image_volume: bool) {
        self.now.send_if_modified(|now| {
            if now.image_volume == image_volume {
                return false;
            }
            *now = Arc::new(Injection { image_volume, ..now.as_ref().clone() });
            info!(image_volume, "server or nodes have changed: changed how the runner gets into pods");
            true
        });
    }
}

/// Whether the server and all nodes support image volumes.
async fn has_image_volumes(client: &Client) -> Result<bool, RequestError> {
    let version = with_timeout(READ_TIMEOUT, client.apiserver_version()).await?;
    let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    if minor.parse::<u32>().unwrap_or(0) < FIRST_MINOR {
        return Ok(false);
    }
    let nodes: Api<SlimNode> = Api::all_with(client.clone(), &ApiResource::erase::<Node>(&()));
    let mut page = ListParams::default().limit(PAGE);
    let mut some = false;
    for _ in 0..MAX_PAGES {
        let list = with_timeout(READ_TIMEOUT, nodes.list(&page)).await?;
        for node in &list.items {
            let info = node.status.as_ref().map(|status| &status.node_info);
            if !info.is_some_and(SlimInfo::has_image_volumes) {
                return Ok(false);
            }
            some = true;
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(some),
        }
    }
    Ok(false)
}

/// The part of a node that is used here. A node's list of images may be long.
type SlimNode = Object<NotUsed, SlimStatus>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimStatus {
    node_info: SlimInfo,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimInfo {
    kubelet_version: String,
    container_runtime_version: String,
}

impl SlimInfo {
    fn has_image_volumes(&self) -> bool {
        offers_image_volumes(&self.kubelet_version) && mounts_images(&self.container_runtime_version)
    }
}

/// Whether a kubelet such as `v1.35.1` has image volumes on by default. During an upgrade the server is newer than its
/// nodes.
fn offers_image_volumes(kubelet: &str) -> bool {
    let mut numbers =
        kubelet.trim_start_matches('v').split(['.', '-', '+']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (1, FIRST_MINOR)
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
    use super::{mounts_images, offers_image_volumes};

    #[test]
    fn a_kubelet_has_image_volumes_since_1_35() {
        for new in ["v1.35.0", "1.36.2", "v1.35.1-eks-5d632ec", "v1.35.0+k3s1", "v2.0.0"] {
            assert!(offers_image_volumes(new), "{new}");
        }
        for old in ["v1.34.9", "v1.33.0+k3s1", "v1.4.0", "", "x", "v1"] {
            assert!(!offers_image_volumes(old), "{old}");
        }
    }

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
