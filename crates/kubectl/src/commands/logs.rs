//! `logs`.

use std::time::Duration;

use agentloop_contract::names::{ANNOTATION_AGENT, LABEL_ATTEMPT, LABEL_ITERATION};
use agentloop_core::api::AgentTask;
use futures::{AsyncRead, AsyncReadExt};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, LogParams};
use tokio::time;

use super::follow::{gone, stop_code};
use super::transcripts;
use crate::cli::{LogsArgs, Which};
use crate::failure::{Failure, Request};
use crate::output;
use crate::reader;
use crate::session::{Session, note, print};
use crate::text::{Colour, line};
use crate::transcript::{Lines, Transcript};
use crate::view::message;

/// How often the next pod is looked for.
const POLL: Duration = Duration::from_secs(1);

/// A pod of a task.
pub(super) struct Tried {
    iteration: i32,
    attempt: i32,
    pod: Pod,
}

impl Tried {
    pub(super) fn number(&self) -> (i32, i32) {
        (self.iteration, self.attempt)
    }

    /// The container of the agent.
    fn container(&self) -> Option<&str> {
        self.pod.annotations().get(ANNOTATION_AGENT).map(String::as_str)
    }

    /// Whether its log exists.
    fn has_started(&self) -> bool {
        let statuses = self.pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let mut own = statuses.filter(|status| self.container().is_none_or(|name| name == status.name));
        own.any(|status| {
            let state = status.state.as_ref();
            state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
        })
    }
}

fn attempts(pods: Vec<Pod>) -> Vec<Tried> {
    let number = |pod: &Pod, label: &str| pod.labels().get(label)?.parse().ok();
    let mut found: Vec<Tried> = pods
        .into_iter()
        .filter_map(|pod| {
            let (iteration, attempt) = (number(&pod, LABEL_ITERATION)?, number(&pod, LABEL_ATTEMPT)?);
            Some(Tried { iteration, attempt, pod })
        })
        .collect();
    found.sort_by_key(Tried::number);
    found
}

pub(super) async fn run(session: &Session, args: &LogsArgs) -> Result<(), Failure> {
    let task: AgentTask = session.task(&args.name).await?;
    let mut found = attempts(session.pods_of(&task).await?);
    if !args.follow && needs_transcripts(&task, &found, args.iteration) {
        transcripts::show(session, &task, args, &found).await?;
        // The pods that remain are those of the last iterations.
        if !matches!(args.iteration, Some(Which::All)) {
            return Ok(());
        }
        for attempt in &found {
            ruler(session, args, attempt.number(), &attempt.pod.name_any())?;
            show(session, args, attempt).await?;
        }
        return Ok(());
    }
    match args.iteration {
        Some(Which::All) => {}
        Some(Which::Number(number)) => found.retain(|attempt| attempt.iteration == number),
        None => {
            let last = found.iter().rposition(Tried::has_started).unwrap_or(found.len().saturating_sub(1));
            found = found.into_iter().skip(last).collect();
        }
    }
    if args.follow {
        return follow(session, args, found).await;
    }
    if found.is_empty() {
        return Err(missing(&task, args));
    }
    let with_rulers = found.len() > 1;
    for attempt in &found {
        if with_rulers {
            ruler(session, args, attempt.number(), &attempt.pod.name_any())?;
        }
        show(session, args, attempt).await?;
    }
    Ok(())
}

/// Whether iterations are meant whose pods are gone, and whose transcripts may be in the workspace.
fn needs_transcripts(task: &AgentTask, found: &[Tried], which: Option<Which>) -> bool {
    let counted = task.status.as_ref().map_or(0, |status| status.iterations);
    let has = |number| found.iter().any(|attempt| attempt.iteration == number);
    let gone = match which {
        Some(Which::All) => (1..=counted).any(|number| !has(number)),
        Some(Which::Number(number)) => number <= counted && !has(number),
        None => found.is_empty() && counted > 0,
    };
    gone && reader::claim(task).is_ok()
}

/// Why there is no log.
fn missing(task: &AgentTask, args: &LogsArgs) -> Failure {
    let which = match args.iteration {
        Some(Which::Number(number)) => format!("iteration {number} of {}", output::name(task)),
        _ => output::name(task),
    };
    Failure::new(format!("there is no pod of {which}, so there is no log: {}", message(task)))
}

/// Shows each pod until the task stops.
async fn follow(session: &Session, args: &LogsArgs, mut found: Vec<Tried>) -> Result<(), Failure> {
    let mut shown = None;
    let mut any = found.len() > 1;
    loop {
        let before = shown;
        for attempt in found.iter().filter(|attempt| Some(attempt.number()) > before && attempt.has_started())
        {
            if any {
                ruler(session, args, attempt.number(), &attempt.pod.name_any())?;
            }
            any = true;
            show(session, args, attempt).await?;
            shown = Some(attempt.number());
        }
        if matches!(args.iteration, Some(Which::Number(_))) && shown.is_some() {
            return Ok(());
        }
        let task: AgentTask = session.task(&args.name).await.map_err(|_| gone(session, &args.name))?;
        found = attempts(session.pods_of(&task).await?);
        match args.iteration {
            Some(Which::Number(number)) => found.retain(|attempt| attempt.iteration == number),
            // Only what comes next.
            None if shown.is_none() => {
                let last = found.len().saturating_sub(1);
                found = found.into_iter().skip(last).collect();
            }
            _ => {}
        }
        let news = found.iter().any(|attempt| Some(attempt.number()) > shown && attempt.has_started());
        if !news {
            if stop_code(&task).is_some() {
                note(&message(&task));
                return Ok(());
            }
            time::sleep(POLL).await;
        }
    }
}

pub(super) fn ruler(
    session: &Session,
    args: &LogsArgs,
    (iteration, attempt): (i32, i32),
    source: &str,
) -> Result<(), Failure> {
    let attempt = if attempt == 0 { String::new() } else { format!(", attempt {attempt}") };
    let text = format!("── iteration {iteration}{attempt} ── {}", line(source));
    if args.raw {
        // The output is that of the agents and nothing else.
        note(&text);
        return Ok(());
    }
    print(&[session.terminal.style.paint(Some(Colour::Bold), &text)])
}

/// Shows the log of one pod.
async fn show(session: &Session, args: &LogsArgs, attempt: &Tried) -> Result<(), Failure> {
    let name = attempt.pod.name_any();
    let namespace = attempt.pod.namespace().unwrap_or_else(|| session.namespace.clone());
    let api: Api<Pod> = session.api(&namespace);
    let params = LogParams {
        container: attempt.container().map(str::to_owned),
        follow: args.follow,
        tail_lines: args.tail,
        ..LogParams::default()
    };
    let request =
        Request { verb: "get", resource: "pods/log", name: Some(&name), namespace: Some(&namespace) };
    let stream = session.answer(request, api.log_stream(&name, &params)).await?;
    let mut transcript = Transcript::new(session.terminal.style, args.raw);
    copy(Box::pin(stream), &mut transcript, args.raw && !session.terminal.live).await
}

/// Shows a log. Without a terminal, a raw log is copied byte by byte.
pub(super) async fn copy(
    mut log: impl AsyncRead + Unpin,
    transcript: &mut Transcript,
    bytes: bool,
) -> Result<(), Failure> {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = log.read(&mut buffer).await.map_err(|error| {
            Failure::new(format!("the log was cut off: {}; try again", line(&error.to_string())))
        })?;
        let read = buffer.get(..count).unwrap_or_default();
        if bytes {
            crate::session::print_bytes(read)?;
        } else {
            let complete = if count == 0 { lines.end() } else { lines.push(read) };
            let shown: Vec<String> = complete.iter().flat_map(|line| transcript.line(line)).collect();
            print(&shown)?;
        }
        if count == 0 {
            return print(&transcript.end());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(iteration: &str, attempt: &str, state: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "p", "labels": { LABEL_ITERATION: iteration, LABEL_ATTEMPT: attempt },
                "annotations": { ANNOTATION_AGENT: "agent" },
            },
            "status": { "containerStatuses": [
                { "name": "sidecar", "state": { "running": {} }, "image": "", "imageID": "", "ready": true, "restartCount": 0 },
                { "name": "agent", "state": state, "image": "", "imageID": "", "ready": true, "restartCount": 0 },
            ] },
        }))
        .expect("a pod")
    }

    #[test]
    fn pods_are_in_the_order_of_iterations_and_attempts() {
        let pods = vec![
            pod("10", "0", &json!({})),
            pod("9", "1", &json!({})),
            pod("9", "0", &json!({})),
            Pod::default(),
        ];
        let numbers: Vec<_> = attempts(pods).iter().map(Tried::number).collect();
        assert_eq!(numbers, [(9, 0), (9, 1), (10, 0)]);
    }

    #[test]
    fn a_pod_has_a_log_once_its_agent_has_started() {
        let started = |state| attempts(vec![pod("1", "0", &state)]).first().expect("a pod").has_started();
        assert!(started(json!({ "running": {} })));
        assert!(started(json!({ "terminated": { "exitCode": 0 } })));
        assert!(!started(json!({ "waiting": { "reason": "ContainerCreating" } })));
    }
}
