//! What goes wrong: which object, what is wrong with it, and what to do.

use std::fmt;

use kube::core::Status;

use crate::text;

/// What the process's exit code means.
pub mod exit {
    /// Done. For `run --watch` and `wait`: the task succeeded.
    pub const OK: u8 = 0;
    /// Failed; standard error says why.
    pub const ERROR: u8 = 1;
    /// Wrong usage (the code that clap uses).
    pub const USAGE: u8 = 2;
    /// The task reached its limit of iterations.
    pub const LIMIT: u8 = 10;
    /// The circuit breaker stopped the task.
    pub const BREAKER: u8 = 11;
    /// The task failed.
    pub const FAILED: u8 = 12;
    /// The time that `--timeout` allows is over.
    pub const TIMEOUT: u8 = 124;
}

/// Why a command ends without success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// One sentence or more, without control characters.
    pub text: String,
}

impl Failure {
    /// Any failure.
    pub fn new(text: impl Into<String>) -> Self {
        Self { code: exit::ERROR, text: text.into() }
    }

    /// The command line is wrong.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: exit::USAGE, text: text.into() }
    }

    /// The time is over.
    pub fn timeout(text: impl Into<String>) -> Self {
        Self { code: exit::TIMEOUT, text: text.into() }
    }
}

impl From<std::io::Error> for Failure {
    /// An error while printing. A reader that has closed the pipe has seen enough: the command ends without a word, but
    /// in the ordinary way, so that what it created is removed.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self { code: exit::OK, text: String::new() };
        }
        Self::new(format!("cannot write the output: {error}"))
    }
}

/// What a request is for: the words of its failure.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The verb of RBAC.
    pub verb: &'a str,
    /// The resource as RBAC names it, such as `agenttasks` or `pods/log`.
    pub resource: &'a str,
    /// The object, if it is one.
    pub name: Option<&'a str>,
    /// The namespace; none: all namespaces.
    pub namespace: Option<&'a str>,
}

/// Resources that are in namespaces, if a request is not for one of them.
const NAMESPACED: [&str; 2] = ["agenttasks", "deployments"];

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(name) = self.name {
            write!(f, " \"{}\"", text::line(name))?;
        }
        match self.namespace {
            Some(namespace) => write!(f, " in namespace \"{}\"", text::line(namespace)),
            None if NAMESPACED.contains(&self.resource) => write!(f, " in all namespaces"),
            None => Ok(()),
        }
    }
}

impl Request<'_> {
    /// The failure of this request.
    pub fn failed(&self, error: &kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) => Failure::new(self.refused(status)),
            kube::Error::SerdeError(error) => Failure::new(format!(
                "cannot {self}: the answer of the API server cannot be read ({error}); is this version of the plugin \
                 older than the operator? See kubectl agentloop version"
            )),
            other => Failure::new(format!(
                "cannot {self}: {}; check the cluster with kubectl cluster-info, or choose another with --context",
                text::line(&chain(other))
            )),
        }
    }

    fn refused(&self, status: &Status) -> String {
        let said = text::line(&status.message);
        let place = self.namespace.map(|name| format!(" -n {name}")).unwrap_or_default();
        match (status.code, self.name) {
            (404, Some(_)) if is_object(status) => {
                let list = match self.resource {
                    "agenttasks" => format!("kubectl agentloop list{place} shows the tasks there; -A those of all"),
                    other => format!("kubectl{place} get {other} shows what is there"),
                };
                format!("{self}: not found; {list}")
            }
            (404, _) if self.resource == "agenttasks" => "this cluster does not know agenttasks.agentloop.dev: \
                 agentloop is not installed here (kubectl agentloop doctor says more), or choose another cluster with \
                 --context"
                .to_owned(),
            (401, _) => format!("cannot {self}: the cluster does not accept your credentials: {said}"),
            (403, _) => {
                let (resource, below) = self.resource.split_once('/').unwrap_or((self.resource, ""));
                let below = if below.is_empty() { String::new() } else { format!(" --subresource={below}") };
                format!(
                    "cannot {self}: you have no right to ({said}); ask an administrator for the verb {} on {}, or check \
                     with kubectl{place} auth can-i {} {resource}{below}",
                    self.verb, self.resource, self.verb
                )
            }
            (409, _) => format!("cannot {self}: it was changed meanwhile: {said}; try again"),
            _ => format!("cannot {self}: {said}"),
        }
    }
}

/// Whether a 404 is about an object, and not about its kind.
fn is_object(status: &Status) -> bool {
    status.details.as_ref().is_some_and(|details| !details.name.is_empty())
}

/// An error with its causes: kube's text often says only "client error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Request<'_> =
        Request { verb: "get", resource: "agenttasks", name: Some("idle"), namespace: Some("dev") };

    fn refused(code: u16, message: &str) -> String {
        let status = Status::failure(message, "words").with_code(code);
        GET.failed(&kube::Error::Api(Box::new(status))).text
    }

    #[test]
    fn an_object_that_does_not_exist_is_named_with_the_command_that_lists_the_others() {
        let status: Status = serde_json::from_value(serde_json::json!({
            "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found",
            "details": { "name": "idle", "kind": "agenttasks" },
        }))
        .unwrap();
        let text = GET.failed(&kube::Error::Api(Box::new(status))).text;
        assert_eq!(
            text,
            "get agenttasks \"idle\" in namespace \"dev\": not found; kubectl agentloop list -n dev shows the tasks there; -A those of all"
        );
    }

    #[test]
    fn a_kind_that_does_not_exist_means_that_agentloop_is_not_installed() {
        assert!(refused(404, "page not found").contains("agentloop is not installed here"));
    }

    #[test]
    fn a_missing_right_is_named_as_rbac_names_it() {
        let text = refused(403, "user \"u\" cannot \u{1b}[31mget");
        assert!(text.contains("the verb get on agenttasks"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
