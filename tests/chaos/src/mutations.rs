//! Ways to break the operator on purpose, to see that the campaign sees it.
//!
//! The shipped program is not touched: the proxy changes what it sends, or what it is told, into what a
//! broken one would send, or would take for true.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use tokio::time;

use crate::classify::RequestClass;
use crate::json as look;
use crate::lock;
use crate::nemesis::Nemesis;
use crate::plan::RequestKind;
use crate::proxy::{BufferedRequest, BufferedResponse};
use crate::server::{Format, pods};

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Pods are created without the gate: one that is created late runs an old iteration.
    NoSchedulingGate,
    /// Pods are created, and kept, without the finalizer: one that is deleted is forgotten.
    NoFinalizer,
    /// The finalizer is dropped as soon as the pod starts.
    EarlyFinalizerRemoval,
    /// The finalizer is never dropped.
    KeepFinalizer,
    /// Statuses are written whatever has changed since the task was read.
    NoResourceVersion,
    /// An iteration is counted once more after it was settled.
    CountTwice,
    /// The read that confirms a start is answered from an old copy.
    StaleConfirmation,
    /// The list of an earlier task's pods is believed to be empty.
    IgnorePreviousPods,
    /// Pods that failed are seen without their containers: an agent that ran looks as if it never had.
    HideContainers,
    /// The end of a suspension is all that is seen of it.
    IgnoreSuspend,
    /// A task without progress is seen as one that made some.
    ForgetStreak,
    /// A pod of the wanted name is taken for our own.
    AdoptForeignPod,
    /// The limit is shown as another stop.
    WrongPhase,
    /// Something is written again and again.
    KeepWriting,
}

/// All of them, with the word by which they are chosen and the invariants of which one must be seen broken.
pub const ALL: &[(Mutation, &str, &[&str])] = &[
    (Mutation::NoSchedulingGate, "no-scheduling-gate", &["S1", "S2"]),
    (Mutation::NoFinalizer, "no-finalizer", &["S2"]),
    (Mutation::EarlyFinalizerRemoval, "early-finalizer-removal", &["S4"]),
    (Mutation::KeepFinalizer, "keep-finalizer", &["S8"]),
    (Mutation::NoResourceVersion, "no-resource-version", &["S3", "S5"]),
    (Mutation::CountTwice, "count-twice", &["S4"]),
    (Mutation::StaleConfirmation, "stale-confirmation", &["S1", "S2"]),
    (Mutation::IgnorePreviousPods, "ignore-previous-pods", &["S1"]),
    (Mutation::HideContainers, "hide-containers", &["S2", "S4"]),
    (Mutation::IgnoreSuspend, "ignore-suspend", &["S5"]),
    (Mutation::ForgetStreak, "forget-streak", &["S4", "S5"]),
    (Mutation::AdoptForeignPod, "adopt-foreign-pod", &["S2"]),
    (Mutation::WrongPhase, "wrong-phase", &["S6"]),
    (Mutation::KeepWriting, "keep-writing", &["L2"]),
];

/// What a break has to remember.
#[derive(Debug, Default)]
pub struct Memory {
    /// The pods that the operator wanted to create, by name.
    wanted: BTreeMap<String, Value>,
    /// The restless one is at work.
    restless: AtomicBool,
}

impl Mutation {
    /// Changes what comes of a watch or a list, as bytes.
    pub fn seen(self, bytes: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(bytes).ok()?;
        match self {
            Self::IgnoreSuspend => Some(text.replace("\"suspend\":true", "\"suspend\":false").into_bytes()),
            Self::ForgetStreak => {
                Some(text.replace("\"consecutiveNoChange\":1", "\"consecutiveNoChange\":0").into_bytes())
            }
            Self::HideContainers => Some(hide_containers(text)),
            _ => None,
        }
    }
}

/// Pods that failed, without a word of their containers; lines of a watch, or a list.
fn hide_containers(text: &str) -> Vec<u8> {
    let hide = |pod: &mut Value| {
        if look::text(pod, "/status/phase") == "Failed"
            && let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut)
        {
            status.remove("containerStatuses");
        }
    };
    let mut out = Vec::new();
    for line in text.lines() {
        let mut line: Value = serde_json::from_str(line).unwrap_or_default();
        if let Some(pod) = line.get_mut("object") {
            hide(pod);
        } else if let Some(items) = line.get_mut("items").and_then(Value::as_array_mut) {
            items.iter_mut().for_each(hide);
        } else {
            hide(&mut line);
        }
        out.extend_from_slice(line.to_string().as_bytes());
        out.push(b'\n');
    }
    out
}

fn remove(value: &mut Value, parent: &str, key: &str) {
    if let Some(map) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
        map.remove(key);
    }
}

impl Nemesis {
    /// Changes a request before it is passed on; an answer is given instead of the server's.
    pub async fn mutate_before(
        &self,
        call: &RequestClass,
        sent: &mut BufferedRequest,
    ) -> Result<Option<BufferedResponse>> {
        let Some(mutation) = self.mutation else { return Ok(None) };
        match (mutation, call) {
            (Mutation::NoSchedulingGate, RequestClass::Write(Some(RequestKind::Create))) => {
                remove(&mut sent.body, "/spec", "schedulingGates");
            }
            (Mutation::NoFinalizer, RequestClass::Write(_))
                if !look::list(&sent.body, "/metadata/finalizers").is_empty() =>
            {
                remove(&mut sent.body, "/metadata", "finalizers");
            }
            (Mutation::NoResourceVersion, RequestClass::Write(Some(RequestKind::Status))) => {
                remove(&mut sent.body, "/metadata", "resourceVersion");
            }
            (Mutation::WrongPhase, RequestClass::Write(Some(RequestKind::Status)))
                if look::text(&sent.body, "/status/phase") == "IterationLimitReached" =>
            {
                if let Some(phase) = sent.body.pointer_mut("/status/phase") {
                    *phase = json!("CircuitOpen");
                }
            }
            (Mutation::KeepFinalizer, RequestClass::Write(Some(RequestKind::RemoveFinalizer))) => {
                let pod = self.server.get(&sent.path).await?.unwrap_or_default();
                return Ok(Some(BufferedResponse::success(&pod)));
            }
            (Mutation::AdoptForeignPod, RequestClass::Write(Some(RequestKind::Create))) => {
                let name = look::name(&sent.body).to_owned();
                let mut memory = lock(&self.memory);
                memory.wanted.insert(name, sent.body.clone());
            }
            (Mutation::StaleConfirmation, RequestClass::Read) if sent.path.contains("/agenttasks/") => {
                if let Some(task) = self.lists.task(&sent.path) {
                    return Ok(Some(BufferedResponse::success(&task)));
                }
            }
            _ => {}
        }
        Ok(None)
    }

    /// Changes an answer, or does more than was asked for.
    pub async fn mutate_after(
        &self,
        call: &RequestClass,
        sent: &BufferedRequest,
        told: BufferedResponse,
    ) -> Result<BufferedResponse> {
        let Some(mutation) = self.mutation else { return Ok(told) };
        if sent.method == Method::GET
            && let Some(body) = mutation.seen(&told.body)
        {
            return Ok(BufferedResponse { body: body.into(), ..told });
        }
        if !told.status.is_success() {
            return Ok(told);
        }
        match (mutation, call) {
            (
                Mutation::EarlyFinalizerRemoval,
                RequestClass::Write(Some(RequestKind::RemoveSchedulingGate)),
            ) => {
                let drop = json!({ "metadata": { "finalizers": null } });
                self.server.merge(&sent.path, &drop).await?;
            }
            (Mutation::CountTwice, RequestClass::Write(Some(RequestKind::Status)))
                if look::has(&sent.body, "/status/iterations") =>
            {
                let more = look::number(&told.json(), "/status/iterations") + 1;
                let patch = json!({ "status": { "iterations": more } });
                self.server.send(Method::PATCH, &sent.path, Some((Format::Merge, &patch))).await?;
            }
            (Mutation::IgnorePreviousPods, RequestClass::Read) if sent.path.ends_with("/pods") => {
                let mut list = told.json();
                if let Some(items) = list.get_mut("items") {
                    *items = json!([]);
                }
                return Ok(BufferedResponse::success(&list));
            }
            (Mutation::AdoptForeignPod, RequestClass::Read) if sent.path.contains("/pods/") => {
                return Ok(self.adopted(sent, told));
            }
            (Mutation::KeepWriting, RequestClass::Write(Some(RequestKind::Status))) => self.keep_writing(),
            _ => {}
        }
        Ok(told)
    }

    /// Somebody else's pod, looking as if it were the one that the operator wanted to create.
    fn adopted(&self, sent: &BufferedRequest, told: BufferedResponse) -> BufferedResponse {
        let mut pod = told.json();
        let memory = lock(&self.memory);
        let Some(wanted) = memory.wanted.get(look::name(&pod)) else { return told };
        if pods(&self.history.namespace, look::name(&pod)) != sent.path {
            return told;
        }
        for key in ["labels", "ownerReferences", "annotations"] {
            let ours = wanted.pointer(&format!("/metadata/{key}")).cloned().unwrap_or_default();
            if let Some(meta) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.insert(key.to_owned(), ours);
            }
        }
        if let (Some(spec), Some(ours)) =
            (pod.get_mut("spec").and_then(Value::as_object_mut), wanted.get("spec"))
        {
            for key in ["schedulingGates", "containers", "restartPolicy"] {
                spec.insert(key.to_owned(), ours.get(key).cloned().unwrap_or_default());
            }
        }
        BufferedResponse::success(&pod)
    }

    /// Writes to the task for half a minute.
    fn keep_writing(&self) {
        let memory = lock(&self.memory);
        if memory.restless.swap(true, Ordering::SeqCst) {
            return;
        }
        let (server, path) = (self.server.clone(), crate::server::tasks(&self.history.namespace, &self.task));
        tokio::spawn(async move {
            for count in 0..60 {
                time::sleep(Duration::from_millis(500)).await;
                let note = json!({ "metadata": { "annotations": { "restless": count.to_string() } } });
                if !server.merge(&path, &note).await.unwrap_or(false) {
                    return;
                }
            }
        });
    }
}
