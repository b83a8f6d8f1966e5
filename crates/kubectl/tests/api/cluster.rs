//! A namespace for one test, and the plugin as a process.

use std::process::Stdio;
use std::time::Duration;

use agentloop_core::api::AgentTask;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time;

/// The longest wait for anything.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub fn kubeconfig() -> String {
    match std::env::var("AGENTLOOP_TEST_KUBECONFIG") {
        Ok(path) if !path.is_empty() => path,
        _ => panic!(
            "AGENTLOOP_TEST_KUBECONFIG is not set: it names the cluster to test on, \
             for example AGENTLOOP_TEST_KUBECONFIG=$(hack/cluster up --api-only)"
        ),
    }
}

pub struct TestNamespace {
    pub client: Client,
    pub name: String,
}

/// What the plugin printed, and its exit code.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl TestNamespace {
    pub async fn new() -> Self {
        let read = Kubeconfig::read_from(kubeconfig()).expect("AGENTLOOP_TEST_KUBECONFIG is readable");
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("a usable kubeconfig")).expect("a client");
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let crd = agentloop_core::api::crd();
        let params = PatchParams::apply("agentloop-test").force();
        crds.patch(&crd.name_any(), &params, &Patch::Apply(&crd)).await.expect("the CRD is accepted");
        let name = crd.name_any();
        let established = await_condition(crds, &name, conditions::is_crd_established());
        time::timeout(PATIENCE, established).await.expect("the CRD is established").expect("a watch");
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let wanted = object(json!({ "metadata": { "generateName": "plugin-" } }));
        let created = namespaces.create(&PostParams::default(), &wanted).await.expect("a namespace");
        Self { client, name: created.name_any() }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// A task with this spec and, unless it is null, this status.
    pub async fn task(&self, name: &str, spec: Value, status: Value) -> AgentTask {
        let mut task = json!({
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": { "template": { "spec": { "containers": [
                { "name": "agent", "image": "none", "command": ["/bin/agent"] },
            ] } } },
        });
        let Value::Object(spec) = spec else { panic!("a spec is an object") };
        for (key, value) in spec {
            task["spec"][key] = value;
        }
        let api = self.api::<AgentTask>();
        let created = api.create(&PostParams::default(), &object(task)).await.expect("a task");
        if status.is_null() {
            return created;
        }
        self.set_status(name, status).await
    }

    /// Writes what an operator would write.
    pub async fn set_status(&self, name: &str, status: Value) -> AgentTask {
        let patch = Patch::Merge(json!({ "status": status }));
        let api = self.api::<AgentTask>();
        api.patch_status(name, &PatchParams::default(), &patch).await.expect("a status")
    }

    pub async fn spec(&self, name: &str) -> Value {
        let task = self.api::<AgentTask>().get(name).await.expect("the task is there");
        serde_json::to_value(task.spec).expect("JSON")
    }

    /// A command that runs the plugin in this namespace.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-agentloop"));
        command
            .args(["--namespace", &self.name])
            .args(args)
            .env("KUBECONFIG", kubeconfig())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, args: &[&str]) -> Ran {
        ended(self.command(args)).await
    }

    /// Runs it and demands success. Returns standard output, in which the namespace is called `NS`.
    pub async fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        self.named(&ran.out)
    }

    /// Runs it and demands this failure. Returns standard error, in which the namespace is called `NS`.
    pub async fn fails(&self, code: i32, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        self.named(&ran.err)
    }

    pub fn named(&self, text: &str) -> String {
        text.replace(&self.name, "NS")
    }

    /// Removes the namespace. That of a failed test stays for inspection.
    pub async fn end(self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(&self.name, &DeleteParams::default()).await;
    }
}

pub async fn ended(mut command: Command) -> Ran {
    let output =
        time::timeout(PATIENCE, command.output()).await.expect("the plugin ends").expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran {
        code: output.status.code().expect("an exit code"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

pub fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of this kind")
}

/// The status of a task that is stopped.
pub fn stopped(phase: &str, reason: &str, iterations: i32, limit: i32) -> Value {
    let from = |value: i32| json!({ "value": value, "from": "Default" });
    let succeeded = if phase == "Succeeded" { "True" } else { "Unknown" };
    let condition = |type_: &str, status: &str| {
        json!({
            "type": type_, "status": status, "reason": "Test", "message": "",
            "lastTransitionTime": "2026-03-01T11:55:00Z",
        })
    };
    json!({
        "phase": phase, "reason": reason, "message": format!("stopped: {reason}"),
        "iterations": iterations, "maxIterations": limit, "progress": format!("{iterations}/{limit}"),
        "stop": { "phase": phase, "reason": reason, "generation": 1 },
        "conditions": [condition("Stopped", "True"), condition("Succeeded", succeeded)],
        "thresholds": {
            "maxIterations": from(limit), "hardLimit": from(50), "noChange": from(3), "sameError": from(5),
            "iterationTimeoutSeconds": from(3600),
        },
        "history": [{
            "iteration": iterations, "attempt": 0, "outcome": "Exited", "exitCode": 0, "changed": "Unchanged",
            "error": "agent \u{1b}[31msaid\u{9b}2J so", "usage": { "costUSD": "0.25" },
        }],
        "usage": { "costUSD": "0.5", "inputTokens": 1000, "outputTokens": 50 },
    })
}
