//! `agentloop`: the operator, its CRD, and the uninstall hook.

use std::io::Write;
use std::process::ExitCode;

use agentloop_operator::cli::{Cli, Command, ControllerArgs, UninstallArgs, exit};
use agentloop_operator::telemetry::{self, LogControl};
use agentloop_operator::{app, uninstall};
use clap::Parser;

/// The allocator of glibc takes a seventh of the CPU time of a busy operator, and keeps more of what a burst has used.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let logs = match telemetry::init(cli.log_format, &cli.log_level) {
        Ok(logs) => logs,
        Err(error) => return fail(exit::USAGE, &error),
    };
    match cli.command {
        Command::Crd => crd(),
        Command::Controller(args) => within_runtime(controller(*args, logs)),
        Command::Uninstall(args) => within_runtime(uninstall(*args)),
    }
}

fn crd() -> ExitCode {
    let mut text = match serde_saphyr::to_string(&agentloop_core::api::crd_document()) {
        Ok(text) => text,
        Err(error) => return fail(exit::FAILED, &error),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => fail(exit::FAILED, &error),
    }
}

async fn controller(args: ControllerArgs, logs: LogControl) -> ExitCode {
    match app::run(args, logs).await {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error @ app::Error::Lost(_)) => fail(exit::LEASE_LOST, &error),
        Err(error) => fail(exit::FAILED, &error),
    }
}

async fn uninstall(args: UninstallArgs) -> ExitCode {
    match uninstall::run(args).await {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => fail(exit::FAILED, &error),
    }
}

fn within_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(work);
            // Do not wait for what still runs (a probe, an aborted loop).
            runtime.shutdown_background();
            code
        }
        Err(error) => fail(exit::FAILED, &error),
    }
}

/// Prints the error for people, whatever the log format: it is the last line of `kubectl logs --previous`.
fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    // Standard error may be closed; the exit code still says it.
    let _ = writeln!(std::io::stderr(), "agentloop: {error}");
    ExitCode::from(code)
}
