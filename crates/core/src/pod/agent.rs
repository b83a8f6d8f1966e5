//! The container that runs the agent.

use agentloop_contract::names::{
    CONTEXT_FILE, INPUT_DIR, PROMPT_RENDERED, RUNNER_DIR, RUNNER_FILE, SCRATCH_DIR, TERMINATION_LOG, env,
};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::{
    BIN_VOLUME, INPUT_VOLUME, InvalidTemplate, SCRATCH_VOLUME, WORKSPACE_VOLUME, paths, take_list, variables,
};
use crate::api::{ActiveIteration, AgentTask, Thresholds};

/// Capabilities that give a container the privileges that `no_new_privs` would deny.
const PRIVILEGED: &[&str] = &["ALL", "CAP_ALL", "SYS_ADMIN", "CAP_SYS_ADMIN"];

/// The index of the agent's container: the one named `agent`, or else the only one.
pub(super) fn position(containers: &[Value]) -> Result<usize, InvalidTemplate> {
    let named = containers.iter().position(|c| c.get("name").and_then(Value::as_str) == Some("agent"));
    let only = (containers.len() == 1).then_some(0);
    named.or(only).ok_or_else(|| {
        InvalidTemplate::pod(&"with several containers, the one that runs the agent must be named 'agent'")
    })
}

/// Whether the template sets no working directory.
pub(super) fn has_no_working_dir(agent: &Map<String, Value>) -> bool {
    agent.get("workingDir").and_then(Value::as_str).is_none_or(str::is_empty)
}

/// Whether the agent must not gain privileges, because its container does not allow that.
pub(super) fn denies_privileges(agent: &Map<String, Value>) -> bool {
    let Some(security) = agent.get("securityContext") else { return true };
    let is_true = |key: &str| security.get(key).and_then(Value::as_bool) == Some(true);
    let added = security.pointer("/capabilities/add").and_then(Value::as_array);
    let is_administrator =
        added.into_iter().flatten().filter_map(Value::as_str).any(|capability| {
            PRIVILEGED.iter().any(|privileged| privileged.eq_ignore_ascii_case(capability))
        });
    !(is_true("allowPrivilegeEscalation") || is_true("privileged") || is_administrator)
}

/// Makes the runner the command of the agent's container, and adds the variables and mounts that it needs.
pub(super) fn wrap(
    agent: &mut Map<String, Value>,
    task: &AgentTask,
    active: &ActiveIteration,
    thresholds: &Thresholds,
    report_key: &str,
) -> Result<(), InvalidTemplate> {
    let command = take_list(agent, "command");
    if command.is_empty() {
        return Err(InvalidTemplate::pod(
            &"the agent's container needs a command: agentloop does not read the image's entrypoint, so repeat it here",
        ));
    }
    let workspace = &task.spec.workspace.mount_path;
    if let Some(bad) = paths::bad_mount(agent) {
        return Err(InvalidTemplate::pod(&bad));
    }
    variables::hide_key(agent);
    let mut wrapped = vec![json!(RUNNER_FILE), json!("run"), json!("--")];
    wrapped.extend(command.into_iter().map(variables::without_key));
    agent.insert("command".to_owned(), Value::Array(wrapped));
    agent.insert("terminationMessagePath".to_owned(), json!(TERMINATION_LOG));
    agent.insert("terminationMessagePolicy".to_owned(), json!("File"));

    let name = format!("{}/{}", task.namespace().unwrap_or_default(), task.name_any());
    let has_prompt = task.spec.prompt.is_some() || task.spec.prompt_from.is_some();
    let mut ours = vec![
        (env::TASK, name),
        (env::ITERATION, active.iteration.to_string()),
        (env::MAX_ITERATIONS, thresholds.effective_limit().to_string()),
        (env::CONTEXT_FILE, format!("{INPUT_DIR}/{CONTEXT_FILE}")),
        (env::WORKSPACE, workspace.clone()),
    ];
    ours.extend(has_prompt.then(|| (env::PROMPT_FILE, format!("{SCRATCH_DIR}/{PROMPT_RENDERED}"))));
    let environment = variables::environment(&ours, take_list(agent, "env"), report_key);
    agent.insert("env".to_owned(), Value::Array(environment));

    let mut mounts = take_list(agent, "volumeMounts");
    let at_workspace = mounts.iter().find(|mount| {
        let path = mount.get("mountPath").and_then(Value::as_str).and_then(paths::clean);
        path.is_some() && path == paths::clean(workspace)
    });
    match at_workspace.map(|mount| mount.get("name").and_then(Value::as_str)) {
        // The template itself mounts the workspace there: its options stay.
        Some(Some(WORKSPACE_VOLUME)) => {}
        Some(_) => return Err(InvalidTemplate::pod(&"another volume is mounted at workspace.mountPath")),
        None => mounts.push(json!({ "name": WORKSPACE_VOLUME, "mountPath": workspace })),
    }
    mounts.extend([
        json!({ "name": BIN_VOLUME, "mountPath": RUNNER_DIR, "readOnly": true }),
        json!({ "name": INPUT_VOLUME, "mountPath": INPUT_DIR, "readOnly": true }),
        json!({ "name": SCRATCH_VOLUME, "mountPath": SCRATCH_DIR }),
    ]);
    agent.insert("volumeMounts".to_owned(), Value::Array(mounts));
    Ok(())
}
