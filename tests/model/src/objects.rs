//! The real objects that `decide` is given, built from the small numbers of a state.

use agentloop_contract::completion_gate::CompletionGate;
use agentloop_contract::names::env::REPORT_KEY;
use agentloop_contract::report::{self, Change, ProviderError, ProviderErrorKind, Report};
use agentloop_core::api::{
    ActiveIteration, AgentTask, BreakerStatus, Threshold, ThresholdSource, Thresholds,
};
use agentloop_core::facts::PodFacts;
use agentloop_core::pod::{self, BuildInputs, Injection};
use agentloop_core::settings::Settings;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::api::{Deletion, ModelPod, ModelSpec, ModelTask, NO_STATUS, PodEnd, PodProgress, WorkspacePolicy};
use crate::bounds::{DELAY, NOW};
use crate::names::{self, pod_name, pod_uid, task_uid};
use crate::statuses;

/// The exit code that fails a task.
const FATAL: i32 = 3;

/// The key that runners sign their reports with.
const KEY: &str = "key";

fn spec(spec: ModelSpec) -> Value {
    let mut json = json!({
        "suspend": spec.suspend,
        "prompt": format!("goal {}", spec.goal),
        "breaker": { "sameErrorThreshold": 2 },
        "failOnExitCodes": [FATAL],
        "podHistoryLimit": spec.pod_history_limit,
        "template": { "spec": { "containers": [
            { "name": "agent", "image": format!("example/agent:{}", spec.template), "command": ["agent"] },
        ] } },
    });
    if spec.workspace != WorkspacePolicy::None {
        let when_deleted = if spec.workspace == WorkspacePolicy::Delete { "Delete" } else { "Retain" };
        json["workspace"] = json!({
            "whenDeleted": when_deleted,
            "volumeClaimTemplate": { "spec": { "accessModes": ["ReadWriteOnce"] } },
        });
    }
    if spec.limit > 0 {
        json["maxIterations"] = json!(spec.limit);
    }
    if spec.token > 0 {
        json["resetToken"] = json!(spec.token.to_string());
    }
    json
}

/// The real task.
pub fn task(task: &ModelTask) -> AgentTask {
    let mut json = json!({
        "apiVersion": "agentloop.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": {
            "name": names::TASK,
            "namespace": "dev",
            "uid": task_uid(task.uid),
            "generation": task.generation,
            "resourceVersion": "1",
        },
        "spec": spec(task.spec),
    });
    if task.deleting {
        json["metadata"]["deletionTimestamp"] = json!(NOW.to_string());
    }
    let mut task_: AgentTask = serde_json::from_value(json).expect("a task");
    task_.status = statuses::get(task.status).whole.as_deref().cloned();
    task_
}

/// What a runner reports after this end.
fn report(end: PodEnd) -> Option<Report> {
    let exited = |code, changed| Report { exit_code: Some(code), changed, ..Report::of(report::End::Exited) };
    Some(match end {
        PodEnd::Changed => exited(0, Change::Changed),
        PodEnd::Unchanged => exited(0, Change::Unchanged),
        PodEnd::Error => {
            Report { error: Some(report::Error::new("it does not build")), ..exited(1, Change::Changed) }
        }
        PodEnd::Ready | PodEnd::Forged => Report {
            gate: Some(CompletionGate { ready: true, ..CompletionGate::default() }),
            ..exited(0, Change::Changed)
        },
        PodEnd::Refused | PodEnd::Touched => Report {
            provider_refused: Some(ProviderError {
                kind: ProviderErrorKind::RateLimited,
                until: None,
                unavailable: false,
            }),
            error: Some(report::Error::new("429")),
            untouched: end == PodEnd::Refused,
            ..exited(1, Change::Unchanged)
        },
        PodEnd::Fatal => exited(FATAL, Change::Unchanged),
        PodEnd::Interrupted => Report::of(report::End::Interrupted),
        PodEnd::Killed | PodEnd::NeverStarted | PodEnd::CollectedByPodGc => return None,
    })
}

/// The container's status after this end.
fn agent_state(end: PodEnd) -> Value {
    let at = |code: i32| {
        let time = NOW.to_string();
        json!({ "exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
            "startedAt": time, "finishedAt": time })
    };
    let Some(report) = report(end) else { return json!({ "terminated": at(137) }) };
    let mut state = at(report.container_exit_code().unwrap_or_default());
    let key = (end != PodEnd::Forged).then_some(KEY.as_bytes());
    state["message"] = json!(report.encode(report::MAX_BYTES, key).unwrap_or_default());
    json!({ "terminated": state })
}

/// How every operator gets the runner into pods.
pub fn injection() -> Injection {
    Injection { image: "example/runner:1".to_owned(), ..Injection::default() }
}

/// What `agentloop_core::facts` reads from the real pod, which has a key for reports or not.
pub fn facts(modelled: &ModelPod, has_key: bool) -> PodFacts {
    let of = modelled.of;
    // What is read of a pod depends on nothing else of its task.
    let spec = ModelSpec { template: modelled.template, goal: modelled.goal, ..ModelSpec::of_limit(0) };
    let owner = ModelTask { uid: of.task, generation: 1, spec, deleting: false, status: NO_STATUS };
    let active = ActiveIteration {
        iteration: of.iteration.into(),
        attempt: of.attempt.into(),
        pod_name: pod_name(of),
        generation: 1,
        orphaned: false,
    };
    let injection = injection();
    let means = BuildInputs { injection: &injection, settings: &Settings::default(), report_key: "" };
    let built = pod::build(&task(&owner), &active, &thresholds(), &BreakerStatus::default(), &[], &means);
    let mut json = built.expect("a pod");
    json["metadata"]["uid"] = json!(pod_uid(modelled.uid));
    json["metadata"]["creationTimestamp"] = json!(NOW.to_string());
    if has_key {
        json["spec"]["containers"][0]["env"] = json!([{ "name": REPORT_KEY, "value": KEY }]);
    }
    if modelled.foreign {
        json["metadata"]["labels"] = Value::Null;
        json["metadata"]["ownerReferences"] = Value::Null;
    }
    if !modelled.has_scheduling_gate {
        json["spec"]["schedulingGates"] = Value::Null;
    }
    if !modelled.has_finalizer {
        json["metadata"]["finalizers"] = Value::Null;
    }
    let requested = match modelled.deletion {
        Deletion::No => None,
        Deletion::Requested => Some(*NOW),
        Deletion::RequestedLongAgo => Some(*NOW - SignedDuration::from_secs(DELAY)),
    };
    if let Some(requested) = requested {
        json["metadata"]["deletionTimestamp"] = json!(requested.to_string());
    }
    if modelled.bound {
        json["spec"]["nodeName"] = json!("node");
    }
    let waiting = json!({ "waiting": { "reason": "ContainerCreating" } });
    let (phase, state) = match modelled.progress {
        PodProgress::Pending => ("Pending", waiting),
        PodProgress::Running => ("Running", json!({ "running": { "startedAt": NOW.to_string() } })),
        PodProgress::Ended(PodEnd::NeverStarted | PodEnd::CollectedByPodGc) => ("Failed", waiting),
        PodProgress::Ended(end @ (PodEnd::Changed | PodEnd::Unchanged | PodEnd::Ready | PodEnd::Forged)) => {
            ("Succeeded", agent_state(end))
        }
        PodProgress::Ended(end) => ("Failed", agent_state(end)),
    };
    json["status"] = json!({ "phase": phase });
    if modelled.bound {
        json["status"]["containerStatuses"] = json!([{ "name": "agent", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": state }]);
    }
    if modelled.progress == PodProgress::Ended(PodEnd::CollectedByPodGc) {
        json["status"]["conditions"] =
            json!([{ "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC" }]);
    }
    PodFacts::of(&serde_json::from_value(json).expect("a pod"))
}

fn thresholds() -> Thresholds {
    let one = Threshold { value: 1, from: ThresholdSource::Default };
    Thresholds {
        max_iterations: one,
        hard_limit: one,
        no_change: one,
        same_error: one,
        iteration_timeout_seconds: one,
        config_version: None,
    }
}
