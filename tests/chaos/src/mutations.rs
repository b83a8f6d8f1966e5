//! Ways to break the operator on purpose, so that the self-test can show that the checker detects them.
//!
//! The shipped program is not changed. The proxy changes the operator's requests, or the responses to them, into
//! what a broken operator would send or believe.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentloop_test_support::invariants::Invariant;
use agentloop_test_support::json;
use anyhow::Result;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time;

use crate::buffered::{BufferedRequest, BufferedResponse};
use crate::classify::RequestClass;
use crate::plan::RequestKind;
use crate::server::{AdminClient, Format, pods, tasks};
use crate::stale_lists::StaleLists;

/// One way to break the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Pods are created without the scheduling gate: one that is created late runs an old iteration.
    NoSchedulingGate,
    /// Pods never get the finalizer: a deleted pod is forgotten.
    NoFinalizer,
    /// The finalizer is removed as soon as the pod starts.
    EarlyFinalizerRemoval,
    /// The finalizer is never removed.
    KeepFinalizer,
    /// A status is written even if the task has changed since it was read.
    NoResourceVersion,
    /// An iteration is counted again after it was settled.
    CountTwice,
    /// The read that confirms a start returns an old copy.
    StaleConfirmation,
    /// The list of a previous task's pods seems to be empty.
    IgnorePreviousPods,
    /// Failed pods have no container statuses: an agent that ran seems never to have run.
    HideContainers,
    /// A suspended task does not seem to be suspended.
    IgnoreSuspend,
    /// A task without progress seems to have made some.
    ForgetStreak,
    /// A foreign pod with the right name is treated as the operator's own.
    AdoptForeignPod,
    /// The status reports a reached limit as another stop.
    WrongPhase,
    /// The operator never stops writing.
    KeepWriting,
}

/// All mutations: the name on the command line, and the invariants of which the checker must report one.
pub const ALL: &[(Mutation, &str, &[Invariant])] = &[
    (Mutation::NoSchedulingGate, "no-scheduling-gate", &[Invariant::S1, Invariant::S2]),
    (Mutation::NoFinalizer, "no-finalizer", &[Invariant::S2]),
    (Mutation::EarlyFinalizerRemoval, "early-finalizer-removal", &[Invariant::S4]),
    (Mutation::KeepFinalizer, "keep-finalizer", &[Invariant::S8]),
    (Mutation::NoResourceVersion, "no-resource-version", &[Invariant::S3, Invariant::S5]),
    (Mutation::CountTwice, "count-twice", &[Invariant::S4]),
    (Mutation::StaleConfirmation, "stale-confirmation", &[Invariant::S1, Invariant::S2]),
    (Mutation::IgnorePreviousPods, "ignore-previous-pods", &[Invariant::S1]),
    (Mutation::HideContainers, "hide-containers", &[Invariant::S2, Invariant::S4]),
    (Mutation::IgnoreSuspend, "ignore-suspend", &[Invariant::S5]),
    (Mutation::ForgetStreak, "forget-streak", &[Invariant::S4, Invariant::S5]),
    (Mutation::AdoptForeignPod, "adopt-foreign-pod", &[Invariant::S2]),
    (Mutation::WrongPhase, "wrong-phase", &[Invariant::S6]),
    (Mutation::KeepWriting, "keep-writing", &[Invariant::L2]),
];

/// Applies one mutation to the requests and responses of an experiment.
pub struct Mutator {
    mutation: Mutation,
    server: AdminClient,
    namespace: String,
    task: String,
    lists: Arc<StaleLists>,
    /// The pods that the operator tried to create, by name.
    requested_pods: Mutex<BTreeMap<String, Value>>,
    keeps_writing: AtomicBool,
}

impl Mutation {
    /// What the operator reads instead of these lines of a watch, or of this list.
    pub fn mutate_read(self, bytes: &[u8]) -> Option<Vec<u8>> {
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

/// Removes the container statuses of failed pods.
fn hide_containers(text: &str) -> Vec<u8> {
    let hide = |pod: &mut Value| {
        if json::text(pod, "/status/phase") == "Failed"
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

impl Mutator {
    /// A mutator for the task in this namespace.
    pub fn new(
        mutation: Mutation,
        server: AdminClient,
        namespace: &str,
        task: &str,
        lists: Arc<StaleLists>,
    ) -> Self {
        Self {
            mutation,
            server,
            namespace: namespace.to_owned(),
            task: task.to_owned(),
            lists,
            requested_pods: Mutex::default(),
            keeps_writing: AtomicBool::new(false),
        }
    }

    /// What the operator reads instead of these lines of a watch.
    pub fn mutate_watch(&self, lines: &[u8]) -> Option<Vec<u8>> {
        self.mutation.mutate_read(lines)
    }

    /// Changes a request before it is passed on. If it returns a response, the operator gets that instead of the server's.
    pub async fn before(
        &self,
        class: &RequestClass,
        request: &mut BufferedRequest,
    ) -> Result<Option<BufferedResponse>> {
        match (self.mutation, class) {
            (Mutation::NoSchedulingGate, RequestClass::Write(Some(RequestKind::Create))) => {
                remove(&mut request.body, "/spec", "schedulingGates");
            }
            (Mutation::NoFinalizer, RequestClass::Write(_))
                if !json::list(&request.body, "/metadata/finalizers").is_empty() =>
            {
                remove(&mut request.body, "/metadata", "finalizers");
            }
            (Mutation::NoResourceVersion, RequestClass::Write(Some(RequestKind::Status))) => {
                remove(&mut request.body, "/metadata", "resourceVersion");
            }
            (Mutation::WrongPhase, RequestClass::Write(Some(RequestKind::Status)))
                if json::text(&request.body, "/status/phase") == "IterationLimitReached" =>
            {
                if let Some(phase) = request.body.pointer_mut("/status/phase") {
                    *phase = json!("CircuitOpen");
                }
            }
            (Mutation::KeepFinalizer, RequestClass::Write(Some(RequestKind::RemoveFinalizer))) => {
                let pod = self.server.get(&request.path).await?.unwrap_or_default();
                return Ok(Some(BufferedResponse::success(&pod)));
            }
            (Mutation::AdoptForeignPod, RequestClass::Write(Some(RequestKind::Create))) => {
                let name = json::name(&request.body).to_owned();
                self.requested_pods.lock().insert(name, request.body.clone());
            }
            (Mutation::StaleConfirmation, RequestClass::Read) if request.path.contains("/agenttasks/") => {
                if let Some(task) = self.lists.task(&request.path) {
                    return Ok(Some(BufferedResponse::success(&task)));
                }
            }
            _ => {}
        }
        Ok(None)
    }

    /// Changes a response, or does more than was requested.
    pub async fn after(
        &self,
        class: &RequestClass,
        request: &BufferedRequest,
        response: BufferedResponse,
    ) -> Result<BufferedResponse> {
        if request.method == Method::GET
            && let Some(body) = self.mutation.mutate_read(&response.body)
        {
            return Ok(BufferedResponse { body: body.into(), ..response });
        }
        if !response.status.is_success() {
            return Ok(response);
        }
        match (self.mutation, class) {
            (
                Mutation::EarlyFinalizerRemoval,
                RequestClass::Write(Some(RequestKind::RemoveSchedulingGate)),
            ) => {
                let drop = json!({ "metadata": { "finalizers": null } });
                self.server.merge(&request.path, &drop).await?;
            }
            (Mutation::CountTwice, RequestClass::Write(Some(RequestKind::Status)))
                if json::has(&request.body, "/status/iterations") =>
            {
                let more = json::number(&response.json(), "/status/iterations") + 1;
                let patch = json!({ "status": { "iterations": more } });
                self.server.send(Method::PATCH, &request.path, Some((Format::Merge, &patch))).await?;
            }
            (Mutation::IgnorePreviousPods, RequestClass::Read) if request.path.ends_with("/pods") => {
                let mut list = response.json();
                if let Some(items) = list.get_mut("items") {
                    *items = json!([]);
                }
                return Ok(BufferedResponse::success(&list));
            }
            (Mutation::AdoptForeignPod, RequestClass::Read) if request.path.contains("/pods/") => {
                return Ok(self.adopted(request, response));
            }
            (Mutation::KeepWriting, RequestClass::Write(Some(RequestKind::Status))) => self.keep_writing(),
            _ => {}
        }
        Ok(response)
    }

    /// A foreign pod that looks like the one that the operator tried to create.
    fn adopted(&self, request: &BufferedRequest, response: BufferedResponse) -> BufferedResponse {
        let mut pod = response.json();
        let requested_pods = self.requested_pods.lock();
        let Some(requested) = requested_pods.get(json::name(&pod)) else { return response };
        if pods(&self.namespace, json::name(&pod)) != request.path {
            return response;
        }
        for key in ["labels", "ownerReferences", "annotations"] {
            let ours = requested.pointer(&format!("/metadata/{key}")).cloned().unwrap_or_default();
            if let Some(meta) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.insert(key.to_owned(), ours);
            }
        }
        if let (Some(spec), Some(ours)) =
            (pod.get_mut("spec").and_then(Value::as_object_mut), requested.get("spec"))
        {
            for key in ["schedulingGates", "containers", "restartPolicy"] {
                spec.insert(key.to_owned(), ours.get(key).cloned().unwrap_or_default());
            }
        }
        BufferedResponse::success(&pod)
    }

    /// Writes to the task for half a minute, once.
    fn keep_writing(&self) {
        if self.keeps_writing.swap(true, Ordering::SeqCst) {
            return;
        }
        let (server, path) = (self.server.clone(), tasks(&self.namespace, &self.task));
        tokio::spawn(async move {
            for count in 0..60 {
                time::sleep(Duration::from_millis(500)).await;
                let note = json!({ "metadata": { "annotations": { "keep-writing": count.to_string() } } });
                if !server.merge(&path, &note).await.unwrap_or(false) {
                    return;
                }
            }
        });
    }
}
