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

use crate::call::Call;
use crate::director::Director;
use crate::json as look;
use crate::lock;
use crate::plan::What;
use crate::proxy::{Sent, Told};
use crate::server::{Format, pods};

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Break {
    /// Pods are created without the gate: one that is created late runs an old iteration.
    NoGate,
    /// Pods are created, and kept, without the finalizer: one that is deleted is forgotten.
    NoFinalizer,
    /// The finalizer is dropped as soon as the pod starts.
    EarlyRelease,
    /// The finalizer is never dropped.
    NoRelease,
    /// Statuses are written whatever has changed since the task was read.
    NoVersion,
    /// An iteration is counted once more after it was settled.
    CountTwice,
    /// The read that confirms a start is answered from an old copy.
    OldConfirmation,
    /// The list of an earlier task's pods is believed to be empty.
    NoLookForEarlier,
    /// Pods that failed are seen without their containers: an agent that ran looks as if it never had.
    HideRuns,
    /// The end of a suspension is all that is seen of it.
    BlindToSuspend,
    /// A task without progress is seen as one that made some.
    ForgetStreak,
    /// A pod of the wanted name is taken for our own.
    Adopt,
    /// The limit is shown as another stop.
    WrongPhase,
    /// Something is written again and again.
    Restless,
}

/// All of them, with the word by which they are chosen and the invariants of which one must be seen broken.
pub const ALL: &[(Break, &str, &[&str])] = &[
    (Break::NoGate, "no-gate", &["S1", "S2"]),
    (Break::NoFinalizer, "no-finalizer", &["S2"]),
    (Break::EarlyRelease, "early-release", &["S4"]),
    (Break::NoRelease, "no-release", &["S8"]),
    (Break::NoVersion, "no-version", &["S3", "S5"]),
    (Break::CountTwice, "count-twice", &["S4"]),
    (Break::OldConfirmation, "old-confirmation", &["S1", "S2"]),
    (Break::NoLookForEarlier, "no-look-for-earlier", &["S1"]),
    (Break::HideRuns, "hide-runs", &["S2", "S4"]),
    (Break::BlindToSuspend, "blind-to-suspend", &["S5"]),
    (Break::ForgetStreak, "forget-streak", &["S4", "S5"]),
    (Break::Adopt, "adopt", &["S2"]),
    (Break::WrongPhase, "wrong-phase", &["S6"]),
    (Break::Restless, "restless", &["L2"]),
];

/// What a break has to remember.
#[derive(Debug, Default)]
pub struct Memory {
    /// The pods that the operator wanted to create, by name.
    wanted: BTreeMap<String, Value>,
    /// The restless one is at work.
    restless: AtomicBool,
}

impl Break {
    /// Changes what comes of a watch or a list, as bytes.
    pub fn seen(self, bytes: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(bytes).ok()?;
        match self {
            Self::BlindToSuspend => Some(text.replace("\"suspend\":true", "\"suspend\":false").into_bytes()),
            Self::ForgetStreak => {
                Some(text.replace("\"consecutiveNoChange\":1", "\"consecutiveNoChange\":0").into_bytes())
            }
            Self::HideRuns => Some(hide_runs(text)),
            _ => None,
        }
    }
}

/// Pods that failed, without a word of their containers; lines of a watch, or a list.
fn hide_runs(text: &str) -> Vec<u8> {
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

impl Director {
    /// Changes a request before it is passed on; an answer is given instead of the server's.
    pub async fn broken_before(&self, call: &Call, sent: &mut Sent) -> Result<Option<Told>> {
        let Some(breakage) = self.breakage else { return Ok(None) };
        match (breakage, call) {
            (Break::NoGate, Call::Write(Some(What::Create))) => {
                remove(&mut sent.body, "/spec", "schedulingGates");
            }
            (Break::NoFinalizer, Call::Write(_))
                if !look::list(&sent.body, "/metadata/finalizers").is_empty() =>
            {
                remove(&mut sent.body, "/metadata", "finalizers");
            }
            (Break::NoVersion, Call::Write(Some(What::Status))) => {
                remove(&mut sent.body, "/metadata", "resourceVersion");
            }
            (Break::WrongPhase, Call::Write(Some(What::Status)))
                if look::text(&sent.body, "/status/phase") == "IterationLimitReached" =>
            {
                if let Some(phase) = sent.body.pointer_mut("/status/phase") {
                    *phase = json!("CircuitOpen");
                }
            }
            (Break::NoRelease, Call::Write(Some(What::Release))) => {
                let pod = self.server.get(&sent.path).await?.unwrap_or_default();
                return Ok(Some(Told::success(&pod)));
            }
            (Break::Adopt, Call::Write(Some(What::Create))) => {
                let name = look::name(&sent.body).to_owned();
                let mut memory = lock(&self.memory);
                memory.wanted.insert(name, sent.body.clone());
            }
            (Break::OldConfirmation, Call::Read) if sent.path.contains("/agenttasks/") => {
                if let Some(task) = self.lists.task(&sent.path) {
                    return Ok(Some(Told::success(&task)));
                }
            }
            _ => {}
        }
        Ok(None)
    }

    /// Changes an answer, or does more than was asked for.
    pub async fn broken_after(&self, call: &Call, sent: &Sent, told: Told) -> Result<Told> {
        let Some(breakage) = self.breakage else { return Ok(told) };
        if sent.method == Method::GET
            && let Some(body) = breakage.seen(&told.body)
        {
            return Ok(Told { body: body.into(), ..told });
        }
        if !told.status.is_success() {
            return Ok(told);
        }
        match (breakage, call) {
            (Break::EarlyRelease, Call::Write(Some(What::Start))) => {
                let drop = json!({ "metadata": { "finalizers": null } });
                self.server.merge(&sent.path, &drop).await?;
            }
            (Break::CountTwice, Call::Write(Some(What::Status)))
                if look::has(&sent.body, "/status/iterations") =>
            {
                let more = look::number(&told.json(), "/status/iterations") + 1;
                let patch = json!({ "status": { "iterations": more } });
                self.server.send(Method::PATCH, &sent.path, Some((Format::Merge, &patch))).await?;
            }
            (Break::NoLookForEarlier, Call::Read) if sent.path.ends_with("/pods") => {
                let mut list = told.json();
                if let Some(items) = list.get_mut("items") {
                    *items = json!([]);
                }
                return Ok(Told::success(&list));
            }
            (Break::Adopt, Call::Read) if sent.path.contains("/pods/") => return Ok(self.adopted(sent, told)),
            (Break::Restless, Call::Write(Some(What::Status))) => self.rest_no_more(),
            _ => {}
        }
        Ok(told)
    }

    /// Somebody else's pod, looking as if it were the one that the operator wanted to create.
    fn adopted(&self, sent: &Sent, told: Told) -> Told {
        let mut pod = told.json();
        let memory = lock(&self.memory);
        let Some(wanted) = memory.wanted.get(look::name(&pod)) else { return told };
        if pods(&self.scene.namespace, look::name(&pod)) != sent.path {
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
        Told::success(&pod)
    }

    /// Writes to the task for half a minute.
    fn rest_no_more(&self) {
        let memory = lock(&self.memory);
        if memory.restless.swap(true, Ordering::SeqCst) {
            return;
        }
        let (server, path) = (self.server.clone(), crate::server::tasks(&self.scene.namespace, &self.task));
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
