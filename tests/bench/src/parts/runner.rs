//! Point 7: what the runner adds to an agent: its start, its output, its memory and the fingerprint of its workspace.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::process::Command;

use crate::load::state::milliseconds;
use crate::measure::process::Process;
use crate::records::{Label, Sink};
use crate::stats::as_f64;

/// The names in the results.
pub const START: &str = "the runner's start";
/// See [`START`].
pub const OUTPUT: &str = "the runner's output";
/// See [`START`].
pub const FINGERPRINT: &str = "the runner's fingerprint";

const MEBIBYTE: usize = 1024 * 1024;
/// Files in one folder of the repository.
const IN_A_FOLDER: usize = 100;
const POLL: Duration = Duration::from_millis(20);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Size {
    starts: usize,
    output_mebibytes: usize,
    rounds: u32,
    files: usize,
    file_bytes: usize,
}

impl Size {
    fn new(quick: bool) -> Self {
        if quick {
            Self { starts: 20, output_mebibytes: 512, rounds: 1, files: 2000, file_bytes: 20_000 }
        } else {
            Self { starts: 100, output_mebibytes: 10 * 1024, rounds: 3, files: 100_000, file_bytes: 20_000 }
        }
    }
}

/// Measures everything with the runner at `program`.
pub async fn run(program: &Path, quick: bool, folder: &Path, sink: &mut Sink) -> Result<()> {
    // The runner accepts only an absolute path of the workspace.
    let folder = std::path::absolute(folder)?.join(format!("runner-{}", std::process::id()));
    let bench = Bench {
        program: program.to_owned(),
        folder: folder.clone(),
        size: Size::new(quick),
        iterations: AtomicU32::new(1),
    };
    let done = bench.run(sink).await;
    std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    done
}

struct Bench {
    program: PathBuf,
    folder: PathBuf,
    size: Size,
    iterations: AtomicU32,
}

impl Bench {
    async fn run(&self, sink: &mut Sink) -> Result<()> {
        for name in ["input", "scratch", "workspace", "repository"] {
            let path = self.folder.join(name);
            std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        std::fs::write(self.folder.join("input/prompt"), "Make the next failing test pass.")?;
        for round in 1..=self.size.rounds {
            self.start(round, sink).await.context(START)?;
            self.output(round, sink).await.context(OUTPUT)?;
        }
        self.fingerprint(sink).await.context(FINGERPRINT)
    }

    /// The runner around a shell command, in this workspace.
    fn wrapped(&self, workspace: &str, command: &str) -> Result<Command> {
        // Another one each time: the runner executes no attempt twice.
        let iteration = self.iterations.fetch_add(1, Ordering::Relaxed);
        let context = json!({
            "version": 1,
            "task": { "namespace": "default", "name": "task", "uid": "7c9e6679-7425-40de-944b-e07fc1f90ae7" },
            "iteration": iteration, "maxIterations": 10_000, "attempt": 0, "workspace": self.folder.join(workspace),
            "loopContext": "InPrompt", "policy": "ExitCode", "iterationTimeoutSeconds": 3600, "graceSeconds": 20,
            "reportLimitBytes": 3072,
            "breaker": {
                "consecutiveNoChange": 0, "noChangeThreshold": 3,
                "consecutiveSameError": 0, "sameErrorThreshold": 5,
            },
        });
        std::fs::write(self.folder.join("input/context.json"), context.to_string())?;
        let log = self.folder.join("termination-log");
        std::fs::write(&log, "")?;
        let mut wrapped = Command::new(&self.program);
        wrapped.arg("run").arg("--input").arg(self.folder.join("input"));
        wrapped.arg("--scratch").arg(self.folder.join("scratch")).arg("--termination-log").arg(log);
        wrapped.args(["--", "/bin/sh", "-c", command]);
        Ok(silent(wrapped))
    }

    async fn start(&self, round: u32, sink: &mut Sink) -> Result<()> {
        let (mut alone, mut inside) = (Vec::new(), Vec::new());
        for _ in 0..self.size.starts {
            alone.push(milliseconds(timed(plain(":")).await?));
            inside.push(milliseconds(timed(self.wrapped("workspace", ":")?).await?));
        }
        sink.push(Label::new("runner", START, "alone", round).record("ms", alone))?;
        sink.push(Label::new("runner", START, "runner", round).record("ms", inside))
    }

    async fn output(&self, round: u32, sink: &mut Sink) -> Result<()> {
        let bytes = self.size.output_mebibytes * MEBIBYTE;
        let agent = format!("yes 'A line of text, as agents print them while they work.' | head -c {bytes}");
        let alone = timed(plain(&format!("{agent} | cat >/dev/null"))).await?;
        let mut child = self.wrapped("workspace", &agent)?.spawn().context("starting the runner")?;
        let process = Process(child.id().context("the runner has ended already")?);
        let (since, mut peak) = (Instant::now(), 0.0);
        let status = loop {
            // Its peak is read until it is gone.
            peak = process.peak_memory().unwrap_or(peak).max(peak);
            tokio::select! {
                status = child.wait() => break status?,
                () = tokio::time::sleep(POLL) => {}
            }
        };
        if !status.success() {
            bail!("the runner ended with {status}");
        }
        let inside = since.elapsed();
        for (arm, time) in [("alone", alone), ("runner", inside)] {
            let label = Label::new("runner", OUTPUT, arm, round);
            sink.push(label.record("mebibytes", vec![as_f64(self.size.output_mebibytes)]))?;
            sink.push(label.record("seconds", vec![time.as_secs_f64()]))?;
        }
        sink.push(Label::new("runner", OUTPUT, "runner", round).record("memory_peak_bytes", vec![peak]))
    }

    async fn fingerprint(&self, sink: &mut Sink) -> Result<()> {
        let repository = self.folder.join("repository");
        write_repository(&repository, self.size)?;
        let at = repository.display();
        // Identity for the one commit; nothing of the user's own configuration.
        let git = format!("git -C '{at}' -c user.name=bench -c user.email=bench@localhost");
        timed(plain(&format!("git init -q '{at}' && {git} add -A && {git} commit -qm all"))).await?;
        let hash =
            format!("find '{at}' -path '*/.git' -prune -o -type f -print0 | xargs -0 sha256sum >/dev/null");
        // Once for the page cache.
        timed(plain(&hash)).await?;
        let hashed = timed(plain(&hash)).await?;
        let status = format!("git -C '{at}' status --porcelain >/dev/null");
        timed(plain(&status)).await?;
        let status = timed(plain(&status)).await?;
        let first = timed(self.wrapped("repository", ":")?).await?;
        let second = timed(self.wrapped("repository", ":")?).await?;
        for (arm, time) in
            [("hash", hashed), ("git status", status), ("first run", first), ("second run", second)]
        {
            let label = Label::new("runner", FINGERPRINT, arm, 1);
            sink.push(label.record("files", vec![as_f64(self.size.files)]))?;
            sink.push(label.record("ms", vec![milliseconds(time)]))?;
        }
        Ok(())
    }
}

fn silent(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

fn plain(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    silent(command)
}

/// How long a command takes that must succeed.
async fn timed(mut command: Command) -> Result<Duration> {
    let since = Instant::now();
    let status = command.status().await.with_context(|| format!("running {:?}", command.as_std()))?;
    if !status.success() {
        bail!("{:?} ended with {status}", command.as_std());
    }
    Ok(since.elapsed())
}

/// Files of text, a hundred in a folder, each with other contents.
fn write_repository(folder: &Path, size: Size) -> Result<()> {
    for number in 0..size.files {
        let place = folder.join(format!("folder-{}", number / IN_A_FOLDER));
        if number % IN_A_FOLDER == 0 {
            std::fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
        }
        let mut text = String::with_capacity(size.file_bytes + 64);
        let mut line = 0;
        while text.len() < size.file_bytes {
            let _ = writeln!(text, "file {number}, line {line}: some text of a source file");
            line += 1;
        }
        let path = place.join(format!("file-{number}.txt"));
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
