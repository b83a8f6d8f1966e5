//! The program `bench`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use agentloop_bench::parts::kubelet::{self, Means};
use agentloop_bench::parts::size::Size;
use agentloop_bench::parts::{Run, about, loops, runner, scale};
use agentloop_bench::records::{Records, Sink};
use agentloop_bench::report;
use agentloop_bench::world::{BenchCluster, cluster_folder};
use agentloop_chaos::server::AdminClient;
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

/// Measures the operator beside other ways to run the same loops.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure all parts that need only an API server.
    All(Measured),
    /// Compare all arms under the same loads.
    Loops(Measured),
    /// Measure what other tasks and pods cost, and restarts with many of them.
    Scale(Measured),
    /// Measure what the runner adds to an agent. Needs no cluster.
    Runner {
        /// The runner's program.
        #[arg(long)]
        runner: PathBuf,
        /// A small run.
        #[arg(long)]
        quick: bool,
        /// The folder of the raw results, and of the repository that is measured.
        #[arg(long, default_value = "target/bench")]
        results: PathBuf,
    },
    /// Compare empty iterations on a real kubelet with other ways to run pods one after the other.
    Kubelet {
        #[command(flatten)]
        cluster: Cluster,
        /// The image of the runner, which the node has.
        #[arg(long)]
        runner_image: String,
        /// The program kubectl.
        #[arg(long)]
        kubectl: PathBuf,
    },
    /// Compute the figures of earlier runs again.
    Report {
        /// Their raw results.
        #[arg(default_value = "target/bench/run.jsonl")]
        records: Vec<PathBuf>,
        /// Write the document here, and its curves into the folder beside it.
        #[arg(long)]
        document: Option<PathBuf>,
    },
}

/// The cluster, and what is measured on it.
#[derive(Debug, Args)]
struct Cluster {
    /// A small run.
    #[arg(long)]
    quick: bool,
    /// Rounds of each load.
    #[arg(long)]
    rounds: Option<u32>,
    /// The folder of the raw results and the logs.
    #[arg(long, default_value = "target/bench")]
    results: PathBuf,
    /// The kubeconfig of a cluster of hack/cluster.
    #[arg(long, env = "AGENTLOOP_TEST_KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The operator's program.
    #[arg(long)]
    operator: PathBuf,
    /// Kubernetes' controller manager.
    #[arg(long)]
    controller_manager: PathBuf,
}

#[derive(Debug, Args)]
struct Measured {
    #[command(flatten)]
    cluster: Cluster,
    /// Idle tasks, at most.
    #[arg(long)]
    most_tasks: Option<usize>,
    /// The command that a reader can repeat.
    #[arg(long, default_value = "bench")]
    repeat: String,
    /// The runner's program; without it, the runner is not measured.
    #[arg(long)]
    runner: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::All(measured) => measure(measured, true, true).await,
        Command::Loops(measured) => measure(measured, true, false).await,
        Command::Scale(measured) => measure(measured, false, true).await,
        Command::Runner { runner, quick, results } => measure_runner(&runner, quick, &results).await,
        Command::Kubelet { cluster, runner_image, kubectl } => {
            measure_kubelet(cluster, &Means { runner_image, kubectl }).await
        }
        Command::Report { records, document } => {
            read(&records).and_then(|records| finish(&records, document.as_deref()))
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prepares the cluster for a run whose raw results go to this file.
async fn prepare(cluster: Cluster, file: &str) -> Result<Run> {
    let logs = cluster.results.join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
    let world = BenchCluster {
        server: AdminClient::connect(&cluster.kubeconfig).await?,
        folder: cluster_folder(&cluster.kubeconfig)?,
        kubeconfig: cluster.kubeconfig,
        logs,
        operator: cluster.operator,
        controller_manager: cluster.controller_manager,
    };
    world.prepare().await?;
    let mut size = if cluster.quick { Size::quick() } else { Size::full() };
    size.rounds = cluster.rounds.unwrap_or(size.rounds);
    let sink = Sink::create(&cluster.results.join(file))?;
    Ok(Run { world, sink, size, namespaces: 0, since: Instant::now() })
}

async fn measure(measured: Measured, with_loops: bool, with_scale: bool) -> Result<bool> {
    let Measured { cluster, most_tasks, repeat, runner } = measured;
    let (quick, results) = (cluster.quick, cluster.results.clone());
    let mut run = prepare(cluster, "run.jsonl").await?;
    run.world.add_node().await?;
    run.size.idle.retain(|count| most_tasks.is_none_or(|most| *count <= most));
    about::record(&mut run, &repeat).await?;
    if with_loops {
        loops::run(&mut run).await?;
    }
    if with_scale {
        scale::run(&mut run).await?;
    }
    if let Some(program) = runner.filter(|_| with_loops && with_scale) {
        runner::run(&program, quick, &results, &mut run.sink).await?;
    }
    run.say(&format!("raw results: {}", run.sink.path().display()));
    finish(run.sink.records(), None)
}

async fn measure_kubelet(cluster: Cluster, means: &Means) -> Result<bool> {
    let mut run = prepare(cluster, "kubelet.jsonl").await?;
    kubelet::run(&mut run, means).await?;
    run.say(&format!("raw results: {}", run.sink.path().display()));
    finish(run.sink.records(), None)
}

/// The records of several runs.
fn read(files: &[PathBuf]) -> Result<Records> {
    let mut all = Records::default();
    for file in files {
        all.0.extend(Records::read(file)?.0);
    }
    Ok(all)
}

async fn measure_runner(program: &Path, quick: bool, results: &Path) -> Result<bool> {
    let mut sink = Sink::create(&results.join("runner.jsonl"))?;
    runner::run(program, quick, results, &mut sink).await?;
    finish(sink.records(), None)
}

/// Prints the tables, and returns whether every count is within its bound.
fn finish(records: &Records, document: Option<&Path>) -> Result<bool> {
    println!("{}", report::text(records));
    if let Some(document) = document {
        report::write(records, document)?;
    }
    Ok(!report::has_failed(records))
}
