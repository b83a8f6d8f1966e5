//! Completion of command lines.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::{TestNamespace, ended, kubeconfig};

const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-agentloop");

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("KUBECONFIG", kubeconfig());
    command
}

#[tokio::test]
async fn kubectl_is_told_the_names_of_tasks_that_can_come_next() {
    let ns = TestNamespace::new().await;
    for name in ["idle", "other"] {
        ns.task(name, json!({}), Value::Null).await;
    }
    // The program that kubectl asks, in a PATH with the plugin.
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("kubectl_complete-agentloop");
    std::fs::write(&script, ns.ok(&["completion", "kubectl"]).await).expect("a script");
    let bin = std::path::Path::new(PLUGIN).parent().expect("a folder");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    for (words, expected) in [
        (&["why", "i"][..], "idle\n:4\n"),
        (&["resume", "idle", "o"], "other\n:4\n"),
        (&["wai"], "wait\tWait until a task stops; the exit code says how\n:4\n"),
        (&["get", "idle", "-o", "jso"], "json\njsonpath=\n:4\n"),
        (&["lint", "-f", ""], ":0\n"),
    ] {
        let mut command = quiet("sh");
        command.arg(&script).args(["--namespace", &ns.name]).args(words).env("PATH", &path);
        let ran = ended(command).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, expected), "{words:?}: {ran:?}");
    }
    ns.end().await;
}

#[tokio::test]
async fn the_completion_scripts_are_accepted_by_their_shells() {
    for (shell, check) in [
        ("bash", "source \"$1\" && complete -p kubectl-agentloop"),
        ("zsh", "autoload -U compinit && compinit -u -D && source \"$1\" && echo $_comps[kubectl-agentloop]"),
        ("fish", "source $argv[1]; and complete -C 'kubectl-agentloop res'"),
    ] {
        let mut generate = quiet(PLUGIN);
        generate.args(["completion", shell]);
        let script = ended(generate).await.out;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("script");
        std::fs::write(&file, script).expect("a script");
        let mut command = quiet(shell);
        command.arg("-c").arg(check);
        // The first argument after a command is the name of the shell, except for fish.
        if shell != "fish" {
            command.arg(shell);
        }
        command.arg(&file).env("HOME", folder.path());
        let ran = ended(command).await;
        assert_eq!(ran.code, 0, "{shell}: {ran:?}");
        assert!(ran.out.contains("kubectl-agentloop") || ran.out.contains("resume"), "{shell}: {ran:?}");
    }
}
