//! The real objects that `decide` is given, built from the small numbers of a state.

use std::sync::LazyLock;

use agentloop_contract::completion_gate::CompletionGate;
use agentloop_contract::names::env::REPORT_KEY;
use agentloop_contract::report::{self, Change, ProviderError, ProviderErrorKind, Report};
use agentloop_core::api::{
    ActiveIteration, AgentTask, BreakerStatus, Threshold, ThresholdSource, Thresholds,
};
use agentloop_core::decide::served::Release;
use agentloop_core::facts::PodFacts;
use agentloop_core::pod::{self, BuildInputs, Injection};
use agentloop_core::settings::Settings;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::state::{Attempt, Deletion, End, Pod, Shown, Spec, Task, Workspace};
use crate::statuses;

/// It is always this time. A wait is either still to come or over.
pub static NOW: LazyLock<Timestamp> =
    LazyLock::new(|| Timestamp::from_second(1_800_000_000).unwrap_or_default());
/// When every wait ends: all delays of the settings are set to this.
pub static LATER: LazyLock<Timestamp> = LazyLock::new(|| *NOW + SignedDuration::from_secs(DELAY));
/// Seconds that every delay takes.
pub const DELAY: i64 = 3600;

/// The exit code that fails a task.
const FATAL: i32 = 3;

/// The key that runners sign their reports with.
const KEY: &str = "key";

/// The task's name.
const NAME: &str = "x";

/// A task's uid.
pub fn task_uid(number: u8) -> String {
    format!("11111111-2222-3333-4444-{number:012}")
}

/// A pod's uid.
pub fn pod_uid(number: u8) -> String {
    format!("pod-{number}")
}

/// The number in a pod's uid.
pub fn pod_number(uid: &str) -> u8 {
    uid.strip_prefix("pod-").and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// A release.
pub fn release(number: u8) -> Release {
    Release::new("agentloop-system", &number.to_string())
}

/// The number in a release's name.
pub fn release_number(name: &str) -> Option<u8> {
    name.rsplit('/').next()?.parse().ok()
}

/// The name of an attempt's pod.
pub fn pod_name(of: Attempt) -> String {
    pod::pod_name(NAME, &task_uid(of.task), i32::from(of.iteration), i32::from(of.attempt))
}

fn spec(spec: Spec) -> Value {
    let mut json = json!({
        "suspend": spec.suspend,
        "prompt": format!("goal {}", spec.goal),
        "breaker": { "noChangeThreshold": 2, "sameErrorThreshold": 2 },
        "failOnExitCodes": [FATAL],
        "podHistoryLimit": spec.keep,
        "template": { "spec": { "containers": [
            { "name": "agent", "image": format!("example/agent:{}", spec.template), "command": ["agent"] },
        ] } },
    });
    if spec.workspace != Workspace::None {
        let when_deleted = if spec.workspace == Workspace::Deleted { "Delete" } else { "Retain" };
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
pub fn task(task: &Task) -> AgentTask {
    let mut json = json!({
        "apiVersion": "agentloop.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": {
            "name": NAME,
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

/// What a runner writes that saw this end.
fn report(end: End) -> Option<Report> {
    let exited = |code, changed| Report { exit_code: Some(code), changed, ..Report::of(report::End::Exited) };
    Some(match end {
        End::Changed => exited(0, Change::Changed),
        End::Unchanged => exited(0, Change::Unchanged),
        End::Error => {
            Report { error: Some(report::Error::new("it does not build")), ..exited(1, Change::Changed) }
        }
        End::Ready | End::Forged => Report {
            gate: Some(CompletionGate { ready: true, ..CompletionGate::default() }),
            ..exited(0, Change::Changed)
        },
        End::Refused | End::Touched => Report {
            provider_refused: Some(ProviderError {
                kind: ProviderErrorKind::RateLimited,
                until: None,
                unavailable: false,
            }),
            error: Some(report::Error::new("429")),
            untouched: end == End::Refused,
            ..exited(1, Change::Unchanged)
        },
        End::Fatal => exited(FATAL, Change::Unchanged),
        End::Interrupted => Report::of(report::End::Interrupted),
        End::Killed | End::NeverStarted | End::Collected => return None,
    })
}

/// The container's status after this end.
fn agent_state(end: End) -> Value {
    let at = |code: i32| {
        let time = NOW.to_string();
        json!({ "exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
            "startedAt": time, "finishedAt": time })
    };
    let Some(report) = report(end) else { return json!({ "terminated": at(137) }) };
    let mut state = at(report.container_exit_code().unwrap_or_default());
    let key = (end != End::Forged).then_some(KEY.as_bytes());
    state["message"] = json!(report.encode(report::MAX_BYTES, key).unwrap_or_default());
    json!({ "terminated": state })
}

/// How all operators get the runner into pods.
pub fn injection() -> Injection {
    Injection { image: "example/runner:1".to_owned(), ..Injection::default() }
}

/// What `agentloop_core::facts` reads from the real pod; it has a key for reports.
pub fn facts(modelled: &Pod, has_key: bool) -> PodFacts {
    let of = modelled.of;
    let owner = Task {
        uid: of.task,
        generation: 1,
        spec: Spec {
            limit: 0,
            suspend: false,
            token: 0,
            template: modelled.template,
            goal: modelled.goal,
            keep: 0,
            // Of no matter to what is read of a pod.
            workspace: Workspace::None,
        },
        deleting: false,
        status: statuses::NONE,
    };
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
    if !modelled.gated {
        json["spec"]["schedulingGates"] = Value::Null;
    }
    if !modelled.held {
        json["metadata"]["finalizers"] = Value::Null;
    }
    let asked = match modelled.deletion {
        Deletion::No => None,
        Deletion::Asked => Some(*NOW),
        Deletion::LongAgo => Some(*NOW - SignedDuration::from_secs(DELAY)),
    };
    if let Some(asked) = asked {
        json["metadata"]["deletionTimestamp"] = json!(asked.to_string());
    }
    if modelled.bound {
        json["spec"]["nodeName"] = json!("node");
    }
    let waiting = json!({ "waiting": { "reason": "ContainerCreating" } });
    let (phase, state) = match modelled.shown {
        Shown::Pending => ("Pending", waiting),
        Shown::Running => ("Running", json!({ "running": { "startedAt": NOW.to_string() } })),
        Shown::Ended(End::NeverStarted | End::Collected) => ("Failed", waiting),
        Shown::Ended(end @ (End::Changed | End::Unchanged | End::Ready | End::Forged)) => {
            ("Succeeded", agent_state(end))
        }
        Shown::Ended(end) => ("Failed", agent_state(end)),
    };
    json["status"] = json!({ "phase": phase });
    if modelled.bound {
        json["status"]["containerStatuses"] = json!([{ "name": "agent", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": state }]);
    }
    if modelled.shown == Shown::Ended(End::Collected) {
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
