//! The context that the runner gets about its iteration.

use agentloop_contract::{
    completion_gate::CompletionGate,
    context::{self, Context},
    report,
};
use kube::ResourceExt;

use super::verify_timeout;
use crate::{
    api::{
        ActiveIteration, AgentTask, BreakerStatus, CompletionPolicy, LoopContext, PastIteration, Thresholds,
        WorkspaceChange,
    },
    settings::Settings,
};

/// The part of the context that depends on the pod.
pub(super) struct PodContext {
    /// The pod's grace period in seconds.
    pub(super) grace: i64,
    /// The number of containers and init containers.
    pub(super) containers: usize,
    /// The agent's container sets no working directory.
    pub(super) start_in_workspace: bool,
    /// The agent's container does not allow gaining privileges.
    pub(super) no_new_privileges: bool,
}

pub(super) fn of(
    task: &AgentTask,
    active: &ActiveIteration,
    thresholds: &Thresholds,
    streaks: &BreakerStatus,
    history: &[PastIteration],
    settings: &Settings,
    pod: &PodContext,
) -> Context {
    let spec = &task.spec;
    let grace = pod.grace;
    Context {
        version: context::VERSION,
        task: context::Task {
            namespace: task.namespace().unwrap_or_default(),
            name: task.name_any(),
            uid: task.uid().unwrap_or_default(),
        },
        iteration: active.iteration,
        max_iterations: thresholds.effective_limit(),
        attempt: active.attempt,
        workspace: spec.workspace.mount_path.clone(),
        workspace_stays: spec.workspace.volume_claim_template.is_some()
            || spec.workspace.persistent_volume_claim.is_some(),
        ignore: spec.workspace.ignore.clone(),
        loop_context: match spec.loop_context.unwrap_or_default() {
            LoopContext::InPrompt => context::LoopContext::InPrompt,
            LoopContext::FileOnly => context::LoopContext::FileOnly,
        },
        policy: match spec.policy() {
            CompletionPolicy::Gate => context::Policy::Gate,
            CompletionPolicy::ExitCode => context::Policy::ExitCode,
            CompletionPolicy::Verify => context::Policy::Verify,
        },
        verify: spec.verify().map(|verify| context::Verify {
            command: verify.command.clone(),
            timeout_seconds: verify_timeout(verify),
        }),
        iteration_timeout_seconds: thresholds.iteration_timeout_seconds.value.max(1).into(),
        // The runner needs the rest of the grace period to stop remaining processes, to compare the workspace and to
        // report, which takes up to 15 s.
        grace_seconds: (grace / 3).max(1),
        retry_on_exit_codes: spec.retry_on_exit_codes().to_vec(),
        start_in_workspace: pod.start_in_workspace,
        no_new_privileges: pod.no_new_privileges,
        exit_grace_seconds: settings.agent_exit_grace_seconds,
        transcripts: context::Transcripts {
            iterations: settings.transcript_iterations,
            bytes: settings.transcript_mebibytes.saturating_mul(1 << 20),
        },
        report_limit_bytes: report::limit_bytes(pod.containers),
        breaker: context::Breaker {
            consecutive_no_change: streaks.consecutive_no_change,
            no_change_threshold: thresholds.no_change.value,
            consecutive_same_error: streaks.consecutive_same_error,
            same_error_threshold: thresholds.same_error.value,
        },
        history: history.iter().take(3).map(past).collect(),
    }
}

fn past(entry: &PastIteration) -> context::Past {
    context::Past {
        iteration: entry.iteration,
        outcome: entry.outcome.to_string(),
        exit_code: entry.exit_code,
        changed: match entry.changed {
            WorkspaceChange::Changed => report::Change::Changed,
            WorkspaceChange::Unchanged => report::Change::Unchanged,
            WorkspaceChange::Unknown | WorkspaceChange::Other(_) => report::Change::Unknown,
        },
        gate: entry.gate.as_ref().map(|gate| CompletionGate {
            ready: gate.ready,
            reason: gate.reason.clone(),
            progress: gate.progress.clone(),
            blockers: gate.blockers.clone(),
        }),
        error: entry.error.clone(),
    }
}
