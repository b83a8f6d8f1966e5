//! The operator's program, started as the chart starts it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use agentloop_test_support::eventually::eventually;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::measure::process::Process;
use crate::world::{BenchCluster, OPERATOR_NAMESPACE, PATIENCE, http_get};

/// Where the runner comes from.
#[derive(Clone, Copy, Debug)]
pub struct Runner<'a> {
    /// Its image.
    pub image: &'a str,
    /// How it gets into pods: `image-volume` or `init-container`.
    pub injection: &'a str,
}

/// A runner that no pod ever executes, because only a fake kubelet plays the pods.
pub const PLAYED: Runner<'static> =
    Runner { image: "localhost/agentloop-runner:bench", injection: "image-volume" };

static STARTS: AtomicU32 = AtomicU32::new(0);

/// An operator that runs.
pub struct Operator {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Operator {
    /// Starts it and waits until it serves its probes.
    pub async fn start(world: &BenchCluster, name: &str) -> Result<Self> {
        Self::start_with(world, name, &PLAYED, &[]).await
    }

    /// The same with a runner that a real kubelet executes.
    pub async fn start_with_runner(world: &BenchCluster, name: &str, runner: &Runner<'_>) -> Result<Self> {
        Self::start_with(world, name, runner, &[]).await
    }

    /// The same without a Lease: it outlives an API server that is away for longer than a Lease may stay unrenewed.
    pub async fn start_without_lease(world: &BenchCluster, name: &str) -> Result<Self> {
        Self::start_with(world, name, &PLAYED, &["--leader-election=false"]).await
    }

    async fn start_with(
        world: &BenchCluster,
        name: &str,
        runner: &Runner<'_>,
        more: &[&str],
    ) -> Result<Self> {
        let number = STARTS.fetch_add(1, Ordering::Relaxed);
        let log = world.logs.join(format!("operator-{number}-{name}.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut child = Command::new(&world.operator)
            .env_clear()
            .env("KUBECONFIG", &world.kubeconfig)
            .env("POD_NAMESPACE", OPERATOR_NAMESPACE)
            .env("POD_NAME", format!("operator-{number}"))
            .args([
                "controller",
                "--config-map=agentloop-config",
                "--lease-name=agentloop",
                "--release=agentloop",
            ])
            .arg(format!("--runner-image={}", runner.image))
            .arg(format!("--runner-injection={}", runner.injection))
            .args(["--runner-image-pull-policy=IfNotPresent", "--concurrency=8"])
            .args(["--http-address=127.0.0.1:0", "--probe-address=127.0.0.1:0"])
            .args(["--log-format=json", "--log-level=info"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", world.operator.display()))?;
        let address = eventually(PATIENCE, "the operator serves its probes", || {
            let found = match child.try_wait() {
                Ok(Some(status)) => Err(format!("it ended: {status}")),
                _ => address_in(&std::fs::read_to_string(&log).unwrap_or_default())
                    .ok_or_else(|| "no address in its log".to_owned()),
            };
            std::future::ready(found)
        })
        .await
        .with_context(|| format!("its log: {}", log.display()))?;
        Ok(Self { child, address, log })
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process(self.child.id().unwrap_or_default())
    }

    /// Waits until it reports this state.
    pub async fn ready(&self, how: &str) -> Result<()> {
        let what = format!("the operator is {how}");
        let ready = eventually(PATIENCE, &what, async || match http_get(&self.address, "/readyz").await {
            Ok(text) if text.contains(how) => Ok(()),
            Ok(text) => Err(text),
            Err(error) => Err(format!("{error:#}")),
        });
        ready.await.with_context(|| format!("its log: {}", self.log.display()))
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Result<String> {
        http_get(&self.address, "/metrics").await
    }

    /// When a line with this message was logged first.
    pub fn logged(&self, message: &str) -> Option<jiff::Timestamp> {
        let text = std::fs::read_to_string(&self.log).ok()?;
        let lines = text.lines().filter(|line| line.contains(message));
        let mut lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find_map(|line| line.get("timestamp")?.as_str()?.parse().ok())
    }

    /// Lines of its log at level WARN or ERROR.
    pub fn complaints(&self) -> usize {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\"")).count()
    }

    /// Asks it to end, and waits: it gives its Lease up.
    pub async fn stop(mut self) -> Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(id.context("the operator has ended by itself")?, Signal::TERM)?;
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the operator ended with {status}; its log: {}", self.log.display());
        }
        Ok(())
    }

    /// Kills it: its Lease stays taken until it expires.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("killing the operator")
    }
}

/// The first address in a log: that of the listener that serves everything.
fn address_in(log: &str) -> Option<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut addresses = lines.filter_map(|line| {
        let found = line.get("address").or_else(|| line.pointer("/fields/address"))?;
        Some(found.as_str()?.to_owned())
    });
    addresses.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_among_other_lines() {
        let log =
            "not JSON\n{\"message\":\"starting\"}\n{\"message\":\"serving\",\"address\":\"127.0.0.1:4\"}\n";
        assert_eq!(address_in(log).as_deref(), Some("127.0.0.1:4"));
        assert_eq!(address_in("{}"), None);
    }
}
