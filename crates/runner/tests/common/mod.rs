//! Runs the real program on a separate workspace. No test sleeps; each waits for a condition, with a deadline.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses a part of this")]
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agentloop_contract::report::Report;
use serde_json::{Value, json};

/// The program under test.
pub const RUNNER: &str = env!("CARGO_BIN_EXE_agentloop-runner");

/// The maximum time of a step of a test, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The task's uid.
pub const UID: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

/// The folder with the records of the task's iterations, in the folder of a [`TestPod`].
pub const RECORDS: &str = "workspace/.agentloop/task-7c9e6679-7425-40de-944b-e07fc1f90ae7/iterations";

/// A record of iteration 7, which is the one that runs unless a test sets another.
pub fn record(name: &str) -> String {
    format!("{RECORDS}/0007/{name}")
}

/// Stands for a pod: inputs, scratch folder, workspace and termination log.
pub struct TestPod {
    folder: tempfile::TempDir,
    context: Value,
}

/// The exit of the program and what it left.
#[derive(Debug)]
pub struct RunnerExit {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub message: String,
}

impl RunnerExit {
    /// The report in the termination log.
    #[track_caller]
    pub fn report(&self) -> Report {
        Report::decode(&self.message).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The summary of the report's error.
    #[track_caller]
    pub fn error(&self) -> String {
        self.report().error.map(|error| error.summary).unwrap_or_default()
    }
}

impl TestPod {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        for name in ["input", "scratch", "workspace"] {
            fs::create_dir(folder.path().join(name)).expect("folder");
        }
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), all).expect("permissions");
        let workspace = folder.path().join("workspace");
        let context = json!({
            "version": 1,
            "task": {"namespace": "default", "name": "task", "uid": UID},
            "iteration": 7, "maxIterations": 10, "attempt": 0,
            "workspace": workspace,
            "loopContext": "InPrompt", "policy": "Gate",
            "iterationTimeoutSeconds": 300, "graceSeconds": 20,
            "retryOnExitCodes": [75],
            "reportLimitBytes": 3072,
            "breaker": {
                "consecutiveNoChange": 0, "noChangeThreshold": 3,
                "consecutiveSameError": 0, "sameErrorThreshold": 5
            }
        });
        fs::write(folder.path().join("termination-log"), "").expect("termination log");
        Self { folder, context }
    }

    /// Sets a value in the context.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.context[key] = value.into();
        self
    }

    /// Sets the prompt.
    pub fn prompt(self, text: &str) -> Self {
        fs::write(self.path("input/prompt"), text).expect("prompt");
        self
    }

    /// Sets a verify command that a shell runs.
    pub fn verify(self, script: &str) -> Self {
        self.with("verify", json!({"command": ["sh", "-c", script], "timeoutSeconds": 60}))
    }

    /// Gives what a pod's user owns to the user of [`AS_USER`].
    pub fn given(self) -> Self {
        for name in ["workspace", "scratch", "termination-log"] {
            give(&self.path(name), "54321");
        }
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The program's arguments for an agent's command.
    pub fn arguments(&self, agent: &[&str]) -> Vec<String> {
        let mut arguments = vec!["run".to_owned()];
        for (flag, name) in
            [("--input", "input"), ("--scratch", "scratch"), ("--termination-log", "termination-log")]
        {
            arguments.extend([flag.to_owned(), self.path(name).display().to_string()]);
        }
        arguments.push("--".to_owned());
        arguments.extend(agent.iter().map(|&word| word.to_owned()));
        arguments
    }

    /// Starts an agent under the command `before`, such as `setpriv …`. It may be empty.
    #[track_caller]
    pub fn start_with(&self, before: &[&str], agent: &[&str]) -> StartedRunner<'_> {
        self.write_context();
        let mut words: Vec<String> = before.iter().map(|&word| word.to_owned()).collect();
        words.push(RUNNER.to_owned());
        words.extend(self.arguments(agent));
        let child = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the runner starts");
        StartedRunner { pod: self, child }
    }

    pub fn write_context(&self) {
        fs::write(self.path("input/context.json"), self.context.to_string()).expect("context");
    }

    /// Starts a shell script as the agent.
    #[track_caller]
    pub fn start(&self, script: &str) -> StartedRunner<'_> {
        self.start_with(&[], &["sh", "-c", script])
    }

    /// Runs a shell script as the agent.
    #[track_caller]
    pub fn run(&self, script: &str) -> RunnerExit {
        self.start(script).exit()
    }

    /// Runs a command as the agent.
    #[track_caller]
    pub fn exec(&self, agent: &[&str]) -> RunnerExit {
        self.start_with(&[], agent).exit()
    }
}

/// A runner that has been started.
pub struct StartedRunner<'a> {
    pod: &'a TestPod,
    pub child: Child,
}

impl StartedRunner<'_> {
    /// Sends a signal to the runner.
    #[track_caller]
    pub fn signal(&self, name: &str) -> &Self {
        let status =
            Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().expect("kill");
        assert!(status.success());
        self
    }

    /// The runner's process id outside its PID namespace: the only child of the process that created the namespace.
    pub fn first_child(&self) -> String {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        fs::read_to_string(children).expect("children").trim().to_owned()
    }

    /// Waits until the agent has created a file in the workspace.
    #[track_caller]
    pub fn until(&self, name: &str) -> &Self {
        let path = self.pod.path("workspace").join(name);
        wait_for(&format!("{name} in the workspace"), || path.exists());
        self
    }

    /// Waits until the runner has ended.
    #[track_caller]
    pub fn exit(mut self) -> RunnerExit {
        let read = |pipe: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = pipe.expect("pipe").read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        let stdout = read(self.child.stdout.take().map(|pipe| Box::new(pipe) as _));
        let stderr = read(self.child.stderr.take().map(|pipe| Box::new(pipe) as _));
        let mut status = None;
        wait_for("the end of the runner", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        RunnerExit {
            code: status.and_then(|status| status.code()),
            stdout: stdout.join().expect("stdout"),
            stderr: stderr.join().expect("stderr"),
            message: self.pod.read("termination-log"),
        }
    }
}

impl Drop for StartedRunner<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition, with a deadline.
#[track_caller]
pub fn wait_for(what: &str, mut is_met: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_met() {
        assert!(Instant::now() < deadline, "timed out while waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process exists that has this word among its arguments.
pub fn process_with(word: &str) -> bool {
    fs::read_dir("/proc").expect("/proc").flatten().any(|entry| {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    })
}

/// Whether this test may become other users and create namespaces.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Gives everything below a folder to another user.
pub fn give(path: &Path, user: &str) {
    let status = Command::new("chown").args(["-R", user]).arg(path).status().expect("chown");
    assert!(status.success());
}

/// Runs the rest of the command as a user without privileges, as in a restricted pod.
pub const AS_USER: [&str; 6] =
    ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--no-new-privs", "--bounding-set=-all"];

/// Runs the rest of the command as process 1 of a new PID namespace, as in a container.
pub const AS_PID_1: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Whether this test may create namespaces. Fails if root may not, so that tests are not skipped unnoticed.
pub fn containers() -> bool {
    if !is_root() {
        return false;
    }
    let output =
        Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "--mount", "true"]).output();
    let output = output.expect("unshare, of util-linux");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "root cannot create namespaces here ({stderr}): run the tests on a machine that allows it"
    );
    true
}

/// A shell command that prints a completion gate as an agent does.
pub fn gate(ready: bool) -> String {
    format!("printf '<COMPLETION_GATE>\\nready: {ready}\\nreason: because\\n</COMPLETION_GATE>\\n'")
}
