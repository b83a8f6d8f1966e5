//! The commands of an iteration, and their environment.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use agentloop_contract::{
    context::Context,
    names::{CONTEXT_FILE, PROMPT_RENDERED, env},
};

use super::{arguments::RunArguments, failure::StartFailure};
use crate::start::Start;

/// Writes the rendered prompt, and returns its path.
pub(super) fn write_prompt(scratch: &Path, text: &[u8]) -> Result<PathBuf, StartFailure> {
    let path = scratch.join(PROMPT_RENDERED);
    match fs::write(&path, text) {
        Ok(()) => Ok(path),
        Err(error) => Err(StartFailure::Scratch(scratch.display().to_string(), error)),
    }
}

/// The agent's command. It starts in the folder that its image or template chose, or in the workspace.
pub(super) fn agent_command(
    arguments: &RunArguments,
    start: &Start,
    context: &Context,
    prompt: Option<&Path>,
) -> Result<Command, StartFailure> {
    let words = arguments.command.iter().skip(1).map(AsRef::as_ref);
    let mut command = command(std::iter::once(start.program.as_os_str()).chain(words), context);
    if let Some(folder) = &start.folder {
        command.current_dir(folder);
        // Some shells and programs read this variable first.
        if std::env::var_os("PWD").is_some() {
            command.env("PWD", folder);
        }
    }
    command.env(env::CONTEXT_FILE, arguments.input.join(CONTEXT_FILE)).env_remove(env::PROMPT_FILE);
    if let Some(prompt) = prompt {
        let open = |path: &Path| File::open(path);
        let file =
            open(prompt).map_err(|error| StartFailure::Scratch(prompt.display().to_string(), error))?;
        command.env(env::PROMPT_FILE, prompt).stdin(file);
    }
    Ok(command)
}

/// A command with the environment of the iteration.
pub(super) fn command<'a>(mut words: impl Iterator<Item = &'a OsStr>, context: &Context) -> Command {
    let mut command = Command::new(words.next().unwrap_or_default());
    command
        .args(words)
        .env(env::TASK, format!("{}/{}", context.task.namespace, context.task.name))
        .env(env::ITERATION, context.iteration.to_string())
        .env(env::MAX_ITERATIONS, context.max_iterations.to_string())
        .env(env::WORKSPACE, &context.workspace)
        // A process that knows the key can sign a report.
        .env_remove(env::REPORT_KEY)
        .stdin(Stdio::null());
    command
}

/// The time between SIGTERM and SIGKILL.
pub(super) fn grace(context: &Context) -> Duration {
    seconds(context.grace_seconds)
}

pub(super) fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0).unsigned_abs())
}
