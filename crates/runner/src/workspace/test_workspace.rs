//! A workspace for tests, which may contain repositories.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::ignore::Ignore;

/// A workspace that is removed at the end of the test.
pub(super) struct TestWorkspace {
    folder: tempfile::TempDir,
    pub(super) ignore: Ignore,
}

impl TestWorkspace {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("temporary folder"), ignore: Ignore::default() }
    }

    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(path, text).expect("write");
        self
    }

    /// Runs git in a folder of the workspace.
    #[track_caller]
    pub(super) fn git(&self, folder: &str, args: &[&str]) {
        let options =
            ["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", "-c", "gc.auto=0"];
        self.run(folder, Command::new("git").args(options).args(args));
    }

    /// Runs a shell script in the workspace.
    #[track_caller]
    pub(super) fn sh(&self, script: &str) {
        self.run("", Command::new("sh").args(["-ec", script]));
    }

    /// Runs a command, with an environment that makes git independent of the machine.
    #[track_caller]
    fn run(&self, folder: &str, command: &mut Command) {
        let output = command
            .current_dir(self.path(folder))
            .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")])
            .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@example.com")])
            .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@example.com")])
            .output()
            .expect("the command starts");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Creates a repository with one commit in a folder.
    pub(super) fn repository(&self, folder: &str) -> &Self {
        fs::create_dir_all(self.path(folder)).expect("folder");
        self.git(folder, &["init", "-q"]);
        self.write(&format!("{folder}/a.txt"), "a");
        self.git(folder, &["add", "."]);
        self.git(folder, &["commit", "-qm", "one"]);
        self
    }
}
