//! A real agent: Codex, with a scripted model.
//!
//! `hack/e2e up` builds its image from the program in the npm package.

use std::time::Duration;

use agentloop_e2e::{
    DONE, LIMIT, PATIENCE, TaskManifest, TaskSnapshot, TestNamespace, eventually, iterations,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const KEY: &str = "the-right-key";
const CONFIG: &str = "codex-config";
const SECRET: &str = "codex-key";

/// Input, cached input and output tokens of one response.
type Tokens = [i64; 3];

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

/// The total tokens of a script's first iterations.
fn cost(script: &Value, iterations: usize) -> Tokens {
    let all = script.get("iterations").and_then(Value::as_array).into_iter().flatten().take(iterations);
    let steps = all.filter_map(Value::as_array).flatten();
    steps.fold([0; 3], |sums, step| {
        let tokens = step.get("tokens");
        let count = |at: usize| tokens.and_then(|t| t.get(at)).and_then(Value::as_i64).unwrap_or_default();
        let [input, cached, output] = sums;
        [input + count(0), cached + count(1), output + count(2)]
    })
}

fn usage(snapshot: &TaskSnapshot) -> Tokens {
    ["inputTokens", "cachedInputTokens", "outputTokens"]
        .map(|name| snapshot.number(&format!("/status/usage/{name}")))
}

/// A namespace with an operator of its own, whose delays are short.
async fn ns(name: &str) -> Result<TestNamespace> {
    TestNamespace::own(name, &["--set", "config.rateLimitMinSeconds=3"]).await
}

/// Starts the model in the test's namespace, and writes the configuration that Codex needs to find it.
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
    let address =
        ns.kubectl(&["get", "service", "model", "-o", "jsonpath={.spec.clusterIP}"]).await?.success()?;
    let config = format!(
        "model = \"scripted\"\nmodel_provider = \"scripted\"\n\n[model_providers.scripted]\nname = \"scripted\"\n\
         base_url = \"http://{address}/v1\"\nwire_api = \"responses\"\nenv_key = \"MODEL_KEY\"\n"
    );
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": CONFIG }, "data": { "config.toml": config },
    });
    ns.apply(&config).await?.success()?;
    let wait = ["wait", "pod/model", "--for=condition=Ready", "--timeout=90s"];
    ns.kubectl(&wait).await?.success()?;
    Ok(())
}

async fn set_key(ns: &TestNamespace, key: &str) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": SECRET }, "stringData": { "key": key },
    });
    ns.apply(&secret).await?.success()?;
    Ok(())
}

/// The model's log, with one line for each request.
async fn requests(ns: &TestNamespace) -> Result<Vec<String>> {
    let log = ns.kubectl(&["logs", "model"]).await?.success()?;
    Ok(log.lines().map(str::to_owned).collect())
}

/// A task that runs Codex as its documentation says for programs, in a restricted container.
fn task(name: &str) -> TaskManifest {
    let command = ["codex", "exec", "--json", "--skip-git-repo-check", "--sandbox=danger-full-access", "-"];
    TaskManifest::new(name, &[])
        .pvc()
        .with("prompt", json!("Write notes, one line in each iteration."))
        .with("template/spec/containers/0/image", json!("localhost/agentloop-test-codex:1"))
        .with("template/spec/containers/0/command", json!(command))
        .with("template/spec/containers/0/workingDir", json!("/workspace"))
        .with(
            "template/spec/containers/0/env",
            json!([
                { "name": "CODEX_HOME", "value": "/home/codex" },
                { "name": "MODEL_KEY", "valueFrom": { "secretKeyRef": { "name": SECRET, "key": "key" } } },
            ]),
        )
        .with(
            "template/spec/containers/0/volumeMounts",
            json!([
                { "name": "home", "mountPath": "/home/codex" },
                { "name": "config", "mountPath": "/home/codex/config.toml", "subPath": "config.toml" },
                { "name": "tmp", "mountPath": "/tmp" },
            ]),
        )
        .with(
            "template/spec/volumes",
            json!([
                { "name": "home", "emptyDir": {} },
                { "name": "config", "configMap": { "name": CONFIG } },
                { "name": "tmp", "emptyDir": {} },
            ]),
        )
}

/// An iteration that writes a line and commits it. Unless it is the last one, it reports the number of commits.
fn work(iteration: i64, ready: bool) -> Value {
    let tokens = |step: i64| [iteration * 1000 + step, iteration * 100 + step, iteration * 10 + step];
    json!([
        run("test -e notes || git init --quiet --template= notes", tokens(1)),
        run(&format!("cd notes && echo 'line {iteration}' >>text && git add text"), tokens(2)),
        run(
            "cd notes && git -c user.name=codex -c user.email=codex@localhost commit --quiet -m step && git rev-list --count HEAD",
            tokens(3)
        ),
        say((!ready).then_some("{output} commits are too few"), tokens(4)),
    ])
}

/// Iteration and attempt of every pod that a task ever had.
fn attempts(ns: &TestNamespace, snapshot: &TaskSnapshot) -> Vec<(i32, i32)> {
    ns.history.of(snapshot.uid()).iter().map(|pod| (pod.iteration, pod.attempt)).collect()
}

#[tokio::test]
async fn codex_continues_past_its_limit_by_the_pasted_command_until_it_reports_that_it_is_done() -> Result<()>
{
    ns("codex")
        .await?
        .run(async |ns| {
            let script = json!({ "key": KEY, "iterations": [
                work(1, false), work(2, false), work(3, false), work(4, true),
            ] });
            start_model(ns, &script).await?;
            set_key(ns, KEY).await?;
            ns.create(&task("writer").max(2)).await?;
            let snapshot = ns.until_state("writer", iterations(2), LIMIT).await?;
            ns.exactly(&snapshot, 2)?;
            ensure!(usage(&snapshot) == cost(&script, 2), "{:?}", usage(&snapshot));

            ns.paste(&snapshot, "maxIterations").await?;
            let snapshot = ns.until_state("writer", iterations(2), DONE).await?;
            ns.exactly(&snapshot, 4)?;
            ensure!(snapshot.iterations() == 4, "{snapshot}");
            ensure!(
                usage(&snapshot) == cost(&script, 4),
                "{:?}, not {:?}",
                usage(&snapshot),
                cost(&script, 4)
            );
            ensure!(snapshot.history("changed") == ["Changed"; 4], "{:?}", snapshot.history("changed"));
            ensure!(snapshot.history("exitCode") == ["0"; 4], "{:?}", snapshot.history("exitCode"));
            // The output of Codex's own shell went to the model and came back in the gate.
            let errors = ["1", "2", "3"].map(|commits| format!("{commits} commits are too few"));
            ensure!(snapshot.history("error").starts_with(&errors), "{:?}", snapshot.history("error"));
            ensure!(requests(ns).await?.len() == 16, "{:#?}", requests(ns).await?);

            let pvc = ns.pvc_of(&snapshot).await?;
            let line =
                "cd /workspace/notes && git log --format=%an && cat text && ls ../.agentloop/*/iterations";
            let kept = ns.run_in_pvc(&pvc, line).await?;
            let expected = "codex codex codex codex line 1 line 2 line 3 line 4 0001 0002 0003 0004";
            ensure!(kept.split_whitespace().eq(expected.split(' ')), "the PVC contains {kept:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_key_that_the_model_refuses_fails_the_task_immediately_and_another_key_resumes_it() -> Result<()> {
    ns("codex-key")
        .await?
        .run(async |ns| {
            let script = json!({ "key": KEY, "iterations": [[], work(2, true)] });
            start_model(ns, &script).await?;
            set_key(ns, "an-expired-key").await?;
            ns.create(&task("stranger").max(5)).await?;
            let snapshot = ns.until_state("stranger", iterations(1), "Failed/Unauthenticated").await?;
            ns.exactly(&snapshot, 1)?;
            ensure!(snapshot.iterations() == 1, "{snapshot}");
            ensure!(snapshot.message().contains("401 Unauthorized"), "{snapshot}");
            ensure!(usage(&snapshot) == [0; 3], "{:?}", usage(&snapshot));
            let requests = requests(ns).await?;
            ensure!(requests.iter().all(|line| line == "refused: 401"), "{requests:?}");

            set_key(ns, KEY).await?;
            ns.stays("stranger", Duration::from_secs(2), |now| now.0 == snapshot.0).await?;
            ns.paste(&snapshot, "resetToken").await?;
            let snapshot = ns.until_state("stranger", iterations(1), DONE).await?;
            ns.exactly(&snapshot, 2)?;
            ensure!(usage(&snapshot) == cost(&script, 2), "{:?}", usage(&snapshot));
            Ok(())
        })
        .await
}

/// Runs a task whose first requests are refused. Checks its pods, and a word in its message while it waits.
async fn refused(name: &str, refuse: Value, pods: &[(i32, i32)], word: Option<&str>) -> Result<()> {
    ns(name)
        .await?
        .run(async |ns| {
            let first = refuse.get("first").and_then(Value::as_u64).context("how many are refused?")?;
            let script =
                json!({ "key": KEY, "refuse": refuse, "iterations": [work(1, false), work(2, true)] });
            start_model(ns, &script).await?;
            set_key(ns, KEY).await?;
            ns.create(&task("patient").max(2)).await?;
            if let Some(word) = word {
                let snapshot = ns
                    .until("patient", iterations(1), "waits for its provider", |snapshot| {
                        snapshot.state() == "Waiting/RateLimited"
                    })
                    .await?;
                ensure!(snapshot.iterations() == 0 && snapshot.message().contains(word), "{snapshot}");
                ensure!(
                    snapshot.0.pointer("/status/waiting/retryTime").is_some(),
                    "no time is reported: {snapshot}"
                );
            }
            let snapshot = ns.until_state("patient", iterations(4), DONE).await?;
            ensure!(snapshot.iterations() == 2, "{snapshot}");
            ensure!(attempts(ns, &snapshot) == pods, "{:?}", attempts(ns, &snapshot));
            ensure!(usage(&snapshot) == cost(&script, 2), "{:?}", usage(&snapshot));
            ensure!(snapshot.history("changed") == ["Changed"; 2], "{:?}", snapshot.history("changed"));
            eventually(PATIENCE, "the model got exactly the expected requests", async || {
                let requests = requests(ns).await.map_err(|error| error.to_string())?;
                let refusals = requests.iter().filter(|line| *line == "refused: 429").count();
                if (refusals as u64, requests.len()) == (first, refusals + 8) {
                    Ok(())
                } else {
                    Err(requests.join("\n"))
                }
            })
            .await
        })
        .await
}

#[tokio::test]
async fn a_model_that_limits_its_rate_is_called_again_later_and_no_iteration_is_charged() -> Result<()> {
    let error = json!({ "type": "rate_limit_exceeded", "message": "Rate limit reached" });
    let pods = [(1, 0), (1, 1), (1, 2), (2, 0)];
    refused("codex-429", json!({ "first": 2, "error": error }), &pods, Some("429 Too Many Requests")).await
}

#[tokio::test]
async fn a_pause_that_codex_makes_itself_does_not_affect_the_loop() -> Result<()> {
    let error = json!({ "type": "rate_limit_exceeded", "message": "Rate limit reached" });
    let refuse = json!({ "first": 2, "error": error, "retryAfter": 1 });
    refused("codex-pause", refuse, &[(1, 0), (2, 0)], None).await
}

/// Codex reports only the minute, which has already begun when the limit ends.
#[tokio::test]
async fn a_usage_limit_that_ends_within_the_minute_does_not_delay_the_task_until_tomorrow() -> Result<()> {
    let error = json!({ "type": "usage_limit_reached", "plan_type": "pro", "resetsIn": 5 });
    let pods = [(1, 0), (1, 1), (2, 0)];
    refused("codex-usage", json!({ "first": 1, "error": error }), &pods, Some("usage limit")).await
}
