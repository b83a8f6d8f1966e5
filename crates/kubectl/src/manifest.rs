//! A task from the flags of `run`.

use serde_json::{Map, Value, json};

use crate::cli::{Preset, RunArgs};

/// Where the agent's home is: outside of the workspace, so that its own notes do not count as progress.
const HOME: &str = "/home/agent";
const WORKSPACE: &str = "/workspace";

impl Preset {
    /// Its name, and that of its Secret.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
            Self::Opencode => "opencode",
            Self::GeminiCli => "gemini-cli",
        }
    }

    /// Its command, which reads the prompt from standard input and prints a stream that the runner reads.
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::ClaudeCode => &[
                "claude",
                "--print",
                "--output-format=stream-json",
                "--verbose",
                "--dangerously-skip-permissions",
            ],
            Self::Codex => {
                &["codex", "exec", "--json", "--skip-git-repo-check", "--sandbox=danger-full-access", "-"]
            }
            Self::Opencode => &["opencode", "run", "--format", "json"],
            Self::GeminiCli => &["gemini", "--yolo", "--skip-trust", "--output-format", "stream-json"],
        }
    }

    /// The variable with its credential.
    fn key(self) -> &'static str {
        match self {
            Self::ClaudeCode | Self::Opencode => "ANTHROPIC_API_KEY",
            Self::Codex => "CODEX_API_KEY",
            Self::GeminiCli => "GEMINI_API_KEY",
        }
    }

    /// Variables that switch off what does not belong into a pod.
    fn variables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::ClaudeCode => &[("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")],
            Self::Opencode => &[(
                "OPENCODE_CONFIG_CONTENT",
                r#"{"permission": "allow", "autoupdate": false, "share": "disabled"}"#,
            )],
            Self::Codex | Self::GeminiCli => &[],
        }
    }
}

/// The manifest of a task.
pub fn task(args: &RunArgs, namespace: &str, prompt: &str) -> Value {
    let mut spec = Map::new();
    spec.insert("prompt".to_owned(), prompt.into());
    if let Some(max) = args.max {
        spec.insert("maxIterations".to_owned(), max.into());
    }
    if let Some(completion) = completion(args) {
        spec.insert("completion".to_owned(), completion);
    }
    if let Some(workspace) = workspace(args) {
        spec.insert("workspace".to_owned(), workspace);
    }
    spec.insert("template".to_owned(), json!({ "spec": pod(args) }));
    json!({
        "apiVersion": "agentloop.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": { "name": args.name, "namespace": namespace },
        "spec": spec,
    })
}

fn completion(args: &RunArgs) -> Option<Value> {
    match &args.verify {
        Some(command) => Some(json!({ "policy": "Verify", "verify": { "command": ["sh", "-c", command] } })),
        None => args.until_exit.then(|| json!({ "policy": "ExitCode" })),
    }
}

fn workspace(args: &RunArgs) -> Option<Value> {
    if args.ephemeral {
        return None;
    }
    if let Some(name) = &args.pvc {
        return Some(json!({ "persistentVolumeClaim": { "claimName": name } }));
    }
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": args.storage } },
    });
    if let (Some(class), Some(spec)) = (&args.storage_class, spec.as_object_mut()) {
        spec.insert("storageClassName".to_owned(), class.clone().into());
    }
    Some(json!({ "volumeClaimTemplate": { "spec": spec } }))
}

fn pod(args: &RunArgs) -> Value {
    let mut variables = vec![json!({ "name": "HOME", "value": HOME })];
    let mut command: Vec<&str> = args.command.iter().map(String::as_str).collect();
    if let Some(preset) = args.preset {
        command = preset.command().to_vec();
        variables
            .extend(preset.variables().iter().map(|(name, value)| json!({ "name": name, "value": value })));
        let secret = args.secret.as_deref().unwrap_or(preset.name());
        variables.push(json!({
            "name": preset.key(),
            "valueFrom": { "secretKeyRef": { "name": secret, "key": "api-key" } },
        }));
    }
    variables.extend(args.env.iter().map(|(name, value)| json!({ "name": name, "value": value })));
    json!({
        "securityContext": {
            "runAsNonRoot": args.user != 0,
            "runAsUser": args.user,
            "runAsGroup": args.user,
            "fsGroup": args.user,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [{
            "name": "agent",
            "image": args.image,
            "command": command,
            "workingDir": WORKSPACE,
            "env": variables,
            "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            "volumeMounts": [{ "name": "home", "mountPath": HOME }],
        }],
        "volumes": [{ "name": "home", "emptyDir": {} }],
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn of(args: &[&str]) -> Value {
        let args = [&["kubectl-agentloop", "run", "x", "--image", "i"], args].concat();
        match Cli::try_parse_from(args).expect("arguments").command {
            Command::Run(args) => task(&args, "dev", "Do it."),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_becomes_a_task_with_a_restricted_pod_and_a_volume() {
        let task = of(&["--max", "4", "--verify", "make test", "-e", "A=b=c", "--", "sh", "-c", "agent -v"]);
        assert_eq!(task["metadata"], json!({ "name": "x", "namespace": "dev" }));
        let spec = &task["spec"];
        assert_eq!((&spec["prompt"], &spec["maxIterations"]), (&json!("Do it."), &json!(4)));
        assert_eq!(
            spec["completion"],
            json!({ "policy": "Verify", "verify": { "command": ["sh", "-c", "make test"] } })
        );
        let claim = &spec["workspace"]["volumeClaimTemplate"]["spec"];
        assert_eq!(claim["resources"]["requests"]["storage"], "1Gi");
        let pod = &spec["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["containers"][0]["command"], json!(["sh", "-c", "agent -v"]));
        assert_eq!(pod["containers"][0]["env"][1], json!({ "name": "A", "value": "b=c" }));
    }

    #[test]
    fn a_preset_has_the_command_and_the_credential_of_its_guide() {
        for name in ["claude-code", "codex", "opencode", "gemini-cli"] {
            let path = format!("{}/../../docs/agents/{name}.md", env!("CARGO_MANIFEST_DIR"));
            let guide = std::fs::read_to_string(path).expect("the guide");
            let container = of(&["--preset", name])["spec"]["template"]["spec"]["containers"][0].clone();
            for word in container["command"].as_array().expect("a command") {
                assert!(guide.contains(word.as_str().expect("a word")), "{name}: {word}");
            }
            let key = container["env"].as_array().expect("variables").last().expect("the key").clone();
            assert!(guide.contains(key["name"].as_str().expect("a name")), "{name}: {key}");
            assert_eq!(key["valueFrom"]["secretKeyRef"]["name"], name);
        }
        let other = of(&["--preset", "codex", "--secret", "mine"]);
        let env = &other["spec"]["template"]["spec"]["containers"][0]["env"];
        assert_eq!(env[1]["valueFrom"]["secretKeyRef"]["name"], "mine");
    }

    #[test]
    fn a_workspace_is_a_new_volume_an_existing_one_or_none() {
        let workspace = |args: &[&str]| of(&[args, &["--", "a"]].concat())["spec"]["workspace"].clone();
        assert_eq!(workspace(&["--ephemeral"]), Value::Null);
        assert_eq!(workspace(&["--pvc", "p"]), json!({ "persistentVolumeClaim": { "claimName": "p" } }));
        let claim = workspace(&["--storage", "5Gi", "--storage-class", "fast"]);
        let spec = &claim["volumeClaimTemplate"]["spec"];
        assert_eq!(
            (&spec["storageClassName"], &spec["resources"]["requests"]["storage"]),
            (&json!("fast"), &json!("5Gi"))
        );
    }

    #[test]
    fn every_task_can_be_built_into_a_pod() {
        for args in [&["--preset", "codex"][..], &["--until-exit", "--", "a"], &["--user", "0", "--", "a"]] {
            let task = serde_json::from_value::<agentloop_core::api::AgentTask>(of(args));
            assert!(task.is_ok(), "{task:?}");
        }
    }
}
