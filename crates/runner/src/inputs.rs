//! Reads what the operator mounts into the pod: the context and the user's prompt.

use std::{env, fs, io, os::unix::ffi::OsStringExt, path::Path};

use agentloop_contract::{
    context::{Context, VERSION},
    names::{self, CONTEXT_FILE, PROMPT_FILE},
};

/// Why the inputs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Io(String, io::Error),
    /// The context is not valid.
    #[error("{CONTEXT_FILE} is not valid: {0}")]
    Context(String),
}

/// The key that signs the report; `None` if an older operator created the pod, or no operator did.
pub fn key() -> Option<Vec<u8>> {
    env::var_os(names::env::REPORT_KEY).map(OsStringExt::into_vec).filter(|key| !key.is_empty())
}

/// Reads the context.
pub fn context(folder: &Path) -> Result<Context, InputError> {
    let path = folder.join(CONTEXT_FILE);
    let text = fs::read(&path).map_err(|error| InputError::Io(path.display().to_string(), error))?;
    decode(&text)
}

/// Reads the user's prompt; `None` if the task has none.
pub fn prompt(folder: &Path) -> Result<Option<Vec<u8>>, InputError> {
    let path = folder.join(PROMPT_FILE);
    match fs::read(&path) {
        Ok(prompt) => Ok(Some(prompt)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(InputError::Io(path.display().to_string(), error)),
    }
}

/// Decodes a context.
pub fn decode(text: &[u8]) -> Result<Context, InputError> {
    let context: Context =
        serde_json::from_slice(text).map_err(|error| InputError::Context(error.to_string()))?;
    if context.version != VERSION {
        let found = context.version;
        return Err(InputError::Context(format!(
            "it has version {found}, but this runner supports version {VERSION}"
        )));
    }
    // It becomes part of a file name.
    let uid = &context.task.uid;
    if uid.is_empty() || uid.len() > 128 || !uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(InputError::Context("the task's uid is malformed".to_owned()));
    }
    if !context.workspace.starts_with('/') {
        return Err(InputError::Context("the workspace's path is not absolute".to_owned()));
    }
    Ok(context)
}
