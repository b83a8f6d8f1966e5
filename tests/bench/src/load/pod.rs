//! Pods, as far as the load generator reads them, and the list and watch that bring them.

use agentloop_chaos::server::AdminClient;
use agentloop_contract::names::env;
use anyhow::Result;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api;

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its metadata.
    pub metadata: Metadata,
    spec: Spec,
    status: Status,
}

/// A pod's metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    deletion_timestamp: Option<IgnoredAny>,
    deletion_grace_period_seconds: u32,
    finalizers: Vec<IgnoredAny>,
    owner_references: Vec<Owner>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    scheduling_gates: Vec<IgnoredAny>,
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    env: Vec<Variable>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
}

impl Pod {
    /// The name of the task or Job that it belongs to.
    pub fn owner(&self) -> &str {
        self.metadata.owner_references.first().map_or("", |owner| &owner.name)
    }

    /// Whether it may run: it has no scheduling gate and is not being deleted.
    pub fn may_start(&self) -> bool {
        self.spec.scheduling_gates.is_empty() && !self.is_deleting()
    }

    /// Whether it is on a node.
    pub fn is_bound(&self) -> bool {
        !self.spec.node_name.is_empty()
    }

    /// Whether its status is final.
    pub fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether its deletion has begun.
    pub fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether its deletion waits for the kubelet. The API server itself removes a pod that had ended before, and shows it
    /// with a deletion timestamp for a moment.
    pub fn deletion_waits(&self) -> bool {
        self.is_deleting() && self.metadata.deletion_grace_period_seconds > 0
    }

    /// Whether a controller keeps it from being removed.
    pub fn has_finalizer(&self) -> bool {
        !self.metadata.finalizers.is_empty()
    }

    /// The key that authenticates its report; absent in a Job's pod.
    pub fn report_key(&self) -> Option<&str> {
        let mut variables = self.spec.containers.iter().flat_map(|container| &container.env);
        variables.find(|variable| variable.name == env::REPORT_KEY).map(|variable| variable.value.as_str())
    }
}

/// One line of a watch.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event {
    /// ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
    #[serde(rename = "type")]
    pub kind: String,
    /// The pod; of an error or a bookmark, mostly empty.
    pub object: Pod,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct List {
    metadata: ListMetadata,
    items: Vec<Pod>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// The pods of a namespace, and the version from which a watch continues.
pub async fn list(server: &AdminClient, namespace: &str) -> Result<(Vec<Pod>, String)> {
    let (mut pods, mut next) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/namespaces/{namespace}/pods?limit={PAGE}&continue={next}");
        let page: List = api::read(server, &path).await?;
        pods.extend(page.items);
        next = page.metadata.next.unwrap_or_default();
        if next.is_empty() {
            return Ok((pods, page.metadata.resource_version));
        }
    }
}

/// The path of the watch that continues from `version`.
pub fn watch_path(namespace: &str, version: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods?watch=true&resourceVersion={version}")
}
