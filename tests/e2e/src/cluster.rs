//! The cluster that the tests run in, never that of the user's own kubeconfig.

use std::{env, path::PathBuf, process::Stdio};

use anyhow::{Context, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{io::AsyncWriteExt, process::Command};

const HACK_CLUSTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/cluster");

/// A client of the cluster, and the command-line tools for it.
#[derive(Clone)]
pub struct Cluster {
    /// A client with an administrator's rights.
    pub client: Client,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
}

/// What a program printed, and whether it succeeded.
#[derive(Clone, Debug)]
pub struct ProgramOutput {
    /// Whether it exited with 0.
    pub succeeded: bool,
    /// Both streams, standard output first.
    pub text: String,
}

impl ProgramOutput {
    fn of(output: &std::process::Output) -> Self {
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Self { succeeded: output.status.success(), text }
    }

    /// The text if the program succeeded, or the text as an error.
    pub fn success(self) -> Result<String> {
        if self.succeeded { Ok(self.text) } else { bail!("{}", self.text.trim_end()) }
    }
}

fn setting(name: &str) -> Result<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from).with_context(|| format!("{name} is not set: run these tests with hack/e2e test"))
}

impl Cluster {
    /// Connects to the cluster of `AGENTLOOP_TEST_KUBECONFIG`.
    pub async fn connect() -> Result<Self> {
        let kubeconfig = setting("AGENTLOOP_TEST_KUBECONFIG")?;
        let parsed = Kubeconfig::read_from(&kubeconfig)
            .with_context(|| format!("cannot read {}", kubeconfig.display()))?;
        let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
        Ok(Self {
            client: Client::try_from(config)?,
            kubeconfig,
            kubectl: setting("AGENTLOOP_KUBECTL")?,
            helm: setting("AGENTLOOP_HELM")?,
        })
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
        command
    }

    async fn run(mut command: Command) -> Result<ProgramOutput> {
        let output = command.output().await.with_context(|| format!("cannot run {command:?}"))?;
        Ok(ProgramOutput::of(&output))
    }

    /// Runs kubectl.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<ProgramOutput> {
        let mut command = self.command(&self.kubectl);
        command.args(arguments);
        Self::run(command).await
    }

    /// Runs helm.
    pub async fn helm(&self, arguments: &[&str]) -> Result<ProgramOutput> {
        let mut command = self.command(&self.helm);
        command.args(arguments);
        Self::run(command).await
    }

    /// Runs `hack/cluster` on the cluster that the tests run in.
    pub(crate) async fn hack(&self, arguments: &[&str]) -> Result<ProgramOutput> {
        let name = env::var("AGENTLOOP_E2E_CLUSTER").context("AGENTLOOP_E2E_CLUSTER is not set")?;
        let mut command = self.command(HACK_CLUSTER);
        command.args(arguments).args(["--name", &name]);
        Self::run(command).await
    }

    /// Runs a command line from a message, with kubectl in `PATH`.
    pub async fn shell(&self, line: &str) -> Result<ProgramOutput> {
        let folder = self.kubectl.parent().context("AGENTLOOP_KUBECTL has no folder")?;
        let path = env::join_paths(
            [folder.to_owned()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
        )?;
        let mut command = self.command("sh");
        command.args(["-c", line]).env("PATH", path);
        Self::run(command).await
    }

    /// Runs kubectl with a manifest on its standard input, as in `kubectl apply -f -`.
    pub async fn kubectl_with(&self, arguments: &[&str], manifest: &str) -> Result<ProgramOutput> {
        let mut command = self.command(&self.kubectl);
        command.args(arguments).stdin(Stdio::piped());
        let mut child = command.spawn().context("cannot run kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        stdin.write_all(manifest.as_bytes()).await?;
        drop(stdin);
        Ok(ProgramOutput::of(&child.wait_with_output().await?))
    }
}
