//! Scheduler, kubelets and nodes: what happens to a pod.

use std::sync::Arc;

use crate::api::{AgentProgress, AgentRun, Deletion, ModelPod, ModelPods, PodEnd, PodExecution, PodProgress};
use crate::invariants;
use crate::server::change_pod;
use crate::state::ModelState;

/// One thing that happens to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodEvent {
    /// The scheduler binds it to a node.
    Bind,
    /// Its agent starts, whatever the API shows yet.
    StartAgent,
    /// The kubelet reports that the agent runs.
    ReportRunning,
    /// It ends, and the kubelet reports so.
    End(PodEnd),
    /// Its node stops reporting; the agent continues.
    NodeGoesSilent,
    NodeReturns,
    /// An administrator says that the node is off, and it is: the pod garbage collector ends the pod.
    CollectByPodGc,
    /// Its deletion was requested so long ago that its node counts as silent.
    DeletionAges,
}

/// What can happen to a pod; `ends` are those of an agent that runs.
pub fn possible_events(state: &ModelState, pod: &ModelPod, ends: &[PodEnd], out: &mut Vec<PodEvent>) {
    let Some(execution) = state.execution(pod.uid).copied() else { return };
    if pod.has_ended() || pod.foreign {
        return;
    }
    if !pod.bound {
        if !pod.has_scheduling_gate && pod.deletion == Deletion::No {
            out.push(PodEvent::Bind);
        }
        return;
    }
    if execution.is_node_silent {
        out.push(PodEvent::NodeReturns);
        out.push(PodEvent::CollectByPodGc);
        if pod.deletion == Deletion::Requested {
            out.push(PodEvent::DeletionAges);
        }
    } else if state.budget.silent_nodes > 0 {
        out.push(PodEvent::NodeGoesSilent);
    }
    match execution.agent {
        AgentProgress::NotStarted if !execution.is_node_silent => {
            // Even if it is being deleted: the kubelet may not have seen that yet.
            out.push(PodEvent::StartAgent);
            if pod.deletion != Deletion::No || state.budget.failed_starts > 0 {
                out.push(PodEvent::End(PodEnd::NeverStarted));
            }
        }
        AgentProgress::Running if !execution.is_node_silent => {
            if pod.progress == PodProgress::Pending {
                out.push(PodEvent::ReportRunning);
            }
            if pod.deletion != Deletion::No {
                out.push(PodEvent::End(PodEnd::Interrupted));
            }
            for (index, end) in ends.iter().enumerate() {
                if index == 0 || state.budget.odd_ends > 0 {
                    out.push(PodEvent::End(*end));
                }
            }
        }
        _ => {}
    }
}

/// The event happens.
pub fn happen(state: &mut ModelState, uid: u8, event: PodEvent, usual: PodEnd) {
    let Some(pod) = state.pod(uid).copied() else { return };
    match event {
        PodEvent::Bind => {
            change_pod(state, uid, |pod| {
                pod.bound = true;
                true
            });
        }
        PodEvent::StartAgent => {
            invariants::check_agent_start(state, &pod);
            change_execution(state, uid, |execution| execution.agent = AgentProgress::Running);
            state.agent_runs.push(AgentRun { of: pod.of, goal: pod.goal, end: None });
            state.agent_runs.sort_unstable();
        }
        PodEvent::ReportRunning => report(state, uid, PodProgress::Running),
        PodEvent::End(end) => {
            match end {
                PodEnd::NeverStarted if pod.deletion == Deletion::No => state.budget.failed_starts -= 1,
                PodEnd::NeverStarted | PodEnd::Interrupted => {}
                end if end != usual => state.budget.odd_ends -= 1,
                _ => {}
            }
            state.agent_runs.iter_mut().filter(|run| run.of == pod.of).for_each(|run| run.end = Some(end));
            state.agent_runs.sort_unstable();
            change_execution(state, uid, |execution| execution.agent = AgentProgress::Ended);
            report(state, uid, PodProgress::Ended(end));
        }
        PodEvent::NodeGoesSilent => {
            state.budget.silent_nodes -= 1;
            change_execution(state, uid, |execution| execution.is_node_silent = true);
        }
        PodEvent::NodeReturns => {
            change_execution(state, uid, |execution| execution.is_node_silent = false);
        }
        PodEvent::CollectByPodGc => {
            change_execution(state, uid, |execution| {
                execution.agent = AgentProgress::Ended;
                execution.is_node_silent = false;
            });
            change_pod(state, uid, |pod| {
                pod.progress = PodProgress::Ended(PodEnd::CollectedByPodGc);
                if pod.deletion == Deletion::No {
                    pod.deletion = Deletion::Requested;
                }
                true
            });
        }
        PodEvent::DeletionAges => age_deletion(state, uid),
    }
}

fn report(state: &mut ModelState, uid: u8, progress: PodProgress) {
    change_pod(state, uid, |pod| {
        pod.progress = progress;
        true
    });
}

fn change_execution(state: &mut ModelState, uid: u8, change: impl FnOnce(&mut PodExecution)) {
    state.executions.iter_mut().find(|execution| execution.pod == uid).map(change);
}

/// Time passes after the request to delete a pod. Everyone who knows of the request notices, without any write.
fn age_deletion(state: &mut ModelState, uid: u8) {
    let age_in = |pods: &mut ModelPods| {
        if pods.iter().any(|pod| pod.uid == uid && pod.deletion == Deletion::Requested) {
            Arc::make_mut(pods).iter_mut().filter(|pod| pod.uid == uid).for_each(age);
        }
    };
    age_in(&mut state.pods);
    state.replica.iter_mut().for_each(|replica| age_in(&mut replica.1));
    for operator in &mut state.operators {
        age_in(&mut operator.pods);
        operator.memory.answers().1.filter(|pod| pod.uid == uid).for_each(age);
    }
}

fn age(pod: &mut ModelPod) {
    if pod.deletion == Deletion::Requested {
        pod.deletion = Deletion::RequestedLongAgo;
    }
}
