//! How the API server reads a manifest: nulls, lists that several clients own, and its messages about mistakes.

use agentloop_core::api::AgentTask;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::response::StatusCause;
use kube::{Error, Resource, ResourceExt};
use serde_json::{Map, Value, json};

use crate::namespace::{TestNamespace, object};
use crate::specs;

/// Tasks as they are sent: our type would omit nulls.
fn raw(ns: &TestNamespace) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<AgentTask>(&());
    Api::namespaced_with(ns.clients.read.clone(), &ns.name, &resource)
}

fn manifest(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": AgentTask::api_version(&()), "kind": AgentTask::kind(&()),
        "metadata": { "name": name }, "spec": spec,
    })
}

fn template() -> Value {
    json!({ "spec": { "containers": [{ "name": "agent", "image": "none", "command": ["/bin/agent"] }] } })
}

#[tokio::test]
async fn a_null_in_a_manifest_means_that_the_field_is_absent() {
    let ns = TestNamespace::with_tasks().await;
    let mut spec = Map::new();
    for name in specs::schema()["properties"].as_object().expect("fields").keys() {
        spec.insert(name.clone(), Value::Null);
    }
    spec.insert("template".to_owned(), template());
    spec["template"]["metadata"] = json!({ "labels": null, "annotations": null, "creationTimestamp": null });
    let agent = &mut spec["template"]["spec"]["containers"][0];
    agent["volumeMounts"] = Value::Null;
    agent["volumeDevices"] = Value::Null;
    let task = manifest("nulls", &Value::Object(spec));
    let created = raw(&ns).create(&PostParams::default(), &object(task.clone())).await.expect("accepted");
    let kept = &created.data["spec"];
    assert_eq!(kept.as_object().expect("a spec").keys().collect::<Vec<_>>(), ["template", "workspace"]);
    assert_eq!(kept["workspace"], json!({ "mountPath": "/workspace" }), "the default");
    // With server-side apply, only in the fields in which other tools leave nulls.
    let mut applied = manifest("applied", &task["spec"]);
    applied["spec"].as_object_mut().expect("a spec").retain(|_, value| !value.is_null());
    let params = PatchParams::apply("one");
    raw(&ns).patch("applied", &params, &Patch::Apply(&applied)).await.expect("accepted by server-side apply");
    ns.api::<AgentTask>().get("applied").await.expect("it can be decoded");
    ns.end().await;
}

#[tokio::test]
async fn two_clients_can_own_different_containers_of_one_task() {
    let ns = TestNamespace::with_tasks().await;
    let apply = async |manager: &str, containers: Value| {
        let task = manifest("shared", &json!({ "template": { "spec": { "containers": containers } } }));
        let params = PatchParams::apply(manager);
        raw(&ns).patch("shared", &params, &Patch::Apply(&task)).await
    };
    let agent = json!({ "name": "agent", "image": "none", "command": ["/bin/agent"] });
    apply("user", json!([agent])).await.expect("accepted");
    apply("mesh", json!([{ "name": "proxy", "image": "proxy:1" }]))
        .await
        .expect("accepted beside the other's");
    let task = apply("user", json!([agent])).await.expect("accepted again");
    let containers = task.data["spec"]["template"]["spec"]["containers"].as_array().expect("a list").clone();
    let names: Vec<_> = containers.iter().map(|container| container["name"].as_str()).collect();
    assert_eq!(names, [Some("agent"), Some("proxy")]);
    ns.end().await;
}

/// The causes that the server gives for refusing a spec.
async fn causes(ns: &TestNamespace, spec: &Value) -> Vec<StatusCause> {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match raw(ns).create(&dry, &object(manifest("refused", spec))).await {
        Err(Error::Api(status)) => status.details.expect("details").causes,
        other => panic!("{spec}: {:?}", other.map(|task| task.name_any())),
    }
}

#[tokio::test]
async fn a_refusal_names_the_field_and_its_fault() {
    let ns = TestNamespace::with_tasks().await;
    let pod = |pod: Value| json!({ "template": { "spec": pod } });
    let agent = json!({ "name": "agent", "image": "none", "command": ["/bin/agent"] });
    let with_mounts = |mounts: Value| {
        let mut agent = agent.clone();
        agent["volumeMounts"] = mounts;
        pod(json!({ "containers": [agent] }))
    };
    let mount = |path: &str| json!({ "name": "v", "mountPath": path });
    for (spec, field, reason) in [
        (
            json!({ "template": template(), "completion": { "policy": "Verify" } }),
            "spec.completion.verify",
            "FieldValueRequired",
        ),
        (
            json!({ "template": template(), "prompt": "x", "promptFrom": { "secretKeyRef": { "name": "n", "key": "k" } } }),
            "spec.promptFrom",
            "FieldValueForbidden",
        ),
        (
            json!({ "template": template(), "failOnExitCodes": [3, 3] }),
            "spec.failOnExitCodes[1]",
            "FieldValueDuplicate",
        ),
        (
            pod(json!({ "containers": [agent], "nodeName": "here" })),
            "spec.template.spec.nodeName",
            "FieldValueForbidden",
        ),
        (
            pod(json!({ "containers": [agent, { "name": "proxy" }] })),
            "spec.template.spec.containers[1].image",
            "FieldValueRequired",
        ),
        (
            pod(json!({ "containers": [agent, agent] })),
            "spec.template.spec.containers[1]",
            "FieldValueDuplicate",
        ),
        (
            with_mounts(json!([mount("/a"), mount("/a")])),
            "spec.template.spec.containers[0].volumeMounts[1]",
            "FieldValueDuplicate",
        ),
        (with_mounts(json!([mount("/proc")])), "spec.template.spec.containers", "FieldValueInvalid"),
    ] {
        let causes = causes(&ns, &spec).await;
        let found = causes.iter().any(|cause| cause.field == field && cause.reason == reason);
        assert!(found, "{field} {reason}: {causes:?}");
    }
    ns.end().await;
}
