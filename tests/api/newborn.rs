//! Namespaces that were just made, and lack what their controllers make by themselves.

use agentloop_operator::metrics::Metrics;
use agentloop_operator::namespaces::Namespaces;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use crate::kubelet::Operator;
use crate::world::{World, eventually, object};

/// Every Warning in this namespace.
async fn warnings(world: &World) -> Vec<String> {
    let events = world.api::<Event>().list(&ListParams::default()).await.expect("Events").items;
    let is_warning = |event: &Event| event.type_.as_deref() == Some("Warning");
    events.into_iter().filter(is_warning).filter_map(|event| event.note).collect()
}

async fn is_not_stalled(world: &World, task: &str) {
    let status = world.status(task).await;
    let stalled = status.conditions.iter().find(|c| c.type_ == "Stalled").expect("the condition");
    assert_eq!(stalled.status, "False");
    assert_eq!(warnings(world).await, Vec::<String>::new());
}

#[tokio::test]
async fn namespaces_and_their_tasks_made_together_cause_no_warning() {
    let first = World::with_tasks().await;
    let names: Vec<String> = (0..10).map(|n| format!("{}-{n}", first.namespace)).collect();
    let all = Namespaces::Only(names.iter().cloned().collect());
    let _operator = Operator::set_up(&first, |setup| setup.namespaces = all);
    let namespaces: Api<Namespace> = Api::all(first.clients.read.clone());
    let mut worlds = Vec::new();
    for name in names {
        let made = object(json!({ "metadata": { "name": name } }));
        namespaces.create(&PostParams::default(), &made).await.expect("a namespace");
        let world = World { clients: first.clients.clone(), writer: first.writer.clone(), namespace: name };
        world.create("together", json!({})).await;
        worlds.push(world);
    }
    for world in worlds {
        world.started_pod("together").await;
        is_not_stalled(&world, "together").await;
        world.end().await;
    }
    first.end().await;
}

/// Refuses every ServiceAccount of this namespace, also those that the cluster's controller makes.
async fn forbid_accounts(world: &World) -> Api<ValidatingAdmissionPolicyBinding> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.clients.read.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.clients.read.clone());
    let name = &world.namespace;
    let policy = object(json!({
        "metadata": { "name": name },
        "spec": {
            "matchConstraints": { "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": ["serviceaccounts"] }] },
            "validations": [{ "expression": "false" }],
        },
    }));
    policies.create(&PostParams::default(), &policy).await.expect("a policy");
    let binding = object(json!({
        "metadata": { "name": name },
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } },
        },
    }));
    bindings.create(&PostParams::default(), &binding).await.expect("a binding");
    let probe = object(json!({ "metadata": { "name": "probe" } }));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the policy is in force", || async {
        world.api::<ServiceAccount>().create(&dry, &probe).await.is_err().then_some(())
    })
    .await;
    bindings
}

#[tokio::test]
async fn a_default_account_that_comes_late_is_tried_for_at_once_and_without_a_word() {
    let world = World::with_tasks().await;
    let bindings = forbid_accounts(&world).await;
    let accounts = world.api::<ServiceAccount>();
    eventually("its default account is there", || async {
        accounts.delete("default", &DeleteParams::default()).await.ok()
    })
    .await;
    let metrics = Metrics::new();
    let seen = metrics.clone();
    let writer = agentloop_operator::write::Writer::new(world.clients.write.clone(), metrics.clone());
    let _operator = Operator::set_up(&world, |setup| {
        setup.metrics = metrics;
        setup.writer = writer;
    });
    world.create("early", json!({})).await;
    eventually("it was refused three times", || async {
        let text = seen.encode().expect("text");
        let series = r#"agentloop_writes_total{verb="create",result="forbidden"} "#;
        let count = text.lines().find_map(|line| line.strip_prefix(series))?;
        (count.parse::<f64>().expect("a number") >= 3.0).then_some(())
    })
    .await;
    is_not_stalled(&world, "early").await;
    assert_eq!(world.status("early").await.waiting, None);

    bindings.delete(&world.namespace, &DeleteParams::default()).await.expect("deleted");
    eventually("the account is made", || async {
        let account = object(json!({ "metadata": { "name": "default" } }));
        match accounts.create(&PostParams::default(), &account).await {
            Ok(_) => Some(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Some(()),
            Err(_) => None,
        }
    })
    .await;
    let since = tokio::time::Instant::now();
    world.started_pod("early").await;
    assert!(since.elapsed().as_secs() < 5, "{:?}", since.elapsed());
    is_not_stalled(&world, "early").await;
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.clients.read.clone());
    policies.delete(&world.namespace, &DeleteParams::default()).await.expect("deleted");
    world.end().await;
}

#[tokio::test]
async fn an_account_that_the_template_names_and_that_does_not_exist_is_reported_at_once() {
    let world = World::with_tasks().await;
    let _operator = Operator::start(&world);
    let template = json!({ "spec": { "serviceAccountName": "bot",
        "containers": [{ "name": "agent", "image": "none", "command": ["/bin/agent"] }] } });
    world.create("named", json!({ "template": template })).await;
    let status = world.until("named", "PodRejected", |s| s.reason.as_deref() == Some("PodRejected")).await;
    assert!(status.message.expect("words").contains("serviceaccount \"bot\" not found"));
    eventually("a Warning", || async { (!warnings(&world).await.is_empty()).then_some(()) }).await;
    world.end().await;
}
