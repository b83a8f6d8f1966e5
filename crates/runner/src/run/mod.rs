//! One iteration, from its inputs to its report.

mod arguments;
mod command;
mod comparison;
mod evaluate;
mod failure;
mod records;
mod verify;

use std::{ffi::OsStr, path::Path, time::Duration};

use agentloop_contract::{
    exit_code,
    report::{Change, End, Report},
};
use jiff::Timestamp;
use rustix::process::DumpableBehavior;

pub use self::arguments::RunArguments;
use self::{
    command::{agent_command, grace, seconds, write_prompt},
    comparison::WorkspaceBefore,
    evaluate::{evaluate_agent, status_of_error},
    failure::StartFailure,
    records::{keep_report, keep_transcript, summarize},
    verify::run_verify,
};
use crate::{
    evaluation, inputs,
    process::{CommandOptions, LaunchOptions, Supervisor, Survivors},
    prompt, secrets, signals,
    start::Start,
    termination_message,
    workspace::{
        self, ignore,
        state_dir::{StateDir, StateDirError},
    },
};

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
        return Err(StateDirError::AlreadyRan.into());
    }
    // Read before the agent runs: what it writes to the user's ignore file hides nothing.
    let ignore = ignore::Ignore {
        task: ignore::IgnoreRules::parse(b"", context.ignore.join("\n").as_bytes()),
        user: ignore::user(&|name| std::env::var_os(name)),
    };
    let fingerprint = comparison::fingerprint(&root, &context, &ignore, &supervisor, Duration::ZERO);
    let locks = fingerprint.locks();
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
    let metadata = comparison::metadata(&root, &supervisor);
    let before = WorkspaceBefore { fingerprint, ignore, metadata };

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
            let failure = StartFailure::of_command(&arguments.command, error);
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
    let (code, verify_now) =
        evaluate_agent(&mut report, &context, &supervisor, (path, &root), &before, &ended, &output);
    if report.changed == Change::Unchanged {
        report.started_in = start.outside;
    }
    if report.provider_refused.is_some() {
        state_dir.spare_empty();
    }
    keep_transcript(&state_dir, "output.log", &ended);
    termination_message::note(&report);
    if let (Some(verify), true) = (&context.verify, verify_now) {
        match run_verify(verify, &state_dir, &context, &supervisor) {
            Ok(verified) => report.verify = verified,
            Err(survivors) => return Ok(not_alone(&state_dir, &report, &survivors)),
        }
    }
    report.error = evaluation::error(&report, status_of_error(&ended), &output);
    keep_report(&state_dir, &report);
    Ok((report, code))
}

/// The result if processes survive. They may have changed everything that the runner sees, or may still change it. So
/// the iteration completes nothing and is charged.
fn not_alone(state_dir: &StateDir, known: &Report, survivors: &Survivors) -> (Report, i32) {
    secrets::log(survivors);
    let failed = termination_message::failed(known, &survivors.to_string());
    keep_report(state_dir, &failed);
    (failed, exit_code::SURVIVORS)
}
