//! Whether a termination message is a report of the runner.
//!
//! The operator puts a random key into the pod, and the runner signs its report with it. Nobody else in the
//! pod can read the key, but for what the kubelet executes in the agent's container: probes and lifecycle
//! hooks see the container's whole environment. Where there is no key, or somebody else may have it, the
//! container's exit code must confirm the report: whoever writes one and then has the runner killed leaves
//! another.

use agentloop_contract::{
    mac::{self, Signature},
    names::env::REPORT_KEY,
    report::{End, Error, Report},
};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};

/// Said of a runner that knows of no key.
const OLD_RUNNER: &str = "the runner's image is older than the operator: it does not sign its reports";

/// A message, and what vouches for it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Origin {
    /// The report that counts.
    pub report: Option<Report>,
    /// The pod has a key.
    pub keyed: bool,
    /// The key alone vouches for the report.
    pub authentic: bool,
}

/// Reads what the agent's container left as its termination message, and what vouches for it.
pub(super) fn read(agent: Option<&Container>, message: &str, exit_code: Option<i32>) -> Origin {
    let report = Report::decode(message).ok();
    let Some(key) = agent.and_then(key) else {
        return Origin { report: report.filter(|report| report.agrees_with(exit_code)), ..Origin::default() };
    };
    let nothing = Origin { keyed: true, ..Origin::default() };
    let Some(report) = report else { return nothing };
    match mac::check(message, key.as_bytes()) {
        // Notes that a runner leaves on its way have no code, and say nothing of an end.
        Signature::Valid if !is_final(&report) => nothing,
        Signature::Valid if !agent.is_some_and(executes_beside) => {
            Origin { report: Some(report), authentic: true, ..nothing }
        }
        Signature::Valid if report.agrees_with(exit_code) => Origin { report: Some(report), ..nothing },
        // Only a report that its exit code confirms is that of a runner: without it, somebody wrote it.
        Signature::Absent if report.agrees_with(exit_code) => {
            let old = Report { error: Some(Error::new(OLD_RUNNER)), ..Report::of(End::RunnerFailed) };
            Origin { report: Some(old), ..nothing }
        }
        Signature::Valid | Signature::Absent | Signature::Invalid => nothing,
    }
}

/// The key: of several variables of one name, the last counts. One without a value of its own is none.
fn key(agent: &Container) -> Option<&str> {
    let last = agent.env.iter().flatten().rev().find(|variable| variable.name == REPORT_KEY)?;
    last.value.as_deref().filter(|value| !value.is_empty())
}

/// Whether the kubelet executes commands in the agent's container, beside the runner.
fn executes_beside(agent: &Container) -> bool {
    let probes = [&agent.liveness_probe, &agent.readiness_probe, &agent.startup_probe];
    let hooks = agent.lifecycle.iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
    let by_probe = |probe: &Probe| probe.exec.is_some();
    let by_hook = |hook: &LifecycleHandler| hook.exec.is_some();
    probes.into_iter().flatten().any(by_probe) || hooks.flatten().any(by_hook)
}

/// An agent that ended by itself has a code or a signal.
fn is_final(report: &Report) -> bool {
    report.end != End::Exited || report.exit_code.is_some() || report.signal.is_some()
}
