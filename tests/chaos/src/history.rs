//! What the API server recorded, write by write, from two watches that open before any plan starts.
//!
//! Nothing that the operator says or sees is used. One counter of etcd covers all kinds, so versions put tasks and
//! pods into one order.

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

use crate::server::Server;

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
    /// The object is gone by this.
    pub gone: bool,
    /// The object after the write.
    pub object: Arc<Value>,
}

/// What happens in one namespace.
pub struct NamespaceHistory {
    /// Its name.
    pub namespace: String,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    seen: Vec<RecordedWrite>,
    tasks: BTreeMap<String, Arc<Value>>,
    pods: BTreeMap<String, Arc<Value>>,
}

impl NamespaceHistory {
    fn new(namespace: &str) -> Arc<Self> {
        let (changes, _) = watch::channel(0);
        Arc::new(Self { namespace: namespace.to_owned(), state: Mutex::default(), changes })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn take(&self, seen: RecordedWrite) {
        let mut state = self.state();
        let known = match seen.kind {
            ObjectKind::Task => &mut state.tasks,
            ObjectKind::Pod => &mut state.pods,
        };
        let uid = json::uid(&seen.object).to_owned();
        if seen.gone {
            known.remove(&uid);
        } else {
            known.insert(uid, seen.object.clone());
        }
        state.seen.push(seen);
        drop(state);
        self.wake();
    }

    /// All that was written since the last call, in order. Objects that are still there stay known.
    pub fn drain(&self) -> Vec<RecordedWrite> {
        let mut seen = std::mem::take(&mut self.state().seen);
        seen.sort_by_key(|seen| seen.version);
        seen
    }

    /// How much was written since the last [`NamespaceHistory::drain`].
    pub fn count(&self) -> usize {
        self.state().seen.len()
    }

    /// The task that is there: of several, the newest.
    pub fn task(&self) -> Option<Arc<Value>> {
        self.state().tasks.values().max_by_key(|task| json::version(task)).cloned()
    }

    /// The tasks that are there.
    pub fn tasks(&self) -> Vec<Arc<Value>> {
        self.state().tasks.values().cloned().collect()
    }

    /// A task by its name.
    pub fn task_named(&self, name: &str) -> Option<Arc<Value>> {
        self.state().tasks.values().find(|task| json::name(task) == name).cloned()
    }

    /// The pods that are there.
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

    /// A signal for each write.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until `look` finds something, at most for `limit`.
    pub async fn until<T>(&self, limit: Duration, mut look: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if let Some(found) = look(self) {
                return Some(found);
            }
            match time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                _ => return look(self),
            }
        }
    }
}

/// The watches, and the namespaces that they are sorted into.
pub struct ServerHistory {
    namespaces: Mutex<HashMap<String, Arc<NamespaceHistory>>>,
    broken: watch::Sender<Option<String>>,
}

impl ServerHistory {
    /// Opens the watches and waits until they are open.
    pub async fn open(server: &Server) -> Result<Arc<Self>> {
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

    /// Waits until a watch is broken for good, and returns the reason. Then no plan can be checked any more.
    pub async fn broken(&self) -> String {
        let mut broken = self.broken.subscribe();
        match broken.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the watches are gone".to_owned(),
        }
    }

    /// The history of a namespace.
    pub fn namespace(&self, namespace: &str) -> Arc<NamespaceHistory> {
        let mut namespaces = self.namespaces.lock();
        namespaces.entry(namespace.to_owned()).or_insert_with(|| NamespaceHistory::new(namespace)).clone()
    }

    async fn follow(&self, server: &Server, kind: ObjectKind, path: &str, mut from: u64) -> Result<()> {
        let mut failures = 0;
        loop {
            match self.watch(server, kind, path, &mut from).await {
                // The server ends a watch after some minutes. The next one continues from there.
                Ok(()) => failures = 0,
                Err(error) if failures < 10 && error.downcast_ref::<Lost>().is_none() => {
                    failures += 1;
                    time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn watch(&self, server: &Server, kind: ObjectKind, path: &str, from: &mut u64) -> Result<()> {
        let path = format!("{path}watch=1&allowWatchBookmarks=true&resourceVersion={from}");
        let request = http::Request::get(path).body(Body::empty())?;
        let mut answer = server.pass(request).await?;
        if answer.status() != http::StatusCode::OK {
            bail!("{}", answer.status());
        }
        let mut rest = Vec::new();
        while let Some(frame) = answer.body_mut().frame().await {
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
        history.take(RecordedWrite {
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
