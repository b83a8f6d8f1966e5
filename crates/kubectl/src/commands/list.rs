//! `list`.

use agentloop_core::api::AgentTask;
use serde_json::Value;

use crate::cli::ListArgs;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::{Session, note, print, print_text};
use crate::view::{list, needs_a_person};

pub(super) async fn run(session: &Session, args: &ListArgs) -> Result<(), Failure> {
    let format = &args.output.output;
    if matches!(format, Format::Json | Format::Yaml | Format::JsonPath(_)) {
        let mut objects: Vec<Value> = session.tasks(&args.selection).await?;
        objects.retain(|object| !args.needs_me || parsed(object).is_some_and(|task| needs_a_person(&task)));
        objects.iter_mut().for_each(output::complete);
        return print_text(&output::print(format, &output::list(&objects))?);
    }
    let mut tasks: Vec<AgentTask> = session.tasks(&args.selection).await?;
    tasks.retain(|task| !args.needs_me || needs_a_person(task));
    if *format == Format::Name {
        return print(&tasks.iter().map(output::name).collect::<Vec<_>>());
    }
    if tasks.is_empty() {
        let which = match (args.needs_me, &args.selection.selector) {
            (true, _) => "No task needs a person",
            (false, Some(_)) => "No task has these labels",
            (false, None) => "There are no tasks",
        };
        let place = format!("namespace {}", session.namespace);
        let place = if args.selection.all_namespaces { "any namespace" } else { &place };
        note(&format!("{which} in {place}."));
        return Ok(());
    }
    let options = list::Options {
        namespaces: args.selection.all_namespaces,
        wide: *format == Format::Wide,
        headers: !args.no_headers,
    };
    print(&list::lines(&tasks, options, &session.terminal.canvas()))
}

fn parsed(object: &Value) -> Option<AgentTask> {
    serde_json::from_value(object.clone()).ok()
}
