//! Runs the verify command.

use agentloop_contract::{
    context::{Context, Verify},
    report::Verified,
};

use super::{
    command::{command, grace, seconds},
    records::{keep_transcript, summarize},
};
use crate::{
    evaluation,
    output::OutputSummary,
    process::{CommandOptions, LaunchOptions, Status, Supervisor, Survivors},
    secrets,
    workspace::state_dir::StateDir,
};

/// Runs the verify command. Returns `None` if it was not allowed to finish, and an error if processes of it survive.
pub(super) fn run_verify(
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
