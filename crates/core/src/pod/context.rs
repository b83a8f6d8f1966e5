//! What the runner is told of its iteration.

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

/// What the pod itself says of it.
pub(super) struct OfPod {
    /// The pod's grace period in seconds.
    pub(super) grace: i64,
    /// Containers and init containers.
    pub(super) containers: usize,
    /// The agent's container names no folder to start in.
    pub(super) start_in_workspace: bool,
    /// The agent's container lets nobody gain privileges.
    pub(super) no_new_privileges: bool,
}

pub(super) fn of(
    task: &AgentTask,
    active: &ActiveIteration,
    thresholds: &Thresholds,
    streaks: &BreakerStatus,
    history: &[PastIteration],
    settings: &Settings,
    pod: &OfPod,
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
        // The rest of the kubelet's grace is the runner's: to end what the agent left, to look at the
        // workspace once more and to report takes it up to 15 s.
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
