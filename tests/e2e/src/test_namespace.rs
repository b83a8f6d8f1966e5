//! The namespace of one test.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    time::Duration,
};

use agentloop_test_support::json;
use anyhow::{Context, Result, bail, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::{
    Api, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams,
    },
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, ProgramOutput},
    history::History,
    operator::OperatorRelease,
    task::{self, TaskManifest},
    task_snapshot::TaskSnapshot,
    wait::{PATIENCE, all_the_time, eventually},
};

/// A namespace and the operator that serves it.
pub struct TestNamespace {
    /// The cluster.
    pub cluster: Cluster,
    /// The namespace's name.
    pub namespace: String,
    /// The operator that serves it.
    pub operator: OperatorRelease,
    /// All pods that it ever had.
    pub history: History,
    tasks: Api<DynamicObject>,
}

impl TestNamespace {
    /// A namespace that the shared operator serves.
    pub async fn shared(name: &str) -> Result<Self> {
        let cluster = Cluster::connect().await?;
        let operator = OperatorRelease::shared(&cluster).await?;
        let namespace = create_namespace(&cluster, name).await?;
        Ok(Self::at(cluster, namespace, operator))
    }

    /// A namespace with an operator of its own, which the test may disturb. `values` are arguments to helm.
    pub async fn own(name: &str, values: &[&str]) -> Result<Self> {
        let cluster = Cluster::connect().await?;
        let namespace = create_namespace(&cluster, name).await?;
        let operator = OperatorRelease::own(&cluster, &namespace, "", values).await?;
        Ok(Self::at(cluster, namespace, operator))
    }

    /// Installs another operator for the same namespace, with a Lease of its own. Both work, and each task is served by
    /// one of them. The test must remove it.
    pub async fn rival(&self) -> Result<OperatorRelease> {
        OperatorRelease::own(&self.cluster, &self.namespace, "-b", &[]).await
    }

    fn at(cluster: Cluster, namespace: String, operator: OperatorRelease) -> Self {
        let kind = GroupVersionKind::gvk("agentloop.dev", "v1alpha1", "AgentTask");
        let resource = ApiResource::from_gvk_with_plural(&kind, "agenttasks");
        let tasks = Api::namespaced_with(cluster.client.clone(), &namespace, &resource);
        let history = History::watch(cluster.client.clone(), &namespace);
        Self { cluster, namespace, operator, history, tasks }
    }

    /// Runs a test. After success it removes everything, and fails if that is impossible. After a failure it keeps
    /// everything and prints a report.
    pub async fn run(self, test: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        match AssertUnwindSafe(test(&self)).catch_unwind().await {
            Ok(Ok(())) => self.remove().await,
            Ok(Err(error)) => {
                self.report().await;
                Err(error)
            }
            Err(panic) => {
                self.report().await;
                resume_unwind(panic)
            }
        }
    }

    // === tasks ===

    /// Creates a task.
    pub async fn create(&self, task: &TaskManifest) -> Result<TaskSnapshot> {
        let object: DynamicObject = serde_json::from_value(task.manifest())?;
        let created = self.tasks.create(&PostParams::default(), &object).await?;
        Ok(TaskSnapshot(serde_json::to_value(created)?))
    }

    /// A task as it is now, or `None` if it is gone.
    pub async fn get_opt(&self, name: &str) -> Result<Option<TaskSnapshot>> {
        let found = self.tasks.get_opt(name).await?;
        Ok(found.map(serde_json::to_value).transpose()?.map(TaskSnapshot))
    }

    /// A task as it is now.
    pub async fn get(&self, name: &str) -> Result<TaskSnapshot> {
        self.get_opt(name).await?.with_context(|| format!("there is no task {name}"))
    }

    /// Changes a task's spec by a merge patch.
    pub async fn patch(&self, name: &str, spec: Value) -> Result<TaskSnapshot> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let patched = self.tasks.patch(name, &PatchParams::default(), &patch).await?;
        Ok(TaskSnapshot(serde_json::to_value(patched)?))
    }

    /// Deletes a task, and waits until it and its pods are gone.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let uid = self.get(name).await?.uid().to_owned();
        self.tasks.delete(name, &DeleteParams::default()).await?;
        self.nothing_left_of(&uid).await
    }

    /// Waits until a task of this uid and its pods are gone.
    pub async fn nothing_left_of(&self, uid: &str) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let selector = format!("agentloop.dev/task-uid={uid}");
        eventually(PATIENCE, "the task and its pods are gone", async || {
            let tasks = self.tasks.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
            if tasks.items.iter().any(|task| task.uid().as_deref() == Some(uid)) {
                return Err("the task still exists".to_owned());
            }
            let left =
                pods.list(&ListParams::default().labels(&selector)).await.map_err(|e| e.to_string())?;
            let names: Vec<String> = left.items.iter().map(ResourceExt::name_any).collect();
            if names.is_empty() { Ok(()) } else { Err(names.join(", ")) }
        })
        .await
    }

    /// Waits until a task meets a condition.
    pub async fn until(
        &self,
        name: &str,
        within: Duration,
        what: &str,
        is_met: impl Fn(&TaskSnapshot) -> bool,
    ) -> Result<TaskSnapshot> {
        eventually(within, &format!("{name} {what}"), async || match self.get(name).await {
            Ok(snapshot) if is_met(&snapshot) => Ok(snapshot),
            Ok(snapshot) => Err(snapshot.to_string()),
            Err(error) => Err(format!("{error:#}")),
        })
        .await
    }

    /// Waits until a task is in this state, such as `CircuitOpen/NoChange`, and its status is that of the newest spec.
    pub async fn until_state(&self, name: &str, within: Duration, state: &str) -> Result<TaskSnapshot> {
        let is_met = |snapshot: &TaskSnapshot| {
            snapshot.state() == state
                && snapshot.number("/status/observedGeneration") == snapshot.number("/metadata/generation")
        };
        self.until(name, within, &format!("is {state}"), is_met).await
    }

    /// Waits until a task is suspended and has no active iteration.
    pub async fn until_suspended(&self, name: &str) -> Result<TaskSnapshot> {
        self.until(name, PATIENCE, "is suspended without an active iteration", |now| {
            now.state() == "Suspended" && now.active_pod().is_none()
        })
        .await
    }

    /// Waits until the first iteration of a task was counted.
    pub async fn until_counted(&self, name: &str) -> Result<TaskSnapshot> {
        self.until(name, crate::iterations(1), "has counted an iteration", |now| now.iterations() == 1).await
    }

    /// Waits until the agent of this iteration runs.
    pub async fn until_running(&self, name: &str, iteration: i32) -> Result<TaskSnapshot> {
        let what = format!("runs iteration {iteration}");
        self.until(name, crate::iterations(iteration.unsigned_abs()), &what, |snapshot| {
            let pods = self.history.of(snapshot.uid());
            pods.iter().any(|pod| pod.started && pod.iteration == iteration && is_running(&pod.pod))
        })
        .await
    }

    /// Checks that a task meets a condition for a while.
    pub async fn stays(
        &self,
        name: &str,
        how_long: Duration,
        is_met: impl Fn(&TaskSnapshot) -> bool,
    ) -> Result<TaskSnapshot> {
        all_the_time(how_long, async || {
            let snapshot = self.get(name).await?;
            ensure!(is_met(&snapshot), "the task changed: {snapshot}");
            Ok(())
        })
        .await?;
        self.get(name).await
    }

    /// Checks which iterations ever ran, according to their pods, and that none ran in two pods.
    pub fn ran(&self, snapshot: &TaskSnapshot, iterations: &[i32]) -> Result<()> {
        let started = self.history.started(snapshot.uid());
        ensure!(started == iterations, "the iterations that ran are {started:?}, not {iterations:?}");
        Ok(())
    }

    /// Checks that exactly this many pods were ever created for a task, and that all of them ran: 1, 2, 3, …
    pub fn exactly(&self, snapshot: &TaskSnapshot, pods: i32) -> Result<()> {
        let created: Vec<(i32, i32)> =
            self.history.of(snapshot.uid()).iter().map(|pod| (pod.iteration, pod.attempt)).collect();
        let expected: Vec<(i32, i32)> = (1..=pods).map(|iteration| (iteration, 0)).collect();
        ensure!(created == expected, "the pods ever created are {created:?}, not {expected:?}");
        let all: Vec<i32> = (1..=pods).collect();
        self.ran(snapshot, &all)
    }

    /// Runs the command in a task's message that contains this word.
    pub async fn paste(&self, snapshot: &TaskSnapshot, word: &str) -> Result<()> {
        let command = snapshot.command_with(word)?;
        self.cluster.shell(&command).await?.success().with_context(|| command.clone())?;
        Ok(())
    }

    /// Signals an agent that waits in its current iteration to continue. The agent may exit before the command that
    /// signals it has finished; the command then fails with the container.
    pub async fn signal_agent(&self, snapshot: &TaskSnapshot) -> Result<()> {
        let pod = snapshot.active_pod().with_context(|| format!("nothing runs: {snapshot}"))?;
        let touch = ["exec", pod, "-c", "agent", "--", "touch", "/workspace/.agentloop/told"];
        eventually(PATIENCE, "the agent gets the signal", async || {
            let sent = self.kubectl(&touch).await.and_then(ProgramOutput::success);
            let runs =
                self.history.of(snapshot.uid()).iter().any(|one| one.name == pod && is_running(&one.pod));
            if runs { sent.map(drop).map_err(|error| format!("{error:#}")) } else { Ok(()) }
        })
        .await
    }

    // === other objects ===

    /// Runs kubectl in the test's namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<ProgramOutput> {
        let mut all = vec!["-n", &self.namespace];
        all.extend(arguments);
        self.cluster.kubectl(&all).await
    }

    /// Applies an object with kubectl, in the test's namespace if it has none.
    pub async fn apply(&self, object: &Value) -> Result<ProgramOutput> {
        self.cluster.kubectl_with(&["-n", &self.namespace, "apply", "-f", "-"], &object.to_string()).await
    }

    /// Runs `act` while an admission policy with this validation applies to the pods of the namespace. `probe` is a task
    /// whose pod the policy refuses.
    pub async fn with_admission_policy<T>(
        &self,
        validation: Value,
        probe: &TaskManifest,
        act: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        let name = &self.namespace;
        let refusal = json::text(&validation, "/message").to_owned();
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": name },
            "spec": {
                "matchConstraints": { "resourceRules": [
                    { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] },
                ] },
                "validations": [validation],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": name },
            "spec": {
                "policyName": name,
                "validationActions": ["Deny"],
                "matchResources": {
                    "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } },
                },
            },
        });
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": [policy, binding] }).to_string();
        self.cluster.kubectl_with(&["apply", "-f", "-"], &list).await?.success()?;
        let result = async {
            self.until_refused(probe, &refusal).await?;
            act().await
        }
        .await;
        let delete = ["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name];
        self.cluster.kubectl(&delete).await?.success()?;
        result
    }

    /// Waits until a dry run shows that the pod of a task is refused: a policy takes effect after a moment.
    async fn until_refused(&self, task: &TaskManifest, refusal: &str) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "probe" },
            "spec": task.manifest().pointer("/spec/template/spec"),
        })
        .to_string();
        let create = ["-n", &self.namespace, "create", "--dry-run=server", "-f", "-"];
        eventually(PATIENCE, "the policy is in force", async || {
            let output = self.cluster.kubectl_with(&create, &pod).await.map_err(|error| error.to_string())?;
            if output.text.contains(refusal) { Ok(()) } else { Err(output.text) }
        })
        .await
    }

    /// The Events about an object: type, reason and note.
    pub async fn events(&self, uid: &str) -> Result<Vec<(String, String, String)>> {
        let events: Api<Event> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let about = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        let texts = |event: Event| {
            let text = Option::unwrap_or_default;
            (text(event.type_), text(event.reason), text(event.message))
        };
        Ok(events.list(&about).await?.items.into_iter().map(texts).collect())
    }

    /// The output of a shell command in a pod that mounts a task's workspace PVC as /workspace.
    pub async fn run_in_pvc(&self, pvc: &str, line: &str) -> Result<String> {
        let mut container = task::container("read", &["/bin/sh", "-c", line]);
        if let Value::Object(fields) = &mut container {
            fields.insert(
                "volumeMounts".to_owned(),
                json!([{ "name": "workspace", "mountPath": "/workspace" }]),
            );
        }
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "generateName": "read-" },
            "spec": {
                "restartPolicy": "Never",
                "containers": [container],
                "volumes": [{ "name": "workspace", "persistentVolumeClaim": { "claimName": pvc } }],
            },
        });
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let name = pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?.name_any();
        eventually(PATIENCE, "a pod has read the workspace PVC", async || {
            let pod = pods.get(&name).await.map_err(|error| error.to_string())?;
            let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
            if matches!(phase.as_str(), "Succeeded" | "Failed") { Ok(()) } else { Err(phase) }
        })
        .await?;
        let log = self.kubectl(&["logs", &name]).await?.success()?;
        pods.delete(&name, &DeleteParams::default()).await?;
        Ok(log)
    }

    /// The name of the PVC that was created for a task.
    pub async fn pvc_of(&self, snapshot: &TaskSnapshot) -> Result<String> {
        let selector = format!("agentloop.dev/task-uid={}", snapshot.uid());
        let name = self.kubectl(&["get", "pvc", "-l", &selector, "-o", "name"]).await?.success()?;
        let name = name.trim().strip_prefix("persistentvolumeclaim/");
        name.map(str::to_owned).context("the task has no PVC")
    }

    // === the end ===

    async fn remove(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.cluster.client.clone());
        match namespaces.delete(&self.namespace, &DeleteParams::default()).await {
            // The test itself deleted it.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            other => drop(other?),
        }
        // This takes a while if there are many pods.
        let gone = eventually(PATIENCE * 3, "the test's namespace is gone", async || {
            match namespaces.get_opt(&self.namespace).await {
                Ok(None) => Ok(()),
                Ok(Some(namespace)) => {
                    Err(format!("{:?}", namespace.status.and_then(|status| status.conditions)))
                }
                Err(error) => Err(error.to_string()),
            }
        });
        if let Err(error) = gone.await {
            self.report().await;
            bail!(error);
        }
        self.operator.remove().await
    }

    /// Prints the objects in the namespace, so that the cause of a failure can be found.
    async fn report(&self) {
        let commands: [&[&str]; 4] = [
            &["get", "agt", "-o", "yaml", "--show-managed-fields=false"],
            &["get", "pods", "-o", "wide", "--show-labels"],
            &["get", "pvc"],
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
        ];
        // The test harness captures standard error with the test's own output.
        eprintln!("\n=== {} ===", self.namespace);
        for command in commands {
            let text =
                self.kubectl(command).await.map_or_else(|error| error.to_string(), |output| output.text);
            eprintln!("--- kubectl {}\n{text}", command.join(" "));
        }
        let log = self.operator.log().await.unwrap_or_else(|error| error.to_string());
        eprintln!("--- the operator's log\n{log}");
        let namespace = &self.namespace;
        eprintln!(
            "The namespace is kept: kubectl -n {namespace} get agt,pods; when done: kubectl delete ns {namespace}"
        );
    }
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

async fn create_namespace(cluster: &Cluster, name: &str) -> Result<String> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "generateName": format!("e2e-{name}-"),
            "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
        },
    });
    let created = namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
    Ok(created.name_any())
}
