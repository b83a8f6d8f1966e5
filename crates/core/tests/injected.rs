//! What agentloop adds to the agent's pod without disturbing what the template has.

use crate::support::{default_thresholds, injection, means, task};
use agentloop_contract::context::Context;
use agentloop_core::{
    api::{ActiveIteration, BreakerStatus},
    pod::{self, BuildInputs, Injection, InvalidTemplate},
    settings::Settings,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

fn build_with(more: &Value, means: &BuildInputs<'_>) -> Result<Value, InvalidTemplate> {
    let task = task(more);
    let active = ActiveIteration {
        iteration: 3,
        attempt: 1,
        pod_name: "x-pod-3-1".to_owned(),
        generation: 1,
        orphaned: false,
    };
    let built =
        pod::build(&task, &active, &default_thresholds(&task.spec), &BreakerStatus::default(), &[], means)?;
    serde_json::from_value::<Pod>(built.clone()).unwrap();
    Ok(built)
}

fn build(more: &Value) -> Result<Value, InvalidTemplate> {
    build_with(more, &means(&injection()))
}

/// The pod of a template with this agent's container.
fn with_agent(more: &Value) -> Result<Value, InvalidTemplate> {
    let mut agent = json!({ "name": "agent", "image": "i", "command": ["go"] });
    crate::support::merge(&mut agent, more);
    build(&json!({ "prompt": "p", "template": { "spec": { "containers": [agent] } } }))
}

fn agent(pod: &Value) -> &Value {
    &pod["spec"]["containers"][0]
}

fn env_names(pod: &Value) -> Vec<&str> {
    agent(pod)["env"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect()
}

fn context(pod: &Value) -> Context {
    serde_json::from_str(pod["metadata"]["annotations"]["agentloop.dev/context"].as_str().unwrap()).unwrap()
}

#[test]
fn our_variables_come_first_and_the_key_last_and_none_twice() {
    let env = json!([
        { "name": "AGENTLOOP_REPORT_KEY", "value": "mine" },
        { "name": "GOAL", "value": "$(AGENTLOOP_PROMPT_FILE)" },
        { "name": "AGENTLOOP_ITERATION", "value": "99" },
        { "name": "AGENTLOOP_MINE", "value": "kept" },
    ]);
    let pod = with_agent(&json!({ "env": env })).unwrap();
    let names = [
        "AGENTLOOP_TASK",
        "AGENTLOOP_ITERATION",
        "AGENTLOOP_MAX_ITERATIONS",
        "AGENTLOOP_CONTEXT_FILE",
        "AGENTLOOP_WORKSPACE",
        "AGENTLOOP_PROMPT_FILE",
        "GOAL",
        "AGENTLOOP_MINE",
        "AGENTLOOP_REPORT_KEY",
    ];
    assert_eq!(env_names(&pod), names);
    let env = agent(&pod)["env"].as_array().unwrap();
    assert_eq!((&env[5]["value"], &env[8]["value"]), (&json!("/agentloop/run/prompt.md"), &json!("the-key")));
    let without = build(&json!({})).unwrap();
    assert!(
        !env_names(&without).contains(&"AGENTLOOP_PROMPT_FILE"),
        "a task without a prompt has no prompt file"
    );
    let from = json!({ "promptFrom": { "secretKeyRef": { "name": "n", "key": "k" } } });
    assert!(env_names(&build(&from).unwrap()).contains(&"AGENTLOOP_PROMPT_FILE"));
}

#[test]
fn the_key_is_expanded_nowhere_in_the_agents_container() {
    let key = "x$(AGENTLOOP_REPORT_KEY)";
    let pod = with_agent(&json!({
        "command": ["go", key, "$(AGENTLOOP_PROMPT_FILE)"],
        "args": [key, "$$(AGENTLOOP_REPORT_KEY)"],
        "env": [{ "name": "A", "value": key }],
        "livenessProbe": { "exec": { "command": ["sh", key] } },
        "volumeMounts": [{ "name": "workspace", "mountPath": "/x", "subPathExpr": key }],
    }))
    .unwrap();
    let agent = agent(&pod);
    let command = agent["command"].as_array().unwrap();
    assert_eq!(command[3..], ["go", "x$$(AGENTLOOP_REPORT_KEY)", "$(AGENTLOOP_PROMPT_FILE)"]);
    assert_eq!(agent["args"], json!(["x$$(AGENTLOOP_REPORT_KEY)", "$$(AGENTLOOP_REPORT_KEY)"]));
    let unescaped = agent.to_string().replace("$$(", "").contains("$(AGENTLOOP_REPORT_KEY)");
    assert!(!unescaped, "{agent}");
}

#[test]
fn the_runner_denies_the_agent_new_privileges_unless_its_container_has_them() {
    let may_not = |security: Value| {
        context(&with_agent(&json!({ "securityContext": security })).unwrap()).no_new_privileges
    };
    assert!(may_not(json!({})));
    assert!(may_not(json!({ "allowPrivilegeEscalation": false, "capabilities": { "add": ["NET_ADMIN"] } })));
    for security in [
        json!({ "allowPrivilegeEscalation": true }),
        json!({ "privileged": true }),
        json!({ "capabilities": { "add": ["SYS_ADMIN"] } }),
        json!({ "capabilities": { "add": ["CAP_SYS_ADMIN"] } }),
    ] {
        assert!(!may_not(security.clone()), "{security}");
    }
}

#[test]
fn the_agent_starts_in_the_workspace_unless_the_template_names_a_folder() {
    let starts = |more: Value| context(&with_agent(&more).unwrap()).start_in_workspace;
    assert!(starts(json!({})));
    assert!(starts(json!({ "workingDir": "" })));
    assert!(!starts(json!({ "workingDir": "/src" })));
}

#[test]
fn settings_reach_the_runner() {
    let settings = Settings {
        agent_exit_grace_seconds: 5,
        transcript_iterations: 7,
        transcript_mebibytes: 2,
        ..Settings::default()
    };
    let injection = injection();
    let context =
        context(&build_with(&json!({}), &BuildInputs { settings: &settings, ..means(&injection) }).unwrap());
    assert_eq!(context.exit_grace_seconds, 5);
    assert_eq!((context.transcripts.iterations, context.transcripts.bytes), (7, 2 << 20));
}

#[test]
fn a_template_that_mounts_the_workspace_itself_is_left_as_it_is() {
    let mounts = |more: Value| -> Vec<(String, String)> {
        let pod = with_agent(&json!({ "volumeMounts": more })).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = agent(&pod)["volumeMounts"].as_array().unwrap();
        all.iter()
            .filter(|m| m["name"] == "workspace")
            .map(|m| (text(&m["name"]), text(&m["mountPath"])))
            .collect()
    };
    for path in ["/workspace", "/workspace/", "//workspace"] {
        assert_eq!(mounts(json!([{ "name": "workspace", "mountPath": path }])).len(), 1, "{path}");
    }
    assert_eq!(mounts(json!([{ "name": "workspace", "mountPath": "/workspace", "subPath": "a" }])).len(), 1);
    assert_eq!(mounts(json!([{ "name": "workspace", "mountPath": "/elsewhere" }])).len(), 2);
    let other = with_agent(&json!({ "volumeMounts": [{ "name": "other", "mountPath": "/workspace/" }] }));
    assert!(other.unwrap_err().to_string().contains("another volume"));
}

#[test]
fn nothing_is_mounted_over_the_runner() {
    for path in [
        "/agentloop",
        "//agentloop/bin",
        "/./agentloop/run",
        "/x/../agentloop/bin",
        "/proc",
        "/dev/termination-log",
    ] {
        assert!(
            with_agent(&json!({ "volumeMounts": [{ "name": "v", "mountPath": path }] })).is_err(),
            "{path}"
        );
        let refused = build(&json!({ "workspace": { "mountPath": path } })).unwrap_err();
        assert!(refused.to_string().starts_with("spec.workspace: "), "{refused}");
    }
}

fn install(template: &Value, injection: &Injection) -> Value {
    let pod = build_with(&json!({ "template": { "spec": template } }), &means(injection)).unwrap();
    pod["spec"]["initContainers"][0].clone()
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn the_copy_of_the_runner_needs_no_more_than_the_agent_does() {
    let with = |resources: Value, injection: &Injection| {
        let agent = json!({ "name": "agent", "image": "i", "command": ["go"], "resources": resources });
        install(&json!({ "containers": [agent] }), injection)["resources"].clone()
    };
    let guaranteed = json!({
        "requests": { "cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1" },
        "limits": { "cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1" },
    });
    let expected =
        json!({ "requests": { "cpu": "2", "memory": "4Gi" }, "limits": { "cpu": "2", "memory": "4Gi" } });
    assert_eq!(with(guaranteed.clone(), &injection()), expected);
    assert_eq!(with(json!({}), &injection()), Value::Null, "a LimitRange's defaults apply");
    let own = json!({ "requests": { "cpu": "50m" }, "limits": { "cpu": "100m" } });
    let configured = Injection { resources: Some(object(&own)), ..injection() };
    assert_eq!(with(json!({}), &configured), own);
    assert_eq!(with(json!({ "requests": { "cpu": "1" } }), &configured), own);
    assert_eq!(with(guaranteed, &configured), expected, "a Guaranteed pod stays one");
}

#[test]
fn the_copy_of_the_runner_takes_its_user_from_the_pod_or_its_image() {
    let security = |pod: Value, injection: &Injection| {
        let agent = json!({ "name": "agent", "image": "i", "command": ["go"] });
        install(&json!({ "securityContext": pod, "containers": [agent] }), injection)["securityContext"]
            .clone()
    };
    let plain = security(json!({ "runAsUser": 1_000_680_001 }), &injection());
    assert_eq!((&plain["runAsUser"], &plain["runAsNonRoot"]), (&Value::Null, &json!(true)));
    for root in [json!({ "runAsUser": 0 }), json!({ "runAsNonRoot": false })] {
        assert_eq!(security(root.clone(), &injection())["runAsNonRoot"], Value::Null, "{root}");
    }
    let own = json!({ "runAsUser": 7, "seccompProfile": null });
    let configured = Injection { security_context: Some(object(&own)), ..injection() };
    let set = security(json!({}), &configured);
    assert_eq!((&set["runAsUser"], &set["seccompProfile"]), (&json!(7), &Value::Null));
    assert_eq!(set["allowPrivilegeEscalation"], false, "the rest stays strict");
}
