//! How much memory the operator needs for the objects in the cluster: what one tenant stores must not end the operator for
//! all tenants.
//!
//! The test prints what it measures; `make memory` measures at full size.

use std::future::Future;

use agentloop_core::api::AgentTask;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::kubelet::{AgentWork, ended};
use crate::namespace::{TestNamespace, eventually, object, uid};
use crate::process::OperatorProcess;

/// How many pods a task keeps by default.
const RETAINED: usize = 10;
/// Bytes of a prompt.
const PROMPT: usize = 32 * 1024;
/// Bytes of a crafted object: the API server accepts about 1.5 MB.
const CRAFTED: usize = 1_400_000;
/// Fields of an object whose managedFields are large. With more fields, the API server would need a minute for one object;
/// long names have the same effect.
const FIELDS: usize = 4_000;
/// Bytes of the name of such a field.
const FIELD_NAME: usize = 160;
/// Requests at the same time.
const TOGETHER: usize = 16;

/// How many of each there are.
struct Size {
    tasks: usize,
    crafted: usize,
}

impl Size {
    fn of_environment() -> Self {
        let number =
            |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
        Self { tasks: number("AGENTLOOP_MEMORY_TASKS", 40), crafted: number("AGENTLOOP_MEMORY_CRAFTED", 3) }
    }
}

/// The memory limit that the chart sets, in MiB.
fn limit() -> u64 {
    let values = include_str!("../../charts/agentloop/values.yaml");
    let values: Value = serde_saphyr::from_str(values).expect("YAML");
    let limit = values.pointer("/resources/limits/memory").and_then(Value::as_str).expect("a limit");
    limit.strip_suffix("Mi").and_then(|number| number.parse().ok()).expect("in Mi")
}

/// The memory of the process in MiB: now, and the most since it started.
fn memory(operator: &OperatorProcess) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.pid())).expect("it runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        let kib: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
        kib / 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn measured(operator: &OperatorProcess, what: &str) -> u64 {
    let (now, peak) = memory(operator);
    println!("{now:>6} MiB, {peak:>6} at most: {what}");
    peak
}

async fn all<F: Future<Output = ()>>(count: usize, make: impl Fn(usize) -> F) {
    stream::iter(0..count).map(make).buffer_unordered(TOGETHER).collect::<()>().await;
}

/// A loop that no operator advances, with the pods of its last iterations.
async fn task_with_pods(ns: &TestNamespace, number: usize) {
    let name = format!("ordinary-{number}");
    let prompt = "p".repeat(PROMPT);
    let task = ns.create(&name, json!({ "suspend": true, "prompt": prompt })).await;
    let pods = ns.api::<Pod>();
    for iteration in 1..=RETAINED {
        let pod: Pod = object(json!({
            "metadata": {
                "name": format!("{name}-{iteration}"),
                "labels": {
                    // Later than the status knows, so the operator leaves them alone.
                    "agentloop.dev/iteration": (100 + iteration).to_string(), "agentloop.dev/attempt": "0",
                    "agentloop.dev/task": name, "agentloop.dev/task-uid": uid(&task),
                },
                "annotations": { "agentloop.dev/prompt": prompt, "agentloop.dev/template-hash": "h".repeat(64) },
                "ownerReferences": [{
                    "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "name": name,
                    "uid": uid(&task), "controller": true,
                }],
            },
            "spec": { "restartPolicy": "Never", "containers": [
                { "name": "agent", "image": "none", "command": ["/agentloop/bin/agentloop-runner"] },
            ] },
        }));
        let pod = pods.create(&PostParams::default(), &pod).await.expect("a pod");
        let (phase, state) = ended(&pod, &AgentWork::error(&"e".repeat(500)));
        let agent = json!({
            "name": "agent", "image": "none", "imageID": "", "ready": false, "restartCount": 0, "state": state,
        });
        let status = Patch::Merge(json!({ "status": { "phase": phase, "containerStatuses": [agent] } }));
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &status).await.expect("a status");
    }
}

/// A suspended task with this template. The API server may need longer than its own timeout.
async fn create(ns: &TestNamespace, name: &str, template: &Value) {
    let task: AgentTask = object(json!({
        "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "metadata": { "name": name },
        "spec": { "suspend": true, "template": template },
    }));
    eventually("the API server accepts the task", || async {
        match ns.api::<AgentTask>().create(&PostParams::default(), &task).await {
            Ok(_) => Some(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Some(()),
            Err(kube::Error::Api(status)) if status.code == 504 => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
}

/// Objects that would need many times their size if they were decoded into trees.
async fn crafted(ns: &TestNamespace, number: usize) {
    let values = |each: &str| vec![json!({ "": 0 }); CRAFTED / each.len()];
    let agent = json!({ "name": "agent", "image": "none", "command": ["/bin/agent"] });
    // In an unknown field of the template.
    let template = json!({ "spec": { "containers": [agent], "x": values("{\"\":0},") } });
    create(ns, &format!("crafted-{number}"), &template).await;
    // In managedFields: the API server writes an entry for each field.
    let fields: serde_json::Map<String, Value> =
        (0..FIELDS).map(|number| (format!("{number:0FIELD_NAME$}"), json!(0))).collect();
    let template = json!({ "spec": { "containers": [agent], "x": fields } });
    create(ns, &format!("fields-{number}"), &template).await;
    // Every client that can create pods can set these labels.
    let variables = vec![json!({ "name": "A" }); CRAFTED / "{\"name\":\"A\"},".len()];
    let pod = json!({
        "metadata": { "name": format!("crafted-{number}"), "labels": { "agentloop.dev/task-uid": "none" } },
        "spec": { "containers": [{ "name": "agent", "image": "none", "env": variables }] },
    });
    let pod = ns.api::<Pod>().create(&PostParams::default(), &object::<Pod>(pod)).await;
    pod.expect("a pod");
}

/// Waits until its cache has this many tasks.
async fn cached(operator: &OperatorProcess, tasks: usize) {
    let count = || {
        let metrics = operator.get("/metrics");
        let lines = metrics.lines().filter(|line| line.starts_with("agentloop_tasks{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum::<usize>()
    };
    eventually(&format!("{tasks} tasks"), || async { (count() == tasks).then_some(()) }).await;
}

#[tokio::test]
async fn the_objects_in_the_cluster_do_not_need_more_memory_than_the_chart_allows() {
    let (ns, size) = (TestNamespace::with_tasks().await, Size::of_environment());
    let operator = OperatorProcess::controller(&ns);
    operator.ready("working").await;
    measured(&operator, "without objects");
    all(size.tasks, |number| task_with_pods(&ns, number)).await;
    cached(&operator, size.tasks).await;
    let (tasks, pods) = (size.tasks, size.tasks * RETAINED);
    measured(&operator, &format!("with {tasks} tasks of {PROMPT} bytes, and {pods} pods"));
    // One after another: each one takes the API server some seconds.
    for number in 0..size.crafted {
        crafted(&ns, number).await;
    }
    let count = size.tasks + 2 * size.crafted;
    cached(&operator, count).await;
    let more = format!("and {} objects of {CRAFTED} bytes", 3 * size.crafted);
    let followed = measured(&operator, &more);
    drop(operator);

    let operator = OperatorProcess::controller(&ns);
    operator.ready("working").await;
    cached(&operator, count).await;
    let started = measured(&operator, "with all of them, after a start");
    let tasks: kube::Api<AgentTask> = ns.api();
    assert_eq!(
        tasks.list_metadata(&kube::api::ListParams::default()).await.expect("a list").items.len(),
        count
    );
    for peak in [followed, started] {
        assert!(peak < limit(), "{peak} MiB");
    }
    ns.end().await;
}
