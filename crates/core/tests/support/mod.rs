//! Tasks, pods and reports from compact descriptions, and a simulation that runs whole loops.

pub mod kubelet;
pub mod simulation;

use std::sync::LazyLock;

use agentloop_contract::{
    completion_gate::CompletionGate,
    report::{Change, End, Error, ProviderError, ProviderErrorKind, Report},
};
use agentloop_core::{
    api::{AgentTask, AgentTaskSpec, Thresholds},
    decide::{Observed, PreviousPod},
    facts::PodFacts,
    pod::{BuildInputs, Injection},
    settings::{Configuration, Settings},
    sync::Failure,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

pub use simulation::Simulation;

/// The time at which every test begins.
pub fn start() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

pub fn after(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

/// A spec with one agent container, and `more` merged into it.
pub fn spec_json(more: &Value) -> Value {
    let mut spec = json!({
        "template": { "spec": { "containers": [
            { "name": "agent", "image": "example/agent:1", "command": ["agent", "--go"] },
        ] } },
    });
    merge(&mut spec, more);
    spec
}

pub fn spec(more: &Value) -> AgentTaskSpec {
    serde_json::from_value(spec_json(more)).unwrap()
}

/// The task dev/x.
pub fn task(more: &Value) -> AgentTask {
    serde_json::from_value(json!({
        "apiVersion": "agentloop.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": {
            "name": "x",
            "namespace": "dev",
            "uid": "11111111-2222-3333-4444-555555555555",
            "generation": 1,
            "resourceVersion": "1",
        },
        "spec": spec_json(more),
    }))
    .unwrap()
}

/// The task dev/x with this in its metadata, and this status.
pub fn task_at(metadata: &Value, status: &Value) -> AgentTask {
    let mut whole = serde_json::to_value(task(&json!({}))).unwrap();
    merge(&mut whole, &json!({ "metadata": metadata, "status": status }));
    serde_json::from_value(whole).unwrap()
}

/// A status in which the third iteration is active, in the pod x-3-0, with `more` merged into it.
pub fn active(more: &Value) -> Value {
    let mut status = json!({
        "iterations": 2, "maxIterations": 10, "observedGeneration": 1,
        "startTime": "2026-01-01T00:00:00Z",
        "active": { "iteration": 3, "attempt": 0, "podName": "x-3-0", "generation": 1 },
    });
    merge(&mut status, more);
    status
}

/// This task and these pods at the start, and nothing else.
pub fn observed<'a>(task: &'a AgentTask, pods: &'a [PodFacts]) -> Observed<'a> {
    static MADE_WITH: LazyLock<(Configuration, Injection)> =
        LazyLock::new(|| (Configuration::absent(), injection()));
    Observed {
        task,
        pods,
        configuration: &MADE_WITH.0,
        injection: &MADE_WITH.1,
        obstacle: None,
        previous_pod: PreviousPod::None,
        refused: None,
        was_started: false,
        pvc_is_checked: true,
        is_gone: false,
        now: start(),
    }
}

/// JSON merge patch (RFC 7386).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

pub fn injection() -> Injection {
    Injection { image: "example/runner:1".to_owned(), ..Injection::default() }
}

/// What pods are created with, under the default settings.
pub fn means(injection: &Injection) -> BuildInputs<'_> {
    static SETTINGS: LazyLock<Settings> = LazyLock::new(Settings::default);
    BuildInputs { injection, settings: &SETTINGS, report_key: "the-key" }
}

pub fn default_thresholds(spec: &AgentTaskSpec) -> Thresholds {
    Settings::default().thresholds(spec, None)
}

// === What a runner reports ===

/// The agent exited with 0 and left this change of the workspace.
pub fn exited(changed: Change) -> Report {
    Report { exit_code: Some(0), changed, untouched: changed == Change::Unchanged, ..Report::of(End::Exited) }
}

pub fn worked() -> Report {
    exited(Change::Changed)
}

pub fn idled() -> Report {
    exited(Change::Unchanged)
}

/// The agent changed something and ended in this error.
pub fn failed_with(error: &str) -> Report {
    Report { exit_code: Some(1), error: Some(Error::new(error)), ..worked() }
}

/// The agent reports that it is done.
pub fn done() -> Report {
    let gate = CompletionGate {
        ready: true,
        reason: Some("all tests pass".to_owned()),
        ..CompletionGate::default()
    };
    Report { gate: Some(gate), ..worked() }
}

/// The provider refused for now.
pub fn rate_limited(changed: Change, until: Option<Timestamp>) -> Report {
    Report {
        exit_code: Some(1),
        provider_refused: Some(ProviderError {
            kind: ProviderErrorKind::RateLimited,
            until,
            unavailable: false,
        }),
        error: Some(Error::new("exit code 1: 429 Too Many Requests")),
        ..exited(changed)
    }
}

pub fn unauthenticated() -> Report {
    let refusal = ProviderError { kind: ProviderErrorKind::Unauthenticated, until: None, unavailable: false };
    Report { provider_refused: Some(refusal), ..failed_with("401 Unauthorized") }
}

/// The runner was asked to stop before the agent had ended.
pub fn interrupted(changed: Change) -> Report {
    Report { changed, ..Report::of(End::Interrupted) }
}

pub fn timed_out(changed: Change) -> Report {
    Report { changed, error: Some(Error::new("IterationTimeout")), ..Report::of(End::TimedOut) }
}

// === What the API server answers to a pod ===

/// A ResourceQuota leaves no room for the pod.
pub fn quota_exceeded() -> Failure {
    let message = "pods \"x-1-0\" is forbidden: exceeded quota: full, requested: pods=1".to_owned();
    Failure::Rejected { code: 403, message }
}

/// The pod is not valid.
pub fn invalid_pod() -> Failure {
    Failure::Rejected { code: 422, message: "Pod \"x-1-0\" is invalid: because".to_owned() }
}
