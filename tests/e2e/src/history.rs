//! Every pod that a namespace ever had, from a watch that was open from the start.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt, runtime::watcher};
use tokio::task::JoinHandle;

/// All pods of a namespace, including deleted ones.
pub struct History {
    pods: Arc<Mutex<BTreeMap<String, PodRecord>>>,
    watch: JoinHandle<()>,
}

/// A pod of a task as last reported.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// Its name.
    pub name: String,
    /// Uid of its task.
    pub task_uid: String,
    /// Its iteration.
    pub iteration: i32,
    /// Its attempt.
    pub attempt: i32,
    /// Whether the agent's container runs, or terminated after it had started.
    pub started: bool,
    /// Whether the object was deleted.
    pub gone: bool,
    /// The object as last reported.
    pub pod: Pod,
}

impl History {
    pub(crate) fn watch(client: Client, namespace: &str) -> Self {
        let pods = Arc::new(Mutex::new(BTreeMap::new()));
        let recorded = Arc::clone(&pods);
        let api: Api<Pod> = Api::namespaced(client, namespace);
        let watch = tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                let (pod, gone) = match event {
                    Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => (pod, false),
                    Ok(watcher::Event::Delete(pod)) => (pod, true),
                    // A watch that breaks is opened again, with a new list.
                    Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => continue,
                };
                record(&mut recorded.lock().unwrap_or_else(PoisonError::into_inner), pod, gone);
            }
        });
        Self { pods, watch }
    }

    /// The pods of a task, by iteration and attempt.
    pub fn of(&self, task_uid: &str) -> Vec<PodRecord> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pods: Vec<PodRecord> =
            pods.values().filter(|pod| pod.task_uid == task_uid).cloned().collect();
        pods.sort_by_key(|pod| (pod.iteration, pod.attempt));
        pods
    }

    /// The iterations of a task's pods whose agent started, in order: `[1, 2, 3]`.
    pub fn started(&self, task_uid: &str) -> Vec<i32> {
        self.of(task_uid).iter().filter(|pod| pod.started).map(|pod| pod.iteration).collect()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn record(pods: &mut BTreeMap<String, PodRecord>, pod: Pod, gone: bool) {
    let label = |name: &str| pod.labels().get(name).cloned().unwrap_or_default();
    let Some(uid) = pod.uid() else { return };
    let before = pods.get(&uid).is_some_and(|before| before.started);
    let record = PodRecord {
        name: pod.name_any(),
        task_uid: label("agentloop.dev/task-uid"),
        iteration: label("agentloop.dev/iteration").parse().unwrap_or(0),
        attempt: label("agentloop.dev/attempt").parse().unwrap_or(0),
        started: before || has_started(&pod),
        gone,
        pod,
    };
    pods.insert(uid, record);
}

fn has_started(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let agent = statuses.into_iter().flatten().find(|status| status.name == "agent");
    agent.and_then(|agent| agent.state.as_ref()).is_some_and(|state| {
        let ended = state.terminated.as_ref().and_then(|end| end.started_at.as_ref());
        state.running.is_some() || ended.is_some_and(|time| time.0.as_second() > 0)
    })
}
