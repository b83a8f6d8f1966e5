//! Follows tasks until they stop.

use std::pin::Pin;

use agentloop_core::api::{AgentTask, Phase};
use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};

use crate::failure::{Failure, Request, exit};
use crate::session::Session;
use crate::text::line;

/// The states of one task; `None` when it does not exist.
pub(super) type States = Pin<Box<dyn Stream<Item = Result<Option<AgentTask>, Failure>> + Send>>;

/// Watches one task. A connection that breaks is opened again; a refusal ends the watch.
pub(super) fn states(session: &Session, name: &str) -> States {
    let api: Api<AgentTask> = session.api(&session.namespace);
    let (name, namespace) = (name.to_owned(), session.namespace.clone());
    let watched = watcher::watch_object(api, &name).default_backoff();
    Box::pin(watched.filter_map(move |state| {
        let answer = match state {
            Ok(task) => Some(Ok(task)),
            Err(error) => refusal(&error).map(|error| {
                let request = Request {
                    verb: "watch",
                    resource: "agenttasks",
                    name: Some(&name),
                    namespace: Some(&namespace),
                };
                Err(request.failed(&error))
            }),
        };
        async move { answer }
    }))
}

/// An error that does not go away by itself.
pub(super) fn refusal(error: &watcher::Error) -> Option<kube::Error> {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return None;
    };
    matches!(status.code, 401 | 403 | 404).then(|| kube::Error::Api(status.clone()))
}

/// The exit code of a stopped task, and `None` while it is not stopped. A stop that the operator has not yet compared
/// with the last change of the spec may be over.
pub(super) fn stop_code(task: &AgentTask) -> Option<u8> {
    let status = task.status.as_ref()?;
    let stop = status.stop.as_ref()?;
    let outdated = status.observed_generation.is_some_and(|seen| Some(seen) < task.metadata.generation);
    if outdated && stop.phase != Phase::Succeeded {
        return None;
    }
    if task.spec.suspend && stop.phase != Phase::Succeeded {
        return None;
    }
    Some(match stop.phase {
        Phase::Succeeded => exit::OK,
        Phase::IterationLimitReached => exit::LIMIT,
        Phase::CircuitOpen => exit::BREAKER,
        Phase::Failed => exit::FAILED,
        _ => exit::ERROR,
    })
}

/// The failure of a command whose task was deleted meanwhile.
pub(super) fn gone(session: &Session, name: &str) -> Failure {
    Failure::new(format!(
        "agenttask.agentloop.dev/{} does not exist in namespace {}, or was deleted",
        line(name),
        line(&session.namespace)
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::tests::task;

    #[test]
    fn each_stop_has_its_exit_code() {
        let code = |change| stop_code(&task(&change));
        let stopped = |phase: &str| json!({ "status": { "stop": { "phase": phase } } });
        for (phase, expected) in [
            ("Succeeded", exit::OK),
            ("IterationLimitReached", exit::LIMIT),
            ("CircuitOpen", exit::BREAKER),
            ("Failed", exit::FAILED),
            ("OfANewerVersion", exit::ERROR),
        ] {
            assert_eq!(code(stopped(phase)), Some(expected), "{phase}");
        }
        assert_eq!(code(json!({ "status": { "stop": null } })), None);
    }

    #[test]
    fn a_stop_that_may_be_over_is_no_stop() {
        let resumed = json!({ "metadata": { "generation": 3 }, "status": { "observedGeneration": 2 } });
        assert_eq!(stop_code(&task(&resumed)), None);
        let suspended = json!({ "spec": { "suspend": true } });
        assert_eq!(stop_code(&task(&suspended)), None);
    }
}
