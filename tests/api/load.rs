//! The load on the API server, and an operator that is not allowed to list everything.

use std::sync::Arc;
use std::time::Duration;

use agentloop_core::api::Phase;
use agentloop_operator::client::Clients;
use agentloop_operator::health::Health;
use agentloop_operator::metrics::Metrics;
use agentloop_operator::namespaces::Namespaces;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::client::ClientBuilder;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::util::MapRequestLayer;

use crate::kubelet::{AgentWork, Kubelet, TestOperator, bind, end, run, set_status};
use crate::namespace::{TestNamespace, config, eventually, object};

/// The requests to the API server, as `METHOD path?query`.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<Vec<String>>>);

impl Requests {
    /// A client that records its requests.
    pub async fn client(&self) -> Client {
        self.client_that(|_| {}).await
    }

    /// The same, with each request changed first.
    async fn client_that(
        &self,
        change: impl Fn(&mut http::Request<kube::client::Body>) + Clone + Send + Sync + 'static,
    ) -> Client {
        let asked = self.0.clone();
        let note = MapRequestLayer::new(move |mut request: http::Request<kube::client::Body>| {
            change(&mut request);
            asked.lock().push(format!("{} {}", request.method(), request.uri()));
            request
        });
        ClientBuilder::try_from(config().await).expect("a client").with_layer(&note).build()
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    fn count(&self, is_meant: impl Fn(&str) -> bool) -> usize {
        self.0.lock().iter().filter(|request| is_meant(request)).count()
    }
}

/// Serves two tasks with this client: one that exists at the start and one that is created later.
async fn serve_two(client: Client) {
    let ns = TestNamespace::with_tasks().await;
    ns.create("before", json!({ "suspend": true })).await;
    let _operator = TestOperator::set_up(&ns, |setup| setup.clients.read = client);
    ns.until_phase("before", Phase::Suspended).await;
    ns.create("later", json!({ "suspend": true })).await;
    ns.until_phase("later", Phase::Suspended).await;
    ns.end().await;
}

#[tokio::test]
async fn tasks_and_pods_are_streamed_by_a_server_that_streams_lists_and_read_in_pages_from_another() {
    let is_stream = |request: &str| request.contains("sendInitialEvents=true");
    let is_page = |request: &str| request.contains("limit=50") && !request.contains("watch=");
    let of = |kind: &'static str| move |request: &&String| request.contains(kind);
    let asked = Requests::default();
    serve_two(asked.client().await).await;
    let all = asked.all();
    for kind in ["/agenttasks?", "/pods?"] {
        assert_eq!(all.iter().filter(of(kind)).filter(|request| is_stream(request)).count(), 1, "{all:#?}");
        assert_eq!(all.iter().filter(of(kind)).filter(|request| is_page(request)).count(), 0, "{all:#?}");
    }

    let asked = Requests::default();
    // A request for a stream without this parameter is refused with 422, as by a server that does not support it.
    let client = asked.client_that(|request| {
        let uri = request.uri().to_string().replace("&resourceVersionMatch=NotOlderThan", "");
        *request.uri_mut() = uri.parse().expect("a URI");
    });
    serve_two(client.await).await;
    let all = asked.all();
    for kind in ["/agenttasks?", "/pods?"] {
        assert_eq!(all.iter().filter(of(kind)).filter(|request| is_stream(request)).count(), 1, "{all:#?}");
        assert_eq!(all.iter().filter(of(kind)).filter(|request| is_page(request)).count(), 1, "{all:#?}");
    }
}

#[tokio::test]
async fn the_events_of_all_slow_pods_of_a_namespace_are_listed_together() {
    let ns = TestNamespace::with_tasks().await;
    let asked = Requests::default();
    let client = asked.client().await;
    let _operator = TestOperator::set_up(&ns, |setup| setup.clients.read = client);
    let (pods, names) = (ns.api::<Pod>(), ["a", "b", "c", "d", "e", "f"]);
    let mut slow = Vec::new();
    for name in names {
        ns.create(name, json!({})).await;
        let pod = ns.started_pod(name).await;
        bind(&pods, &pod.name_any()).await;
        let creating = json!({ "waiting": { "reason": "ContainerCreating" } });
        let agent = json!({ "name": "agent", "image": "none", "imageID": "", "ready": false, "restartCount": 0, "state": creating });
        set_status(&pods, &pod.name_any(), json!({ "phase": "Pending", "containerStatuses": [agent] })).await;
        slow.push(pod);
    }
    let warn = |pod: &Pod, reason: &str, message: &str| {
        object::<Event>(json!({
            "metadata": { "generateName": "warning-" },
            "involvedObject": { "kind": "Pod", "namespace": ns.name, "name": pod.name_any(), "uid": pod.uid() },
            "type": "Warning", "reason": reason, "message": message, "lastTimestamp": jiff::Timestamp::now().to_string(),
        }))
    };
    let events = ns.api::<Event>();
    let mount = warn(&slow[0], "FailedMount", "MountVolume.SetUp failed for volume \"data\": no such disk");
    events.create(&PostParams::default(), &mount).await.expect("an Event");
    let status = ns.until("a", "VolumePending", |s| s.reason.as_deref() == Some("VolumePending")).await;
    assert!(status.message.expect("a message").contains("no such disk"));
    // A later Event is found too.
    let sandbox = warn(&slow[5], "FailedCreatePodSandBox", "no network");
    events.create(&PostParams::default(), &sandbox).await.expect("an Event");
    ns.until("f", "StartFailed", |s| s.reason.as_deref() == Some("StartFailed")).await;
    let lists = asked.count(|request| request.contains("/events?"));
    assert!((1..=5).contains(&lists), "{lists} lists of Events for {} pods", names.len());
    ns.end().await;
}

#[tokio::test]
async fn a_pod_whose_owner_reference_was_edited_is_waited_for_without_load_and_adopted_again() {
    let ns = TestNamespace::with_tasks().await;
    let asked = Requests::default();
    let client = asked.client().await;
    let _operator = TestOperator::set_up(&ns, |setup| setup.clients.read = client);
    ns.configure(json!({ "startRetryMinSeconds": "3", "startRetryMaxSeconds": "3" })).await;
    let task = ns.create("edited", json!({})).await;
    let pods = ns.api::<Pod>();
    let pod = ns.started_pod("edited").await.name_any();
    bind(&pods, &pod).await;
    run(&pods, &pod).await;
    let controls = async |yes: bool| {
        let owner = json!({ "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "name": "edited",
            "uid": task.uid(), "controller": yes });
        let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": [owner] } }));
        pods.patch(&pod, &PatchParams::default(), &patch).await.expect("edited");
    };
    controls(false).await;
    let gets =
        || asked.count(|request| request.starts_with("GET") && request.contains(&format!("/pods/{pod}")));
    let status = ns.until("edited", "NameConflict", |s| s.reason.as_deref() == Some("NameConflict")).await;
    assert!(status.message.expect("a message").contains("restore them"), "it says what to do");
    let (before, version) = (gets(), ns.status("edited").await);
    tokio::time::sleep(Duration::from_secs(7)).await;
    let more = gets() - before;
    assert!(more <= 4, "{more} reads of the pod in 7 s");
    assert_eq!(ns.status("edited").await.iterations, version.iterations);
    assert_eq!(pods.get(&pod).await.expect("the pod").metadata.deletion_timestamp, None);

    controls(true).await;
    end(&pods, &pod, &AgentWork::ready()).await;
    let status = ns.until_phase("edited", Phase::Succeeded).await;
    assert_eq!(status.iterations, 1);
    ns.end().await;
}

/// Grants `user` the permissions of an operator in this namespace, except for these resources.
async fn grant(ns: &TestNamespace, user: &str, without: &[&str]) {
    let rules: Vec<Value> = [
        ("", "pods"),
        ("", "persistentvolumeclaims"),
        ("", "configmaps"),
        ("", "events"),
        ("events.k8s.io", "events"),
        ("agentloop.dev", "agenttasks"),
        ("agentloop.dev", "agenttasks/status"),
        ("agentloop.dev", "agenttasks/finalizers"),
    ]
    .into_iter()
    .filter(|(_, resource)| !without.contains(resource))
    .map(|(group, resource)| json!({ "apiGroups": [group], "resources": [resource], "verbs": ["*"] }))
    .collect();
    let (name, params) = ("operator", PatchParams::apply("test").force());
    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": { "name": name }, "rules": rules });
    ns.api::<Role>().patch(name, &params, &Patch::Apply(&role)).await.expect("a role");
    let group = "rbac.authorization.k8s.io";
    let binding = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": name }, "roleRef": { "apiGroup": group, "kind": "Role", "name": name },
        "subjects": [{ "apiGroup": group, "kind": "User", "name": user }] });
    ns.api::<RoleBinding>().patch(name, &params, &Patch::Apply(&binding)).await.expect("a binding");
}

#[tokio::test]
async fn a_namespace_that_cannot_be_listed_is_reported_and_does_not_delay_others() {
    let (open, closed) = (TestNamespace::with_tasks().await, TestNamespace::new().await);
    let user = format!("operator-of-{}", open.name);
    grant(&open, &user, &[]).await;
    grant(&closed, &user, &["pods"]).await;
    let mut limited = config().await;
    limited.auth_info.impersonate = Some(user.clone());
    let clients = Clients::from_config(limited).expect("clients");
    // A permission takes effect a moment after it is granted.
    eventually("the permissions are in effect", || async {
        let may = |ns: &TestNamespace| Api::<Pod>::namespaced(clients.read.clone(), &ns.name);
        may(&open).list(&ListParams::default()).await.ok()
    })
    .await;
    let (health, metrics) = (Health::default(), Metrics::new());
    let heartbeat = health.heartbeat("the loop", Duration::from_mins(1), Duration::from_secs(3));
    let both = Namespaces::Only([open.name.clone(), closed.name.clone()].into());
    let _kubelets =
        [Kubelet::start(&open, |_| AgentWork::ready()), Kubelet::start(&closed, |_| AgentWork::ready())];
    closed.create("waits", json!({})).await;
    let _operator = TestOperator::set_up(&open, |setup| {
        setup.clients = clients;
        setup.namespaces = both;
        setup.health = health.clone();
        setup.heartbeat = heartbeat;
        setup.metrics = metrics.clone();
        setup.concurrency = 1;
    });
    let ready = eventually("ready", || async { health.ready().ok() }).await;
    let line = format!("{}: pods is forbidden", closed.name);
    assert!(ready.starts_with("working") && ready.contains(&line), "{ready}");
    let series = format!("agentloop_namespace_unlisted{{namespace=\"{}\"}}", closed.name);
    let unlisted = || metrics.encode().expect("text").contains(&format!("{series} 1\n"));
    assert!(unlisted());
    open.create("served", json!({})).await;
    open.until_phase("served", Phase::Succeeded).await;
    // Longer than a piece of work may take.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(health.alive(), Ok(()), "a reconcile that waits for a cache does not count as hanging");
    assert_eq!(closed.status("waits").await.observed_generation, None);

    grant(&closed, &user, &[]).await;
    closed.until_phase("waits", Phase::Succeeded).await;
    eventually("no namespace is reported any more", || async {
        (health.ready().as_deref() == Ok("working") && !unlisted()).then_some(())
    })
    .await;
    closed.end().await;
    open.end().await;
}
