//! `kubectl-agentloop`: shows, follows and resumes the loops of agentloop.

use std::process::ExitCode;

use clap::Parser;
use kubectl_agentloop::cli::Cli;
use kubectl_agentloop::failure::exit;
use kubectl_agentloop::{commands, session};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            session::note(&format!("error: cannot start: {error}"));
            return ExitCode::from(exit::ERROR);
        }
    };
    let code = match runtime.block_on(commands::run(cli)) {
        Ok(code) => code,
        Err(failure) => {
            if failure.code != exit::OK {
                session::note(&format!("error: {failure}"));
            }
            failure.code
        }
    };
    // Do not wait for what still runs, such as a read from standard input.
    runtime.shutdown_background();
    ExitCode::from(code)
}
