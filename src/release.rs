//! The uninstall hook: after it, nothing in the cluster waits for an operator that will not come back.
//!
//! The order is the protocol's, and each step rests on the one before:
//! 1. the Deployment is scaled to zero, and its pods are gone: nobody claims, nobody starts a pod;
//! 2. the Lease is taken, so that an operator which somebody scales up again meanwhile stands by;
//! 3. every claim is marked as orphaned, so that a later installation never runs it again, and our name leaves the
//!    tasks, so that any later installation serves them;
//! 4. only then our finalizers go. A pod whose task could not be marked keeps its own.
//!
//! Tasks that another release serves are left alone, and so are their pods.
//!
//! Running pods are left to run. Everything may be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use agentloop_contract::names::{FINALIZER_SETTLE, LABEL_TASK_UID};
use agentloop_core::api::AgentTask;
use agentloop_core::decide::served::Serving;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ListParams, PartialObjectMeta, Patch};
use kube::core::{ApiResource, ParseExpressionError, Selector};
use kube::{Api, ResourceExt};
use serde_json::{Map, Value, json};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::app::own_namespace;
use crate::cli::ReleaseArgs;
use crate::client::{Clients, ConnectError, READ_TIMEOUT, RequestError, bounded, patch_params};
use crate::lease::Election;
use crate::lease::decide::Timings;
use crate::metrics::{Metrics, Verb};
use crate::namespaces::Namespaces;
use crate::write::Writer;

/// What Helm puts on all that it installs: the release's name, and its namespace.
const HELM_RELEASE: &str = "meta.helm.sh/release-name";
const HELM_NAMESPACE: &str = "meta.helm.sh/release-namespace";

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// Objects in one answer.
const PAGE: u32 = 250;
/// How many objects an error names; the number of all is told as well.
const NAMED: usize = 10;

/// Why not everything was let go.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A request failed without which nothing can go on.
    #[error("{doing}: {source}")]
    Request {
        /// What was to be done, with the object's name.
        doing: String,
        /// What came of it.
        source: RequestError,
    },
    /// The Deployment's selector cannot be used.
    #[error("the selector of Deployment {0} cannot be read: {1}")]
    Selector(String, ParseExpressionError),
    /// The operator does not go away.
    #[error(
        "the operator still works after {} s: {pods} ({deployment} is scaled to zero). \
         Where its node is lost, delete the pod with --force once the machine is known to be off, then repeat",
        after.as_secs()
    )]
    StillThere {
        /// The Deployment.
        deployment: String,
        /// Its pods.
        pods: String,
        /// How long they were waited for.
        after: Duration,
    },
    /// Somebody else holds the Lease.
    #[error("lease {lease} is still held by {holder} after {} s: stop that operator, then repeat", after.as_secs())]
    LeaseHeld {
        /// The Lease.
        lease: String,
        /// Who holds it.
        holder: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Some objects could not be let go.
    #[error("{count} object(s) could not be let go; repeat once this is mended:{list}")]
    Incomplete {
        /// How many.
        count: usize,
        /// The first of them, and why.
        list: String,
    },
}

/// Runs the hook, and prints what it did.
pub async fn run(args: ReleaseArgs) -> Result<(), Error> {
    let clients = Clients::connect().await?;
    let namespace = own_namespace(args.namespace.as_deref(), &clients);
    let serving = args.serving.serving(&namespace, &args.lease_name);
    let hook = Hook {
        serving,
        writer: Writer::new(clients.write.clone(), Metrics::new()),
        clients,
        namespace,
        deployment: args.deployment,
        lease: args.lease_name,
        namespaces: args.watch_namespaces,
        helm_release: args.if_helm_release,
        timeout: args.timeout,
        deadline: Instant::now() + args.timeout,
    };
    hook.run(&mut |line| {
        // Nobody may be listening any more; the work is done all the same.
        let _ = writeln!(std::io::stdout(), "{line}");
    })
    .await
}

/// The hook, with all that it needs.
pub struct Hook {
    /// To read with.
    pub clients: Clients,
    /// To write with.
    pub writer: Writer,
    /// The operator's namespace.
    pub namespace: String,
    /// The operator's Deployment.
    pub deployment: String,
    /// The operator's Lease.
    pub lease: String,
    /// The operator's release, and those whose tasks it took over. Tasks of others are left alone.
    pub serving: Serving,
    /// The namespaces that were served.
    pub namespaces: Namespaces,
    /// Nothing is done unless Helm installed the Deployment as this release. The Job before an uninstall is rendered
    /// with everything else, and whoever applies it like everything else does not mean to uninstall.
    pub helm_release: Option<String>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// When that time is over.
    pub deadline: Instant,
}

impl Hook {
    /// Lets go of everything; each thing done is told as one line.
    pub async fn run(&self, tell: &mut (dyn FnMut(String) + Send)) -> Result<(), Error> {
        if let Some(release) = &self.helm_release
            && !self.is_helms(release).await?
        {
            tell(self.applied_by_hand(release));
            return Ok(());
        }
        self.stop_operator(tell).await?;
        let election = self.take_lease().await?;
        let mut troubles = Troubles::default();
        let marked = self.mark_claims(tell, &mut troubles).await;
        let done = match marked {
            Ok(unmarked) => self.drop_finalizers(&unmarked, tell, &mut troubles).await,
            Err(error) => Err(error),
        };
        // Nothing is left behind, and an operator that waits may go on. It expires in any case.
        if let Err(error) = election.delete().await {
            warn!(lease = self.lease, %error, "the lease is not deleted; it expires by itself");
        }
        done?;
        troubles.into_result()
    }

    // === before all: is this an uninstall? ===

    /// Whether Helm installed the Deployment as this release: Helm marks what it installs, and templates do not hold
    /// these marks. One that is not there contradicts nothing.
    async fn is_helms(&self, release: &str) -> Result<bool, Error> {
        let api: Api<Deployment> = Api::namespaced(self.clients.read.clone(), &self.namespace);
        let read = bounded(READ_TIMEOUT, api.get_opt(&self.deployment)).await;
        let doing = || format!("reading Deployment {}/{}", self.namespace, self.deployment);
        let found = read.map_err(|source| Error::Request { doing: doing(), source })?;
        let mark = |deployment: &Deployment, name| deployment.annotations().get(name).cloned();
        Ok(found.is_none_or(|deployment| {
            mark(&deployment, HELM_RELEASE).as_deref() == Some(release)
                && mark(&deployment, HELM_NAMESPACE).as_deref() == Some(self.namespace.as_str())
        }))
    }

    fn applied_by_hand(&self, release: &str) -> String {
        let Self { namespace, deployment, .. } = self;
        format!(
            "Nothing is done: Deployment {namespace}/{deployment} does not bear Helm's mark of the release {release} \
             ({HELM_RELEASE}), so this Job was applied with everything else, and is no uninstall. Delete this Job. To \
             uninstall, run it on purpose: helm template {release} CHART --namespace {namespace} --set uninstallJob=always \
             --show-only templates/release-rbac.yaml --show-only templates/release-job.yaml | kubectl create -f -"
        )
    }

    // === step 1: nobody works ===

    async fn stop_operator(&self, tell: &mut (dyn FnMut(String) + Send)) -> Result<(), Error> {
        let named = format!("Deployment {}/{}", self.namespace, self.deployment);
        let api: Api<Deployment> = Api::namespaced(self.writer.client().clone(), &self.namespace);
        let zero = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
        match self.writer.send(Verb::Patch, api.patch_scale(&self.deployment, &patch_params(), &zero)).await {
            Ok(_) => tell(format!("{named} is scaled to zero.")),
            Err(error) if error.is_not_found() => {
                tell(format!("{named} is not there: no operator to stop."));
                return Ok(());
            }
            Err(source) => return Err(Error::Request { doing: format!("scaling {named} to zero"), source }),
        }
        loop {
            let left = self.operator_pods(&named).await?;
            let Some(left) = left else { return Ok(()) };
            if Instant::now() >= self.deadline {
                return Err(Error::StillThere { deployment: named, pods: left, after: self.timeout });
            }
            time::sleep(LOOK).await;
        }
    }

    /// What is left of the operator, or nothing. The hook's own pod may bear the same labels; only pods that a
    /// ReplicaSet made are the Deployment's.
    async fn operator_pods(&self, named: &str) -> Result<Option<String>, Error> {
        let fail =
            |source| Error::Request { doing: format!("waiting for the pods of {named} to end"), source };
        let api: Api<Deployment> = Api::namespaced(self.clients.read.clone(), &self.namespace);
        let Some(deployment) = bounded(READ_TIMEOUT, api.get_opt(&self.deployment)).await.map_err(fail)?
        else {
            return Ok(None);
        };
        let status = deployment.status.unwrap_or_default();
        let settled = status.observed_generation >= deployment.metadata.generation;
        let selector = Selector::try_from(deployment.spec.selector)
            .map_err(|error| Error::Selector(self.deployment.clone(), error))?;
        let pods: Api<Pod> = Api::namespaced(self.clients.read.clone(), &self.namespace);
        let params = ListParams::default().labels_from(&selector);
        let pods = bounded(READ_TIMEOUT, pods.list(&params)).await.map_err(fail)?;
        let left: Vec<String> = pods.iter().filter(|pod| works(pod)).map(describe).collect();
        Ok(match (left.is_empty(), settled && status.replicas.unwrap_or(0) == 0) {
            (true, true) => None,
            (true, false) => Some("its ReplicaSets are not scaled down yet".to_owned()),
            (false, _) => Some(left.join(", ")),
        })
    }

    // === step 2: nobody will ===

    /// Takes the Lease for as long as the hook may run, so that it needs no renewal.
    async fn take_lease(&self) -> Result<Election, Error> {
        let timings = Timings { duration: self.timeout, ..Timings::default() };
        // The same for every run: one that was cut short does not keep the next one waiting.
        let identity = format!("release-of-{}", self.deployment);
        let mut election =
            Election::new(self.writer.client().clone(), &self.namespace, &self.lease, &identity, timings);
        let late = CancellationToken::new();
        let (deadline, over) = (self.deadline, late.clone());
        let timer = tokio::spawn(async move {
            time::sleep_until(deadline).await;
            over.cancel();
        });
        let taken = election.acquire(&late, |_| {}).await;
        timer.abort();
        if taken {
            return Ok(election);
        }
        Err(Error::LeaseHeld {
            lease: format!("{}/{}", self.namespace, self.lease),
            holder: Some(election.holder())
                .filter(|holder| !holder.is_empty())
                .unwrap_or("nobody known")
                .to_owned(),
            after: self.timeout,
        })
    }

    // === step 3: every claim says that it was orphaned ===

    /// The uids of tasks whose pods keep our finalizer: they could not be marked, or are not ours.
    async fn mark_claims(
        &self,
        tell: &mut (dyn FnMut(String) + Send),
        troubles: &mut Troubles,
    ) -> Result<BTreeSet<String>, Error> {
        // Read without our types: a task that this version cannot decode must be let go as well.
        let kind = ApiResource::erase::<AgentTask>(&());
        let mut unmarked = BTreeSet::new();
        let mut elsewhere: BTreeMap<String, usize> = BTreeMap::new();
        for api in self.namespaces.raw_apis(&self.clients.read, &kind) {
            let mut token = None;
            loop {
                let params = page(token);
                let list = match bounded(READ_TIMEOUT, api.list(&params)).await {
                    Ok(list) => list,
                    // The definition is gone already, and all tasks with it.
                    Err(error) if error.is_not_found() => break,
                    Err(source) => return Err(unlisted("AgentTasks", api.namespace(), source)),
                };
                token = list.metadata.continue_.filter(|token| !token.is_empty());
                for task in list.items {
                    let (named, uid) = (named("AgentTask", &task), task.uid());
                    match self.mark(task).await {
                        Ok(Marked::Nothing) => {}
                        Ok(Marked::Claim(claim)) => tell(claim.sentence(&named)),
                        Ok(Marked::Elsewhere(release)) => {
                            *elsewhere.entry(release).or_default() += 1;
                            unmarked.extend(uid);
                        }
                        Err(error) => {
                            unmarked.extend(uid);
                            troubles.add(&format!("{named} cannot be marked as orphaned: {error}"));
                        }
                    }
                }
                if token.is_none() {
                    break;
                }
            }
        }
        for (release, count) in elsewhere {
            tell(format!("{count} AgentTask(s) that the release {release} serves are left alone."));
        }
        Ok(unmarked)
    }

    /// Marks one task's claim, if it has one, and takes our name out.
    async fn mark(&self, mut task: DynamicObject) -> Result<Marked, RequestError> {
        let (namespace, name) = (task.namespace().unwrap_or_default(), task.name_any());
        let kind = ApiResource::erase::<AgentTask>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.clients.read.clone(), &namespace, &kind);
        loop {
            let named = task.data.pointer("/status/servedBy").and_then(Value::as_str);
            if let Some(other) = named.and_then(|named| self.serving.other_than_us(named)) {
                return Ok(Marked::Elsewhere(other.to_owned()));
            }
            let claim = Claim::of(&task.data);
            let mut status = Map::new();
            if claim.as_ref().is_some_and(|claim| !claim.orphaned) {
                status.insert("active".to_owned(), json!({ "orphaned": true }));
            }
            if named.is_some() {
                status.insert("servedBy".to_owned(), Value::Null);
            }
            let marked = claim.map_or(Marked::Nothing, Marked::Claim);
            if status.is_empty() {
                return Ok(marked);
            }
            let version = task.resource_version().unwrap_or_default();
            match self.writer.raw_task_status(&namespace, &name, &version, &Value::Object(status)).await {
                Ok(_) => return Ok(marked),
                Err(error) if error.is_not_found() => return Ok(Marked::Nothing),
                Err(error) => self.pause_before_repeat(error).await?,
            }
            match bounded(READ_TIMEOUT, api.get_opt(&name)).await? {
                Some(now) => task = now,
                None => return Ok(Marked::Nothing),
            }
        }
    }

    /// Waits where the same may succeed later, and gives the error back where it will not, or not in time.
    async fn pause_before_repeat(&self, error: RequestError) -> Result<(), RequestError> {
        if !error.may_pass() || Instant::now() >= self.deadline {
            return Err(error);
        }
        time::sleep(LOOK).await;
        Ok(())
    }

    // === step 4: our finalizers go ===

    async fn drop_finalizers(
        &self,
        unmarked: &BTreeSet<String>,
        tell: &mut (dyn FnMut(String) + Send),
        troubles: &mut Troubles,
    ) -> Result<(), Error> {
        let mut released = 0_usize;
        // Until a look finds nothing: a request of an operator that is gone may still have arrived.
        loop {
            let pods = self.held_pods(unmarked).await?;
            if pods.is_empty() {
                break;
            }
            let mut failed = Vec::new();
            for pod in pods {
                let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
                let uid = pod.uid().unwrap_or_default();
                match self.writer.remove_finalizer(&namespace, &name, &uid, false).await {
                    Ok(_) => released += 1,
                    Err(error) if error.is_not_found() => {}
                    Err(error) => failed.push((named("Pod", &pod), error)),
                }
            }
            let hopeless = failed.iter().any(|(_, error)| matches!(error.reason(), "forbidden" | "invalid"));
            if hopeless || Instant::now() >= self.deadline {
                for (named, error) in failed {
                    troubles.add(&format!("{named} keeps the finalizer {FINALIZER_SETTLE}: {error}"));
                }
                break;
            }
            if !failed.is_empty() {
                time::sleep(LOOK).await;
            }
        }
        tell(format!("{released} pod(s) let go in {}.", self.namespaces));
        Ok(())
    }

    /// Pods that bear our finalizer, except those whose task could not be marked.
    async fn held_pods(&self, unmarked: &BTreeSet<String>) -> Result<Vec<PartialObjectMeta<Pod>>, Error> {
        let mut held = Vec::new();
        for api in self.namespaces.apis::<Pod>(&self.clients.read) {
            let mut token = None;
            loop {
                let params = page(token).labels(LABEL_TASK_UID);
                let list = bounded(READ_TIMEOUT, api.list_metadata(&params))
                    .await
                    .map_err(|source| unlisted("pods of tasks", api.namespace(), source))?;
                token = list.metadata.continue_.filter(|token| !token.is_empty());
                held.extend(list.items.into_iter().filter(|pod| {
                    let of = pod.labels().get(LABEL_TASK_UID);
                    pod.finalizers().iter().any(|name| name == FINALIZER_SETTLE)
                        && of.is_none_or(|uid| !unmarked.contains(uid))
                }));
                if token.is_none() {
                    break;
                }
            }
        }
        Ok(held)
    }
}

/// What came of marking a task.
#[derive(Debug, PartialEq, Eq)]
enum Marked {
    /// Nothing was in flight.
    Nothing,
    /// This was, and is marked.
    Claim(Claim),
    /// This other release serves the task: it was not touched.
    Elsewhere(String),
}

/// What a task's status says of an iteration in flight.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    iteration: i64,
    attempt: i64,
    pod: String,
    orphaned: bool,
}

impl Claim {
    /// Whatever else the claim holds, it is one: what cannot be read shows as 0 or nothing.
    fn of(task: &Value) -> Option<Self> {
        let active = task.pointer("/status/active").filter(|active| active.is_object())?;
        let number = |field| active.get(field).and_then(Value::as_i64).unwrap_or_default();
        Some(Self {
            iteration: number("iteration"),
            attempt: number("attempt"),
            pod: active.get("podName").and_then(Value::as_str).unwrap_or_default().to_owned(),
            orphaned: active.get("orphaned").and_then(Value::as_bool).unwrap_or_default(),
        })
    }

    fn sentence(&self, task: &str) -> String {
        let Self { iteration, attempt, pod, .. } = self;
        format!(
            "{task} has iteration {iteration} (attempt {attempt}) in flight: its pod {pod} is left to itself, and once \
             agentloop is installed again the iteration is judged by that pod, or charged as PodLost if it is gone."
        )
    }
}

/// What could not be let go.
#[derive(Debug, Default)]
struct Troubles {
    count: usize,
    list: String,
}

/// What could not be listed. In a namespace that is gone our rights are gone too, and that is answered in the
/// same words as rights that somebody took away: so the cure for each is told.
fn unlisted(what: &str, namespace: Option<&str>, source: RequestError) -> Error {
    let doing = match namespace {
        Some(name) if source.reason() == "forbidden" => format!(
            "listing the {what} in namespace {name} (if it is gone, take it out of watch.namespaces by helm upgrade, \
             or uninstall with --no-hooks)"
        ),
        Some(name) => format!("listing the {what} in namespace {name}"),
        None => format!("listing the {what}"),
    };
    Error::Request { doing, source }
}

impl Troubles {
    fn add(&mut self, line: &str) {
        self.count += 1;
        if self.count <= NAMED {
            // A String takes everything.
            let _ = write!(self.list, "\n  {line}");
        }
    }

    fn into_result(mut self) -> Result<(), Error> {
        if self.count == 0 {
            return Ok(());
        }
        if self.count > NAMED {
            let _ = write!(self.list, "\n  and {} more", self.count - NAMED);
        }
        Err(Error::Incomplete { count: self.count, list: self.list })
    }
}

fn page(token: Option<String>) -> ListParams {
    ListParams { continue_token: token, ..ListParams::default().limit(PAGE) }
}

fn named(kind: &str, object: &impl ResourceExt) -> String {
    format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// Whether this is a pod of the Deployment that may still run.
fn works(pod: &Pod) -> bool {
    let of_replica_set = pod.owner_references().iter().any(|owner| owner.kind == "ReplicaSet");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    of_replica_set && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn describe(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    match node {
        Some(node) => format!("{} on node {node}", named("Pod", pod)),
        None => named("Pod", pod),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_seen_whatever_it_holds() {
        let claim =
            Claim::of(&json!({ "status": { "active": { "iteration": "new kind", "podName": "a-1" } } }));
        assert_eq!(claim, Some(Claim { iteration: 0, attempt: 0, pod: "a-1".to_owned(), orphaned: false }));
        assert_eq!(Claim::of(&json!({ "status": { "active": null } })), None);
        assert_eq!(Claim::of(&json!({})), None);
    }

    #[test]
    fn many_troubles_are_counted_and_some_named() {
        let mut troubles = Troubles::default();
        for n in 0..12 {
            troubles.add(&format!("pod {n}"));
        }
        let words = troubles.into_result().unwrap_err().to_string();
        assert!(words.starts_with("12 object(s)"), "{words}");
        assert!(words.ends_with("pod 9\n  and 2 more"), "{words}");
    }
}
