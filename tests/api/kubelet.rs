//! An operator in this process, and a kubelet for its pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agentloop_contract::completion_gate::CompletionGate;
use agentloop_contract::names::{GATE_START, LABEL_ATTEMPT, LABEL_ITERATION, LABEL_TASK};
use agentloop_contract::report::{Change, End, Error, Report};
use agentloop_core::api::{AgentTask, AgentTaskStatus, Phase};
use agentloop_core::decide::served::{Release, Serving};
use agentloop_operator::cli::{PullPolicy, RunnerArgs, RunnerInjection};
use agentloop_operator::client::Clients;
use agentloop_operator::controller::{self, RuleSet, Setup};
use agentloop_operator::health::Health;
use agentloop_operator::metrics::Metrics;
use agentloop_operator::namespaces::Namespaces;
use agentloop_operator::telemetry::LogControl;
use agentloop_operator::write::Writer;
use agentloop_test_support::pods as reported;
use futures::TryStreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::namespace::{TestNamespace, eventually, object};

/// The node that all pods of these tests are bound to. It exists, so that the garbage collector leaves its pods alone.
const NODE: &str = "agentloop-test";

/// An operator that serves only the test's namespace.
pub struct TestOperator {
    running: JoinHandle<Result<(), controller::Error>>,
}

impl TestOperator {
    pub fn start(ns: &TestNamespace) -> Self {
        Self::set_up(ns, |_| {})
    }

    pub fn with_concurrency(ns: &TestNamespace, concurrency: u16) -> Self {
        Self::set_up(ns, |setup| setup.concurrency = concurrency)
    }

    /// With other clients, such as those of a faulty server.
    pub fn over(ns: &TestNamespace, clients: Clients, writer: Writer, metrics: Metrics) -> Self {
        Self::set_up(ns, |setup| (setup.clients, setup.writer, setup.metrics) = (clients, writer, metrics))
    }

    /// With a setup that `change` has changed.
    pub fn set_up(ns: &TestNamespace, change: impl FnOnce(&mut Setup)) -> Self {
        let health = Health::default();
        let minute = Duration::from_mins(1);
        let mut setup = Setup {
            writer: ns.writer.clone(),
            clients: ns.clients.clone(),
            namespaces: Namespaces::Only([ns.name.clone()].into()),
            namespace: ns.name.clone(),
            config_map: "agentloop-config".to_owned(),
            runner: RunnerArgs {
                image: "none".to_owned(),
                pull_policy: PullPolicy::ByTag,
                injection: RunnerInjection::ImageVolume,
                resources: None,
                security_context: None,
            },
            rules: RuleSet::default(),
            serving: serving(&ns.name, &[]),
            concurrency: 4,
            node_check_interval: Duration::from_millis(500),
            no_new_steps_after: minute,
            identity: "test".to_owned(),
            metrics: Metrics::new(),
            logs: LogControl::disconnected(),
            heartbeat: health.heartbeat("the loop", minute, minute),
            health,
            shutdown: CancellationToken::new(),
        };
        change(&mut setup);
        Self { running: tokio::spawn(controller::run(setup)) }
    }

    /// Ends it at any point, as a kill does. Reconciles in progress may still end.
    pub fn kill(self) {
        self.running.abort();
    }
}

impl Drop for TestOperator {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// The release `agentloop` in this namespace, which takes over these releases.
pub fn serving(namespace: &str, take_over: &[&str]) -> Serving {
    Serving {
        release: Release::new(namespace, "agentloop"),
        take_over: take_over.iter().map(|name| name.parse().expect("a release")).collect(),
    }
}

/// What an agent did in one iteration.
#[derive(Clone, Debug)]
pub struct AgentWork(pub Report);

impl AgentWork {
    pub fn changed() -> Self {
        Self(Report { exit_code: Some(0), changed: Change::Changed, ..Report::of(End::Exited) })
    }

    pub fn unchanged() -> Self {
        Self(Report { changed: Change::Unchanged, ..Self::changed().0 })
    }

    pub fn ready() -> Self {
        Self(Report {
            gate: Some(CompletionGate { ready: true, ..CompletionGate::default() }),
            ..Self::changed().0
        })
    }

    pub fn error(text: &str) -> Self {
        Self(Report { error: Some(Error::new(text)), exit_code: Some(1), ..Self::changed().0 })
    }

    fn exit_code(&self) -> i32 {
        self.0.container_exit_code().unwrap_or(1)
    }
}

/// Runs every pod of a namespace as soon as it may run, and remembers which ran.
pub struct Kubelet {
    ran: Arc<Mutex<Vec<(i32, i32)>>>,
    created: Arc<Mutex<BTreeMap<String, (i32, i32)>>>,
    running: JoinHandle<()>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn number(pod: &Pod, label: &str) -> i32 {
    pod.labels().get(label).and_then(|text| text.parse().ok()).expect("a number in the label")
}

impl Kubelet {
    /// `work` returns what the agent does in an iteration.
    pub fn start(ns: &TestNamespace, work: impl Fn(i32) -> AgentWork + Send + Sync + 'static) -> Self {
        let (ran, created) = (Arc::default(), Arc::default());
        let pods = ns.api::<Pod>();
        let running = tokio::spawn(follow(pods, Arc::new(work), Arc::clone(&ran), Arc::clone(&created)));
        Self { ran, created, running }
    }

    /// Iteration and attempt of each pod that ran, in order.
    pub fn ran(&self) -> Vec<(i32, i32)> {
        self.ran.lock().clone()
    }

    /// How many pods were ever created.
    pub fn created(&self) -> usize {
        self.created.lock().len()
    }
}

async fn follow(
    pods: Api<Pod>,
    work: Arc<impl Fn(i32) -> AgentWork + Send + Sync + 'static>,
    ran: Arc<Mutex<Vec<(i32, i32)>>>,
    created: Arc<Mutex<BTreeMap<String, (i32, i32)>>>,
) {
    let of_tasks = watcher::Config::default().labels(LABEL_TASK);
    let seen = watcher(pods.clone(), of_tasks).default_backoff().touched_objects().try_for_each(|pod| {
        let (pods, work, ran, created) = (pods.clone(), work.clone(), ran.clone(), created.clone());
        async move {
            let which = (number(&pod, LABEL_ITERATION), number(&pod, LABEL_ATTEMPT));
            created.lock().insert(pod.uid().expect("a uid"), which);
            if is_free(&pod) {
                bind(&pods, &pod.name_any()).await;
                ran.lock().push(which);
                run(&pods, &pod.name_any()).await;
                end(&pods, &pod.name_any(), &work(which.0)).await;
            }
            Ok(())
        }
    });
    seen.await.expect("the watch continues");
}

/// The pod has no scheduling gate, is not being deleted, and is on no node.
fn is_free(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref().expect("a spec");
    spec.scheduling_gates.iter().flatten().count() == 0
        && spec.node_name.is_none()
        && pod.metadata.deletion_timestamp.is_none()
}

pub async fn bind(pods: &Api<Pod>, name: &str) {
    try_bind(pods, name).await.expect("the pod is bound");
}

/// Fails if the pod is being deleted: the API server does not bind it then.
pub async fn try_bind(pods: &Api<Pod>, name: &str) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(pods.clone().into_client());
    let node = object(json!({ "metadata": { "name": NODE } }));
    // Another test may have created it.
    let _ = nodes.create(&PostParams::default(), &node).await;
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": { "name": name },
        "target": { "apiVersion": "v1", "kind": "Node", "name": NODE },
    });
    let answer: Result<Value, _> =
        pods.create_subresource("binding", name, &PostParams::default(), &binding).await;
    answer.map(drop)
}

pub async fn set_status(pods: &Api<Pod>, name: &str, status: Value) {
    let patch = Patch::Merge(json!({ "status": status }));
    pods.patch_status(name, &PatchParams::default(), &patch).await.expect("the status is accepted");
}

pub async fn run(pods: &Api<Pod>, name: &str) {
    set_status(pods, name, reported::status("Running", &reported::running(started()))).await;
}

pub async fn end(pods: &Api<Pod>, name: &str, work: &AgentWork) {
    let pod = pods.get(name).await.expect("the pod is there");
    let (phase, state) = ended(&pod, work);
    set_status(pods, name, reported::status(phase, &state)).await;
}

/// The termination message of this pod's runner, signed with the key that the pod has.
pub fn message(pod: &Pod, work: &AgentWork) -> String {
    let pod = serde_json::to_value(pod).expect("a pod is JSON");
    reported::termination_message(&work.0, &pod).expect("the report fits")
}

/// What a kubelet reports about a pod that did this work: its phase, and the state of the agent's container.
pub fn ended(pod: &Pod, work: &AgentWork) -> (&'static str, Value) {
    let (code, message) = (work.exit_code(), message(pod, work));
    // A pod that was deleted ends at its deletion at the earliest.
    let finished = Timestamp::now();
    let state = reported::terminated(code, reported::reason_for(code), Some(&message), started(), finished);
    (reported::phase_for(code), state)
}

fn started() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

impl TestNamespace {
    /// Creates a task with this spec and a template for these tests.
    pub async fn create(&self, name: &str, spec: Value) -> AgentTask {
        let mut task = json!({
            "metadata": { "name": name },
            "spec": { "template": { "spec": { "containers": [
                { "name": "agent", "image": "none", "command": ["/bin/agent"] },
            ] } } },
        });
        let Value::Object(spec) = spec else { panic!("a spec is an object") };
        for (key, value) in spec {
            task["spec"][key] = value;
        }
        let task = object(task);
        self.api::<AgentTask>().create(&PostParams::default(), &task).await.expect("the task is accepted")
    }

    pub async fn patch(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let api = self.api::<AgentTask>();
        api.patch(name, &PatchParams::default(), &patch).await.expect("the patch is accepted");
    }

    pub async fn status(&self, name: &str) -> AgentTaskStatus {
        self.api::<AgentTask>().get(name).await.expect("the task is there").status.unwrap_or_default()
    }

    /// Waits until `is` is true for the task's status.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        is: impl Fn(&AgentTaskStatus) -> bool,
    ) -> AgentTaskStatus {
        eventually(&format!("{name}: {what}"), || async {
            let status = self.status(name).await;
            is(&status).then_some(status)
        })
        .await
    }

    pub async fn until_phase(&self, name: &str, phase: Phase) -> AgentTaskStatus {
        self.until(name, &format!("{phase:?}"), |status| status.phase == Some(phase)).await
    }

    /// Waits until the pod of the active iteration has no scheduling gate of ours.
    pub async fn started_pod(&self, name: &str) -> Pod {
        eventually(&format!("a started pod of {name}"), || async {
            let pod = self.status(name).await.active?.pod_name;
            let pod = self.api::<Pod>().get_opt(&pod).await.expect("an answer")?;
            let gates = pod.spec.as_ref()?.scheduling_gates.as_deref().unwrap_or_default();
            gates.iter().all(|gate| gate.name != GATE_START).then_some(pod)
        })
        .await
    }

    pub async fn configure(&self, data: Value) {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "agentloop-config" }, "data": data,
        });
        let api = self.api::<k8s_openapi::api::core::v1::ConfigMap>();
        let params = PatchParams::apply("test").force();
        api.patch("agentloop-config", &params, &Patch::Apply(&map))
            .await
            .expect("the configuration is accepted");
    }

    pub async fn force_delete(&self, pod: &str) {
        let now = DeleteParams::default().grace_period(0);
        let _ = self.api::<Pod>().delete(pod, &now).await;
    }
}
