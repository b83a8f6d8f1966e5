//! The table of statuses: each that was ever decided, once. States hold only its place.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use agentloop_core::api::{AgentTaskStatus, Phase};
use parking_lot::RwLock;
use serde_json::Value;

use crate::objects::{self, LATER, NOW};
use crate::state::StatusId;

/// No status at all.
pub const NONE: StatusId = 0;

/// What invariants ask of a status.
#[derive(Clone, Debug, Default)]
pub struct View {
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
    pub is_held: bool,
}

#[derive(Default)]
struct Table {
    by_text: HashMap<String, StatusId>,
    all: Vec<Arc<View>>,
    /// What each becomes once its wait is over.
    passed: HashMap<StatusId, StatusId>,
}

static TABLE: LazyLock<RwLock<Table>> =
    LazyLock::new(|| RwLock::new(Table { all: vec![Arc::new(View::default())], ..Table::default() }));

fn small<T: TryInto<u8>>(number: T) -> u8 {
    number.try_into().unwrap_or(u8::MAX)
}

fn view(status: &AgentTaskStatus) -> View {
    let retry_time = status.waiting.as_ref().and_then(|waiting| waiting.retry_time.as_ref());
    let thresholds = status.thresholds.as_ref();
    View {
        whole: Some(Arc::new(status.clone())),
        iterations: small(status.iterations),
        active: status.active.as_ref().map(|active| (small(active.iteration), small(active.attempt))),
        orphaned: status.active.as_ref().is_some_and(|active| active.orphaned),
        served_by: status.served_by.as_deref().and_then(objects::release_number),
        next_attempt: small(status.next_attempt),
        phase: status.phase,
        stop: status.stop.as_ref().map(|stop| (stop.phase, small(stop.generation))),
        limit: status.max_iterations.map(small),
        config_version: thresholds
            .and_then(|thresholds| thresholds.config_version.as_ref())
            .map_or(0, |version| version.parse().unwrap_or(0)),
        token: status.last_handled_reset_token.as_ref().map_or(0, |token| token.parse().unwrap_or(0)),
        is_held: retry_time.is_some_and(|time| time.0 > *NOW),
    }
}

/// The place of a status. Only the newest entry of its history is kept: no rule reads the others.
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
    // As the API server gives it back.
    let read: AgentTaskStatus = serde_json::from_str(&text).unwrap_or(status);
    let id = StatusId::try_from(table.all.len()).unwrap_or(StatusId::MAX);
    table.all.push(Arc::new(view(&read)));
    table.by_text.insert(text, id);
    id
}

/// The status at a place.
pub fn get(id: StatusId) -> Arc<View> {
    let place = usize::try_from(id).unwrap_or_default();
    TABLE.read().all.get(place).cloned().unwrap_or_default()
}

/// The status once its wait is over: time is nothing but this.
pub fn after_its_wait(id: StatusId) -> StatusId {
    let view = get(id);
    let (true, Some(whole)) = (view.is_held, &view.whole) else { return id };
    if let Some(id) = TABLE.read().passed.get(&id) {
        return *id;
    }
    let mut status = AgentTaskStatus::clone(whole);
    if let Some(retry_time) = status.waiting.as_mut().and_then(|waiting| waiting.retry_time.as_mut()) {
        retry_time.0 = *NOW - (*LATER - *NOW);
    }
    let passed = intern(status);
    TABLE.write().passed.insert(id, passed);
    passed
}

/// `onto` after a merge patch that was made to turn `before` into `after`.
pub fn merged(onto: StatusId, before: StatusId, after: StatusId) -> StatusId {
    let json = |id| serde_json::to_value(get(id).whole.as_deref()).unwrap_or_default();
    let whole = apply(&json(onto), &json(before), &json(after));
    serde_json::from_value(whole).map_or(onto, intern)
}

fn apply(onto: &Value, before: &Value, after: &Value) -> Value {
    let (Value::Object(onto), Value::Object(old), Value::Object(new)) = (onto, before, after) else {
        return if before == after { onto.clone() } else { after.clone() };
    };
    let mut result = onto.clone();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        result.remove(key);
    }
    for (key, value) in new {
        if old.get(key) != Some(value) {
            let onto = onto.get(key).unwrap_or(&Value::Null);
            let old = old.get(key).unwrap_or(&Value::Null);
            result.insert(key.clone(), apply(onto, old, value));
        }
    }
    Value::Object(result)
}
