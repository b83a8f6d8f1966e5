//! The folder that the agent starts in, and the program that a relative command means.
//!
//! If neither the template nor the image names a folder, the container starts in `/`, and the agent's work there would
//! be lost with the container. So the agent starts in the workspace. A relative command still means the same program as
//! in the folder that the container started in.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use agentloop_contract::context::Context;

/// How the agent starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The folder that the command starts in, if it is not the runner's own.
    pub folder: Option<PathBuf>,
    /// The command's first word. It is made absolute if it is relative and the folder changes.
    pub program: OsString,
    /// The folder that the command starts in, if it is neither the workspace nor below it.
    pub outside: Option<String>,
}

impl Start {
    /// How the agent starts, if the runner itself was started in the folder `here`.
    pub fn of(context: &Context, program: &OsStr, here: Option<&Path>, path: Option<&OsStr>) -> Self {
        let workspace = Path::new(&context.workspace);
        let Some(here) = here else {
            return Self { folder: None, program: program.to_owned(), outside: None };
        };
        if context.start_in_workspace && here == Path::new("/") {
            let program = absolute(program, here, path);
            return Self { folder: Some(workspace.to_owned()), program, outside: None };
        }
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let outside = (!real(here).starts_with(real(workspace))).then(|| here.display().to_string());
        Self { folder: None, program: program.to_owned(), outside }
    }

    /// The same for this process.
    pub fn now(context: &Context, program: &OsStr) -> Self {
        Self::of(context, program, env::current_dir().ok().as_deref(), env::var_os("PATH").as_deref())
    }
}

/// The absolute path of a program, looked up in the folder `here`, if that folder matters; otherwise the program as it is.
fn absolute(program: &OsStr, here: &Path, path: Option<&OsStr>) -> OsString {
    if program.as_bytes().contains(&b'/') {
        // An absolute path stays as it is.
        return here.join(program).into_os_string();
    }
    for folder in path.map(env::split_paths).into_iter().flatten() {
        let file = here.join(&folder).join(program);
        if is_executable(&file) {
            return if folder.is_absolute() { program.to_owned() } else { file.into_os_string() };
        }
    }
    program.to_owned()
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_relative_program_is_looked_up_in_the_folder_that_the_container_started_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = folder.path();
        for (name, mode) in
            [("bin/agent", 0o755), ("bin/text", 0o644), ("other/agent", 0o755), ("agent", 0o755)]
        {
            let file = here.join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("created");
            fs::write(&file, "").expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        let other = here.join("other").display().to_string();
        let program = |word: &str, path: &str| {
            absolute(word.as_ref(), here, Some(path.as_ref()))
                .to_string_lossy()
                .replace(&here.display().to_string(), "HERE")
        };
        assert_eq!(program("./agent", ""), "HERE/./agent");
        assert_eq!(program("bin/agent", "/bin"), "HERE/bin/agent");
        assert_eq!(program("/usr/bin/env", "bin"), "/usr/bin/env");
        assert_eq!(program("agent", "/no:bin:/bin"), "HERE/bin/agent");
        assert_eq!(program("agent", ""), "HERE/agent");
        assert_eq!(program("text", "bin:/bin"), "text");
        assert_eq!(program("agent", &format!("{other}:bin")), "agent");
        assert_eq!(absolute("agent".as_ref(), here, None), "agent");
    }
}
