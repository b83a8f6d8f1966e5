//! What the API server recorded, write by write, from two watches that open before any plan starts.
//!
//! Nothing that the operator reports or observes is used. etcd has one counter for objects of all kinds, so the versions
//! put writes of tasks and pods into one order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agentloop_test_support::json;
use anyhow::{Context, Result, bail};
use http::Method;
use http_body_util::BodyExt;
use kube::client::Body;
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{self, Instant};

use crate::server::AdminClient;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// An AgentTask.
    Task,
    /// A pod of a task.
    Pod,
}

/// One write as the API server reports it.
#[derive(Clone, Debug)]
pub struct RecordedWrite {
    /// Its place in the order of all writes.
    pub version: u64,
    /// What was written.
    pub kind: ObjectKind,
    /// Whether the write removed the object.
    pub gone: bool,
    /// The object after the write.
    pub object: Arc<Value>,
}

/// What happens in one namespace.
pub struct NamespaceHistory {
    /// Its name.
    pub namespace: String,
    state: Mutex<NamespaceState>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct NamespaceState {
    writes: Vec<RecordedWrite>,
    tasks: BTreeMap<String, Arc<Value>>,
    pods: BTreeMap<String, Arc<Value>>,
}

impl NamespaceHistory {
    fn new(namespace: &str) -> Arc<Self> {
        let (changes, _) = watch::channel(0);
        Arc::new(Self { namespace: namespace.to_owned(), state: Mutex::default(), changes })
    }

    fn state(&self) -> MutexGuard<'_, NamespaceState> {
        self.state.lock()
    }

    fn add(&self, write: RecordedWrite) {
        let mut state = self.state();
        let known = match write.kind {
            ObjectKind::Task => &mut state.tasks,
            ObjectKind::Pod => &mut state.pods,
        };
        let uid = json::uid(&write.object).to_owned();
        if write.gone {
            known.remove(&uid);
        } else {
            known.insert(uid, write.object.clone());
        }
        state.writes.push(write);
        drop(state);
        self.wake();
    }

    /// All writes since the last call, in order. Objects that still exist stay known.
    pub fn drain(&self) -> Vec<RecordedWrite> {
        let mut writes = std::mem::take(&mut self.state().writes);
        writes.sort_by_key(|write| write.version);
        writes
    }

    /// How many writes there were since the last [`NamespaceHistory::drain`].
    pub fn count(&self) -> usize {
        self.state().writes.len()
    }

    /// Whether there is neither a task nor a pod.
    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.tasks.is_empty() && state.pods.is_empty()
    }

    /// The task that exists; if there are several, the newest.
    pub fn task(&self) -> Option<Arc<Value>> {
        self.state().tasks.values().max_by_key(|task| json::version(task)).cloned()
    }

    /// The tasks that exist.
    pub fn tasks(&self) -> Vec<Arc<Value>> {
        self.state().tasks.values().cloned().collect()
    }

    /// A task by its name.
    pub fn task_named(&self, name: &str) -> Option<Arc<Value>> {
        self.state().tasks.values().find(|task| json::name(task) == name).cloned()
    }

    /// The pods that exist.
    pub fn pods(&self) -> Vec<Arc<Value>> {
        self.state().pods.values().cloned().collect()
    }

    /// A pod by its uid.
    pub fn pod(&self, uid: &str) -> Option<Arc<Value>> {
        self.state().pods.get(uid).cloned()
    }

    /// Wakes everything that waits for a change.
    pub fn wake(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Is notified of each write.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until `find` returns something, at most for `limit`.
    pub async fn until<T>(&self, limit: Duration, mut find: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if let Some(found) = find(self) {
                return Some(found);
            }
            match time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                _ => return find(self),
            }
        }
    }
}

/// The watches, and the history of each namespace.
pub struct ServerHistory {
    namespaces: Mutex<HashMap<String, Arc<NamespaceHistory>>>,
    broken: watch::Sender<Option<String>>,
}

impl ServerHistory {
    /// Opens the watches and waits until they are open.
    pub async fn open(server: &AdminClient) -> Result<Arc<Self>> {
        let (broken, _) = watch::channel(None);
        let history = Arc::new(Self { namespaces: Mutex::default(), broken });
        let watches = [
            (ObjectKind::Task, "/apis/agentloop.dev/v1alpha1/agenttasks?"),
            (ObjectKind::Pod, "/api/v1/pods?labelSelector=agentloop.dev%2Ftask&"),
        ];
        for (kind, path) in watches {
            let list = server.must(Method::GET, &format!("{path}limit=1"), None).await?;
            let from = json::version(&list);
            let (server, history) = (server.clone(), history.clone());
            tokio::spawn(async move {
                if let Err(error) = history.follow(&server, kind, path, from).await {
                    history.broken.send_replace(Some(format!("the watch of {kind:?}s: {error:#}")));
                }
            });
        }
        Ok(history)
    }

    /// Waits until a watch has failed permanently, and returns the reason. Then no plan can be checked anymore.
    pub async fn broken(&self) -> String {
        let mut broken = self.broken.subscribe();
        match broken.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the watches have ended".to_owned(),
        }
    }

    /// The history of a namespace.
    pub fn namespace(&self, namespace: &str) -> Arc<NamespaceHistory> {
        let mut namespaces = self.namespaces.lock();
        namespaces.entry(namespace.to_owned()).or_insert_with(|| NamespaceHistory::new(namespace)).clone()
    }

    async fn follow(&self, server: &AdminClient, kind: ObjectKind, path: &str, mut from: u64) -> Result<()> {
        let mut failures = 0;
        loop {
            match self.watch(server, kind, path, &mut from).await {
                // The server ends a watch after some minutes. The next one continues where it ended.
                Ok(()) => failures = 0,
                Err(error) if failures < 10 && error.downcast_ref::<Lost>().is_none() => {
                    failures += 1;
                    time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn watch(&self, server: &AdminClient, kind: ObjectKind, path: &str, from: &mut u64) -> Result<()> {
        let path = format!("{path}watch=1&allowWatchBookmarks=true&resourceVersion={from}");
        let request = http::Request::get(path).body(Body::empty())?;
        let mut response = server.pass(request).await?;
        if response.status() != http::StatusCode::OK {
            bail!("{}", response.status());
        }
        let mut rest = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let Ok(bytes) = frame?.into_data() else { continue };
            rest.extend_from_slice(&bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                self.line(kind, &line, from)?;
            }
        }
        Ok(())
    }

    fn line(&self, kind: ObjectKind, line: &[u8], from: &mut u64) -> Result<()> {
        let mut event: Value = serde_json::from_slice(line).context("a line of a watch")?;
        let what = json::text(&event, "/type").to_owned();
        let mut object = event.get_mut("object").map(Value::take).unwrap_or_default();
        if what == "ERROR" {
            return Err(Lost(json::text(&object, "/message").to_owned()).into());
        }
        *from = json::version(&object).max(*from);
        if what == "BOOKMARK" {
            return Ok(());
        }
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
        let history = self.namespace(json::text(&object, "/metadata/namespace"));
        history.add(RecordedWrite {
            version: *from,
            kind,
            gone: what == "DELETED",
            object: Arc::new(object),
        });
        Ok(())
    }
}

/// A watch that cannot continue where the last one ended: events may be missing.
#[derive(Debug)]
struct Lost(String);

impl std::fmt::Display for Lost {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "events were lost: {}", self.0)
    }
}

impl std::error::Error for Lost {}
