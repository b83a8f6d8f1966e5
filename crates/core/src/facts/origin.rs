//! Whether a termination message is a report of the runner.
//!
//! The operator puts a random key into the pod, and the runner signs its report with it. Nothing else in the pod can
//! read the key, except commands that the kubelet executes in the agent's container: probes and lifecycle hooks see the
//! whole environment of the container. If there is no key, or if such a command may have read it, the exit code of the
//! container must confirm the report: a program that writes a report and then kills the runner leaves another exit
//! code.

use agentloop_contract::{
    mac::{self, Signature},
    names::env::REPORT_KEY,
    report::{End, Error, Report},
};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};

/// The error of a runner that does not sign its report.
const OLD_RUNNER: &str = "the runner's image is older than the operator: it does not sign its reports";

/// A report, and how far it is proven to come from the runner.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Origin {
    /// The report that counts.
    pub report: Option<Report>,
    /// The pod has a key.
    pub keyed: bool,
    /// The signature alone proves the origin.
    pub authentic: bool,
}

/// Reads the termination message of the agent's container.
pub(super) fn read(agent: Option<&Container>, message: &str, exit_code: Option<i32>) -> Origin {
    let report = Report::decode(message).ok();
    let Some(key) = agent.and_then(key) else {
        return Origin { report: report.filter(|report| report.agrees_with(exit_code)), ..Origin::default() };
    };
    let nothing = Origin { keyed: true, ..Origin::default() };
    let Some(report) = report else { return nothing };
    match mac::check(message, key.as_bytes()) {
        // A report that a runner writes before the agent has ended has neither a code nor a signal: it does not count.
        Signature::Valid if !is_final(&report) => nothing,
        Signature::Valid if !agent.is_some_and(executes_beside) => {
            Origin { report: Some(report), authentic: true, ..nothing }
        }
        Signature::Valid if report.agrees_with(exit_code) => Origin { report: Some(report), ..nothing },
        // If the exit code does not confirm an unsigned report, another program may have written it.
        Signature::Absent if report.agrees_with(exit_code) => {
            let old = Report { error: Some(Error::new(OLD_RUNNER)), ..Report::of(End::RunnerFailed) };
            Origin { report: Some(old), ..nothing }
        }
        Signature::Valid | Signature::Absent | Signature::Invalid => nothing,
    }
}

/// The key. If several variables have its name, the last one counts. It must have a literal value.
fn key(agent: &Container) -> Option<&str> {
    let last = agent.env.iter().flatten().rev().find(|variable| variable.name == REPORT_KEY)?;
    last.value.as_deref().filter(|value| !value.is_empty())
}

/// Whether the kubelet executes commands in the agent's container besides the runner.
fn executes_beside(agent: &Container) -> bool {
    let probes = [&agent.liveness_probe, &agent.readiness_probe, &agent.startup_probe];
    let hooks = agent.lifecycle.iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
    let by_probe = |probe: &Probe| probe.exec.is_some();
    let by_hook = |hook: &LifecycleHandler| hook.exec.is_some();
    probes.into_iter().flatten().any(by_probe) || hooks.flatten().any(by_hook)
}

/// If the agent ended by itself, a final report has its exit code or signal.
fn is_final(report: &Report) -> bool {
    report.end != End::Exited || report.exit_code.is_some() || report.signal.is_some()
}
