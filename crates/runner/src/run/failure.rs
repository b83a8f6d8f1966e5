//! Why the agent was not run, and how that is reported.

use std::{ffi::OsString, io, path::Path};

use agentloop_contract::{
    exit_code,
    report::{End, Error, Report},
};

use crate::{inputs, secrets, workspace::state_dir::StateDirError};

/// Why the agent was not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartFailure {
    #[error("{0}")]
    Inputs(#[from] inputs::InputError),
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    #[error("cannot write the prompt to {0}: {1}")]
    Scratch(String, io::Error),
    #[error("cannot open the workspace {0}: {1}")]
    Workspace(String, rustix::io::Errno),
    #[error("{0}")]
    StateDir(#[from] StateDirError),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    NotExecutable(String),
    #[error("cannot start the agent: {0}")]
    Spawn(io::Error),
    #[error("the pod was stopped before the agent was started")]
    Interrupted,
}

impl StartFailure {
    /// Explains why the agent's command could not be executed, so that the user can fix it.
    pub(super) fn of_command(command: &[OsString], error: io::Error) -> Self {
        let name = command.first().map(|name| name.display().to_string()).unwrap_or_default();
        match error.kind() {
            io::ErrorKind::NotFound
                if Path::new(&name).components().count() > 1 && Path::new(&name).exists() =>
            {
                Self::NotFound(format!("{name} exists, but the interpreter or loader that it names does not"))
            }
            io::ErrorKind::NotFound => Self::NotFound(format!("{name} is not in the agent's image")),
            io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock | io::ErrorKind::Other => {
                Self::Spawn(error)
            }
            _ => Self::NotExecutable(format!("{name} cannot be executed: {error}")),
        }
    }

    /// The report of the failure, and the exit code.
    pub(super) fn report(&self) -> (Report, i32) {
        let end = match self {
            Self::StateDir(StateDirError::AlreadyRan) => End::AlreadyRan,
            Self::NotFound(_) | Self::NotExecutable(_) => End::CommandNotFound,
            Self::Interrupted => End::Interrupted,
            _ => End::RunnerFailed,
        };
        let mut report = Report::of(end);
        if end != End::Interrupted {
            report.error = Some(Error::new(&secrets::own().mask(&format!("{end:?}: {self}"))));
        }
        let code = match self {
            Self::NotExecutable(_) => exit_code::NOT_EXECUTABLE,
            _ => exit_code_of(&report),
        };
        (report, code)
    }
}

/// The runner's exit code for a report.
pub(super) fn exit_code_of(report: &Report) -> i32 {
    report.container_exit_code().unwrap_or(exit_code::RUNNER_FAILED)
}
