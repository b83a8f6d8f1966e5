//! Injects the faults of a plan when their moments are reached.
//!
//! The proxy calls it for every request and every response, the kubelet for every agent that runs, and the runner for
//! every stop of the task.

use std::sync::Arc;
use std::time::Duration;

use agentloop_test_support::invariants::Invariant;
use agentloop_test_support::json;
use anyhow::Result;
use serde_json::Value;
use tokio::time;

use crate::buffered::{BufferedRequest, BufferedResponse};
use crate::classify::RequestClass;
use crate::experiment::{Experiment, InProgress};
use crate::history::NamespaceHistory;
use crate::plan::{InjectedFault, Meanwhile, Moment, RequestKind, Until};
use crate::user;

/// The longest time for which a request or a process is paused.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The longest time for which a request is deferred.
const LONGEST_DEFERRAL: Duration = Duration::from_mins(2);
/// The longest wait for more writes: they may never come.
const LONGEST_WAIT_FOR_WRITES: Duration = Duration::from_secs(4);
/// How long a late creation waits for the end of an earlier pod with the same name.
const WAIT_FOR_NAME: Duration = Duration::from_secs(3);
/// Longer than any operator waits for a response.
const STALL: Duration = Duration::from_secs(20);
/// How long an operator whose request is deferred waits for the response, unless it gives up earlier.
const DEFERRED_RESPONSE: Duration = Duration::from_secs(6);
/// The delay of the watches of an operator that is served stale lists.
const LATE_WATCHES: Duration = Duration::from_secs(1);

/// What happens to a request or to its response.
pub enum Disposition {
    /// It is passed on.
    Pass,
    /// The operator gets this response.
    Respond(BufferedResponse),
    /// The operator gets no response.
    Drop,
}

/// Injects the faults that the plan has for a request that has arrived.
pub async fn before(
    experiment: &Arc<Experiment>,
    index: usize,
    numbers: &[(RequestKind, u32)],
    request: &BufferedRequest,
) -> Result<Disposition> {
    let is_reached = |at| numbers.iter().any(|(kind, n)| at == Moment::Before(*kind, *n));
    let mut disposition = Disposition::Pass;
    for fault in experiment.schedule.due(is_reached) {
        let in_progress = experiment.begin();
        match fault {
            InjectedFault::Kill | InjectedFault::KillAndServeStaleLists => {
                kill(experiment, index, fault == InjectedFault::KillAndServeStaleLists).await?;
                disposition = Disposition::Drop;
            }
            InjectedFault::Refuse(code) => disposition = Disposition::Respond(BufferedResponse::error(code)),
            InjectedFault::Stall => {
                drop(in_progress);
                time::sleep(STALL).await;
                disposition = Disposition::Drop;
            }
            InjectedFault::Defer(until, meanwhile) => {
                defer(experiment, request, until, in_progress);
                match meanwhile {
                    Meanwhile::Cut => {}
                    Meanwhile::Wait => time::sleep(DEFERRED_RESPONSE).await,
                    Meanwhile::Kill => kill(experiment, index, false).await?,
                }
                disposition = Disposition::Drop;
            }
            InjectedFault::DelayCreate => {
                experiment.lists.keep(&experiment.server, &experiment.history.namespace).await?;
                delay_create(experiment, index, request, in_progress);
                disposition = Disposition::Drop;
            }
            fault => perform(experiment, index, fault, Some(request)).await?,
        }
    }
    if matches!(disposition, Disposition::Pass) {
        let is_status = numbers.iter().any(|(kind, _)| *kind == RequestKind::Status);
        match experiment.refusals.count(is_status) {
            Ok(None) => {}
            Ok(Some(code)) => disposition = Disposition::Respond(BufferedResponse::error(code)),
            Err(what) => experiment.report_violation(Invariant::L3, what),
        }
    }
    Ok(disposition)
}

/// Injects the faults that the plan has for a response on its way to the operator.
pub async fn after(
    experiment: &Arc<Experiment>,
    index: usize,
    numbers: &[(RequestKind, u32)],
) -> Result<Disposition> {
    let is_reached = |at| numbers.iter().any(|(kind, n)| at == Moment::After(*kind, *n));
    let mut disposition = Disposition::Pass;
    for fault in experiment.schedule.due(is_reached) {
        let _in_progress = experiment.begin();
        match fault {
            InjectedFault::Kill | InjectedFault::KillAndServeStaleLists => {
                kill(experiment, index, fault == InjectedFault::KillAndServeStaleLists).await?;
                disposition = Disposition::Drop;
            }
            InjectedFault::Lose => disposition = Disposition::Drop,
            fault => perform(experiment, index, fault, None).await?,
        }
    }
    Ok(disposition)
}

/// Injects the faults that the plan has for a running agent. Returns whether its pod is about to be stopped.
pub async fn agent_runs(experiment: &Arc<Experiment>, iteration: i32) -> Result<bool> {
    let mut stops = false;
    for fault in experiment.schedule.due(|at| at == Moment::Running(iteration)) {
        let _in_progress = experiment.begin();
        stops |= fault.stops_the_pod();
        perform(experiment, 0, fault, None).await?;
    }
    Ok(stops)
}

/// Injects the faults that the plan has for a stopped task. Returns whether there were any.
pub async fn task_stopped(experiment: &Arc<Experiment>, count: u32) -> Result<bool> {
    let faults = experiment.schedule.due(|at| at == Moment::Stopped(count));
    let any = !faults.is_empty();
    for fault in faults {
        let _in_progress = experiment.begin();
        perform(experiment, 0, fault, None).await?;
    }
    Ok(any)
}

/// Carries out the request later, even if the operator has been killed by then.
fn defer(experiment: &Arc<Experiment>, request: &BufferedRequest, until: Until, in_progress: InProgress) {
    let (experiment, request) = (experiment.clone(), request.clone());
    tokio::spawn(async move {
        wait(&experiment, until, LONGEST_DEFERRAL).await;
        wait_for_name(&experiment, &request).await;
        if let Err(error) = pass_late(&experiment, request).await {
            experiment.report_problem(&error);
        }
        drop(in_progress);
    });
}

/// Carries out the creation once its iteration is over, while an operator starts that is served stale lists.
fn delay_create(
    experiment: &Arc<Experiment>,
    index: usize,
    request: &BufferedRequest,
    in_progress: InProgress,
) {
    let (experiment, request) = (experiment.clone(), request.clone());
    tokio::spawn(async move {
        wait(&experiment, Until::MovedOn, LONGEST_DEFERRAL).await;
        wait_for_name(&experiment, &request).await;
        let create = async {
            experiment.operator(index)?.kill().await?;
            pass_late(&experiment, request).await?;
            kill(&experiment, index, true).await
        };
        if let Err(error) = create.await {
            experiment.report_problem(&error);
        }
        drop(in_progress);
    });
}

async fn pass_late(experiment: &Experiment, mut request: BufferedRequest) -> Result<()> {
    if let Some(mutator) = &experiment.mutator {
        let class = RequestClass::of(&request.method, &request.path, &request.query, &request.body);
        mutator.before(&class, &mut request).await?;
    }
    experiment.pass(&request).await?;
    Ok(())
}

/// While the pod of an iteration that is over still exists, the server would refuse to create it again.
async fn wait_for_name(experiment: &Experiment, request: &BufferedRequest) {
    let name = json::name(&request.body);
    let is_free =
        |history: &NamespaceHistory| history.pods().iter().all(|pod| json::name(pod) != name).then_some(());
    experiment.history.until(WAIT_FOR_NAME, is_free).await;
}

async fn perform(
    experiment: &Arc<Experiment>,
    index: usize,
    fault: InjectedFault,
    request: Option<&BufferedRequest>,
) -> Result<()> {
    let name = format!("{fault:?}");
    let result = try_to_perform(experiment, index, fault, request).await;
    if let Err(error) = &result {
        experiment.report_problem(&format!("{name}: {error:#}"));
    }
    result
}

async fn try_to_perform(
    experiment: &Arc<Experiment>,
    index: usize,
    fault: InjectedFault,
    request: Option<&BufferedRequest>,
) -> Result<()> {
    match fault {
        InjectedFault::KeepLists => {
            experiment.lists.keep(&experiment.server, &experiment.history.namespace).await?;
        }
        InjectedFault::Pause(until) => wait(experiment, until, LONGEST_PAUSE).await,
        InjectedFault::Freeze(until) => {
            let operator = experiment.operator(index)?;
            operator.freeze().await?;
            wait(experiment, until, LONGEST_PAUSE).await;
            operator.thaw().await?;
        }
        InjectedFault::CutWatches => experiment.network.cut_watches(false),
        InjectedFault::ExpireWatches => experiment.network.cut_watches(true),
        InjectedFault::DelayWatches(millis) => {
            experiment.network.delay_watches(Duration::from_millis(millis));
        }
        InjectedFault::CutNetwork(millis) => experiment.network.take_down(Duration::from_millis(millis)),
        InjectedFault::RefuseStatuses(code, millis) => {
            let length = Duration::from_millis(millis);
            experiment.refusals.begin(code, length);
            let in_progress = experiment.begin();
            tokio::spawn(async move {
                time::sleep(length).await;
                drop(in_progress);
            });
        }
        InjectedFault::StartSecondOperator => experiment.operator(1)?.start().await?,
        InjectedFault::Clock(ahead) => experiment.operator(0)?.set_clock(ahead).await?,
        InjectedFault::User(action) => user::act(experiment, action, request).await?,
        InjectedFault::Kill => kill(experiment, index, false).await?,
        InjectedFault::KillAndServeStaleLists => kill(experiment, index, true).await?,
        // Only a request can be lost, refused or deferred.
        InjectedFault::Lose
        | InjectedFault::Refuse(_)
        | InjectedFault::Stall
        | InjectedFault::Defer(..)
        | InjectedFault::DelayCreate => {}
    }
    Ok(())
}

/// Kills an operator and starts it again.
async fn kill(experiment: &Experiment, index: usize, stale_lists: bool) -> Result<()> {
    let operator = experiment.operator(index)?;
    operator.kill().await?;
    experiment.network.cut_watches_of(index, stale_lists.then_some(LATE_WATCHES));
    if stale_lists {
        experiment.lists.serve_to(index);
    }
    operator.start().await
}

async fn wait(experiment: &Experiment, until: Until, longest: Duration) {
    match until {
        Until::Millis(millis) => time::sleep(Duration::from_millis(millis).min(longest)).await,
        Until::Writes(count) => {
            experiment.schedule.more_writes(count, longest.min(LONGEST_WAIT_FOR_WRITES)).await;
        }
        Until::MovedOn => {
            let progress = |task: &Value| {
                (json::number(task, "/status/iterations"), json::number(task, "/status/nextAttempt"))
            };
            let from = experiment.history.task().as_deref().map(progress);
            let has_moved = |history: &NamespaceHistory| {
                let task = history.task();
                let has_moved = task.as_deref().map(progress) != from
                    || task.is_some_and(|task| json::has(&task, "/status/stop"));
                has_moved.then_some(())
            };
            experiment.history.until(longest, has_moved).await;
        }
        Until::Stopped => {
            let has_stopped = |history: &NamespaceHistory| {
                history.task().is_none_or(|task| json::has(&task, "/status/stop")).then_some(())
            };
            experiment.history.until(longest, has_stopped).await;
        }
    }
}
