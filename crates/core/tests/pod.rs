//! The pod that is built for an iteration, and the PVC of a task.

use crate::support::{default_thresholds, injection, means, merge, spec, task};
use agentloop_contract::context::Context;
use agentloop_core::{
    api::{ActiveIteration, AgentTask, BreakerStatus},
    pod::{self, Injection, InvalidTemplate, pod_name, pvc, pvc_name, template_hash, uid_hash},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

fn try_build(task: &AgentTask, injection: &Injection) -> Result<Value, InvalidTemplate> {
    let active = ActiveIteration {
        iteration: 3,
        attempt: 1,
        pod_name: "x-pod-3-1".to_owned(),
        generation: 1,
        orphaned: false,
    };
    let streaks = BreakerStatus { consecutive_no_change: 2, ..BreakerStatus::default() };
    let built = pod::build(task, &active, &default_thresholds(&task.spec), &streaks, &[], &means(injection))?;
    // What was built must be a valid pod.
    serde_json::from_value::<Pod>(built.clone()).unwrap();
    Ok(built)
}

fn build(more: &Value) -> Value {
    try_build(&task(more), &injection()).unwrap()
}

fn build_from(template: &Value) -> Value {
    build(&json!({ "template": template }))
}

fn context(pod: &Value) -> Context {
    serde_json::from_str(pod["metadata"]["annotations"]["agentloop.dev/context"].as_str().unwrap()).unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect()
}

fn volume<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    volumes.iter().find(|volume| volume["name"] == name).unwrap()
}

#[test]
fn a_pod_is_created_inert_with_finalizer_owner_and_labels() {
    let pod = build(&json!({}));
    assert_eq!(pod["metadata"]["name"], "x-pod-3-1");
    assert_eq!(pod["metadata"]["namespace"], "dev");
    assert_eq!(pod["metadata"]["finalizers"], json!(["agentloop.dev/settle"]));
    assert_eq!(pod["spec"]["schedulingGates"], json!([{ "name": "agentloop.dev/start" }]));
    assert_eq!(pod["spec"]["restartPolicy"], "Never");
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["uid"], &owner["controller"]),
        (&json!("11111111-2222-3333-4444-555555555555"), &json!(true))
    );
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["agentloop.dev/task"], "x");
    assert_eq!(labels["agentloop.dev/task-uid"], "11111111-2222-3333-4444-555555555555");
    assert_eq!(
        (&labels["agentloop.dev/iteration"], &labels["agentloop.dev/attempt"]),
        (&json!("3"), &json!("1"))
    );
    let notes = &pod["metadata"]["annotations"];
    assert_eq!(notes["agentloop.dev/template-hash"], template_hash(&task(&json!({})).spec));
    assert_eq!(notes["cluster-autoscaler.kubernetes.io/safe-to-evict"], "false");
    assert_eq!(notes["karpenter.sh/do-not-disrupt"], "true");
}

#[test]
fn fields_that_our_types_do_not_know_reach_the_api_server() {
    let pod = build_from(&json!({
        "metadata": { "labels": { "team": "a" }, "newMeta": 1 },
        "spec": {
            "newerThanUs": { "deep": [1, { "x": null }] },
            "containers": [{ "name": "agent", "command": ["a"], "image": "i", "alsoNew": true }],
            "dnsPolicy": "None",
        },
    }));
    // The helper's merge patch drops nulls, so the task's own template is compared.
    assert_eq!(pod["spec"]["newerThanUs"]["deep"][0], 1);
    assert_eq!(pod["spec"]["containers"][0]["alsoNew"], true);
    assert_eq!((&pod["metadata"]["newMeta"], &pod["spec"]["dnsPolicy"]), (&json!(1), &json!("None")));
    assert_eq!(pod["metadata"]["labels"]["team"], "a");
}

#[test]
fn the_command_is_wrapped_and_the_arguments_stay() {
    let agent = json!({
        "name": "main", "image": "i", "command": ["sh", "-c", "run \"$@\""], "args": ["--", "a b", ""],
        "terminationMessagePath": "/mine", "env": [{ "name": "A", "value": "1" }],
    });
    let pod = build_from(&json!({ "spec": { "containers": [agent] } }));
    let agent = &pod["spec"]["containers"][0];
    let wrapped = ["/agentloop/bin/agentloop-runner", "run", "--", "sh", "-c", "run \"$@\""];
    assert_eq!(agent["command"], json!(wrapped));
    assert_eq!(agent["args"], json!(["--", "a b", ""]));
    assert_eq!(agent["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(agent["terminationMessagePolicy"], "File");
    let value = |name: &str| {
        let env = agent["env"].as_array().unwrap();
        env.iter().find(|variable| variable["name"] == name).unwrap()["value"].clone()
    };
    assert_eq!(value("AGENTLOOP_TASK"), "dev/x");
    assert_eq!((value("AGENTLOOP_ITERATION"), value("AGENTLOOP_MAX_ITERATIONS")), (json!("3"), json!("10")));
    assert_eq!(value("AGENTLOOP_CONTEXT_FILE"), "/agentloop/input/context.json");
    assert_eq!(value("AGENTLOOP_WORKSPACE"), "/workspace");
}

#[test]
fn only_the_container_named_agent_is_touched() {
    let side = json!({ "name": "docker", "image": "d", "command": ["dockerd"] });
    let agent = json!({ "name": "agent", "image": "a", "command": ["go"] });
    let pod = build_from(&json!({ "spec": { "containers": [side, agent] } }));
    assert_eq!(pod["spec"]["containers"][0], side);
    assert_eq!(pod["spec"]["containers"][1]["command"][3], "go");
}

#[test]
fn a_template_without_an_agent_or_a_command_is_refused_with_a_reason() {
    let refused = |containers: Value| {
        let task = task(&json!({ "template": { "spec": { "containers": containers } } }));
        try_build(&task, &injection()).unwrap_err().to_string()
    };
    let two = json!([{ "name": "a", "command": ["x"] }, { "name": "b", "command": ["x"] }]);
    assert!(refused(two).contains("the one that runs the agent must be named 'agent'"));
    assert!(refused(json!([{ "name": "a" }])).contains("needs a command"));
    assert!(refused(json!([{ "name": "a", "command": [] }])).contains("needs a command"));
    assert!(refused(json!(["x"])).contains("not an object"));
    assert!(refused(json!([])).starts_with("spec.template: "));
    assert!(refused(json!("nonsense")).starts_with("spec.template: "));
}

#[test]
fn what_the_template_has_is_kept_and_ours_is_added() {
    let pod = build_from(&json!({
        "metadata": {
            "finalizers": ["mine.example/keep"],
            "annotations": { "karpenter.sh/do-not-disrupt": "false", "note": "n" },
            "labels": { "agentloop.dev/iteration": "99" },
        },
        "spec": {
            "schedulingGates": [{ "name": "kueue.x-k8s.io/admission" }],
            "automountServiceAccountToken": true,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 1,
            "volumes": [{ "name": "cache", "emptyDir": {} }],
            "initContainers": [{ "name": "fetch", "image": "i" }],
            "containers": [{
                "name": "agent", "image": "a", "command": ["go"],
                "volumeMounts": [{ "name": "cache", "mountPath": "/cache" }],
            }],
        },
    }));
    assert_eq!(pod["metadata"]["finalizers"], json!(["mine.example/keep", "agentloop.dev/settle"]));
    assert_eq!(names(&pod["spec"]["schedulingGates"]), ["kueue.x-k8s.io/admission", "agentloop.dev/start"]);
    assert_eq!(pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"], "false");
    assert_eq!(pod["metadata"]["labels"]["agentloop.dev/iteration"], "3", "our labels win");
    assert_eq!(pod["spec"]["automountServiceAccountToken"], true);
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], 3600 + 30 + 1800);
    let volumes = ["cache", "workspace", "agentloop-bin", "agentloop-input", "agentloop-run"];
    assert_eq!(names(&pod["spec"]["volumes"]), volumes);
    assert_eq!(
        names(&pod["spec"]["containers"][0]["volumeMounts"]),
        ["cache", "workspace", "agentloop-bin", "agentloop-input", "agentloop-run"]
    );
    assert_eq!(names(&pod["spec"]["initContainers"]), ["agentloop-install", "fetch"], "ours comes first");
}

#[test]
fn a_workspace_persists_on_a_pvc_of_either_kind_only() {
    let template = json!({ "volumeClaimTemplate": { "spec": { "accessModes": ["ReadWriteOnce"] } } });
    let own = json!({ "persistentVolumeClaim": { "claimName": "mine" } });
    for (workspace, stays) in [(template, true), (own, true), (json!({}), false)] {
        let pod = build(&json!({ "workspace": workspace }));
        assert_eq!(context(&pod).workspace_stays, stays, "{workspace}");
    }
}

#[test]
fn the_pods_deadline_is_later_than_every_timeout_of_the_runner() {
    let pod = build(&json!({
        "iterationTimeoutSeconds": 100,
        "completion": { "verify": { "command": ["t"], "timeoutSeconds": 50 } },
        "template": { "spec": { "terminationGracePeriodSeconds": 90 } },
    }));
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], 100 + 50 + 90 + 1800);
    let context = context(&pod);
    assert_eq!(context.iteration_timeout_seconds, 100);
    assert_eq!(context.grace_seconds, 30, "the runner needs some of it to report");
    assert_eq!(context.verify.unwrap().timeout_seconds, 50);
}

#[test]
fn the_runner_is_copied_by_a_restricted_init_container() {
    let injection = Injection { pull_policy: Some("Always".to_owned()), ..injection() };
    let pod = try_build(&task(&json!({})), &injection).unwrap();
    let install = &pod["spec"]["initContainers"][0];
    assert_eq!(
        (&install["image"], &install["imagePullPolicy"]),
        (&json!("example/runner:1"), &json!("Always"))
    );
    let security = &install["securityContext"];
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(
        (&security["runAsNonRoot"], &security["allowPrivilegeEscalation"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(volume(&pod, "agentloop-bin")["emptyDir"], json!({}));
}

#[test]
fn the_runner_is_mounted_as_an_image_if_the_cluster_supports_it() {
    let injection = Injection {
        image: "example/runner:1".to_owned(),
        pull_policy: Some("IfNotPresent".to_owned()),
        image_volume: true,
        ..Injection::default()
    };
    let pod = try_build(&task(&json!({})), &injection).unwrap();
    assert_eq!(pod["spec"]["initContainers"], Value::Null);
    let image = json!({ "reference": "example/runner:1", "pullPolicy": "IfNotPresent" });
    assert_eq!(volume(&pod, "agentloop-bin")["image"], image);
}

#[test]
fn a_workspace_is_a_pvc_of_the_task_an_existing_pvc_or_ephemeral() {
    let pod = build(&json!({ "workspace": { "mountPath": "/src" } }));
    assert_eq!(volume(&pod, "workspace")["emptyDir"], json!({}));
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], "/src");
    assert_eq!(context(&pod).workspace, "/src");
    let pod = build(&json!({ "workspace": { "persistentVolumeClaim": { "claimName": "mine" } } }));
    assert_eq!(volume(&pod, "workspace")["persistentVolumeClaim"]["claimName"], "mine");
    let template = json!({ "spec": { "accessModes": ["ReadWriteOnce"] } });
    let pod = build(&json!({ "workspace": { "volumeClaimTemplate": template } }));
    let name = format!("x-{}", uid_hash("11111111-2222-3333-4444-555555555555"));
    assert_eq!(volume(&pod, "workspace")["persistentVolumeClaim"]["claimName"], name);
}

#[test]
fn a_pvc_is_created_from_its_template_and_owned_only_if_it_is_deleted_with_the_task() {
    let template = json!({
        "metadata": { "labels": { "team": "a" }, "name": "not-mine" },
        "spec": { "accessModes": ["ReadWriteOnce"], "newField": 1 },
    });
    assert_eq!(pvc(&task(&json!({}))), Ok(None));
    let made = pvc(&task(&json!({ "workspace": { "volumeClaimTemplate": template } }))).unwrap().unwrap();
    assert_eq!(made["metadata"]["name"], pvc_name("x", "11111111-2222-3333-4444-555555555555"));
    assert_eq!(
        (&made["kind"], &made["metadata"]["namespace"]),
        (&json!("PersistentVolumeClaim"), &json!("dev"))
    );
    assert_eq!((&made["metadata"]["labels"]["team"], &made["spec"]["newField"]), (&json!("a"), &json!(1)));
    assert_eq!(made["metadata"]["ownerReferences"], json!([]), "work is not thrown away");
    let deleted = json!({ "workspace": { "volumeClaimTemplate": template, "whenDeleted": "Delete" } });
    let made = pvc(&task(&deleted)).unwrap().unwrap();
    assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "x");
}

#[test]
fn a_prompt_is_projected_from_the_pod_itself_or_from_its_source() {
    let sources = |pod: &Value| volume(pod, "agentloop-input")["projected"]["sources"].clone();
    let paths = |source: &Value| -> Vec<String> {
        source["downwardAPI"]["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["path"].as_str().unwrap().into())
            .collect()
    };
    let none = build(&json!({}));
    assert_eq!(paths(&sources(&none)[0]), ["context.json"]);
    let prompt = "fix it; $(rm -rf /) \"quoted\"\n\u{1F600}";
    let inline = build(&json!({ "prompt": prompt }));
    assert_eq!(paths(&sources(&inline)[0]), ["context.json", "prompt"]);
    assert_eq!(inline["metadata"]["annotations"]["agentloop.dev/prompt"], prompt);
    for (field, kind) in [("configMapKeyRef", "configMap"), ("secretKeyRef", "secret")] {
        let from = build(&json!({ "promptFrom": { field: { "name": "goals", "key": "today" } } }));
        let source = json!({ kind: { "name": "goals", "items": [{ "key": "today", "path": "prompt" }] } });
        assert_eq!(sources(&from)[1], source);
        assert_eq!(from["metadata"]["annotations"]["agentloop.dev/prompt"], Value::Null);
    }
}

#[test]
fn the_context_has_all_that_the_runner_needs() {
    let pod = build(&json!({
        "loopContext": "FileOnly",
        "completion": { "policy": "ExitCode" },
        "retryOnExitCodes": [9],
        "breaker": { "noChangeThreshold": 7 },
        "workspace": { "ignore": ["*.log"] },
        "maxIterations": 60,
    }));
    let context = context(&pod);
    assert_eq!((context.iteration, context.attempt, context.max_iterations), (3, 1, 50));
    assert_eq!((context.breaker.consecutive_no_change, context.breaker.no_change_threshold), (2, 7));
    assert_eq!((context.retry_on_exit_codes, context.ignore), (vec![9], vec!["*.log".to_owned()]));
    assert_eq!(context.policy, agentloop_contract::context::Policy::ExitCode);
    assert_eq!(context.loop_context, agentloop_contract::context::LoopContext::FileOnly);
}

#[test]
fn a_report_gets_its_share_of_the_kubelets_limit_for_a_pod() {
    assert_eq!(context(&build(&json!({}))).report_limit_bytes, 12_288 / 6, "agent, installer and four more");
    let side = |n: usize| json!({ "name": format!("side-{n}"), "image": "i" });
    let mut containers: Vec<Value> = (0..4).map(side).collect();
    containers.push(json!({ "name": "agent", "command": ["a"] }));
    let pod = build_from(&json!({ "spec": { "containers": containers } }));
    assert_eq!(context(&pod).report_limit_bytes, 12_288 / 10);
}

#[test]
fn the_hash_covers_what_a_pod_is_created_from() {
    let base = template_hash(&spec(&json!({})));
    let made_from = [
        json!({ "prompt": "p" }),
        json!({ "promptFrom": { "secretKeyRef": { "name": "n", "key": "k" } } }),
        json!({ "loopContext": "FileOnly" }),
        json!({ "template": { "spec": { "newerThanUs": 1 } } }),
        json!({ "workspace": { "ignore": ["x"] } }),
        json!({ "completion": { "policy": "ExitCode" } }),
        json!({ "iterationTimeoutSeconds": 5 }),
    ];
    for more in made_from {
        assert_ne!(template_hash(&spec(&more)), base, "{more}");
    }
    for more in [json!({ "maxIterations": 3 }), json!({ "suspend": true }), json!({ "resetToken": "t" })] {
        assert_eq!(template_hash(&spec(&more)), base, "{more}");
    }
}

#[test]
fn names_are_valid_and_distinct_at_every_length() {
    let uid = "11111111-2222-3333-4444-555555555555";
    // The cut can fall at every place, also at a dot.
    let dotted = (24..60).map(|at| format!("{}.{}", "a".repeat(at), "b".repeat(62 - at)));
    for task in ["x".to_owned(), "a.b.c".to_owned(), "n".repeat(63)].into_iter().chain(dotted) {
        for (iteration, attempt) in [(1, 0), (10_000, 0), (i32::MAX, i32::MAX)] {
            let name = pod_name(&task, uid, iteration, attempt);
            assert!(name.len() <= 63, "{name}");
            assert!(name.ends_with(&format!("-{}-{iteration}-{attempt}", uid_hash(uid))), "{name}");
            for part in name.split('.') {
                assert!(!part.is_empty() && !part.starts_with('-') && !part.ends_with('-'), "{name}");
            }
        }
        let name = pvc_name(&task, uid);
        assert!(name.len() <= 63 && !name.contains(".-") && !name.contains("-."), "{name}");
    }
    assert_ne!(pod_name("x", uid, 1, 11), pod_name("x", uid, 11, 1));
    assert_ne!(pod_name("x", uid, 1, 0), pod_name("x", "another", 1, 0));
}

#[test]
fn the_label_of_the_longest_name_is_valid() {
    let mut long = task(&json!({}));
    for name in ["n".repeat(63), format!("{}.{}", "a".repeat(62), "b".repeat(20))] {
        long.metadata.name = Some(name);
        let pod = try_build(&long, &injection()).unwrap();
        let label = pod["metadata"]["labels"]["agentloop.dev/task"].as_str().unwrap();
        assert!(label.len() <= 63 && label.ends_with(|c: char| c.is_ascii_alphanumeric()), "{label}");
    }
}

#[test]
fn the_template_cannot_override_what_the_operator_sets() {
    let mut template = json!({ "kind": "Job", "apiVersion": "batch/v1", "metadata": {
        "name": "mine", "generateName": "mine-", "namespace": "kube-system",
        "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "o" }],
        "annotations": { "agentloop.dev/context": "{}" },
    } });
    merge(&mut template, &json!({ "spec": { "restartPolicy": "Always" } }));
    let pod = build_from(&template);
    assert_eq!((&pod["kind"], &pod["apiVersion"]), (&json!("Pod"), &json!("v1")));
    assert_eq!(
        (&pod["metadata"]["name"], &pod["metadata"]["namespace"]),
        (&json!("x-pod-3-1"), &json!("dev"))
    );
    assert_eq!(pod["metadata"]["generateName"], Value::Null);
    assert_eq!(pod["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
    assert_eq!(pod["spec"]["restartPolicy"], "Never");
    assert_eq!(context(&pod).iteration, 3);
}
