//! `wait`.

use std::time::Duration;

use agentloop_core::api::AgentTask;
use futures::StreamExt;
use tokio::time;

use super::follow::{gone, states, stop_code};
use crate::cli::WaitArgs;
use crate::failure::Failure;
use crate::output;
use crate::session::{Session, note, print};
use crate::text::line;
use crate::view::{message, phase};

pub(super) async fn run(session: &Session, args: &WaitArgs) -> Result<u8, Failure> {
    // A missing task is an error of its own, before the watch.
    let task: AgentTask = session.task(&args.name).await?;
    let (task, code) = within(args.timeout, &args.name, until_stopped(session, &args.name, task)).await?;
    print(&[format!("{} {}: {}", output::name(&task), line(phase(&task).as_str()), message(&task))])?;
    Ok(code)
}

/// Limits how long something may take.
pub(super) async fn within<T>(
    timeout: Option<Duration>,
    name: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(limit) = timeout else { return work.await };
    match time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(Failure::timeout(format!(
            "agenttask.agentloop.dev/{} did not stop within {} s; it continues, and kubectl agentloop why {} says what \
             it does",
            line(name),
            limit.as_secs(),
            line(name)
        ))),
    }
}

pub(super) async fn until_stopped(
    session: &Session,
    name: &str,
    first: AgentTask,
) -> Result<(AgentTask, u8), Failure> {
    if let Some(code) = stop_code(&first) {
        return Ok((first, code));
    }
    let uid = first.metadata.uid.clone();
    let mut states = states(session, name);
    let mut noted = false;
    while let Some(state) = states.next().await {
        let task = state?.filter(|task| task.metadata.uid == uid).ok_or_else(|| gone(session, name))?;
        if let Some(code) = stop_code(&task) {
            return Ok((task, code));
        }
        if task.spec.suspend && !noted {
            note(&format!("{} is suspended, and does not stop until it is resumed", output::name(&task)));
            noted = true;
        }
    }
    Err(gone(session, name))
}
