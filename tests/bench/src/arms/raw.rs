//! A writer that makes the operator's requests and nothing else: what the API server needs for them is the floor.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentloop_chaos::server::{AdminClient, pods, tasks};
use agentloop_contract::names::{ANNOTATION_CONTEXT, ANNOTATION_PROMPT, FINALIZER_SETTLE, GATE_START};
use agentloop_core::api::AgentTask;
use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::api::{self, Content, Lines, Metadata};
use crate::arms::KEPT;
use crate::arms::recorded::Recorded;
use crate::load::{Event, Pod, list, watch_path};
use crate::world::BenchCluster;

/// The writer. Its loops run in this process.
pub struct RawWriter {
    shared: Arc<Shared>,
    loops: Mutex<JoinSet<Result<()>>>,
    watch: JoinHandle<()>,
}

struct Shared {
    server: AdminClient,
    namespace: String,
    recorded: Recorded,
    confirms: bool,
    /// Where each loop waits for the ends of its pods.
    ended: Mutex<HashMap<String, mpsc::UnboundedSender<String>>>,
}

impl RawWriter {
    /// Starts to watch the pods of a namespace.
    pub fn start(world: &BenchCluster, namespace: &str, recorded: &Recorded, confirms: bool) -> Self {
        let shared = Arc::new(Shared {
            server: world.server.clone(),
            namespace: namespace.to_owned(),
            recorded: recorded.clone(),
            confirms,
            ended: Mutex::default(),
        });
        let watch = tokio::spawn(watch(shared.clone()));
        Self { shared, loops: Mutex::default(), watch }
    }

    /// Runs the loop of a task that was created with this body.
    pub fn run(&self, created: &Metadata, body: &Value, iterations: usize) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut senders = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        senders.insert(created.name.clone(), sender);
        drop(senders);
        let (shared, created, body) = (self.shared.clone(), created.clone(), body.clone());
        let run = async move {
            let task = task(&created, &shared.namespace, body)?;
            let one = Loop { shared: &shared, task, version: created.resource_version };
            one.run(receiver, i32::try_from(iterations)?).await.context("the raw writer")
        };
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).spawn(run);
    }

    /// Ends it; an error of a loop counts, unless its objects were deleted under it.
    pub async fn end(self) -> Result<()> {
        self.watch.abort();
        let mut loops = self.loops.into_inner().unwrap_or_else(PoisonError::into_inner);
        loops.abort_all();
        while let Some(ended) = loops.join_next().await {
            if let Ok(result) = ended {
                result?;
            }
        }
        // What an interrupted loop left has its finalizer still.
        let (left, _) = list(&self.shared.server, &self.shared.namespace).await?;
        for pod in left.iter().filter(|pod| pod.has_finalizer()) {
            self.shared.remove_finalizer(&pod.metadata.name, &pod.metadata.uid).await?;
        }
        Ok(())
    }
}

/// The task as the server has it.
fn task(created: &Metadata, namespace: &str, mut body: Value) -> Result<AgentTask> {
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("namespace".to_owned(), json!(namespace));
        metadata.insert("uid".to_owned(), json!(created.uid));
        metadata.insert("generation".to_owned(), json!(1));
    }
    serde_json::from_value(body).context("the task's body")
}

async fn watch(shared: Arc<Shared>) {
    let mut version = String::new();
    loop {
        if version.is_empty()
            && let Ok((_, now)) = list(&shared.server, &shared.namespace).await
        {
            version = now;
        }
        if let Ok(mut lines) = Lines::open(&shared.server, &watch_path(&shared.namespace, &version)).await {
            while let Ok(Some(event)) = lines.next::<Event>().await {
                if event.kind == "MODIFIED" {
                    shared.observe(&event.object);
                }
            }
        }
        version.clear();
        sleep(Duration::from_millis(100)).await;
    }
}

impl Shared {
    fn observe(&self, pod: &Pod) {
        if pod.has_ended() && pod.has_finalizer() {
            let senders = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sender) = senders.get(pod.owner()) {
                // A loop that has ended listens no more.
                let _ = sender.send(pod.metadata.uid.clone());
            }
        }
    }

    async fn must(&self, method: Method, path: &str, content: Content<'_>) -> Result<Metadata> {
        api::must_whole(&self.server, method, path, content).await
    }

    async fn remove_finalizer(&self, name: &str, uid: &str) -> Result<()> {
        let patch = json!({ "metadata": {
            "uid": uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER_SETTLE],
            "annotations": { ANNOTATION_PROMPT: null, ANNOTATION_CONTEXT: null },
        } });
        self.must(Method::PATCH, &pods(&self.namespace, name), Content::Strategic(&patch)).await?;
        Ok(())
    }
}

struct Loop<'a> {
    shared: &'a Shared,
    task: AgentTask,
    version: String,
}

impl Loop<'_> {
    async fn run(mut self, mut ended: mpsc::UnboundedReceiver<String>, iterations: i32) -> Result<()> {
        let name = self.task.metadata.name.clone().unwrap_or_default();
        let own = tasks(&self.shared.namespace, &name);
        let status = format!("{own}/status");
        let mut previous: Vec<Metadata> = Vec::new();
        for number in 1..=iterations {
            let patch = self.shared.recorded.patch(&self.task, number, &self.version);
            self.version = self.write(&status, &patch).await?;
            let body = self.shared.recorded.pod(&self.task, number)?;
            let all = pods(&self.shared.namespace, "");
            let pod = self.shared.must(Method::POST, &all, Content::Object(&body)).await?;
            if self.shared.confirms {
                let read = self.shared.must(Method::GET, &own, Content::None).await?;
                if read.resource_version != self.version {
                    bail!("another client changed {name}");
                }
            }
            let start = json!({
                "metadata": { "uid": pod.uid },
                "spec": { "schedulingGates": [{ "name": GATE_START, "$patch": "delete" }] },
            });
            let pod_path = pods(&self.shared.namespace, &pod.name);
            self.shared.must(Method::PATCH, &pod_path, Content::Strategic(&start)).await?;
            self.clean_up(&mut previous).await?;
            while ended.recv().await.context("the watch has ended")? != pod.uid {}
            previous.push(pod);
        }
        let patch = self.shared.recorded.last_patch(iterations, &self.version);
        self.write(&status, &patch).await?;
        self.clean_up(&mut previous).await
    }

    async fn write(&self, at: &str, patch: &Value) -> Result<String> {
        let written = self.shared.must(Method::PATCH, at, Content::Merge(patch)).await?;
        Ok(written.resource_version)
    }

    /// Removes the finalizer of the newest ended pod, and deletes the ones that are not kept.
    async fn clean_up(&self, previous: &mut Vec<Metadata>) -> Result<()> {
        let Some(newest) = previous.last() else { return Ok(()) };
        self.shared.remove_finalizer(&newest.name, &newest.uid).await?;
        while previous.len() > KEPT {
            let oldest = previous.remove(0);
            let options = json!({
                "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": oldest.uid },
            });
            let path = pods(&self.shared.namespace, &oldest.name);
            self.shared.must(Method::DELETE, &path, Content::Object(&options)).await?;
        }
        Ok(())
    }
}
