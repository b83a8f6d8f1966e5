//! Kubernetes' Job controller, in a controller manager of its own.

use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::arms::template;
use crate::measure::process::Process;
use crate::world::BenchCluster;

/// A controller manager with nothing but the Job controller.
pub struct ControllerManager {
    child: Child,
}

impl ControllerManager {
    /// Starts it.
    pub fn start(world: &BenchCluster, name: &str, tuned: bool) -> Result<Self> {
        let log = world.logs.join(format!("job-controller-{name}.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = Command::new(&world.controller_manager);
        command.env_clear().arg("--kubeconfig").arg(&world.kubeconfig);
        command.args(["--controllers", "job-controller", "--leader-elect=false", "--secure-port", "0"]);
        if tuned {
            command.args([
                "--kube-api-qps",
                "1000",
                "--kube-api-burst",
                "1000",
                "--concurrent-job-syncs",
                "50",
            ]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true);
        let child = command.spawn();
        let child = child.with_context(|| format!("starting {}", world.controller_manager.display()))?;
        Ok(Self { child })
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process(self.child.id().unwrap_or_default())
    }

    /// Ends it.
    pub async fn stop(mut self) -> Result<()> {
        self.child.kill().await.context("killing the controller manager")
    }
}

/// A Job that runs its pods one after the other.
pub fn job(name: &str, completions: usize) -> Value {
    let mut spec = template();
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("restartPolicy".to_owned(), json!("Never"));
    }
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "completions": completions, "parallelism": 1, "template": { "spec": spec } },
    })
}
