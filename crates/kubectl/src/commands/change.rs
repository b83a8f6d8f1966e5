//! `resume`, `suspend` and `delete`.

use agentloop_core::api::{AgentTask, Phase, WhenDeleted};
use agentloop_core::message;
use agentloop_core::pod::pvc_name;
use agentloop_core::resume::SpecChange;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use crate::cli::{ChangeArgs, DryRun, ResumeArgs, Selection, Targets, WriteArgs};
use crate::failure::{Failure, Request, exit};
use crate::output;
use crate::owners;
use crate::resume::{self, Plan};
use crate::session::{MANAGER, Session, note, print};
use crate::text::line;

/// How often a change is computed again because the task was changed meanwhile.
const TRIES: u32 = 5;

/// What is done with one task.
enum Step {
    /// The spec is patched; afterwards the task is this.
    Patch(Plan, String),
    /// Nothing has to be done, because the task is this already.
    Already(&'static str),
}

pub(super) async fn resume(session: &Session, args: &ResumeArgs) -> Result<u8, Failure> {
    let step = |task: &AgentTask| {
        let plan = resume::plan(task, args.max, args.reset)?;
        let done = format!("resumed ({})", resume::effect(&plan.change));
        Ok(Step::Patch(plan, done))
    };
    patch_each(session, "resumed", &args.targets, &args.write, &step).await
}

pub(super) async fn suspend(session: &Session, args: &ChangeArgs) -> Result<u8, Failure> {
    let step = |task: &AgentTask| {
        let stop = task.status.as_ref().and_then(|status| status.stop.as_ref());
        if stop.is_some_and(|stop| stop.phase == Phase::Succeeded) {
            return Err("it succeeded, which is final, so nothing of it runs".to_owned());
        }
        if task.spec.suspend {
            return Ok(Step::Already("already suspended"));
        }
        let change = SpecChange { suspend: Some(true), ..SpecChange::default() };
        Ok(Step::Patch(Plan { change, warnings: Vec::new() }, "suspended".to_owned()))
    };
    patch_each(session, "suspended", &args.targets, &args.write, &step).await
}

/// The tasks that are meant. Names are read one by one, so that each can fail by itself.
async fn targets(session: &Session, targets: &Targets) -> Result<Vec<Result<AgentTask, Failure>>, Failure> {
    let mut found = Vec::new();
    for name in &targets.names {
        found.push(session.task(name.strip_prefix("agt/").unwrap_or(name)).await);
    }
    if targets.names.is_empty() {
        let selection =
            Selection { all_namespaces: targets.all_namespaces, selector: targets.selector.clone() };
        found = session.tasks(&selection).await?.into_iter().map(Ok).collect();
        if found.is_empty() {
            note("There are no such tasks.");
        }
    }
    Ok(found)
}

/// Does something with each task. A failure does not keep the others from being changed.
async fn patch_each(
    session: &Session,
    verb: &str,
    which: &Targets,
    write: &WriteArgs,
    step: &impl Fn(&AgentTask) -> Result<Step, String>,
) -> Result<u8, Failure> {
    let mut code = exit::OK;
    for task in targets(session, which).await? {
        let done = match task {
            Ok(task) => patch_one(session, verb, task, write, step).await,
            Err(failure) => Err(failure),
        };
        match done {
            Ok(Done::Changed(line)) => print(&[line])?,
            // Of all tasks, only some may need the change; those that were named must.
            Ok(Done::Refused(why)) if which.names.is_empty() => note(&why),
            Ok(Done::Refused(why)) => {
                note(&format!("error: {why}"));
                code = exit::ERROR;
            }
            Err(failure) => {
                note(&format!("error: {failure}"));
                code = exit::ERROR;
            }
        }
    }
    Ok(code)
}

/// What became of one task.
enum Done {
    /// What is printed.
    Changed(String),
    /// Why nothing can be done.
    Refused(String),
}

async fn patch_one(
    session: &Session,
    verb: &str,
    mut task: AgentTask,
    write: &WriteArgs,
    step: &impl Fn(&AgentTask) -> Result<Step, String>,
) -> Result<Done, Failure> {
    let name = task.name_any();
    let namespace = task.namespace().unwrap_or_else(|| session.namespace.clone());
    let shown = output::name(&task);
    let mut tries = 0;
    loop {
        let (plan, done) = match step(&task) {
            Ok(Step::Patch(plan, done)) => (plan, done),
            Ok(Step::Already(what)) => return Ok(Done::Changed(format!("{shown} is {what}"))),
            Err(why) => return Ok(Done::Refused(format!("{shown} cannot be {verb}: {why}"))),
        };
        if tries == 0 {
            plan.warnings.iter().for_each(|warning| note(&format!("warning: {}: {warning}", line(&name))));
            for warning in owners::warnings(&task, &plan.change.patch()) {
                note(&format!("warning: {}: {warning}", line(&name)));
            }
        }
        if write.show_kubectl {
            let command = message::patch(&task, &plan.change);
            return Ok(Done::Changed(command.replacen("kubectl", &session.kubectl(), 1)));
        }
        if write.dry_run == DryRun::Client {
            return Ok(Done::Changed(format!("{shown} {done} (dry run)")));
        }
        let api: Api<AgentTask> = session.api(&namespace);
        let params = PatchParams {
            dry_run: write.dry_run == DryRun::Server,
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let body = guarded(&plan.change, &task);
        let request =
            Request { verb: "patch", resource: "agenttasks", name: Some(&name), namespace: Some(&namespace) };
        let sent = async {
            match api.patch(&name, &params, &Patch::Merge(&body)).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => Ok(false),
                Err(error) => Err(error),
            }
        };
        if session.answer(request, sent).await? {
            let dry = if write.dry_run == DryRun::Server { " (server dry run)" } else { "" };
            return Ok(Done::Changed(format!("{shown} {done}{dry}")));
        }
        // The operator has written a status meanwhile: the change may be another one now.
        tries += 1;
        let get = Request { verb: "get", ..request };
        task = session.answer(get, api.get(&name)).await?;
    }
}

/// The patch applies only to the task that it was computed from.
fn guarded(change: &SpecChange, task: &AgentTask) -> Value {
    json!({
        "metadata": { "uid": task.metadata.uid, "resourceVersion": task.metadata.resource_version },
        "spec": change,
    })
}

pub(super) async fn delete(session: &Session, args: &ChangeArgs) -> Result<u8, Failure> {
    let mut code = exit::OK;
    for task in targets(session, &args.targets).await? {
        let done = match &task {
            Ok(task) => delete_one(session, task, &args.write).await,
            Err(failure) => Err(failure.clone()),
        };
        match done {
            Ok(lines) => print(&lines)?,
            Err(failure) => {
                note(&format!("error: {failure}"));
                code = exit::ERROR;
            }
        }
    }
    Ok(code)
}

async fn delete_one(session: &Session, task: &AgentTask, write: &WriteArgs) -> Result<Vec<String>, Failure> {
    let name = task.name_any();
    let namespace = task.namespace().unwrap_or_else(|| session.namespace.clone());
    let shown = output::name(task);
    if write.show_kubectl {
        return Ok(vec![format!("{} -n {namespace} delete agt/{name}", session.kubectl())]);
    }
    let suffix = match write.dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    };
    if write.dry_run != DryRun::Client {
        let api: Api<AgentTask> = session.api(&namespace);
        // Never another task that has the name meanwhile.
        let preconditions = Preconditions { uid: task.uid(), resource_version: None };
        let params = DeleteParams {
            dry_run: write.dry_run == DryRun::Server,
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let request = Request {
            verb: "delete",
            resource: "agenttasks",
            name: Some(&name),
            namespace: Some(&namespace),
        };
        session.answer(request, api.delete(&name, &params)).await?;
    }
    if let Some(kept) = kept(task) {
        note(&format!(
            "The workspace stays in PVC {kept}; to delete it too: {} -n {namespace} delete pvc {kept}",
            session.kubectl()
        ));
    }
    Ok(vec![format!("{shown} deleted{suffix}")])
}

/// The PVC that stays after the task.
fn kept(task: &AgentTask) -> Option<String> {
    let workspace = &task.spec.workspace;
    workspace.volume_claim_template.as_ref()?;
    let kept = workspace.when_deleted.unwrap_or_default() == WhenDeleted::Retain;
    kept.then(|| pvc_name(&task.name_any(), &task.uid().unwrap_or_default()))
}
