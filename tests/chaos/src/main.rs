//! `chaos`: the campaign against the shipped operator.

use std::path::PathBuf;
use std::process::ExitCode;

use agentloop_chaos::campaign::{self, Range};
use agentloop_chaos::endurance::{self, Size};
use agentloop_chaos::operator::Program;
use agentloop_chaos::plan::Plan;
use agentloop_chaos::self_test;
use agentloop_chaos::world::World;
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Runs the operator through fault plans and checks the API server's own history.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    ground: Ground,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Carry out plans.
    Plans(Plans),
    /// Print plans.
    Show(Which),
    /// Break the operator on purpose in every known way, and verify that the checker detects it.
    SelfTest(SelfTest),
    /// Run many tasks through many iterations with one operator, and report what grows.
    Endurance(Endurance),
}

/// The server and the programs.
#[derive(Debug, Args)]
struct Ground {
    /// Kubeconfig of a disposable API server: hack/cluster up --api-only prints one.
    #[arg(long, global = true, env = "AGENTLOOP_TEST_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// The operator's program [default: agentloop next to this program].
    #[arg(long, global = true, env = "AGENTLOOP_BINARY")]
    operator: Option<PathBuf>,
    /// A folder for the operators' logs [default: no logs].
    #[arg(long, global = true)]
    logs: Option<PathBuf>,
    /// How many plans to run at the same time.
    #[arg(long, global = true, default_value_t = 32)]
    jobs: u64,
}

/// Which plans.
#[derive(Debug, Args)]
struct Which {
    /// The seed of the plans' random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of the first plan.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many plans.
    #[arg(long, default_value_t = 10_000)]
    plans: u64,
    /// Only this plan.
    #[arg(long, conflicts_with_all = ["from", "plans"])]
    plan: Option<u64>,
}

#[derive(Debug, Args)]
struct Plans {
    #[command(flatten)]
    which: Which,
    /// Write the report to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also carry out the plans that found a bug in the past.
    #[arg(long)]
    regressions: bool,
    /// Break the operator in this way.
    #[arg(long, value_parser = self_test::mutation)]
    mutation: Option<agentloop_chaos::mutations::Mutation>,
    /// Print the details of every plan, not only of those that failed.
    #[arg(long)]
    details: bool,
}

#[derive(Debug, Args)]
struct Endurance {
    /// The seed of the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many tasks.
    #[arg(long, default_value_t = 1000)]
    tasks: u32,
    /// How many iterations each task has.
    #[arg(long, default_value_t = 20)]
    iterations: i32,
}

#[derive(Debug, Args)]
struct SelfTest {
    /// Only this mutation.
    #[arg(long)]
    only: Option<String>,
}

impl Which {
    fn range(&self, jobs: u64) -> Range {
        let (from, plans) = self.plan.map_or((self.from, self.plans), |plan| (plan, 1));
        Range { seed: self.seed, from, plans, jobs }
    }
}

impl Ground {
    fn program(&self) -> Result<Program> {
        let path = match &self.operator {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("agentloop"),
        };
        anyhow::ensure!(
            path.exists(),
            "{} does not exist; run: cargo build --package agentloop",
            path.display()
        );
        Ok(Program { path, logs: self.logs.clone() })
    }

    async fn world(&self) -> Result<World> {
        let kubeconfig = self.kubeconfig.as_ref().context(
            "set --kubeconfig or AGENTLOOP_TEST_KUBECONFIG; to start an API server, run: hack/cluster up --api-only",
        )?;
        World::open(kubeconfig).await
    }
}

fn main() -> Result<ExitCode> {
    let Cli { command, ground } = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let is_good = match command {
        Command::Show(which) => {
            let range = which.range(1);
            for number in range.from..range.from + range.plans {
                println!("{}", Plan::of(range.seed, number));
            }
            true
        }
        Command::Plans(args) => runtime.block_on(until_signal(plans(&args, &ground)))?,
        Command::Endurance(args) => runtime.block_on(until_signal(endure(&args, &ground)))?,
        Command::SelfTest(args) => {
            let (program, only) = (ground.program()?, args.only.as_deref());
            runtime.block_on(async {
                self_test::run(&ground.world().await?, &program, ground.jobs, only).await
            })?
        }
    };
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A signal ends the work in an orderly way, so that its operators are killed.
async fn until_signal(work: impl Future<Output = Result<bool>>) -> Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => bail!("stopped by SIGTERM"),
        _ = interrupt.recv() => bail!("stopped by SIGINT"),
    }
}

async fn plans(args: &Plans, ground: &Ground) -> Result<bool> {
    let world = ground.world().await?;
    let options =
        campaign::Options { mutation: args.mutation, details: args.details, regressions: args.regressions };
    let report = campaign::run(&world, &ground.program()?, &args.which.range(ground.jobs), &options).await?;
    println!("{report}");
    if let Some(file) = &args.json {
        std::fs::write(file, format!("{:#}\n", report.to_json()))
            .with_context(|| file.display().to_string())?;
    }
    Ok(report.violated.is_empty() && report.troubled.is_empty())
}

async fn endure(args: &Endurance, ground: &Ground) -> Result<bool> {
    let size = Size { seed: args.seed, tasks: args.tasks, iterations: args.iterations };
    let endured = endurance::run(&ground.world().await?, &ground.program()?, size).await?;
    println!("{}", endured.text);
    for wrong in &endured.wrong {
        println!("FAILED {wrong}");
    }
    Ok(endured.wrong.is_empty())
}
