//! `chaos`: the campaign against the shipped operator.

use std::path::PathBuf;
use std::process::ExitCode;

use agentloop_chaos::campaign::{self, PlanRange};
use agentloop_chaos::endurance::{self, EnduranceSize};
use agentloop_chaos::operator::Program;
use agentloop_chaos::plan::Plan;
use agentloop_chaos::self_test;
use agentloop_chaos::testbed::Testbed;
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Runs the operator through fault plans and checks the API server's own history.
#[derive(Debug, Parser)]
struct ChaosArguments {
    #[command(subcommand)]
    command: ChaosCommand,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Debug, Subcommand)]
enum ChaosCommand {
    /// Carry out plans.
    Plans(Plans),
    /// Print plans.
    Show(PlanSelection),
    /// Break the operator on purpose in every known way, and verify that the checker detects it.
    SelfTest(SelfTest),
    /// Run many tasks through many iterations with one operator, and report what grows.
    Endurance(Endurance),
}

/// The arguments of all commands: the server and the programs.
#[derive(Debug, Args)]
struct CommonArguments {
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

/// PlanSelection plans.
#[derive(Debug, Args)]
struct PlanSelection {
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
    which: PlanSelection,
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

impl PlanSelection {
    fn range(&self, jobs: u64) -> PlanRange {
        let (from, plans) = self.plan.map_or((self.from, self.plans), |plan| (plan, 1));
        PlanRange { seed: self.seed, from, plans, jobs }
    }
}

impl CommonArguments {
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

    async fn testbed(&self) -> Result<Testbed> {
        let kubeconfig = self.kubeconfig.as_ref().context(
            "set --kubeconfig or AGENTLOOP_TEST_KUBECONFIG; to start an API server, run: hack/cluster up --api-only",
        )?;
        Testbed::open(kubeconfig).await
    }
}

fn main() -> Result<ExitCode> {
    let ChaosArguments { command, common } = ChaosArguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let passed = match command {
        ChaosCommand::Show(which) => {
            let range = which.range(1);
            for number in range.from..range.from + range.plans {
                println!("{}", Plan::of(range.seed, number));
            }
            true
        }
        ChaosCommand::Plans(args) => runtime.block_on(until_signal(plans(&args, &common)))?,
        ChaosCommand::Endurance(args) => runtime.block_on(until_signal(endure(&args, &common)))?,
        ChaosCommand::SelfTest(args) => {
            let (program, only) = (common.program()?, args.only.as_deref());
            runtime.block_on(async {
                self_test::run(&common.testbed().await?, &program, common.jobs, only).await
            })?
        }
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `work` until it ends or a signal arrives. After a signal, the operators are killed as well.
async fn until_signal(work: impl Future<Output = Result<bool>>) -> Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => bail!("stopped by SIGTERM"),
        _ = interrupt.recv() => bail!("stopped by SIGINT"),
    }
}

async fn plans(args: &Plans, common: &CommonArguments) -> Result<bool> {
    let testbed = common.testbed().await?;
    let options =
        campaign::Options { mutation: args.mutation, details: args.details, regressions: args.regressions };
    let report =
        campaign::run(&testbed, &common.program()?, &args.which.range(common.jobs), &options).await?;
    println!("{report}");
    if let Some(file) = &args.json {
        std::fs::write(file, format!("{:#}\n", report.to_json()))
            .with_context(|| file.display().to_string())?;
    }
    Ok(report.violated.is_empty() && report.troubled.is_empty())
}

async fn endure(args: &Endurance, common: &CommonArguments) -> Result<bool> {
    let size = EnduranceSize { seed: args.seed, tasks: args.tasks, iterations: args.iterations };
    let result = endurance::run(&common.testbed().await?, &common.program()?, size).await?;
    println!("{}", result.text);
    for failure in &result.failures {
        println!("FAILED {failure}");
    }
    Ok(result.failures.is_empty())
}
