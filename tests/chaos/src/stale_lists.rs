//! Lists that are out of date, as a stale API server would return them.

use std::collections::HashMap;

use agentloop_test_support::json;
use anyhow::Result;
use bytes::Bytes;
use http::Method;
use parking_lot::Mutex;
use serde_json::Value;

use crate::server::{self, AdminClient};

/// The lists that were kept, and those that each operator will be served.
#[derive(Default)]
pub struct StaleLists {
    kept: Mutex<HashMap<String, Bytes>>,
    to_serve: Mutex<HashMap<(usize, String), Bytes>>,
}

impl StaleLists {
    /// Keeps the tasks and the pods of a namespace as they are now.
    pub async fn keep(&self, server: &AdminClient, namespace: &str) -> Result<()> {
        for (path, query) in [
            (server::tasks(namespace, ""), ""),
            (server::pods(namespace, ""), "?labelSelector=agentloop.dev/task-uid"),
        ] {
            let list = server.must(Method::GET, &format!("{path}{query}"), None).await?;
            self.kept.lock().insert(path, list.to_string().into());
        }
        Ok(())
    }

    /// The operator with this index is served each kept list once.
    pub fn serve_to(&self, place: usize) {
        let kept = self.kept.lock().clone();
        self.to_serve.lock().extend(kept.into_iter().map(|(path, body)| ((place, path), body)));
    }

    /// Whether this operator's next list at this path is a stale one.
    pub fn has(&self, place: usize, path: &str) -> bool {
        self.to_serve.lock().contains_key(&(place, path.to_owned()))
    }

    /// The stale list that this operator gets at this path, once.
    pub fn take(&self, place: usize, path: &str) -> Option<Bytes> {
        self.to_serve.lock().remove(&(place, path.to_owned()))
    }

    /// The task at this path in the kept list.
    pub fn task(&self, path: &str) -> Option<Value> {
        let (collection, name) = path.rsplit_once('/')?;
        let list: Value = serde_json::from_slice(self.kept.lock().get(collection)?).ok()?;
        let mut task = json::list(&list, "/items").iter().find(|task| json::name(task) == name)?.clone();
        // Items of a list have no kind.
        let map = task.as_object_mut()?;
        map.insert("apiVersion".to_owned(), "agentloop.dev/v1alpha1".into());
        map.insert("kind".to_owned(), "AgentTask".into());
        Some(task)
    }
}
