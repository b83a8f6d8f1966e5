//! `why`.

use agentloop_core::api::AgentTask;

use crate::cli::WhyArgs;
use crate::failure::Failure;
use crate::session::{Session, print};
use crate::view::why;

pub(super) async fn run(session: &Session, args: &WhyArgs) -> Result<(), Failure> {
    let task: AgentTask = session.task(&args.name).await?;
    print(&why::lines(&task, &session.terminal.canvas()))
}
