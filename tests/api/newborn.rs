//! Namespaces that were just created, in which controllers have not yet created their objects.

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

use crate::kubelet::TestOperator;
use crate::namespace::{TestNamespace, eventually, object};

/// Every Warning in this namespace.
async fn warnings(ns: &TestNamespace) -> Vec<String> {
    let events = ns.api::<Event>().list(&ListParams::default()).await.expect("Events").items;
    let is_warning = |event: &Event| event.type_.as_deref() == Some("Warning");
    events.into_iter().filter(is_warning).filter_map(|event| event.note).collect()
}

async fn is_not_stalled(ns: &TestNamespace, task: &str) {
    let status = ns.status(task).await;
    let stalled = status.conditions.iter().find(|c| c.type_ == "Stalled").expect("the condition");
    assert_eq!(stalled.status, "False");
    assert_eq!(warnings(ns).await, Vec::<String>::new());
}

#[tokio::test]
async fn namespaces_and_tasks_created_together_cause_no_warning() {
    let first = TestNamespace::with_tasks().await;
    let names: Vec<String> = (0..10).map(|n| format!("{}-{n}", first.name)).collect();
    let all = Namespaces::Only(names.iter().cloned().collect());
    let _operator = TestOperator::set_up(&first, |setup| setup.namespaces = all);
    let namespaces: Api<Namespace> = Api::all(first.clients.read.clone());
    let mut created = Vec::new();
    for name in names {
        let namespace = object(json!({ "metadata": { "name": name } }));
        namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace");
        let ns = TestNamespace { clients: first.clients.clone(), writer: first.writer.clone(), name };
        ns.create("together", json!({})).await;
        created.push(ns);
    }
    for ns in created {
        ns.started_pod("together").await;
        is_not_stalled(&ns, "together").await;
        ns.end().await;
    }
    first.end().await;
}

/// Refuses every ServiceAccount in this namespace, also those that the cluster's controller creates.
async fn forbid_accounts(ns: &TestNamespace) -> Api<ValidatingAdmissionPolicyBinding> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(ns.clients.read.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(ns.clients.read.clone());
    let name = &ns.name;
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
    eventually("the policy is in effect", || async {
        ns.api::<ServiceAccount>().create(&dry, &probe).await.is_err().then_some(())
    })
    .await;
    bindings
}

#[tokio::test]
async fn a_default_account_that_is_created_late_is_retried_soon_and_without_a_warning() {
    let ns = TestNamespace::with_tasks().await;
    let bindings = forbid_accounts(&ns).await;
    let accounts = ns.api::<ServiceAccount>();
    eventually("its default account exists", || async {
        accounts.delete("default", &DeleteParams::default()).await.ok()
    })
    .await;
    let metrics = Metrics::new();
    let seen = metrics.clone();
    let writer = agentloop_operator::write::Writer::new(ns.clients.write.clone(), metrics.clone());
    let _operator = TestOperator::set_up(&ns, |setup| {
        setup.metrics = metrics;
        setup.writer = writer;
    });
    ns.create("early", json!({})).await;
    eventually("three refusals", || async {
        let text = seen.encode().expect("text");
        let series = r#"agentloop_writes_total{verb="create",result="forbidden"} "#;
        let count = text.lines().find_map(|line| line.strip_prefix(series))?;
        (count.parse::<f64>().expect("a number") >= 3.0).then_some(())
    })
    .await;
    is_not_stalled(&ns, "early").await;
    assert_eq!(ns.status("early").await.waiting, None);

    bindings.delete(&ns.name, &DeleteParams::default()).await.expect("deleted");
    eventually("the account exists", || async {
        let account = object(json!({ "metadata": { "name": "default" } }));
        match accounts.create(&PostParams::default(), &account).await {
            Ok(_) => Some(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Some(()),
            Err(_) => None,
        }
    })
    .await;
    let since = tokio::time::Instant::now();
    ns.started_pod("early").await;
    assert!(since.elapsed().as_secs() < 5, "{:?}", since.elapsed());
    is_not_stalled(&ns, "early").await;
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(ns.clients.read.clone());
    policies.delete(&ns.name, &DeleteParams::default()).await.expect("deleted");
    ns.end().await;
}

#[tokio::test]
async fn an_account_in_the_template_that_does_not_exist_is_reported_immediately() {
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let template = json!({ "spec": { "serviceAccountName": "bot",
        "containers": [{ "name": "agent", "image": "none", "command": ["/bin/agent"] }] } });
    ns.create("named", json!({ "template": template })).await;
    let status = ns.until("named", "PodRejected", |s| s.reason.as_deref() == Some("PodRejected")).await;
    assert!(status.message.expect("a message").contains("serviceaccount \"bot\" not found"));
    eventually("a Warning", || async { (!warnings(&ns).await.is_empty()).then_some(()) }).await;
    ns.end().await;
}
