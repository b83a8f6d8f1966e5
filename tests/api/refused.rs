//! What the API server refuses when a task is applied, because it would refuse the pod later.

use agentloop_core::api::{ActiveIteration, AgentTask, BreakerStatus};
use agentloop_core::pod::{self, BuildInputs, Injection};
use agentloop_core::settings::Settings;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::namespace::{TestNamespace, object};

const WORKSPACES: &[&str] = &[
    "//",
    "/.",
    "/./",
    "/agentloop",
    "//agentloop/bin",
    "/./agentloop",
    "/.//agentloop",
    "/agentloop/",
    "/agentloop/.",
    "/x/..",
    "/x/../agentloop",
    "/x/./../y",
    "/proc",
    "/proc/self",
    "//sys",
    "/sys/fs/x",
    "/dev",
    "/dev/shm",
    "/workspace",
    "/agentloops",
    "/home/dev",
    "/processes",
    "/a..b",
    "/..a",
    "/...",
    "/.agentloop",
    "//srv//x/",
    "/x/agentloop",
];

const MOUNTS: &[&str] = &[
    "/",
    "//",
    ".",
    "./",
    "/agentloop",
    "//agentloop/bin",
    "agentloop/bin",
    "./agentloop",
    "/agentloop/run/x",
    "/proc",
    "/proc/1",
    "/sys",
    "/sys/",
    "/sys/.",
    "/sys/x",
    "/sys/fs",
    "/sys/fs/",
    "/sys/fs/.",
    "/sys//fs/./cgroup",
    "/sys/fs/cgroup",
    "/sys/fsx/y",
    "/sys/fs/.x",
    "/dev",
    "/dev/",
    "/dev/./",
    "/dev/termination-log",
    "/dev//termination-log",
    "dev/./termination-log/x",
    "/dev/termination-logs",
    "/dev/shm",
    "/dev/fuse",
    "/dev/.x",
    "/a/../agentloop",
    "..",
    "/...",
    "/cache",
    "cache",
    "/devices",
    "/x/dev",
];

fn task(change: impl FnOnce(&mut Value)) -> AgentTask {
    let mut task = json!({
        "metadata": { "name": "t", "uid": "u" },
        "spec": { "workspace": {}, "template": { "metadata": {}, "spec": { "containers": [
            { "name": "agent", "image": "none", "command": ["/bin/agent"] },
        ] } } },
    });
    change(&mut task);
    object(task)
}

fn agent(task: &mut Value) -> &mut Value {
    &mut task["spec"]["template"]["spec"]["containers"][0]
}

/// The server's refusal of a task, in a dry run.
async fn refusal(ns: &TestNamespace, task: &AgentTask) -> Option<String> {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let mut task = task.clone();
    task.metadata.uid = None;
    ns.api::<AgentTask>().create(&dry, &task).await.err().map(|error| error.to_string())
}

/// The pod that the rules build, or why they do not.
fn built(task: &AgentTask) -> Result<Value, String> {
    let active = ActiveIteration { iteration: 1, pod_name: "p".to_owned(), ..ActiveIteration::default() };
    let settings = Settings::default();
    let injection = Injection { image: "runner".to_owned(), ..Injection::default() };
    let means = BuildInputs { injection: &injection, settings: &settings, report_key: "k" };
    let thresholds = settings.thresholds(&task.spec, None);
    pod::build(task, &active, &thresholds, &BreakerStatus::default(), &[], &means)
        .map_err(|bad| bad.to_string())
}

#[tokio::test]
async fn the_server_refuses_the_same_paths_as_the_rules() {
    let ns = TestNamespace::with_tasks().await;
    let workspaces =
        WORKSPACES.iter().map(|path| (path, task(|t| t["spec"]["workspace"]["mountPath"] = json!(path))));
    let mounts = MOUNTS.iter().flat_map(|path| {
        [("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")]
            .map(|(list, key)| (path, task(|t| agent(t)[list] = json!([{ "name": "v", key: path }]))))
    });
    for (path, task) in workspaces.chain(mounts) {
        let refused = refusal(&ns, &task).await;
        let bad = built(&task).err();
        assert_eq!(refused.is_some(), bad.is_some(), "{path}: server {refused:?}, core {bad:?}");
        assert!(refused.is_none_or(|why| why.contains("/agentloop, /proc, /sys")), "{path}");
    }
    ns.end().await;
}

#[tokio::test]
async fn every_container_needs_an_image() {
    let ns = TestNamespace::with_tasks().await;
    for image in [Value::Null, json!(""), json!(" "), json!(" none"), json!("none\n")] {
        for list in ["containers", "initContainers"] {
            let task = task(|t| {
                let mut other = json!({ "name": "other", "image": image });
                if image.is_null() {
                    other = json!({ "name": "other" });
                }
                let spec = &mut t["spec"]["template"]["spec"];
                let mut all = spec[list].as_array().cloned().unwrap_or_default();
                all.push(other);
                spec[list] = json!(all);
            });
            let why = refusal(&ns, &task).await.unwrap_or_default();
            assert!(why.contains("every container needs an image"), "{image} {list}: {why}");
        }
    }
    ns.end().await;
}

#[tokio::test]
async fn only_labels_and_annotations_are_kept_of_a_templates_metadata() {
    let ns = TestNamespace::with_tasks().await;
    let metadata = json!({
        "labels": { "a": "b" }, "annotations": { "c": "d" }, "creationTimestamp": null,
        "name": "dropped", "finalizers": ["dropped.example.com/x"], "managedFields": [],
    });
    let task = task(|t| {
        t["spec"]["template"]["metadata"] = metadata.clone();
        t["spec"]["workspace"]["volumeClaimTemplate"] = json!({ "metadata": metadata, "spec": {} });
        agent(t)["volumeMounts"] = Value::Null;
    });
    let mut task = task;
    task.metadata.uid = None;
    task.metadata.name = Some("created".to_owned());
    let created = ns.api::<AgentTask>().create(&PostParams::default(), &task).await.expect("accepted");
    let spec = serde_json::to_value(&created.spec).expect("a spec");
    for kept in [&spec["template"]["metadata"], &spec["workspace"]["volumeClaimTemplate"]["metadata"]] {
        let mut kept = kept.clone();
        kept.as_object_mut().expect("an object").remove("creationTimestamp");
        assert_eq!(kept, json!({ "labels": { "a": "b" }, "annotations": { "c": "d" } }));
    }
    for bad in [
        json!({ "labels": { "a": 1 } }),
        json!({ "annotations": { "a": {} } }),
        json!({ "labels": { "a": "b".repeat(64) } }),
    ] {
        let task = self::task(|t| t["spec"]["template"]["metadata"] = bad.clone());
        assert!(refusal(&ns, &task).await.is_some(), "{bad}");
    }
    let empty =
        self::task(|t| t["spec"]["template"]["metadata"] = json!({ "labels": null, "annotations": null }));
    assert_eq!(refusal(&ns, &empty).await, None);
    ns.end().await;
}

#[tokio::test]
async fn texts_that_do_not_fit_into_a_pods_annotations_are_refused() {
    const PROMPT: usize = 131_072;
    let ns = TestNamespace::with_tasks().await;
    let with = |prompt: usize, command: Vec<String>, note: usize| {
        task(|t| {
            t["spec"]["prompt"] = json!("p".repeat(prompt));
            t["spec"]["completion"] = json!({ "verify": { "command": command } });
            t["spec"]["template"]["metadata"]["annotations"] = json!({ "n": "n".repeat(note) });
        })
    };
    let args = |text: &str, count: usize| vec![text.repeat(4096); count];
    for good in
        [with(PROMPT, args("a", 20), 1000), with(PROMPT, args("\"", 11), 0), with(10, args("\u{1}", 9), 0)]
    {
        assert_eq!(refusal(&ns, &good).await, None);
        let pod = built(&good).expect("a pod");
        let notes = pod["metadata"]["annotations"].as_object().expect("annotations");
        let bytes: usize =
            notes.iter().map(|(key, text)| key.len() + text.as_str().map_or(0, str::len)).sum();
        assert!(bytes < 240 << 10, "{bytes}");
    }
    for bad in [
        with(PROMPT, args("a", 24), 0),
        with(PROMPT, args("\"", 12), 0),
        with(10, args("\u{1}", 10), 0),
        with(PROMPT, args("a", 1), 100_000),
    ] {
        let why = refusal(&ns, &bad).await.unwrap_or_default();
        assert!(why.contains("224 KiB together"), "{why}");
    }
    ns.end().await;
}
