//! `completion`, and what kubectl asks for.

use clap::{CommandFactory, FromArgMatches};
use kube::config::Kubeconfig;
use serde::Deserialize;

use crate::cli::{Cli, CompletionTarget, Connection, Selection};
use crate::complete::{self, Wanted};
use crate::failure::Failure;
use crate::session::{Session, Terminal, print, print_text};
use crate::text::line;

/// The program that kubectl asks.
const FOR_KUBECTL: &str = include_str!("../../kubectl_complete-agentloop");

pub(super) fn script(target: CompletionTarget) -> Result<(), Failure> {
    let Some(shell) = target.shell() else { return print_text(FOR_KUBECTL) };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kubectl-agentloop", &mut script);
    print_text(&String::from_utf8_lossy(&script))
}

/// A task of which only the name matters.
#[derive(Clone, Deserialize)]
struct Named {
    metadata: Metadata,
}

#[derive(Clone, Deserialize)]
struct Metadata {
    name: String,
}

/// Prints the candidates as cobra does: one a line, then a directive. Whatever goes wrong, there are no candidates.
pub(super) async fn answer(words: &[String], terminal: Terminal) -> Result<(), Failure> {
    let mut asked = complete::candidates(&Cli::command(), words);
    let connection = connection(words);
    match asked.wanted {
        Some(Wanted::Tasks) => {
            if let Ok(session) = Session::open(&connection, terminal).await {
                let tasks: Vec<Named> = session.tasks(&Selection::default()).await.unwrap_or_default();
                asked.values.extend(tasks.into_iter().map(|task| (task.metadata.name, String::new())));
            }
        }
        Some(Wanted::Namespaces) => {
            if let Ok(session) = Session::open(&connection, terminal).await {
                let api = kube::Api::<k8s_openapi::api::core::v1::Namespace>::all(session.client);
                let found = api.list_metadata(&kube::api::ListParams::default()).await;
                let names = found.into_iter().flatten().filter_map(|namespace| namespace.metadata.name);
                asked.values.extend(names.map(|name| (name, String::new())));
            }
        }
        Some(Wanted::Contexts) => {
            let kubeconfig = match &connection.kubeconfig {
                Some(path) => Kubeconfig::read_from(path),
                None => Kubeconfig::read(),
            };
            let contexts = kubeconfig.map(|kubeconfig| kubeconfig.contexts).unwrap_or_default();
            asked.values.extend(contexts.into_iter().map(|context| (context.name, String::new())));
        }
        Some(Wanted::Files) | None => {}
    }
    let started = |value: &str| value.starts_with(&asked.prefix);
    let mut lines: Vec<String> = asked
        .values
        .iter()
        .filter(|(value, _)| started(value))
        .map(|(value, help)| match help.as_str() {
            "" => line(value),
            help => format!("{}\t{}", line(value), line(help)),
        })
        .collect();
    // 4: no file names; 0: file names, if there is nothing else.
    lines.push(if asked.wanted == Some(Wanted::Files) { ":0" } else { ":4" }.to_owned());
    print(&lines)
}

/// The flags of the cluster in an unfinished command line.
fn connection(words: &[String]) -> Connection {
    let finished = words.get(..words.len().saturating_sub(1)).unwrap_or_default();
    let command = Cli::command().ignore_errors(true);
    let line = std::iter::once("kubectl-agentloop".to_owned()).chain(finished.iter().cloned());
    let parsed = command.try_get_matches_from(line).ok();
    parsed.and_then(|matches| Connection::from_arg_matches(&matches).ok()).unwrap_or_default()
}
