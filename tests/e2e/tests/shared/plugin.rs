//! The kubectl plugin on real loops: what it reads from pods and, once they are gone, from the workspace.

use std::env;
use std::process::Stdio;

use agentloop_e2e::{TaskManifest, TestNamespace};
use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// Changes a file of a repository, leaves another one that git does not know, and prints what must not reach a terminal.
const WORKS: &str = r#"
export HOME=/tmp GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
cd /workspace
if [ ! -d .git ]; then
  git init --quiet --template= .
  echo first >file && git add file && git -c user.name=a -c user.email=a@localhost commit --quiet -m start
  # What a repository must not make the reader execute.
  git config core.fsmonitor 'echo FSMONITOR >&2; false'
  git config diff.external 'echo EXTERNAL'
fi
echo "iteration $AGENTLOOP_ITERATION" >>file
printf 'x' >"$(printf 'odd\033[31mname')"
printf '\033]0;title\007said in iteration %s\n' "$AGENTLOOP_ITERATION"
"#;

/// What the plugin printed, and whether it succeeded.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn plugin(ns: &TestNamespace, arguments: &[&str]) -> Result<Ran> {
    let program = env::var("AGENTLOOP_PLUGIN").context("AGENTLOOP_PLUGIN is not set: use hack/e2e test")?;
    let kubeconfig = env::var("AGENTLOOP_TEST_KUBECONFIG").context("AGENTLOOP_TEST_KUBECONFIG is not set")?;
    let mut command = Command::new(program);
    command
        .args(["--namespace", &ns.namespace])
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null());
    let output = command.output().await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let ran = Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    let safe = |text: &str| text.chars().all(|c| c == '\n' || !c.is_control());
    ensure!(safe(&ran.out) && safe(&ran.err), "{ran:?} controls a terminal");
    Ok(ran)
}

#[tokio::test]
async fn logs_and_diffs_of_a_loop_are_read_while_its_pods_exist_and_after_they_are_gone() -> Result<()> {
    TestNamespace::shared("plugin")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::script("works", WORKS, &[]).pvc().max(2)).await?;
            let waited = plugin(ns, &["wait", "works", "--timeout", "2m"]).await?;
            ensure!(waited.code == Some(10), "{waited:?}");
            let expected = ["said in iteration 1", "said in iteration 2"];
            let logs = plugin(ns, &["logs", "works", "--iteration", "all"]).await?;
            ensure!(expected.iter().all(|line| logs.out.contains(line)), "{logs:?}");
            ensure!(!logs.err.contains("reading the workspace"), "the pods are there: {logs:?}");

            ns.kubectl(&["delete", "pod", "--all", "--wait"]).await?.success()?;
            let logs = plugin(ns, &["logs", "works", "--iteration", "all"]).await?;
            ensure!(expected.iter().all(|line| logs.out.contains(line)), "{logs:?}");
            let diff = plugin(ns, &["diff", "works"]).await?;
            ensure!(diff.out.contains("+iteration 1\n+iteration 2\n"), "{diff:?}");
            ensure!(diff.out.contains("untracked: \"odd\\033[31mname\""), "{diff:?}");
            let all = format!("{diff:?}");
            ensure!(!all.contains("FSMONITOR") && !all.contains("EXTERNAL"), "{diff:?}");
            let files = plugin(ns, &["files", "works", "--iteration", "2"]).await?;
            ensure!(files.out.lines().any(|line| line == "file"), "{files:?}");

            let pods = ns.kubectl(&["get", "pods", "-o", "name"]).await?.success()?;
            ensure!(pods.trim().is_empty(), "no reader is left: {pods}");
            let resumed = plugin(ns, &["resume", "works", "--max", "+1"]).await?;
            ensure!(resumed.code == Some(0), "{resumed:?}");
            let waited = plugin(ns, &["wait", "works", "--timeout", "2m"]).await?;
            ensure!(
                waited.code == Some(10) && waited.out.contains("stopped after 3 iterations"),
                "{waited:?}"
            );
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_workspace_is_read_while_an_agent_works_in_it() -> Result<()> {
    TestNamespace::shared("plugin-busy")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::script("busy", "echo now >/workspace/state; exec sleep 600", &[]).pvc())
                .await?;
            ns.until_running("busy", 1).await?;
            let folder = std::env::temp_dir().join(format!("agentloop-{}", ns.namespace));
            let target = folder.to_str().context("a path")?.to_owned();
            let copied = plugin(ns, &["cp", "busy:state", &target]).await?;
            let content = tokio::fs::read_to_string(&folder).await;
            let _ = tokio::fs::remove_file(&folder).await;
            ensure!(copied.code == Some(0) && content? == "now\n", "{copied:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn the_clusters_roles_view_and_edit_are_enough_for_the_commands_that_are_meant_for_them() -> Result<()>
{
    TestNamespace::shared("plugin-roles")
        .await?
        .run(async |ns| {
            for (role, user) in [("view", "--user=viewer"), ("edit", "--user=editor")] {
                ns.kubectl(&["create", "rolebinding", role, &format!("--clusterrole={role}"), user])
                    .await?
                    .success()?;
            }
            ns.create(&TaskManifest::script("works", "echo now >/workspace/state", &[]).pvc().max(1)).await?;
            let as_user = async |user: &str, arguments: &[&str]| {
                let ran = plugin(ns, &[arguments, &["--as", user]].concat()).await?;
                anyhow::Ok((ran.code, format!("{user} {arguments:?}: {ran:?}")))
            };
            let (code, ran) = as_user("viewer", &["wait", "works", "--timeout", "2m"]).await?;
            ensure!(code == Some(10), "{ran}");
            for arguments in [
                &["list"][..],
                &["get", "works"],
                &["why", "works"],
                &["logs", "works"],
                &["files", "works"],
                &["cost"],
                &["version"],
                &["resume", "works", "--show-kubectl"],
            ] {
                let (code, ran) = as_user("viewer", arguments).await?;
                ensure!(code == Some(0), "{ran}");
            }
            for arguments in [&["resume", "works"][..], &["diff", "works"]] {
                let (code, ran) = as_user("viewer", arguments).await?;
                ensure!(code == Some(1) && ran.contains("you have no right to"), "{ran}");
            }
            let folder = env::temp_dir().join(format!("agentloop-{}", ns.namespace));
            let target = folder.to_str().context("a path")?.to_owned();
            for arguments in [
                &["cp", "works:state", &target][..],
                &["suspend", "works"],
                &["resume", "works", "--max", "+1"],
                &["delete", "works"],
            ] {
                let (code, ran) = as_user("editor", arguments).await?;
                ensure!(code == Some(0), "{ran}");
            }
            Ok(tokio::fs::remove_file(&folder).await?)
        })
        .await
}
