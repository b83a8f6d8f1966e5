//! The program `bench`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

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
    /// Compute the figures of an earlier run again.
    Report {
        /// Its raw results.
        #[arg(default_value = "target/bench/run.jsonl")]
        records: PathBuf,
        /// Write the document here, and its curves into the folder beside it.
        #[arg(long)]
        document: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Measured {
    /// A small run: less than three minutes.
    #[arg(long)]
    quick: bool,
    /// Rounds of each load.
    #[arg(long)]
    rounds: Option<u32>,
    /// Idle tasks, at most.
    #[arg(long)]
    most_tasks: Option<usize>,
    /// The folder of the raw results and the logs.
    #[arg(long, default_value = "target/bench")]
    results: PathBuf,
    /// Write the document here, and its curves into the folder beside it.
    #[arg(long)]
    document: Option<PathBuf>,
    /// The command that a reader can repeat.
    #[arg(long, default_value = "bench")]
    repeat: String,
    /// The kubeconfig of a cluster that hack/cluster started with --api-only --lean.
    #[arg(long, env = "AGENTLOOP_TEST_KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The operator's program.
    #[arg(long)]
    operator: PathBuf,
    /// The runner's program; without it, the runner is not measured.
    #[arg(long)]
    runner: Option<PathBuf>,
    /// Kubernetes' controller manager.
    #[arg(long)]
    controller_manager: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::All(measured) => measure(measured, true, true).await,
        Command::Loops(measured) => measure(measured, true, false).await,
        Command::Scale(measured) => measure(measured, false, true).await,
        Command::Runner { runner, quick, results } => measure_runner(&runner, quick, &results).await,
        Command::Report { records, document } => {
            Records::read(&records).and_then(|records| finish(&records, document.as_deref()))
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

async fn measure(measured: Measured, with_loops: bool, with_scale: bool) -> Result<bool> {
    let logs = measured.results.join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
    let world = BenchCluster {
        server: AdminClient::connect(&measured.kubeconfig).await?,
        folder: cluster_folder(&measured.kubeconfig)?,
        kubeconfig: measured.kubeconfig,
        logs,
        operator: measured.operator,
        controller_manager: measured.controller_manager,
    };
    world.prepare().await?;
    let mut size = if measured.quick { Size::quick() } else { Size::full() };
    size.rounds = measured.rounds.unwrap_or(size.rounds);
    size.idle.retain(|count| measured.most_tasks.is_none_or(|most| *count <= most));
    let sink = Sink::create(&measured.results.join("run.jsonl"))?;
    let mut run = Run { world, sink, size, namespaces: 0, since: Instant::now() };
    about::record(&mut run, &measured.repeat).await?;
    if with_loops {
        loops::run(&mut run).await?;
    }
    if with_scale {
        scale::run(&mut run).await?;
    }
    if let Some(program) = measured.runner.filter(|_| with_loops && with_scale) {
        runner::run(&program, measured.quick, &measured.results, &mut run.sink).await?;
    }
    run.say(&format!("raw results: {}", run.sink.path().display()));
    finish(run.sink.records(), measured.document.as_deref())
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
