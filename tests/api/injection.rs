//! How the runner gets into pods: a pod that waits for another runner is replaced, and `auto` follows the nodes.

use std::time::Duration;

use agentloop_core::api::AgentTaskStatus;
use agentloop_operator::cli::RunnerInjection;
use agentloop_operator::controller::Setup;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::{Body, ClientBuilder};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tower::util::MapRequestLayer;

use crate::kubelet::{TestOperator, bind, set_status};
use crate::namespace::{TestNamespace, config, eventually, object};

/// The label of a test's own nodes.
const LABEL: &str = "agentloop.dev/test";

/// With short retries, so that a test need not wait for the default delay.
async fn ns() -> TestNamespace {
    let ns = TestNamespace::with_tasks().await;
    ns.configure(json!({ "startRetryMinSeconds": "1", "startRetryMaxSeconds": "1" })).await;
    ns
}

/// A runner with this image, copied by an init container.
fn of_image(image: &str) -> impl FnOnce(&mut Setup) {
    |setup| {
        image.clone_into(&mut setup.runner.image);
        setup.runner.injection = RunnerInjection::InitContainer;
    }
}

/// The pod of the active iteration. The kubelet cannot pull its runner: the image of the init container or the volume.
async fn stuck(ns: &TestNamespace, task: &str) -> Pod {
    let pod = ns.started_pod(task).await;
    let pods = ns.api::<Pod>();
    bind(&pods, &pod.name_any()).await;
    let container = |name: &str, state: Value| json!({ "name": name, "image": "none", "imageID": "", "ready": false, "restartCount": 0, "state": state });
    let image = runner_image(&pod);
    let pulls = json!({ "waiting": { "reason": "ImagePullBackOff", "message": format!("Back-off pulling image \"{image}\"") } });
    let status = if is_volume(&pod) {
        json!({ "phase": "Pending", "containerStatuses": [container("agent", pulls)] })
    } else {
        json!({
            "phase": "Pending",
            "initContainerStatuses": [container("agentloop-install", pulls)],
            "containerStatuses": [container("agent", json!({ "waiting": { "reason": "PodInitializing" } }))],
        })
    };
    set_status(&pods, &pod.name_any(), status).await;
    pod
}

/// Waits until the pod is being deleted, and ends it before it has started, as a kubelet does.
async fn is_replaced(ns: &TestNamespace, task: &str, pod: &Pod) -> AgentTaskStatus {
    let (pods, name) = (ns.api::<Pod>(), pod.name_any());
    eventually("the pod is being deleted", || async {
        pods.get_opt(&name).await.expect("an answer")?.metadata.deletion_timestamp
    })
    .await;
    set_status(&pods, &name, json!({ "phase": "Failed" })).await;
    ns.force_delete(&name).await;
    let is_next = |s: &AgentTaskStatus| s.active.as_ref().is_some_and(|active| active.pod_name != name);
    ns.until(task, "the next attempt", is_next).await
}

fn which(status: &AgentTaskStatus) -> Option<(i32, i32)> {
    status.active.as_ref().map(|active| (active.iteration, active.attempt))
}

/// The image of the runner's volume or init container, of which there is exactly one.
fn runner_image(pod: &Pod) -> String {
    let spec = pod.spec.as_ref().expect("a spec");
    let install =
        spec.init_containers.iter().flatten().find(|container| container.name == "agentloop-install");
    let volume = spec.volumes.iter().flatten().find_map(|volume| volume.image.as_ref());
    match (install, volume) {
        (Some(install), None) => install.image.clone().expect("an image"),
        (None, Some(volume)) => volume.reference.clone().expect("an image"),
        (install, volume) => panic!("{install:?} and {volume:?}"),
    }
}

fn is_volume(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| volume.image.is_some())
}

#[tokio::test]
async fn a_pod_that_waits_for_a_wrong_runner_image_is_replaced_by_the_next_operator_and_not_charged() {
    let ns = ns().await;
    let first = TestOperator::set_up(&ns, of_image("example/mistyped:1"));
    ns.create("waits", json!({})).await;
    let pod = stuck(&ns, "waits").await;
    assert_eq!(runner_image(&pod), "example/mistyped:1");
    let status =
        ns.until("waits", "ImagePullFailed", |s| s.reason.as_deref() == Some("ImagePullFailed")).await;
    let message = status.message.expect("a message");
    assert!(message.ends_with("or with another runner.image in the operator's Helm values"), "{message}");
    first.kill();

    let _second = TestOperator::set_up(&ns, of_image("example/runner:1"));
    let status = is_replaced(&ns, "waits", &pod).await;
    assert_eq!((status.iterations, which(&status)), (0, Some((1, 1))));
    assert_eq!(runner_image(&ns.started_pod("waits").await), "example/runner:1");
    ns.end().await;
}

/// Nodes that only the operator of this test lists, because nodes belong to the whole cluster.
struct Nodes {
    api: Api<Node>,
    label: String,
}

impl Nodes {
    fn of(ns: &TestNamespace) -> Self {
        Self { api: Api::all(ns.clients.read.clone()), label: ns.name.clone() }
    }

    /// A client that lists only these nodes, even if all are requested.
    async fn client(&self) -> Client {
        let selector = format!("&labelSelector={LABEL}%3D{}", self.label);
        let narrow = MapRequestLayer::new(move |mut request: http::Request<Body>| {
            if request.uri().path() == "/api/v1/nodes" {
                let narrowed = format!("{}{selector}", request.uri());
                *request.uri_mut() = narrowed.parse().expect("a URI");
            }
            request
        });
        ClientBuilder::try_from(config().await).expect("a client").with_layer(&narrow).build()
    }

    /// Adds a node, as a kubelet of this version registers it.
    async fn add(&self, name: &str, kubelet: &str) {
        let name = format!("{}-{name}", self.label);
        let node = object(json!({ "metadata": { "name": name, "labels": { LABEL: self.label } } }));
        self.api.create(&PostParams::default(), &node).await.expect("a node");
        let status = json!({ "status": {
            "capacity": { "cpu": "2", "memory": "4Gi", "pods": "110" },
            "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "110" },
            "addresses": [{ "type": "Hostname", "address": name }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": 10250 } },
            "images": [{ "names": ["example/agent:1"], "sizeBytes": 1000 }],
            "nodeInfo": {
                "machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6.1.0",
                "osImage": "Debian GNU/Linux 12", "containerRuntimeVersion": "containerd://2.1.4",
                "kubeletVersion": kubelet, "kubeProxyVersion": "", "operatingSystem": "linux",
                "architecture": "amd64",
            },
        } });
        self.set(&name, &status).await;
    }

    /// Sets the version of the node's kubelet.
    async fn upgrade(&self, name: &str, kubelet: &str) {
        let name = format!("{}-{name}", self.label);
        self.set(&name, &json!({ "status": { "nodeInfo": { "kubeletVersion": kubelet } } })).await;
    }

    async fn set(&self, name: &str, status: &Value) {
        let params = PatchParams::default();
        self.api.patch_status(name, &params, &Patch::Merge(status)).await.expect("the status is accepted");
    }

    async fn end(self) {
        let own = ListParams::default().labels(&format!("{LABEL}={}", self.label));
        drop(self.api.delete_collection(&DeleteParams::default(), &own).await);
    }
}

#[tokio::test]
async fn auto_decides_again_when_nodes_change_and_the_next_pod_uses_the_new_way() {
    let ns = ns().await;
    let nodes = Nodes::of(&ns);
    nodes.add("one", "v1.34.2").await;
    let client = nodes.client().await;
    let _operator = TestOperator::set_up(&ns, |setup| {
        setup.clients.read = client;
        setup.runner.injection = RunnerInjection::Auto;
        setup.node_check_interval = Duration::from_millis(100);
    });
    ns.create("follows", json!({})).await;
    let first = stuck(&ns, "follows").await;
    assert!(!is_volume(&first), "its kubelet does not support image volumes");

    nodes.upgrade("one", "v1.36.0").await;
    let status = is_replaced(&ns, "follows", &first).await;
    assert_eq!((status.iterations, which(&status)), (0, Some((1, 1))));
    let second = stuck(&ns, "follows").await;
    assert!(is_volume(&second), "every kubelet supports image volumes");

    nodes.add("two", "v1.34.2").await;
    let status = is_replaced(&ns, "follows", &second).await;
    assert_eq!((status.iterations, which(&status)), (0, Some((1, 2))));
    assert!(
        !is_volume(&ns.started_pod("follows").await),
        "one of two kubelets does not support image volumes"
    );
    nodes.end().await;
    ns.end().await;
}
