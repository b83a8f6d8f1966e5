//! What fills the queues: each change of a task or a pod, and all objects when everything must be checked again.

use std::sync::Arc;

use futures::StreamExt;
use kube::runtime::watcher::Event;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::cached_pod::CachedPod;
use super::cached_task::CachedTask;
use super::object_cache::{CachedObject, ObjectName, Received};
use super::queue::{Priority, QueueSender};
use super::scope::WatchScope;

/// An object in one of the scopes.
pub(super) type Key = (usize, ObjectName);

/// The queues of tasks, and of pods whose tasks may be gone.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    pub(super) tasks: QueueSender<Key>,
    pub(super) orphans: QueueSender<Key>,
}

/// A change that the watches of a scope report.
#[derive(Debug)]
pub(super) enum ObjectChange {
    Task(ObjectName),
    /// The task with this uid is gone. Its pods are orphans now, and those that have ended may never change again.
    TaskGone(String),
    Pod {
        pod: ObjectName,
        task: Option<ObjectName>,
    },
    /// A new list was read: anything may have changed.
    Relisted,
}

/// Reports the changes of tasks.
pub(super) fn report_tasks(
    to: UnboundedSender<ObjectChange>,
) -> impl Fn(&Event<Received<CachedTask>>) + Send {
    move |event| match event {
        Event::Apply(task) => report(&to, ObjectChange::Task(task.kept.name().clone())),
        Event::InitDone => report(&to, ObjectChange::Relisted),
        Event::Delete(task) => report(&to, ObjectChange::TaskGone(task.kept.uid.clone())),
        Event::Init | Event::InitApply(_) => {}
    }
}

/// Reports the changes of pods.
pub(super) fn report_pods(to: UnboundedSender<ObjectChange>) -> impl Fn(&Event<Received<CachedPod>>) + Send {
    move |event| match event {
        Event::Apply(pod) | Event::Delete(pod) => {
            let (pod, task) = (pod.kept.name.clone(), pod.kept.task.clone());
            report(&to, ObjectChange::Pod { pod, task });
        }
        Event::InitDone => report(&to, ObjectChange::Relisted),
        Event::Init | Event::InitApply(_) => {}
    }
}

fn report(to: &UnboundedSender<ObjectChange>, change: ObjectChange) {
    // The receiver is gone only if the process stops.
    drop(to.send(change));
}

/// Fills the queues, once the caches of this scope are complete and until `stop` is cancelled.
pub(super) async fn feed(
    number: usize,
    scope: Arc<WatchScope>,
    mut changes: UnboundedReceiver<ObjectChange>,
    queues: Queues,
    stop: CancellationToken,
) {
    if !scope.is_ready().await {
        return;
    }
    let mut configuration = Box::pin(scope.context.configuration.changes());
    let mut injection = Box::pin(scope.context.injection.changes());
    add_all(number, &scope, &queues);
    loop {
        tokio::select! {
            Some(change) = changes.recv() => match change {
                ObjectChange::Task(task) => queues.tasks.add((number, task), Priority::High),
                ObjectChange::TaskGone(uid) => {
                    let pods = scope.pods.of_task(&uid);
                    for pod in pods.iter().filter(|pod| pod.facts.has_finalizer) {
                        queues.orphans.add((number, pod.name.clone()), Priority::High);
                    }
                }
                ObjectChange::Pod { pod, task } => {
                    if let Some(task) = task {
                        queues.tasks.add((number, task), Priority::High);
                    }
                    queues.orphans.add((number, pod), Priority::High);
                }
                ObjectChange::Relisted => add_all(number, &scope, &queues),
            },
            Some(()) = configuration.next() => add_all_tasks(number, &scope, &queues),
            Some(()) = injection.next() => add_all_tasks(number, &scope, &queues),
            () = stop.cancelled() => return,
        }
    }
}

/// Everything: first the tasks of pods that ended while nothing watched.
fn add_all(number: usize, scope: &WatchScope, queues: &Queues) {
    for pod in scope.pods.all() {
        if pod.facts.has_finalizer
            && pod.facts.ended().is_some()
            && let Some(task) = &pod.task
        {
            queues.tasks.add((number, task.clone()), Priority::High);
        }
        queues.orphans.add((number, pod.name.clone()), Priority::Normal);
    }
    add_all_tasks(number, scope, queues);
}

fn add_all_tasks(number: usize, scope: &WatchScope, queues: &Queues) {
    for task in scope.tasks.all() {
        queues.tasks.add((number, task.name.clone()), Priority::Normal);
    }
}
