//! Creates the pod that reads a workspace, runs commands in it, and removes it.

use std::fmt::Write as _;
use std::future;
use std::time::Duration;

use agentloop_core::api::AgentTask;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, AttachParams, DeleteParams, PostParams};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::signal::unix::{self, SignalKind};
use tokio::time;

use crate::failure::{Failure, Request};
use crate::output;
use crate::reader;
use crate::session::{MANAGER, Session, note};
use crate::text::line;

/// How long the pod may take to start.
const START: Duration = Duration::from_mins(2);
/// How often the pod is looked at while it starts.
const POLL: Duration = Duration::from_millis(300);
/// Bytes of an output that is kept in memory.
const OUTPUT_BYTES: u64 = 64 << 20;
/// Bytes that a stream keeps while no one reads it.
const BUFFER: usize = 64 << 10;

/// A pod that reads the workspace.
pub(super) struct Reader {
    pods: Api<Pod>,
    name: String,
}

/// What a command printed.
pub(super) struct Output {
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub succeeded: bool,
}

/// Waits for a signal to end: Ctrl-C, SIGTERM or the end of the terminal.
async fn interrupted() {
    let wait = async |kind| match unix::signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}

/// Runs `work` with a reader, and removes the reader afterwards, also after a signal.
pub(super) async fn with<T>(
    session: &Session,
    task: &AgentTask,
    work: impl AsyncFnOnce(&Reader) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let created = create(session, task).await?;
    note(&format!("reading the workspace with pod {}", line(&created.name)));
    let done = tokio::select! {
        done = async {
            created.wait(session).await?;
            work(&created).await
        } => done,
        () = interrupted() => Err(Failure::new("interrupted")),
    };
    let params = DeleteParams::default().grace_period(0);
    if let Err(error) = created.pods.delete(&created.name, &params).await {
        note(&format!(
            "warning: pod {} could not be removed ({}); it ends by itself within {} s",
            line(&created.name),
            line(&error.to_string()),
            reader::LIFETIME
        ));
    }
    done
}

async fn create(session: &Session, task: &AgentTask) -> Result<Reader, Failure> {
    let shown = output::name(task);
    let unreadable = |why: String| Failure::new(format!("the workspace of {shown} cannot be read: {why}"));
    let claim = reader::claim(task).map_err(&unreadable)?;
    let namespace = task.namespace().unwrap_or_else(|| session.namespace.clone());
    let user = user_of(session, &namespace, &claim).await?;
    if let Some(user) = &user
        && is_exclusive(session, &namespace, &claim).await
    {
        let user = line(&user.name_any());
        return Err(unreadable(format!(
            "PVC {} is ReadWriteOncePod and pod {user} uses it, so no other pod can until that one ends; look at it from \
             there, with kubectl -n {} exec {user} -- …, or suspend the task",
            line(&claim),
            line(&namespace)
        )));
    }
    let node = user.as_ref().and_then(|user| user.spec.as_ref()?.node_name.as_deref());
    let pod = reader::pod(task, node).map_err(&unreadable)?;
    let pod: Pod = serde_json::from_value(pod)
        .map_err(|error| unreadable(format!("no pod can be made from its template: {error}")))?;
    let pods: Api<Pod> = session.api(&namespace);
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let request = Request { verb: "create", resource: "pods", name: None, namespace: Some(&namespace) };
    let created = session.answer(request, pods.create(&params, &pod)).await?;
    Ok(Reader { pods, name: created.name_any() })
}

/// A pod on a node that has mounted the PVC and has not ended.
async fn user_of(session: &Session, namespace: &str, claim: &str) -> Result<Option<Pod>, Failure> {
    let pods: Api<Pod> = session.api(namespace);
    let request = Request { verb: "list", resource: "pods", name: None, namespace: Some(namespace) };
    let all = session.answer(request, pods.list(&kube::api::ListParams::default())).await?;
    let uses = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        let volumes = spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        spec.is_some_and(|spec| spec.node_name.is_some())
            && !matches!(phase, Some("Succeeded" | "Failed"))
            && claims.any(|volume| volume.claim_name == claim)
    };
    Ok(all.items.into_iter().find(uses))
}

/// Whether only one pod can use the PVC. Whoever may not read PVCs learns it from the scheduler.
async fn is_exclusive(session: &Session, namespace: &str, claim: &str) -> bool {
    let claims: Api<PersistentVolumeClaim> = session.api(namespace);
    let found = claims.get(claim).await.ok().and_then(|claim| claim.spec);
    found.is_some_and(|spec| spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod"))
}

impl Reader {
    async fn wait(&self, session: &Session) -> Result<(), Failure> {
        let namespace = self.pods.namespace().unwrap_or(&session.namespace).to_owned();
        let request =
            Request { verb: "get", resource: "pods", name: Some(&self.name), namespace: Some(&namespace) };
        let since = time::Instant::now();
        loop {
            let pod = session.answer(request, self.pods.get(&self.name)).await?;
            match state(&pod) {
                State::Running => return Ok(()),
                State::Ended(why) => {
                    return Err(Failure::new(format!("pod {} ended: {why}", line(&self.name))));
                }
                State::Starting(why) if since.elapsed() > START => {
                    return Err(Failure::new(format!(
                        "pod {} did not start within {} s: {why}",
                        line(&self.name),
                        START.as_secs()
                    )));
                }
                State::Starting(_) => time::sleep(POLL).await,
            }
        }
    }

    /// Runs a command, and hands its standard output to `read`.
    pub async fn stream<T>(
        &self,
        command: &[String],
        read: impl AsyncFnOnce(Box<dyn AsyncRead + Send + Unpin>) -> Result<T, Failure>,
    ) -> Result<(T, String, bool), Failure> {
        let params = AttachParams {
            container: Some(reader::CONTAINER.to_owned()),
            max_stdout_buf_size: Some(BUFFER),
            max_stderr_buf_size: Some(BUFFER),
            ..AttachParams::default()
        };
        let namespace = self.pods.namespace().map(str::to_owned);
        let request = Request {
            verb: "create",
            resource: "pods/exec",
            name: Some(&self.name),
            namespace: namespace.as_deref(),
        };
        let mut process = self
            .pods
            .exec(&self.name, command.to_vec(), &params)
            .await
            .map_err(|error| request.failed(&error))?;
        let status = process.take_status();
        let stdout = process.stdout().ok_or_else(|| Failure::new("the command has no standard output"))?;
        let stderr = process.stderr();
        let errors = async {
            let mut text = Vec::new();
            if let Some(stderr) = stderr {
                // What is missing here is missing in a message only.
                let _ = stderr.take(BUFFER as u64).read_to_end(&mut text).await;
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        let (read, errors) = tokio::join!(read(Box::new(stdout)), errors);
        let read = read?;
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let succeeded = status.as_ref().is_some_and(|status| status.status.as_deref() == Some("Success"));
        let mut text = errors;
        if let Some(message) =
            status.and_then(|status| status.message).filter(|_| !succeeded && text.is_empty())
        {
            let _ = write!(text, "{message}");
        }
        Ok((read, text, succeeded))
    }

    /// Runs a command, and returns what it printed.
    pub async fn run(&self, command: &[String]) -> Result<Output, Failure> {
        let read = async |stdout: Box<dyn AsyncRead + Send + Unpin>| {
            let mut bytes = Vec::new();
            let read = stdout.take(OUTPUT_BYTES).read_to_end(&mut bytes).await;
            read.map_err(|error| {
                Failure::new(format!("the output was cut off: {}", line(&error.to_string())))
            })?;
            Ok(bytes)
        };
        let (stdout, stderr, succeeded) = self.stream(command, read).await?;
        Ok(Output { stdout, stderr, succeeded })
    }
}

enum State {
    Running,
    Ended(String),
    Starting(String),
}

fn state(pod: &Pod) -> State {
    let status = pod.status.clone().unwrap_or_default();
    let own = status.container_statuses.iter().flatten().find_map(|container| container.state.clone());
    let own = own.unwrap_or_default();
    if own.running.is_some() {
        return State::Running;
    }
    if let Some(ended) = own.terminated {
        let said = [ended.reason, ended.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let hint = "the image must have the program sleep";
        return State::Ended(format!("exit code {} {} ({hint})", ended.exit_code, line(&said)));
    }
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        let said = [status.reason, status.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        return State::Ended(line(&said));
    }
    let waiting = own.waiting.map(|waiting| [waiting.reason, waiting.message]);
    let unscheduled = status.conditions.iter().flatten().find(|condition| condition.status == "False");
    let why = waiting
        .or_else(|| unscheduled.map(|condition| [condition.reason.clone(), condition.message.clone()]));
    let why: Vec<String> = why.into_iter().flatten().flatten().collect();
    State::Starting(line(&if why.is_empty() { "it is pending".to_owned() } else { why.join(": ") }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(status: &serde_json::Value) -> State {
        state(&serde_json::from_value(json!({ "status": status })).expect("a pod"))
    }

    fn container(state: &serde_json::Value) -> serde_json::Value {
        let status = json!({ "name": "reader", "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0 });
        json!({ "phase": "Pending", "containerStatuses": [status] })
    }

    #[test]
    fn a_pod_that_does_not_start_says_why() {
        assert!(matches!(of(&container(&json!({ "running": {} }))), State::Running));
        let waiting = json!({ "waiting": { "reason": "ErrImagePull", "message": "no such image" } });
        assert!(
            matches!(of(&container(&waiting)), State::Starting(why) if why == "ErrImagePull: no such image")
        );
        let condition = json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node" });
        let unscheduled = of(&json!({ "phase": "Pending", "conditions": [condition] }));
        assert!(matches!(unscheduled, State::Starting(why) if why == "Unschedulable: no node"));
        let failed = json!({ "terminated": { "exitCode": 128, "reason": "StartError", "message": "sleep: not found" } });
        assert!(
            matches!(of(&container(&failed)), State::Ended(why) if why.contains("StartError: sleep: not found"))
        );
    }
}
