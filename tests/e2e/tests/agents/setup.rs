//! An agent in a test: its model, its key and its task.

use agentloop_e2e::{TaskManifest, TaskSnapshot, TestNamespace};
use anyhow::Result;
use serde_json::{Value, json};

/// The key that the model accepts.
pub const KEY: &str = "the-right-key";
const CONFIG: &str = "agent-config";
const SECRET: &str = "agent-key";
const HOME: &str = "/home/agent";

/// What differs between agents. In texts, `{model}` stands for the model's URL.
pub struct Agent {
    pub name: &'static str,
    pub image: &'static str,
    /// Reads the prompt from standard input.
    pub command: &'static [&'static str],
    pub env: &'static [(&'static str, &'static str)],
    /// The variable with the key.
    pub key: &'static str,
    /// A file in the home folder, and its text.
    pub config: Option<(&'static str, &'static str)>,
    /// Requests that one attempt makes at a rate limit before it gives up, if the model names no time to wait.
    pub requests_at_a_rate_limit: u64,
    /// Requests that one attempt makes to a model that fails.
    #[cfg(feature = "all-agents")]
    pub requests_at_an_error: u64,
    /// The type of the provider's error at a rate limit.
    pub rate_limit: &'static str,
    /// In the message of a task whose model fails.
    #[cfg(feature = "all-agents")]
    pub unavailable: &'static str,
    /// In the message of a task whose key was refused.
    pub unauthenticated: &'static str,
}

/// Input, cached input and output tokens of one response.
pub type Tokens = [i64; 3];

fn run(command: &str, tokens: Tokens) -> Value {
    json!({ "run": command, "tokens": tokens })
}

/// The last message, with the blockers unless it is ready.
fn say(blocker: Option<&str>, tokens: Tokens) -> Value {
    let ready = blocker.is_none();
    let blockers = blocker.map(|text| format!("blockers:\n  - {text}\n")).unwrap_or_default();
    let text = format!(
        "I have done a step.\n\n<COMPLETION_GATE>\nready: {ready}\nprogress: one line\n{blockers}</COMPLETION_GATE>"
    );
    json!({ "say": text, "tokens": tokens })
}

/// An iteration that writes a line and commits it. Unless it is the last one, it reports the number of commits.
pub fn work(iteration: i64, ready: bool) -> Value {
    let tokens = |step: i64| [iteration * 1000 + step, iteration * 100 + step, iteration * 10 + step];
    json!([
        run("test -e /workspace/notes || git init --quiet --template= /workspace/notes", tokens(1)),
        run(&format!("cd /workspace/notes && echo 'line {iteration}' >>text && git add text"), tokens(2)),
        run(
            "cd /workspace/notes && git -c user.name=agent -c user.email=agent@localhost commit --quiet -m step && git rev-list --count HEAD",
            tokens(3)
        ),
        say((!ready).then_some("{output} commits are too few"), tokens(4)),
    ])
}

/// The total tokens of a script's first iterations.
pub fn cost(script: &Value, iterations: usize) -> Tokens {
    let all = script.get("iterations").and_then(Value::as_array).into_iter().flatten().take(iterations);
    let steps = all.filter_map(Value::as_array).flatten();
    steps.fold([0; 3], |sums, step| {
        let tokens = step.get("tokens");
        let count = |at: usize| tokens.and_then(|t| t.get(at)).and_then(Value::as_i64).unwrap_or_default();
        let [input, cached, output] = sums;
        [input + count(0), cached + count(1), output + count(2)]
    })
}

/// The tokens in a task's status.
pub fn usage(snapshot: &TaskSnapshot) -> Tokens {
    ["inputTokens", "cachedInputTokens", "outputTokens"]
        .map(|name| snapshot.number(&format!("/status/usage/{name}")))
}

/// The model's log, with one line for each request.
pub async fn requests(ns: &TestNamespace) -> Result<Vec<String>> {
    let log = ns.kubectl(&["logs", "model"]).await?.success()?;
    Ok(log.lines().map(str::to_owned).collect())
}

/// Sets the key that the agent uses.
pub async fn set_key(ns: &TestNamespace, key: &str) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": SECRET }, "stringData": { "key": key },
    });
    ns.apply(&secret).await?.success()?;
    Ok(())
}

/// Iteration and attempt of every pod that a task ever had.
pub fn attempts(ns: &TestNamespace, snapshot: &TaskSnapshot) -> Vec<(i32, i32)> {
    ns.history.of(snapshot.uid()).iter().map(|pod| (pod.iteration, pod.attempt)).collect()
}

/// Starts the model in the test's namespace, and waits until it answers.
async fn start_model(ns: &TestNamespace, script: &Value) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "model", "labels": { "app": "model" } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "model",
                "image": "localhost/agentloop-test-model:1",
                "env": [{ "name": "SCRIPT", "value": script.to_string() }],
                "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": { "drop": ["ALL"] },
                    "readOnlyRootFilesystem": true,
                    "runAsNonRoot": true,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "resources": { "requests": { "cpu": "5m" } },
            }],
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "model" },
        "spec": { "selector": { "app": "model" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    ns.apply(&pod).await?.success()?;
    ns.apply(&service).await?.success()?;
    let wait = ["wait", "pod/model", "--for=condition=Ready", "--timeout=90s"];
    ns.kubectl(&wait).await?.success()?;
    Ok(())
}

impl Agent {
    /// A namespace with an operator of its own, whose delays are short.
    pub async fn ns(&self, name: &str) -> Result<TestNamespace> {
        TestNamespace::own(&format!("{}-{name}", self.name), &["--set", "config.rateLimitMinSeconds=3"]).await
    }

    /// Starts the model, and creates a task that runs the agent as its documentation says for programs, in a restricted
    /// container.
    pub async fn start(&self, ns: &TestNamespace, script: &Value, task: TaskManifest) -> Result<()> {
        start_model(ns, script).await?;
        let address =
            ns.kubectl(&["get", "service", "model", "-o", "jsonpath={.spec.clusterIP}"]).await?.success()?;
        let fill = |text: &str| text.replace("{model}", &format!("http://{}", address.trim()));
        let mut mounts =
            vec![json!({ "name": "home", "mountPath": HOME }), json!({ "name": "tmp", "mountPath": "/tmp" })];
        let mut volumes =
            vec![json!({ "name": "home", "emptyDir": {} }), json!({ "name": "tmp", "emptyDir": {} })];
        if let Some((path, text)) = self.config {
            let config = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": CONFIG }, "data": { "file": fill(text) },
            });
            ns.apply(&config).await?.success()?;
            mounts
                .push(json!({ "name": "config", "mountPath": format!("{HOME}/{path}"), "subPath": "file" }));
            volumes.push(json!({ "name": "config", "configMap": { "name": CONFIG } }));
        }
        let mut env: Vec<Value> =
            self.env.iter().map(|(name, value)| json!({ "name": name, "value": fill(value) })).collect();
        let key = json!({ "secretKeyRef": { "name": SECRET, "key": "key" } });
        env.push(json!({ "name": self.key, "valueFrom": key }));
        let task = task
            .pvc()
            .with("prompt", json!("Write notes, one line in each iteration."))
            .with("template/spec/containers/0/image", json!(self.image))
            .with("template/spec/containers/0/command", json!(self.command))
            .with("template/spec/containers/0/workingDir", json!("/workspace"))
            .with("template/spec/containers/0/env", json!(env))
            .with("template/spec/containers/0/volumeMounts", json!(mounts))
            .with("template/spec/volumes", json!(volumes));
        ns.create(&task).await?;
        Ok(())
    }
}
