//! `cost`.

use agentloop_core::api::AgentTask;

use crate::cli::CostArgs;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::{Session, print, print_text};
use crate::view::cost;

pub(super) async fn run(session: &Session, args: &CostArgs) -> Result<(), Failure> {
    let (items, first, of) = match &args.name {
        Some(name) => {
            let task: AgentTask = session.task(name).await?;
            (cost::of_iterations(&task), "ITERATION", "iterations")
        }
        None => (cost::of_tasks(&session.tasks(&args.selection).await?), "NAME", "tasks"),
    };
    match &args.output.output {
        Format::Table | Format::Wide => {
            let namespaces = args.selection.all_namespaces && args.name.is_none();
            print(&cost::lines(first, &items, namespaces, !args.no_headers, &session.terminal.canvas()))
        }
        Format::Name => {
            Err(Failure::usage("cost has no output name: use table, json, yaml or jsonpath=TEMPLATE"))
        }
        format => print_text(&output::print(format, &cost::json(&items, of))?),
    }
}
