//! A namespace for one test, on the cluster under test.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use agentloop_core::api::AgentTask;
use agentloop_operator::client::Clients;
use agentloop_operator::metrics::Metrics;
use agentloop_operator::write::Writer;
use agentloop_test_support::eventually as support;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Config, ResourceExt};
use serde_json::{Value, json};
use tokio::time;

/// The longest wait for anything.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub struct TestNamespace {
    pub clients: Clients,
    pub writer: Writer,
    pub name: String,
}

pub fn kubeconfig_path() -> PathBuf {
    match std::env::var_os("AGENTLOOP_TEST_KUBECONFIG").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => panic!(
            "AGENTLOOP_TEST_KUBECONFIG is not set: it names the cluster to test on, \
             for example AGENTLOOP_TEST_KUBECONFIG=$(hack/cluster up --api-only)"
        ),
    }
}

pub async fn config() -> Config {
    let kubeconfig = Kubeconfig::read_from(kubeconfig_path()).expect("AGENTLOOP_TEST_KUBECONFIG is readable");
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("a usable kubeconfig")
}

impl TestNamespace {
    pub async fn new() -> Self {
        let clients = Clients::from_config(config().await).expect("clients");
        let namespaces: Api<Namespace> = Api::all(clients.read.clone());
        let wanted = object(json!({ "metadata": { "generateName": "operator-" } }));
        let created = namespaces.create(&PostParams::default(), &wanted).await.expect("a namespace");
        let writer = Writer::new(clients.write.clone(), Metrics::new());
        Self { clients, writer, name: created.name_any() }
    }

    /// With the CRD, as the code defines it.
    pub async fn with_tasks() -> Self {
        let ns = Self::new().await;
        let api: Api<CustomResourceDefinition> = Api::all(ns.clients.read.clone());
        let crd = agentloop_core::api::crd();
        let params = PatchParams::apply("agentloop-test").force();
        api.patch(&crd.name_any(), &params, &Patch::Apply(&crd)).await.expect("the CRD is accepted");
        let name = crd.name_any();
        let established = await_condition(api, &name, conditions::is_crd_established());
        time::timeout(PATIENCE, established).await.expect("the CRD is established").expect("a watch");
        ns
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.clients.read.clone(), &self.name)
    }

    /// A pod that stays Pending, because the cluster has no scheduler.
    pub async fn pod(&self, metadata: Value, gates: &[&str]) -> Pod {
        let gates: Vec<Value> = gates.iter().map(|name| json!({ "name": name })).collect();
        let pod = object(json!({
            "metadata": metadata,
            "spec": { "schedulingGates": gates, "containers": [{ "name": "agent", "image": "none" }] },
        }));
        self.api::<Pod>().create(&PostParams::default(), &pod).await.expect("a pod")
    }

    pub async fn task(&self, name: &str, status: Value) -> AgentTask {
        let task = object(json!({
            "metadata": { "name": name },
            "spec": { "template": { "spec": { "containers": [
                { "name": "agent", "image": "none", "command": ["/bin/agent"] },
            ] } } },
        }));
        let api = self.api::<AgentTask>();
        let created = api.create(&PostParams::default(), &task).await.expect("a task");
        if status.is_null() {
            return created;
        }
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(name, &PatchParams::default(), &patch).await.expect("a status")
    }

    /// Removes the namespace. That of a failed test stays for inspection.
    pub async fn end(self) {
        let namespaces: Api<Namespace> = Api::all(self.clients.read.clone());
        let _ = namespaces.delete(&self.name, &DeleteParams::default()).await;
    }
}

pub fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    // Some fields are required by the types although they are optional in the API, such as the spec of a namespace.
    serde_json::from_value(value).expect("an object of this kind")
}

pub fn uid(object: &impl ResourceExt) -> String {
    object.uid().expect("a uid")
}

/// Calls `check` until it returns something.
pub async fn eventually<T, F>(what: &str, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let found = support::eventually(PATIENCE, what, || {
        let check = Box::pin(check());
        async move { check.await.ok_or("nothing") }
    });
    found.await.unwrap_or_else(|error| panic!("{error}"))
}
