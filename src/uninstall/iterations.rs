//! Step 3: every active iteration is marked as orphaned, and the name of this release is removed from its tasks.

use std::collections::{BTreeMap, BTreeSet};

use agentloop_core::api::AgentTask;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::{Map, Value, json};
use tokio::time::{self, Instant};

use super::error::{Troubles, unlisted};
use super::{Error, Hook, LOOK, named, page};
use crate::client::{READ_TIMEOUT, RequestError, with_timeout};

impl Hook {
    /// The uids of tasks whose pods keep our finalizer: they could not be marked, or are not ours.
    pub(super) async fn mark_iterations(
        &self,
        tell: &mut (dyn FnMut(String) + Send),
        troubles: &mut Troubles,
    ) -> Result<BTreeSet<String>, Error> {
        // Read without our types: a task that this version cannot decode must be let go as well.
        let kind = ApiResource::erase::<AgentTask>(&());
        let mut unmarked = BTreeSet::new();
        let mut elsewhere: BTreeMap<String, usize> = BTreeMap::new();
        for api in self.namespaces.raw_apis(&self.clients.read, &kind) {
            let mut token = None;
            loop {
                let params = page(token);
                let list = match with_timeout(READ_TIMEOUT, api.list(&params)).await {
                    Ok(list) => list,
                    // The definition is gone already, and all tasks with it.
                    Err(error) if error.is_not_found() => break,
                    Err(source) => return Err(unlisted("AgentTasks", api.namespace(), source)),
                };
                token = list.metadata.continue_.filter(|token| !token.is_empty());
                for task in list.items {
                    let (named, uid) = (named("AgentTask", &task), task.uid());
                    match self.mark(task).await {
                        Ok(Marked::Nothing) => {}
                        Ok(Marked::InFlight(active)) => tell(active.sentence(&named)),
                        Ok(Marked::Elsewhere(release)) => {
                            *elsewhere.entry(release).or_default() += 1;
                            unmarked.extend(uid);
                        }
                        Err(error) => {
                            unmarked.extend(uid);
                            troubles.add(&format!("{named} cannot be marked as orphaned: {error}"));
                        }
                    }
                }
                if token.is_none() {
                    break;
                }
            }
        }
        for (release, count) in elsewhere {
            tell(format!("{count} AgentTask(s) that the release {release} serves are left alone."));
        }
        Ok(unmarked)
    }

    /// Marks one task's claim, if it has one, and takes our name out.
    async fn mark(&self, mut task: DynamicObject) -> Result<Marked, RequestError> {
        let (namespace, name) = (task.namespace().unwrap_or_default(), task.name_any());
        let kind = ApiResource::erase::<AgentTask>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.clients.read.clone(), &namespace, &kind);
        loop {
            let named = task.data.pointer("/status/servedBy").and_then(Value::as_str);
            if let Some(other) = named.and_then(|named| self.serving.if_other_release(named)) {
                return Ok(Marked::Elsewhere(other.to_owned()));
            }
            let active = InFlight::of(&task.data);
            let mut status = Map::new();
            if active.as_ref().is_some_and(|active| !active.orphaned) {
                status.insert("active".to_owned(), json!({ "orphaned": true }));
            }
            if named.is_some() {
                status.insert("servedBy".to_owned(), Value::Null);
            }
            let marked = active.map_or(Marked::Nothing, Marked::InFlight);
            if status.is_empty() {
                return Ok(marked);
            }
            let version = task.resource_version().unwrap_or_default();
            match self.writer.raw_task_status(&namespace, &name, &version, &Value::Object(status)).await {
                Ok(_) => return Ok(marked),
                Err(error) if error.is_not_found() => return Ok(Marked::Nothing),
                Err(error) => self.pause_before_repeat(error).await?,
            }
            match with_timeout(READ_TIMEOUT, api.get_opt(&name)).await? {
                Some(now) => task = now,
                None => return Ok(Marked::Nothing),
            }
        }
    }

    /// Waits where the same may succeed later, and gives the error back where it will not, or not in time.
    async fn pause_before_repeat(&self, error: RequestError) -> Result<(), RequestError> {
        if !error.may_pass() || Instant::now() >= self.deadline {
            return Err(error);
        }
        time::sleep(LOOK).await;
        Ok(())
    }
}

/// What came of marking a task.
#[derive(Debug, PartialEq, Eq)]
enum Marked {
    /// Nothing was in flight.
    Nothing,
    /// This was, and is marked.
    InFlight(InFlight),
    /// This other release serves the task: it was not touched.
    Elsewhere(String),
}

/// What a task's status says of an iteration in flight.
#[derive(Debug, PartialEq, Eq)]
struct InFlight {
    iteration: i64,
    attempt: i64,
    pod: String,
    orphaned: bool,
}

impl InFlight {
    /// Whatever else the claim holds, it is one: what cannot be read shows as 0 or nothing.
    fn of(task: &Value) -> Option<Self> {
        let active = task.pointer("/status/active").filter(|active| active.is_object())?;
        let number = |field| active.get(field).and_then(Value::as_i64).unwrap_or_default();
        Some(Self {
            iteration: number("iteration"),
            attempt: number("attempt"),
            pod: active.get("podName").and_then(Value::as_str).unwrap_or_default().to_owned(),
            orphaned: active.get("orphaned").and_then(Value::as_bool).unwrap_or_default(),
        })
    }

    fn sentence(&self, task: &str) -> String {
        let Self { iteration, attempt, pod, .. } = self;
        format!(
            "{task} has iteration {iteration} (attempt {attempt}) in flight: its pod {pod} is left to itself, and once \
             agentloop is installed again the iteration is judged by that pod, or charged as PodLost if it is gone."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_seen_whatever_it_holds() {
        let active =
            InFlight::of(&json!({ "status": { "active": { "iteration": "new kind", "podName": "a-1" } } }));
        assert_eq!(
            active,
            Some(InFlight { iteration: 0, attempt: 0, pod: "a-1".to_owned(), orphaned: false })
        );
        assert_eq!(InFlight::of(&json!({ "status": { "active": null } })), None);
        assert_eq!(InFlight::of(&json!({})), None);
    }
}
