//! What each command requests and prints.

mod change;
mod complete;
mod cost;
mod doctor;
mod files;
mod follow;
mod get;
mod lint;
mod list;
mod logs;
mod reader;
mod run;
mod transcripts;
mod version;
mod wait;
mod watch;
mod why;

use crate::cli::{Cli, Command};
use crate::failure::{Failure, exit};
use crate::session::{Session, Terminal};

/// Runs a command. Returns the exit code.
pub async fn run(cli: Cli) -> Result<u8, Failure> {
    let terminal = Terminal::detect();
    let open = || Session::open(&cli.connection, terminal);
    match cli.command {
        Command::Completion(args) => complete::script(args.shell)?,
        Command::Complete(args) => complete::answer(&args.words, terminal).await?,
        Command::Version(args) => version::run(&args, &cli.connection, terminal).await?,
        Command::Run(args) => return run::run(&cli.connection, terminal, &args).await,
        Command::Lint(args) => return lint::run(&args, terminal),
        Command::Doctor(args) => return doctor::run(&open().await?, &args).await,
        Command::List(args) => list::run(&open().await?, &args).await?,
        Command::Get(args) => get::run(&open().await?, &args).await?,
        Command::Why(args) => why::run(&open().await?, &args).await?,
        Command::Cost(args) => cost::run(&open().await?, &args).await?,
        Command::Logs(args) => logs::run(&open().await?, &args).await?,
        Command::Files(args) => files::files(&open().await?, &args).await?,
        Command::Diff(args) => files::diff(&open().await?, &args).await?,
        Command::Copy(args) => files::copy(&open().await?, &args).await?,
        Command::Watch(args) => return watch::run(&open().await?, &args).await,
        Command::Wait(args) => return wait::run(&open().await?, &args).await,
        Command::Resume(args) => return change::resume(&open().await?, &args).await,
        Command::Suspend(args) => return change::suspend(&open().await?, &args).await,
        Command::Delete(args) => return change::delete(&open().await?, &args).await,
    }
    Ok(exit::OK)
}
