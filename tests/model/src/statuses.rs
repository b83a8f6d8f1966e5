//! The table of statuses: each that was ever decided, once. A state contains only its index.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use agentloop_core::api::{AgentTaskStatus, Phase};
use parking_lot::RwLock;
use serde_json::{Map, Value};

use crate::api::{Attempt, ModelTask, StatusId};
use crate::bounds::{LATER, NOW};
use crate::names;

/// What the invariants need of a status.
#[derive(Clone, Debug, Default)]
pub struct StatusView {
    pub whole: Option<Arc<AgentTaskStatus>>,
    pub iterations: u8,
    /// Iteration, attempt.
    pub active: Option<(u8, u8)>,
    pub orphaned: bool,
    /// The release that serves the task.
    pub served_by: Option<u8>,
    pub next_attempt: u8,
    pub phase: Option<Phase>,
    /// Phase, generation.
    pub stop: Option<(Phase, u8)>,
    pub limit: Option<u8>,
    /// 0: none.
    pub config_version: u8,
    pub token: u8,
    /// A wait is not over.
    pub is_waiting: bool,
}

#[derive(Default)]
struct StatusTable {
    by_text: HashMap<String, StatusId>,
    all: Vec<Arc<StatusView>>,
    /// What each becomes once its wait is over.
    after_wait: HashMap<StatusId, StatusId>,
}

static TABLE: LazyLock<RwLock<StatusTable>> = LazyLock::new(|| {
    RwLock::new(StatusTable { all: vec![Arc::new(StatusView::default())], ..StatusTable::default() })
});

fn small<T: TryInto<u8>>(number: T) -> u8 {
    number.try_into().unwrap_or(u8::MAX)
}

fn view(status: &AgentTaskStatus) -> StatusView {
    let retry_time = status.waiting.as_ref().and_then(|waiting| waiting.retry_time.as_ref());
    let thresholds = status.thresholds.as_ref();
    StatusView {
        whole: Some(Arc::new(status.clone())),
        iterations: small(status.iterations),
        active: status.active.as_ref().map(|active| (small(active.iteration), small(active.attempt))),
        orphaned: status.active.as_ref().is_some_and(|active| active.orphaned),
        served_by: status.served_by.as_deref().and_then(names::release_number),
        next_attempt: small(status.next_attempt),
        phase: status.phase,
        stop: status.stop.as_ref().map(|stop| (stop.phase, small(stop.generation))),
        limit: status.max_iterations.map(small),
        config_version: thresholds
            .and_then(|thresholds| thresholds.config_version.as_ref())
            .map_or(0, |version| version.parse().unwrap_or(0)),
        token: status.last_handled_reset_token.as_ref().map_or(0, |token| token.parse().unwrap_or(0)),
        is_waiting: retry_time.is_some_and(|time| time.0 > *NOW),
    }
}

/// The index of a status. Only the newest entry of its history is kept, because no rule reads the others.
pub fn intern(mut status: AgentTaskStatus) -> StatusId {
    status.history.truncate(1);
    let text = serde_json::to_string(&status).unwrap_or_default();
    if let Some(id) = TABLE.read().by_text.get(&text) {
        return *id;
    }
    let mut table = TABLE.write();
    if let Some(id) = table.by_text.get(&text) {
        return *id;
    }
    // As the API server returns it.
    let read: AgentTaskStatus = serde_json::from_str(&text).unwrap_or(status);
    let id = StatusId::try_from(table.all.len()).unwrap_or(StatusId::MAX);
    table.all.push(Arc::new(view(&read)));
    table.by_text.insert(text, id);
    id
}

/// The status of this index.
pub fn get(id: StatusId) -> Arc<StatusView> {
    let index = usize::try_from(id).unwrap_or_default();
    TABLE.read().all.get(index).cloned().unwrap_or_default()
}

/// The status once its wait is over. Time passes in no other way.
pub fn after_wait(id: StatusId) -> StatusId {
    let view = get(id);
    let (true, Some(whole)) = (view.is_waiting, &view.whole) else { return id };
    if let Some(id) = TABLE.read().after_wait.get(&id) {
        return *id;
    }
    let mut status = AgentTaskStatus::clone(whole);
    if let Some(retry_time) = status.waiting.as_mut().and_then(|waiting| waiting.retry_time.as_mut()) {
        retry_time.0 = *NOW - (*LATER - *NOW);
    }
    let passed = intern(status);
    TABLE.write().after_wait.insert(id, passed);
    passed
}

/// `onto` after the merge patch that turns `before` into `after`; `None` if the result is no status, and so is rejected.
pub fn merged(onto: StatusId, before: StatusId, after: StatusId) -> Option<StatusId> {
    let json = |id| serde_json::to_value(get(id).whole.as_deref()).unwrap_or_default();
    let mut whole = json(onto);
    merge(&mut whole, &difference(&json(before), &json(after)));
    serde_json::from_value(whole).ok().map(intern)
}

/// The status after this merge patch.
pub fn patched(status: StatusId, patch: &Value) -> StatusId {
    let mut whole = serde_json::to_value(get(status).whole.as_deref()).unwrap_or_default();
    merge(&mut whole, patch);
    serde_json::from_value(whole).map_or(status, intern)
}

/// The merge patch that turns one value into another.
fn difference(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return after.clone() };
    let removed = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = after.iter().filter(|(key, value)| before.get(*key) != Some(value)).map(|(key, value)| {
        (key.clone(), before.get(key).map_or_else(|| value.clone(), |before| difference(before, value)))
    });
    Value::Object(removed.chain(changed).collect())
}

fn merge(onto: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        onto.clone_from(patch);
        return;
    };
    if !onto.is_object() {
        *onto = Value::Object(Map::new());
    }
    let Value::Object(onto) = onto else { return };
    for (key, value) in patch {
        if value.is_null() {
            onto.remove(key);
        } else {
            merge(onto.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The attempt that a task's status shows as active.
pub fn active_attempt(task: &ModelTask) -> Option<Attempt> {
    let (iteration, attempt) = get(task.status).active?;
    Some(Attempt { task: task.uid, iteration, attempt })
}
