//! The arguments of the command `run`.

use std::{ffi::OsString, path::PathBuf};

/// The arguments of the command `run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunArguments {
    /// The folder that has the context and the prompt.
    pub input: PathBuf,
    /// A writable folder for the rendered prompt.
    pub scratch: PathBuf,
    /// The file to which the report is written.
    pub termination_log: PathBuf,
    /// The agent's command and its arguments; never empty.
    pub command: Vec<OsString>,
}
