//! The only node of the local cluster, which a test may stop, drain or declare dead.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cluster::{Cluster, ProgramOutput};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The node. All tests share it, so a test that uses it must run alone, and repair it afterwards.
pub struct Node {
    cluster: Cluster,
    name: String,
}

impl Node {
    /// The cluster's node.
    pub async fn of(cluster: &Cluster) -> Result<Self> {
        let names = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]).await?;
        let name = names.success()?;
        ensure!(!name.is_empty() && !name.contains(' '), "the cluster must have one node, but has {name:?}");
        Ok(Self { cluster: cluster.clone(), name })
    }

    /// Kills its kubelet: the node becomes unreachable, and its containers keep running.
    pub async fn stop(&self) -> Result<()> {
        self.cluster.hack(&["node", "stop"]).await?.success()?;
        Ok(())
    }

    /// Starts its kubelet, and waits until it is ready.
    pub async fn start(&self) -> Result<()> {
        self.cluster.hack(&["node", "start"]).await?.success()?;
        Ok(())
    }

    /// Marks a stopped node as unreachable, as the node controller does after a minute.
    pub async fn mark_silent(&self) -> Result<()> {
        let condition = json!({ "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown" });
        let patch = json!({ "status": { "conditions": [condition] } }).to_string();
        self.kubectl(&["patch", "node", &self.name, "--subresource=status", "-p", &patch]).await
    }

    /// Declares that the machine is off.
    pub async fn take_out_of_service(&self) -> Result<()> {
        let taint = format!("{OUT_OF_SERVICE}=nodeshutdown:NoExecute");
        self.kubectl(&["taint", "node", &self.name, &taint]).await
    }

    /// Drains it with kubectl.
    pub async fn drain(&self, arguments: &[&str]) -> Result<ProgramOutput> {
        let drain = ["drain", &self.name, "--timeout=90s"];
        let all: Vec<&str> = drain.into_iter().chain(arguments.iter().copied()).collect();
        self.cluster.kubectl(&all).await
    }

    /// Makes it schedulable again.
    pub async fn uncordon(&self) -> Result<()> {
        self.kubectl(&["uncordon", &self.name]).await
    }

    /// Reverts everything that a test may have done to it.
    pub async fn repair(&self) -> Result<()> {
        // The taint may not exist.
        let _ = self.cluster.kubectl(&["taint", "node", &self.name, &format!("{OUT_OF_SERVICE}-")]).await?;
        self.start().await?;
        self.uncordon().await
    }

    async fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        self.cluster.kubectl(arguments).await?.success()?;
        Ok(())
    }
}
