//! The contenders: each runs loops of one pod after the other.

pub mod agentloop;
mod job;
mod raw;
pub mod recorded;

use agentloop_chaos::server::tasks;
use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};

use crate::api::{self, Content};
use crate::arms::agentloop::Operator;
use crate::arms::job::ControllerManager;
use crate::arms::raw::RawWriter;
use crate::arms::recorded::Recorded;
use crate::measure::process::Process;
use crate::world::BenchCluster;

/// Ended pods that a loop keeps. Small, so that every iteration but the first ones deletes a pod.
pub const KEPT: usize = 1;

/// Who runs the loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The operator, with the chart's defaults.
    Agentloop,
    /// The requests that the operator makes, without its logic; with or without the confirming GET.
    Raw {
        /// Read the task before the pod is started.
        confirms: bool,
    },
    /// Kubernetes' Job controller, with higher limits or with its defaults.
    Job {
        /// 1000 requests a second and 50 workers.
        tuned: bool,
    },
}

impl Arm {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Agentloop,
        Self::Raw { confirms: true },
        Self::Raw { confirms: false },
        Self::Job { tuned: true },
        Self::Job { tuned: false },
    ];

    /// Its name in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agentloop => "agentloop",
            Self::Raw { confirms: true } => "raw+get",
            Self::Raw { confirms: false } => "raw",
            Self::Job { tuned: true } => "job-tuned",
            Self::Job { tuned: false } => "job-default",
        }
    }

    /// Starts it for the loops of one namespace.
    pub async fn start(
        self,
        world: &BenchCluster,
        namespace: &str,
        recorded: Option<&Recorded>,
    ) -> Result<Contender> {
        let running = match self {
            Self::Agentloop => {
                let operator = Operator::start(world, namespace).await?;
                operator.ready("working").await?;
                Running::Agentloop(operator)
            }
            Self::Raw { confirms } => {
                let recorded = recorded.context("the operator's requests were not recorded")?;
                Running::Raw(RawWriter::start(world, namespace, recorded, confirms))
            }
            Self::Job { tuned } => Running::Job(ControllerManager::start(world, namespace, tuned)?),
        };
        Ok(Contender { world: world.clone(), namespace: namespace.to_owned(), running })
    }
}

enum Running {
    Agentloop(Operator),
    Raw(RawWriter),
    Job(ControllerManager),
}

/// A contender that runs.
pub struct Contender {
    world: BenchCluster,
    namespace: String,
    running: Running,
}

impl Contender {
    /// Its process, unless it runs in this one.
    pub fn process(&self) -> Option<Process> {
        match &self.running {
            Running::Agentloop(operator) => Some(operator.process()),
            Running::Job(manager) => Some(manager.process()),
            Running::Raw(_) => None,
        }
    }

    /// Creates a loop of this many iterations.
    pub async fn create_loop(&self, name: &str, iterations: usize) -> Result<()> {
        let server = &self.world.server;
        if let Running::Job(_) = self.running {
            let path = format!("/apis/batch/v1/namespaces/{}/jobs", self.namespace);
            api::must(server, Method::POST, &path, Content::Object(&job::job(name, iterations))).await?;
            return Ok(());
        }
        let body = task(name, iterations, KEPT);
        let created =
            api::must(server, Method::POST, &tasks(&self.namespace, ""), Content::Object(&body)).await?;
        if let Running::Raw(raw) = &self.running {
            raw.run(&created, &body, iterations);
        }
        Ok(())
    }

    /// Removes all loops and ends the contender.
    pub async fn end(self) -> Result<()> {
        let Self { world, namespace, running } = self;
        let loops = match running {
            Running::Job(_) => format!("/apis/batch/v1/namespaces/{namespace}/jobs"),
            _ => tasks(&namespace, ""),
        };
        world.delete_all(&loops).await?;
        match running {
            Running::Agentloop(operator) => {
                world.is_empty(&namespace).await?;
                operator.stop().await
            }
            Running::Raw(raw) => {
                raw.end().await?;
                world.is_empty(&namespace).await
            }
            Running::Job(manager) => {
                world.is_empty(&namespace).await?;
                manager.stop().await
            }
        }
    }
}

/// A task with a short prompt and a template of about 1 KiB.
pub fn task(name: &str, iterations: usize, kept: usize) -> Value {
    json!({
        "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "metadata": { "name": name },
        "spec": {
            "prompt": prompt(),
            "maxIterations": iterations,
            "podHistoryLimit": kept,
            "template": { "spec": template() },
        },
    })
}

fn prompt() -> String {
    "Make the next failing test pass. ".repeat(6)
}

/// The spec of an agent's pod: with its variables, about 1 KiB.
pub(crate) fn template() -> Value {
    let variables: Vec<Value> = (0..12)
        .map(|number| json!({ "name": format!("SETTING_{number}"), "value": "v".repeat(24) }))
        .collect();
    json!({
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "agent", "image": "none", "command": ["/bin/agent"], "workingDir": "/workspace",
            "env": variables,
            "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "1Gi" } },
        }],
    })
}
