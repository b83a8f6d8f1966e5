//! One iteration, from its inputs to its report.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use agentloop_contract::{
    context::{Context, Verify},
    exit_code,
    names::{CONTEXT_FILE, env},
    report::{Change, End, Error, Report, Verified},
};
use jiff::Timestamp;
use rustix::process::DumpableBehavior;

use crate::{
    completion_gate, evaluation, inputs,
    output::{OutputCollector, OutputSummary},
    process::{CommandOptions, EndedCommand, LaunchOptions, Status, Supervisor, Survivors},
    prompt, secrets, signals,
    start::Start,
    termination_message,
    workspace::{
        self, Limits,
        fingerprint::{Difference, Fingerprint},
        ignore,
        metadata::MetadataSnapshot,
        state_dir::{self, StateDir},
    },
};

/// File name of the rendered prompt, in the scratch folder.
const RENDERED: &str = agentloop_contract::names::PROMPT_RENDERED;
/// How many changed files the full report names.
const MAX_NAMES: usize = 200;
/// How long a fingerprint may still take after an order to stop. The kubelet does not wait for long.
const WHEN_STOPPING: Duration = Duration::from_secs(5);

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

/// Why the agent was not run.
#[derive(Debug, thiserror::Error)]
enum StartFailure {
    #[error("{0}")]
    Inputs(#[from] inputs::InputError),
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    #[error("cannot write the prompt to {0}: {1}")]
    Scratch(String, io::Error),
    #[error("cannot open the workspace {0}: {1}")]
    Workspace(String, rustix::io::Errno),
    #[error("{0}")]
    StateDir(#[from] state_dir::StateDirError),
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
    fn report(&self) -> (Report, i32) {
        let end = match self {
            Self::StateDir(state_dir::StateDirError::AlreadyRan) => End::AlreadyRan,
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
fn exit_code_of(report: &Report) -> i32 {
    report.container_exit_code().unwrap_or(exit_code::RUNNER_FAILED)
}

/// Runs one iteration, writes its report and returns the exit code.
pub fn run(arguments: &RunArguments) -> i32 {
    shield();
    // Read now, while nothing else runs that could use up threads or memory.
    let _ = secrets::own();
    let key = inputs::key();
    if let Err(error) = termination_message::prepare(&arguments.termination_log, key.as_deref()) {
        // Without a report, nothing that the agent does could count.
        secrets::log(format_args!("cannot write {}: {error}", arguments.termination_log.display()));
        return exit_code::RUNNER_FAILED;
    }
    let (report, code) = iteration(arguments).unwrap_or_else(|failure| {
        secrets::log(&failure);
        failure.report()
    });
    termination_message::hand_over(&report);
    code
}

/// Keeps the agent, which runs as the same user, out of the runner's memory, environment and file descriptors: only
/// programs with `CAP_SYS_PTRACE` may trace the runner.
fn shield() {
    if let Err(errno) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        secrets::log(format_args!("cannot keep the agent from tracing the runner: {errno}"));
    }
}

fn iteration(arguments: &RunArguments) -> Result<(Report, i32), StartFailure> {
    let supervisor = Supervisor::new(signals::listen().map_err(StartFailure::Signals)?);
    let mut context = inputs::context(&arguments.input)?;
    secrets::own().context(&mut context);
    termination_message::limit(context.report_limit_bytes);
    let prompt = inputs::prompt(&arguments.input)?;

    let path = Path::new(&context.workspace);
    let root =
        workspace::open(path).map_err(|errno| StartFailure::Workspace(context.workspace.clone(), errno))?;
    let state_dir = StateDir::open(&root, &context)?;
    if state_dir.has_run() {
        return Err(state_dir::StateDirError::AlreadyRan.into());
    }
    // Read before the agent runs: what it writes to the user's ignore file hides nothing.
    let ignore = ignore::Ignore {
        task: ignore::IgnoreRules::parse(b"", context.ignore.join("\n").as_bytes()),
        user: ignore::user(&|name| std::env::var_os(name)),
    };
    let before = fingerprint(&root, &context, &ignore, &supervisor, Duration::ZERO);
    let locks = before.locks();
    for lock in &locks {
        secrets::log(format_args!(
            "{lock} existed before the agent started. Unless another program uses this workspace now, a git process \
             that was killed left it behind, and git commands that write fail until it is removed"
        ));
    }
    let prompt = prompt
        .map(|prompt| write_prompt(&arguments.scratch, &prompt::render(&prompt, &context, &locks)))
        .transpose()?;
    let start = Start::now(&context, arguments.command.first().map_or(OsStr::new(""), AsRef::as_ref));
    let command = agent_command(arguments, &start, &context, prompt.as_deref())?;
    if supervisor.stopping() {
        return Err(StartFailure::Interrupted);
    }
    let watch = state_dir.mark()?;
    let before = Before { fingerprint: before, ignore, metadata: metadata(&root, &supervisor) };

    let mut report = Report::of(End::Exited);
    report.started_at = Some(Timestamp::now());
    report.fingerprint_before = before.fingerprint.hex();
    termination_message::note(&report);
    let options = CommandOptions {
        timeout: seconds(context.iteration_timeout_seconds),
        grace: grace(&context),
        pass_stop: true,
        exit_grace: Some(seconds(context.exit_grace_seconds)),
        launch: LaunchOptions { no_new_privileges: context.no_new_privileges },
    };
    let ended = match supervisor.run(command, options) {
        Ok(ended) => ended,
        Err(error) => {
            let failure = not_started(&arguments.command, error);
            secrets::log(&failure);
            let (failed, code) = failure.report();
            keep_report(&state_dir, &failed);
            return Ok((failed, code));
        }
    };
    drop(watch);
    report.finished_at = Some(Timestamp::now());
    let output = summarize(&ended);
    if ended.finished.is_some() {
        secrets::log("the agent printed its final event but did not exit, so the runner stopped it");
    }
    if let Some(survivors) = &ended.survivors {
        keep_transcript(&state_dir, "output.log", &ended);
        report.usage.clone_from(&output.usage);
        return Ok(not_alone(&state_dir, &report, survivors));
    }
    let code = evaluate_agent(&mut report, &context, &supervisor, (path, &root), &before, &ended, &output);
    if report.changed == Change::Unchanged {
        report.started_in = start.outside;
    }
    if report.provider_refused.is_some() {
        state_dir.spare_empty();
    }
    keep_transcript(&state_dir, "output.log", &ended);
    termination_message::note(&report);
    if let (Some(verify), true) = (&context.verify, code.1) {
        match run_verify(verify, &state_dir, &context, &supervisor) {
            Ok(verified) => report.verify = verified,
            Err(survivors) => return Ok(not_alone(&state_dir, &report, &survivors)),
        }
    }
    report.error = evaluation::error(&report, status_of_error(&ended), &output);
    keep_report(&state_dir, &report);
    Ok((report, code.0))
}

/// The result if processes survive. They may have changed everything that the runner sees, or may still change it. So
/// the iteration completes nothing and is charged.
fn not_alone(state_dir: &StateDir, known: &Report, survivors: &Survivors) -> (Report, i32) {
    secrets::log(survivors);
    let failed = termination_message::failed(known, &survivors.to_string());
    keep_report(state_dir, &failed);
    (failed, exit_code::SURVIVORS)
}

/// The workspace as it was before the agent.
struct Before {
    fingerprint: Fingerprint,
    ignore: ignore::Ignore,
    /// Taken last. From then on, the runner writes nothing to the workspace until the agent has ended.
    metadata: MetadataSnapshot,
}

/// Fills in the results of the agent itself. Returns the exit code, and whether the verify command must run now.
fn evaluate_agent(
    report: &mut Report,
    context: &Context,
    supervisor: &Supervisor,
    (path, root): (&Path, &OwnedFd),
    before: &Before,
    ended: &EndedCommand,
    output: &OutputSummary,
) -> (i32, bool) {
    report.end = match (ended.timed_out, ended.interrupted) {
        (true, _) => End::TimedOut,
        (false, true) => End::Interrupted,
        (false, false) => End::Exited,
    };
    let status = own_status(report.end, ended, output);
    match status {
        Status::Exited(code) => report.exit_code = Some(code),
        Status::Killed(signal) => report.signal = Some(signal),
    }
    let found = completion_gate::find(&output.text);
    // Taken before the verify command runs, so that what it builds does not count as the agent's work.
    let difference = if workspace::is_at(root, path) {
        let after = fingerprint(root, context, &before.ignore, supervisor, WHEN_STOPPING);
        report.fingerprint_after = after.hex();
        let difference = before.fingerprint.difference(&after, MAX_NAMES);
        report.untouched =
            difference.changed != Change::Changed && untouched(root, supervisor, &before.metadata);
        difference
    } else {
        secrets::log("the workspace was replaced by something else, so it is unknown whether it changed");
        Difference::UNKNOWN
    };
    (report.changed, report.files_changed, report.files) =
        (difference.changed, difference.files, difference.names);
    let verify = evaluation::needs_verify(context, report.end, status, &found);
    match found {
        Ok(gate) => report.gate = Some(gate),
        Err(why) => report.no_gate = Some(why),
    }
    report.provider_refused = evaluation::provider_error(context, status, output);
    report.error = evaluation::error(report, status_of_error(ended), output);
    report.usage.clone_from(&output.usage);
    (exit_code_of(report), verify)
}

/// The agent's exit status, corrected by its own stream. If the last turn failed, an exit code of 0 is no success. If
/// the agent did not exit after its final event, the stream alone decides.
fn own_status(end: End, ended: &EndedCommand, output: &OutputSummary) -> Status {
    let failed = output.failed.is_some() || output.ended.is_some_and(|turn| turn.failed);
    match ended.status {
        _ if ended.finished.is_some() => Status::Exited(i32::from(failed)),
        Status::Exited(0) if end == End::Exited && failed => Status::Exited(1),
        status => status,
    }
}

/// The exit status that an error message names: never a signal that the runner sent.
fn status_of_error(ended: &EndedCommand) -> Status {
    if ended.finished.is_some() { Status::Exited(0) } else { ended.status }
}

fn write_prompt(scratch: &Path, text: &[u8]) -> Result<PathBuf, StartFailure> {
    let path = scratch.join(RENDERED);
    match fs::write(&path, text) {
        Ok(()) => Ok(path),
        Err(error) => Err(StartFailure::Scratch(scratch.display().to_string(), error)),
    }
}

fn fingerprint(
    root: &OwnedFd,
    context: &Context,
    ignore: &ignore::Ignore,
    supervisor: &Supervisor,
    after_stop: Duration,
) -> Fingerprint {
    let limits = Limits { stop: Some(supervisor.stop_flag()), after_stop, ..Limits::default() };
    let print = workspace::take_fingerprint(root, OsStr::new(&context.workspace).as_bytes(), ignore, limits);
    if let Some(why) = print.incomplete() {
        secrets::log(format_args!("the workspace cannot be compared reliably: {why}"));
    }
    print
}

fn metadata(root: &OwnedFd, supervisor: &Supervisor) -> MetadataSnapshot {
    let snapshot =
        MetadataSnapshot::before(root, Limits { stop: Some(supervisor.stop_flag()), ..Limits::default() });
    if let Some(why) = snapshot.incomplete() {
        secrets::log(format_args!(
            "this attempt is charged even if the provider refuses it, because its workspace cannot be compared: {why}"
        ));
    }
    snapshot
}

fn untouched(root: &OwnedFd, supervisor: &Supervisor, before: &MetadataSnapshot) -> bool {
    // If the first snapshot is incomplete, the answer is no without a second one.
    before.incomplete().is_none() && {
        let limits =
            Limits { stop: Some(supervisor.stop_flag()), after_stop: WHEN_STOPPING, ..Limits::default() };
        before.is_untouched(&MetadataSnapshot::after(root, limits))
    }
}

/// The agent's command. It starts in the folder that its image or template chose, or in the workspace.
fn agent_command(
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

fn command<'a>(mut words: impl Iterator<Item = &'a OsStr>, context: &Context) -> Command {
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

/// Runs the verify command. Returns `None` if it was not allowed to finish, and an error if processes of it survive.
fn run_verify(
    verify: &Verify,
    state_dir: &StateDir,
    context: &Context,
    supervisor: &Supervisor,
) -> Result<Option<Verified>, Survivors> {
    let mut command = command(verify.command.iter().map(AsRef::as_ref), context);
    command.current_dir(&context.workspace);
    let options = CommandOptions {
        timeout: seconds(verify.timeout_seconds),
        grace: grace(context),
        pass_stop: false,
        exit_grace: None,
        launch: LaunchOptions::default(),
    };
    match supervisor.run(command, options) {
        Ok(ended) => {
            keep_transcript(state_dir, "verify.log", &ended);
            // If a stop killed it, it has no result. If it finished first, its result counts.
            let cut = ended.interrupted && matches!(ended.status, Status::Killed(_));
            let output = summarize(&ended);
            match ended.survivors {
                Some(survivors) => Err(survivors),
                None => Ok((!cut).then(|| evaluation::verified(ended.status, ended.timed_out, &output))),
            }
        }
        Err(error) => {
            let name = verify.command.first().map_or("", String::as_str);
            let output = OutputSummary {
                text: format!("cannot start the verify command {name}: {error}"),
                ..OutputSummary::default()
            };
            secrets::log(&output.text);
            Ok(Some(evaluation::verified(Status::Exited(127), false, &output)))
        }
    }
}

/// Explains why the agent's command could not be executed, so that the user can fix it.
fn not_started(command: &[OsString], error: io::Error) -> StartFailure {
    let name = command.first().map(|name| name.display().to_string()).unwrap_or_default();
    match error.kind() {
        io::ErrorKind::NotFound if Path::new(&name).components().count() > 1 && Path::new(&name).exists() => {
            StartFailure::NotFound(format!(
                "{name} exists, but the interpreter or loader that it names does not"
            ))
        }
        io::ErrorKind::NotFound => StartFailure::NotFound(format!("{name} is not in the agent's image")),
        io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock | io::ErrorKind::Other => {
            StartFailure::Spawn(error)
        }
        _ => StartFailure::NotExecutable(format!("{name} cannot be executed: {error}")),
    }
}

fn keep_transcript(state_dir: &StateDir, name: &str, ended: &EndedCommand) {
    let output = lock(ended);
    if !output.transcript().is_empty() {
        let parts = output.transcript().parts();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        kept(state_dir.write(name, &parts));
    }
}

fn keep_report(state_dir: &StateDir, report: &Report) {
    let mut report = report.clone();
    secrets::own().report(&mut report);
    let json = serde_json::to_vec_pretty(&report).unwrap_or_default();
    kept(state_dir.write("report.json", &[&json, b"\n"]));
}

/// Logs a transcript that cannot be kept; the iteration does not fail because of it.
fn kept(result: Result<(), state_dir::StateDirError>) {
    if let Err(error) = result {
        secrets::log(format_args!("cannot keep the transcript: {error}"));
    }
}

/// The summary of a command's output, without credentials. Output after the final event of its stream does not count.
fn summarize(ended: &EndedCommand) -> OutputSummary {
    let output = ended.finished.clone().unwrap_or_else(|| lock(ended).summary(Timestamp::now()));
    secrets::own().output(output)
}

fn lock(ended: &EndedCommand) -> MutexGuard<'_, OutputCollector> {
    ended.output.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0).unsigned_abs())
}

fn grace(context: &Context) -> Duration {
    seconds(context.grace_seconds)
}
