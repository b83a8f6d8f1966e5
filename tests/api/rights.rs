//! The chart grants the permissions that are used and no others: its rules are compared with the requests that were sent.

use std::collections::BTreeSet;

use agentloop_core::api::{AgentTask, Phase};
use agentloop_core::pod::pod_name;
use agentloop_operator::client::Clients;
use agentloop_operator::lease::Election;
use agentloop_operator::lease::decide::Timings;
use agentloop_operator::metrics::Metrics;
use agentloop_operator::write::Writer;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::kubelet::{AgentWork, Kubelet, TestOperator, bind, run, set_status};
use crate::load::Requests;
use crate::namespace::{TestNamespace, eventually};
use crate::uninstall::uninstall_through;

const RULES: &str = include_str!("../../charts/agentloop/templates/_rules.tpl");

/// `verb group/resource`, as a rule names it.
type Rights = BTreeSet<String>;

fn rights(pairs: &[&str]) -> Rights {
    pairs.iter().map(|right| (*right).to_owned()).collect()
}

/// The permissions that these parts of the chart grant.
fn granted(parts: &[&str]) -> Rights {
    let mut found = Rights::new();
    for part in parts {
        let start = format!("{{{{- define \"agentloop.rules.{part}\" -}}}}");
        let body = RULES.split_once(&start).expect("the part").1.split_once("{{- end }}").expect("its end").0;
        // Helm would fill in names here, or another part.
        let lines = body.lines().filter(|line| !line.starts_with("{{") && !line.contains("resourceNames"));
        let yaml = lines.collect::<Vec<_>>().join("\n");
        let rules: Vec<Value> = serde_saphyr::from_str(&yaml).expect("rules");
        let words = |rule: &Value, key: &str| -> Vec<String> {
            serde_json::from_value(rule[key].clone()).expect("a list of words")
        };
        for rule in &rules {
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    found
                        .extend(words(rule, "verbs").iter().map(|verb| format!("{verb} {group}/{resource}")));
                }
            }
        }
    }
    found
}

/// The permission that a request needs; none for requests that every client may send.
fn needed(request: &str) -> Option<String> {
    let (method, url) = request.split_once(' ')?;
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let path =
        path.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or(path, |(_, path)| path);
    let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    parts.next()?;
    let mut rest: Vec<&str> = parts.collect();
    if rest.len() > 2 && rest[0] == "namespaces" {
        rest.drain(..2);
    }
    let (resource, name, sub) = (rest.first()?, rest.get(1), rest.get(2));
    let verb = match (method, name) {
        ("GET", Some(_)) => "get",
        ("GET", None) if query.contains("watch=") => "watch",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", Some(_)) => "delete",
        _ => "deletecollection",
    };
    let sub = sub.map(|sub| format!("/{sub}")).unwrap_or_default();
    Some(format!("{verb} {group}/{resource}{sub}"))
}

fn used(asked: &Requests) -> Rights {
    asked.all().iter().filter_map(|request| needed(request)).collect()
}

async fn clients(ns: &TestNamespace, asked: &Requests) -> Clients {
    let client = asked.client().await;
    Clients { read: client.clone(), write: client, namespace: ns.name.clone() }
}

/// Makes the operator send all kinds of requests.
async fn live(ns: &TestNamespace) {
    // From the first iteration to the deletion, with its own volume.
    let volume = json!({ "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } } });
    let workspace = json!({ "volumeClaimTemplate": volume, "whenDeleted": "Retain" });
    let spec = json!({ "workspace": workspace, "maxIterations": 2, "podHistoryLimit": 0, "suspend": true });
    ns.create("life", spec).await;
    for suspend in [true, false, true, false] {
        ns.patch("life", json!({ "suspend": suspend })).await;
        ns.until("life", "it is suspended or resumed", |s| {
            s.phase.is_some_and(|p| suspend == (p == Phase::Suspended))
        })
        .await;
    }
    ns.until_phase("life", Phase::IterationLimitReached).await;
    ns.patch("life", json!({ "workspace": { "whenDeleted": "Delete" }, "maxIterations": 3 })).await;
    ns.until_phase("life", Phase::Succeeded).await;
    ns.patch("life", json!({ "ttlSecondsAfterSucceeded": 0 })).await;
    eventually("its time to live is over", || async {
        ns.api::<AgentTask>().get_opt("life").await.expect("an answer").is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_operator_uses_exactly_the_permissions_that_the_chart_grants() {
    let ns = TestNamespace::with_tasks().await;
    ns.configure(json!({ "startRetryMinSeconds": "1", "startRetryMaxSeconds": "1" })).await;
    let asked = Requests::default();
    let clients = clients(&ns, &asked).await;

    let timings = Timings::default();
    let mut election = Election::new(clients.write.clone(), &ns.name, "agentloop", "first", timings);
    assert!(election.acquire(&CancellationToken::new(), |_| {}).await);
    election.release().await;
    assert!(ns.api::<Lease>().get_opt("agentloop").await.expect("an answer").is_some());

    let writer = Writer::new(clients.write.clone(), Metrics::new());
    let _operator = TestOperator::set_up(&ns, |setup| {
        setup.clients = clients;
        setup.writer = writer;
    });
    {
        let _kubelet =
            Kubelet::start(&ns, |n| if n == 3 { AgentWork::ready() } else { AgentWork::changed() });
        live(&ns).await;
        // Another owner's pod has the name.
        let task = ns.create("named", json!({ "suspend": true })).await;
        let name = pod_name("named", &task.uid().expect("a uid"), 1, 0);
        ns.pod(json!({ "name": name }), &[]).await;
        ns.patch("named", json!({ "suspend": false })).await;
        ns.until("named", "NameConflict", |s| s.reason.as_deref() == Some("NameConflict")).await;
        ns.force_delete(&name).await;
    }
    // A configuration that is read because the task has recorded a newer one.
    let newer = Patch::Merge(json!({ "status": { "thresholds": { "configVersion": "999999999" } } }));
    ns.create("newer", json!({ "suspend": true })).await;
    ns.until("newer", "its thresholds", |s| s.thresholds.is_some()).await;
    ns.api::<AgentTask>().patch_status("newer", &PatchParams::default(), &newer).await.expect("written");
    ns.patch("newer", json!({ "suspend": false })).await;
    // A pod whose state only Events explain.
    ns.create("slow", json!({})).await;
    let pod = ns.started_pod("slow").await.name_any();
    bind(&ns.api(), &pod).await;
    eventually("all permissions were used", || async {
        let expected = expected_of_operator();
        expected.is_subset(&used(&asked)).then_some(())
    })
    .await;
    assert_eq!(
        used(&asked).difference(&granted(&["tasks", "self", "lease"])).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    ns.end().await;
}

/// The permissions that are granted, except those that no request of this test needs.
fn expected_of_operator() -> Rights {
    let unseen = rights(&[
        // Required by an admission plugin that is off here.
        "update agentloop.dev/agenttasks/finalizers",
        // If the API server streams lists, the first watch is the list.
        "list agentloop.dev/agenttasks",
        "list /configmaps",
    ]);
    granted(&["tasks", "self", "lease"]).difference(&unseen).cloned().collect()
}

#[tokio::test]
async fn the_job_before_an_uninstall_uses_exactly_the_permissions_that_the_chart_grants() {
    let ns = TestNamespace::with_tasks().await;
    let asked = Requests::default();
    let clients = clients(&ns, &asked).await;
    {
        let _operator = TestOperator::start(&ns);
        ns.create("busy", json!({})).await;
        let pod = ns.started_pod("busy").await.name_any();
        bind(&ns.api(), &pod).await;
        run(&ns.api(), &pod).await;
    }
    // The state in which a stopped operator leaves the Lease.
    let mut election =
        Election::new(ns.clients.write.clone(), &ns.name, "agentloop", "gone", Timings::default());
    assert!(election.acquire(&CancellationToken::new(), |_| {}).await);
    election.release().await;
    uninstall_through(&ns, clients).await;
    let granted = granted(&["uninstall.tasks", "uninstall.self", "lease"]);
    let unseen = rights(&[
        // After a conflict.
        "get agentloop.dev/agenttasks",
        // If there is no Lease yet.
        "create coordination.k8s.io/leases",
    ]);
    assert_eq!(used(&asked).difference(&granted).collect::<Vec<_>>(), Vec::<&String>::new());
    let expected: Rights = granted.difference(&unseen).cloned().collect();
    assert_eq!(expected.difference(&used(&asked)).collect::<Vec<_>>(), Vec::<&String>::new());
    set_status(
        &ns.api(),
        &ns.status("busy").await.active.expect("an active iteration").pod_name,
        json!({ "phase": "Failed" }),
    )
    .await;
    ns.end().await;
}
