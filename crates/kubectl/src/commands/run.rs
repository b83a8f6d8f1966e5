//! `run`.

use std::io::{self, IsTerminal, Read};
use std::path::Path;

use agentloop_core::api::AgentTask;
use kube::api::{Api, PostParams};
use serde_json::Value;

use super::watch;
use crate::cli::{Connection, DryRun, RunArgs};
use crate::failure::{Failure, Request, exit};
use crate::manifest;
use crate::output::{self, Format};
use crate::session::{MANAGER, Session, Terminal, note, print, print_text};
use crate::text::line;

/// Bytes of a prompt that the API accepts; more are not read.
const PROMPT_BYTES: u64 = 131_072;

pub(super) async fn run(connection: &Connection, terminal: Terminal, args: &RunArgs) -> Result<u8, Failure> {
    if matches!(args.output, Some(Format::Table | Format::Wide)) {
        return Err(Failure::usage("run has no output table: use name, json, yaml or jsonpath=TEMPLATE"));
    }
    let prompt = prompt(args)?;
    let session = Session::open(connection, terminal).await?;
    let task = manifest::task(args, &session.namespace, &prompt);
    if args.write.show_kubectl {
        let yaml = output::print(&Format::Yaml, &task)?;
        return print_text(&format!("{} create -f - <<'YAML'\n{yaml}YAML\n", session.kubectl()))
            .map(|()| exit::OK);
    }
    let (created, suffix) = match args.write.dry_run {
        DryRun::Client => (task, " (dry run)"),
        DryRun::Server => (create(&session, &args.name, task, true).await?, " (server dry run)"),
        DryRun::None => (create(&session, &args.name, task, false).await?, ""),
    };
    let name = format!("agenttask.agentloop.dev/{}", line(&args.name));
    match &args.output {
        None => print(&[format!("{name} created{suffix}")])?,
        Some(Format::Name) => print(&[name])?,
        Some(format) => {
            let mut shown = created;
            output::complete(&mut shown);
            print_text(&output::print(format, &shown)?)?;
        }
    }
    if args.write.dry_run != DryRun::None {
        return Ok(exit::OK);
    }
    if args.watch {
        return watch::follow(&session, &args.name).await;
    }
    if args.output.is_none() && terminal.live {
        let place = line(&session.namespace);
        note(&format!("To follow it: kubectl agentloop -n {place} watch {}", line(&args.name)));
    }
    Ok(exit::OK)
}

async fn create(session: &Session, name: &str, task: Value, dry_run: bool) -> Result<Value, Failure> {
    let api: Api<AgentTask> = session.api(&session.namespace);
    let params = PostParams { dry_run, field_manager: Some(MANAGER.to_owned()) };
    let body = serde_json::to_vec(&task).unwrap_or_default();
    let mut request = kube::core::Request::new(api.resource_url())
        .create(&params, body)
        .map_err(|error| Failure::new(format!("cannot create the task: {error}")))?;
    // A field that the CRD does not know is an error, not something that is silently left out.
    strictly(&mut request);
    let what = Request {
        verb: "create",
        resource: "agenttasks",
        name: Some(name),
        namespace: Some(&session.namespace),
    };
    let sent = session.client.request(request);
    match session.answer(what, async { Ok(sent.await) }).await? {
        Ok(created) => Ok(created),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Err(Failure::new(format!(
            "agenttask.agentloop.dev/{} already exists in namespace {}: choose another name, or delete it first with \
             kubectl agentloop -n {} delete {}",
            line(name),
            line(&session.namespace),
            line(&session.namespace),
            line(name)
        ))),
        Err(error) => Err(what.failed(&error)),
    }
}

/// Asks the API server to refuse fields that it does not know.
fn strictly(request: &mut http::Request<Vec<u8>>) {
    let uri = request.uri().to_string();
    let mark = if uri.contains('?') { '&' } else { '?' };
    if let Ok(uri) = format!("{uri}{mark}fieldValidation=Strict").parse() {
        *request.uri_mut() = uri;
    }
}

fn prompt(args: &RunArgs) -> Result<String, Failure> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt.clone());
    }
    let mut stdin = io::stdin();
    let text = match &args.file {
        Some(path) if path != Path::new("-") => {
            let shown = path.display().to_string();
            let read = std::fs::File::open(path).and_then(bounded);
            read.map_err(|error| Failure::new(format!("cannot read {}: {error}", line(&shown))))?
        }
        None if stdin.is_terminal() => {
            return Err(Failure::usage(
                "what is the goal? Use --prompt TEXT, --file FILE, or write it to standard input",
            ));
        }
        _ => bounded(&mut stdin)
            .map_err(|error| Failure::new(format!("cannot read the prompt from standard input: {error}")))?,
    };
    if text.trim().is_empty() {
        return Err(Failure::usage("the prompt is empty: use --prompt TEXT or --file FILE"));
    }
    if text.len() as u64 > PROMPT_BYTES {
        return Err(Failure::usage(format!(
            "the prompt has more than {PROMPT_BYTES} bytes: put longer text into a file in the workspace"
        )));
    }
    Ok(text)
}

fn bounded(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(PROMPT_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}
