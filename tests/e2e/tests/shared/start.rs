//! How an agent is started: its working directory, its command line and its terminal.

use agentloop_e2e::{DONE, TaskManifest, TaskSnapshot, TestNamespace, iterations};
use anyhow::{Context, Result, ensure};
use serde_json::json;

const GATE: &str = r"printf '<COMPLETION_GATE>\nready: true\nreason: it ran\n</COMPLETION_GATE>\n'";

/// Waits until the first iteration completes the task, and returns the agent's output.
async fn output(ns: &TestNamespace, name: &str) -> Result<(TaskSnapshot, String)> {
    let stopped = |now: &TaskSnapshot| now.iterations() > 0 || now.reason() == "PodRejected";
    let snapshot = ns.until(name, iterations(1), "has stopped", stopped).await?;
    let pods = ns.history.of(snapshot.uid());
    let pod = pods.first().map(|pod| pod.name.clone()).with_context(|| format!("no pod: {snapshot}"))?;
    let output = ns.kubectl(&["logs", &pod, "-c", "agent"]).await?.text;
    ensure!(snapshot.state() == DONE, "{snapshot}; its output is {output:?}");
    ns.exactly(&snapshot, 1)?;
    Ok((snapshot, output))
}

#[tokio::test]
async fn an_agent_starts_in_its_workspace_unless_the_template_names_a_folder() -> Result<()> {
    TestNamespace::shared("start-folder")
        .await?
        .run(async |ns| {
            // A new user's first attempt names no directory.
            let here = format!("pwd && echo work >made && {GATE}");
            let task = TaskManifest::script("newcomer", &here, &[]).max(1);
            // The relative path is resolved in the container's working directory.
            ns.create(&task.with("template/spec/containers/0/command/0", json!("bin/sh"))).await?;
            let there = format!("pwd && cd /workspace && echo work >made && {GATE}");
            for (name, folder) in [("root", "/"), ("elsewhere", "/bin")] {
                let task = TaskManifest::script(name, &there, &[]).max(1);
                ns.create(&task.with("template/spec/containers/0/workingDir", json!(folder))).await?;
            }
            for (name, folder) in [("root", "/"), ("elsewhere", "/bin"), ("newcomer", "/workspace")] {
                let (snapshot, output) = output(ns, name).await?;
                ensure!(
                    output.lines().any(|line| line.trim() == folder),
                    "{name} started elsewhere: {output}"
                );
                ensure!(snapshot.history("changed") == ["Changed"], "{:?}", snapshot.history("changed"));
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn variables_are_on_the_command_line_and_in_the_environment_but_never_the_key_of_the_report()
-> Result<()> {
    TestNamespace::shared("variables")
        .await?
        .run(async |ns| {
            let script = format!(
                r#"cat "$1"; echo "key $2 key"; [ "$COPY" = "$AGENTLOOP_PROMPT_FILE" ] || exit 3
                env | grep REPORT_KEY= && exit 4; tr '\0' '\n' </proc/self/environ | grep REPORT_KEY= && exit 5
                date >/workspace/work; {GATE}"#
            );
            let task = TaskManifest::script("expands", &script, &["$(AGENTLOOP_PROMPT_FILE)", "$(AGENTLOOP_REPORT_KEY)"]);
            let env = json!([
                { "name": "COPY", "value": "$(AGENTLOOP_PROMPT_FILE)" },
                { "name": "AGENTLOOP_REPORT_KEY", "value": "known" },
            ]);
            ns.create(&task.max(1).with("template/spec/containers/0/env", env)).await?;
            let (snapshot, output) = output(ns, "expands").await?;
            ensure!(output.contains("Reach the goal."), "the agent did not get its prompt: {output}");
            ensure!(output.contains("key $(AGENTLOOP_REPORT_KEY) key"), "the key was expanded: {output}");
            let pods = ns.history.of(snapshot.uid());
            let spec = pods.first().and_then(|pod| pod.pod.spec.as_ref()).context("the pod has no spec")?;
            let agent = spec.containers.iter().find(|container| container.name == "agent").context("no agent")?;
            let names: Vec<&str> = agent.env.iter().flatten().map(|variable| variable.name.as_str()).collect();
            let keys = names.iter().filter(|name| **name == "AGENTLOOP_REPORT_KEY").count();
            ensure!(keys == 1 && names.last() == Some(&"AGENTLOOP_REPORT_KEY"), "{names:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_template_may_mount_the_workspace_at_its_usual_path() -> Result<()> {
    TestNamespace::shared("mounted-twice")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("twice", &["change", "ready"]).max(1);
            let mounts = json!([{ "name": "workspace", "mountPath": "/workspace" }]);
            ns.create(&task.with("template/spec/containers/0/volumeMounts", mounts)).await?;
            let (snapshot, _) = output(ns, "twice").await?;
            ensure!(snapshot.history("changed") == ["Changed"], "{:?}", snapshot.history("changed"));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn an_agent_with_a_terminal_may_use_it() -> Result<()> {
    TestNamespace::shared("tty")
        .await?
        .run(async |ns| {
            // Each of these two commands stops a process in the terminal's background.
            let script = format!(
                "stty sane </dev/tty && stty -a </dev/tty >/dev/tty && date >/workspace/work && {GATE}"
            );
            let task = TaskManifest::script("typist", &script, &[])
                .max(1)
                .with("iterationTimeoutSeconds", json!(10));
            ns.create(&task.with("template/spec/containers/0/tty", json!(true))).await?;
            let (snapshot, _) = output(ns, "typist").await?;
            ensure!(snapshot.history("outcome") == ["Exited"], "{:?}", snapshot.history("outcome"));
            Ok(())
        })
        .await
}
