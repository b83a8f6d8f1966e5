//! Point 8: empty iterations on a real kubelet, beside other ways to run one pod after the other.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use agentloop_chaos::server::{pods, tasks};
use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::api::{self, Content, Lines};
use crate::arms::agentloop::{Operator, Runner};
use crate::load::state::milliseconds;
use crate::load::{Event, list, watch_path};
use crate::parts::Run;
use crate::records::Label;

/// The name of the load in the results.
pub const LOAD: &str = "empty iterations on a kubelet";

/// Pods, one after the other.
const PODS: usize = 10;
/// The longest that one turn may take.
const LIMIT: Duration = Duration::from_mins(5);
/// The image of all pods: every cluster of hack/cluster has it.
const IMAGE: &str = "localhost/busybox:1";

/// Who runs the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// The operator. The runner comes from an image volume.
    ImageVolume,
    /// The operator. An init container copies the runner.
    InitContainer,
    /// A Job with `parallelism: 1`.
    Job,
    /// A program that creates a pod at the moment when the one before it has ended: the kubelet's own floor.
    Bare,
    /// A shell loop of `kubectl run`.
    Shell,
}

impl Sequence {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::ImageVolume, Self::InitContainer, Self::Job, Self::Bare, Self::Shell];

    /// Its name in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImageVolume => "agentloop, image volume",
            Self::InitContainer => "agentloop, init container",
            Self::Job => "Job",
            Self::Bare => "bare pods",
            Self::Shell => "kubectl run",
        }
    }

    fn injection(self) -> Option<&'static str> {
        match self {
            Self::ImageVolume => Some("image-volume"),
            Self::InitContainer => Some("init-container"),
            Self::Job | Self::Bare | Self::Shell => None,
        }
    }
}

/// What only this part needs.
#[derive(Clone, Debug)]
pub struct Means {
    /// The image of the runner. The node has it.
    pub runner_image: String,
    /// The program kubectl.
    pub kubectl: PathBuf,
}

/// Measures everything, round by round.
pub async fn run(run: &mut Run, means: &Means) -> Result<()> {
    for round in 1..=run.size.rounds {
        // Another one begins in each round.
        let mut sequences = Sequence::ALL;
        sequences.rotate_left(usize::try_from(round - 1).unwrap_or_default() % Sequence::ALL.len());
        for sequence in sequences {
            let took = turn(run, means, sequence).await.with_context(|| sequence.name())?;
            run.say(&format!("round {round}, {}: {:.1} s", sequence.name(), took.as_secs_f64()));
            let label = Label::new("kubelet", LOAD, sequence.name(), round);
            run.sink.push(label.record("ms", vec![milliseconds(took)]))?;
        }
    }
    Ok(())
}

/// From the creation to the end of the last pod.
async fn turn(run: &mut Run, means: &Means, sequence: Sequence) -> Result<Duration> {
    let namespace = run.namespace("kubelet").await?;
    let operator = match sequence.injection() {
        None => None,
        Some(injection) => {
            let runner = Runner { image: &means.runner_image, injection };
            let operator = Operator::start_with_runner(&run.world, &namespace, &runner).await?;
            operator.ready("working").await?;
            Some(operator)
        }
    };
    let server = &run.world.server;
    let mut ends = Ends::of(run, &namespace).await?;
    let since = Instant::now();
    match sequence {
        Sequence::ImageVolume | Sequence::InitContainer => {
            api::must(server, Method::POST, &tasks(&namespace, ""), Content::Object(&task())).await?;
            ends.reach(PODS).await?;
        }
        Sequence::Job => {
            let path = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
            api::must(server, Method::POST, &path, Content::Object(&job())).await?;
            ends.reach(PODS).await?;
        }
        Sequence::Bare => {
            for number in 1..=PODS {
                let pod = json!({
                    "apiVersion": "v1", "kind": "Pod", "metadata": { "name": format!("pod-{number}") },
                    "spec": spec(),
                });
                api::must(server, Method::POST, &pods(&namespace, ""), Content::Object(&pod)).await?;
                ends.reach(number).await?;
            }
        }
        Sequence::Shell => shell(&means.kubectl, &run.world.kubeconfig, &namespace).await?,
    }
    let took = since.elapsed();
    run.world.server.delete(&format!("/api/v1/namespaces/{namespace}"), "", None).await?;
    if let Some(operator) = operator {
        run.world.is_empty(&namespace).await?;
        operator.stop().await?;
    }
    Ok(took)
}

/// What every pod runs: nothing.
fn spec() -> Value {
    json!({
        "automountServiceAccountToken": false, "restartPolicy": "Never",
        "containers": [{ "name": "agent", "image": IMAGE, "command": ["true"] }],
    })
}

fn job() -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "job" },
        "spec": { "completions": PODS, "parallelism": 1, "template": { "spec": spec() } },
    })
}

/// A loop whose agent changes nothing, and that nothing but its limit stops.
fn task() -> Value {
    json!({
        "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "metadata": { "name": "loop" },
        "spec": {
            "prompt": "Do nothing.", "maxIterations": PODS, "breaker": { "noChangeThreshold": 10_000 },
            "template": { "spec": spec() },
        },
    })
}

/// Runs one pod after the other as people do in a shell.
async fn shell(kubectl: &Path, kubeconfig: &Path, namespace: &str) -> Result<()> {
    let script = format!(
        r#"set -e
for number in $(seq {PODS}); do
  "$1" --kubeconfig "$2" --namespace "$3" run "pod-$number" --image {IMAGE} --restart Never --attach --rm --quiet --command -- true
done"#
    );
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, "sh"]).arg(kubectl).arg(kubeconfig).arg(namespace);
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let status = tokio::time::timeout(LIMIT, command.status()).await.context("the shell loop")??;
    if !status.success() {
        bail!("the shell loop ended with {status}");
    }
    Ok(())
}

/// Counts the pods of a namespace that have ended.
struct Ends {
    events: Lines,
    ended: Vec<String>,
}

impl Ends {
    async fn of(run: &Run, namespace: &str) -> Result<Self> {
        let (_, version) = list(&run.world.server, namespace).await?;
        let events = Lines::open(&run.world.server, &watch_path(namespace, &version)).await?;
        Ok(Self { events, ended: Vec::new() })
    }

    /// Waits until so many have ended.
    async fn reach(&mut self, count: usize) -> Result<()> {
        let wait = async {
            while self.ended.len() < count {
                let event: Event = self.events.next().await?.context("the API server has ended the watch")?;
                let uid = event.object.metadata.uid.clone();
                if event.object.has_ended() && !self.ended.contains(&uid) {
                    self.ended.push(uid);
                }
            }
            Ok(())
        };
        let waited = tokio::time::timeout(LIMIT, wait).await;
        waited.with_context(|| format!("not within {} s: {count} pods have ended", LIMIT.as_secs()))?
    }
}
