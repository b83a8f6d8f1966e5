//! An uninstall: what it writes, in which order, and what a failure means.

use std::cell::Cell;

use agentloop_core::api::IterationOutcome;
use agentloop_core::decide::may_start;
use agentloop_core::decide::served::{Release, Serving};
use agentloop_core::sync::{
    Failure, Mark, ServedTask, UninstallEnvironment, UninstallHandles, UninstallOutcome, UninstallRequest,
    UninstallResponse, UninstallStep, UninstallSync,
};
use serde_json::{Value, json};

use crate::support::Simulation;

/// A task whose pod waits for its start when the operator is uninstalled.
fn uninstalled_before_the_start() -> Simulation {
    let mut sim = Simulation::new(&json!({}));
    assert!(sim.step());
    sim.uninstall();
    sim
}

#[test]
fn a_pod_that_an_uninstall_left_with_its_scheduling_gate_is_charged_as_lost_and_never_started() {
    let mut sim = uninstalled_before_the_start();
    let pod = sim.pod().metadata.uid.clone();
    sim.reconcile();
    assert_eq!((sim.iterations(), sim.active()), (1, Some((2, 0))));
    assert_eq!(sim.status().history[0].outcome, IterationOutcome::PodLost);
    assert!(sim.pods().iter().all(|other| other.metadata.uid != pod), "the pod is deleted");
}

#[test]
fn an_operator_that_still_works_does_not_start_the_pod_of_an_orphaned_iteration() {
    let mut sim = uninstalled_before_the_start();
    let serving = Serving { release: Release::new("a", "agentloop"), take_over: [].into() };
    sim.task_mut().status.as_mut().unwrap().served_by = None;
    assert!(!may_start(sim.task(), &sim.pod_name(), &serving));
    sim.task_mut().status.as_mut().unwrap().active.as_mut().unwrap().orphaned = false;
    assert!(may_start(sim.task(), &sim.pod_name(), &serving));
}

fn mark(status: &Value) -> Mark<Value> {
    let serving = Serving { release: Release::new("a", "agentloop"), take_over: [].into() };
    ServedTask::of(&json!({ "status": status })).mark(&serving)
}

#[test]
fn the_active_iteration_is_marked_and_the_name_removed_in_one_write() {
    assert_eq!(
        mark(&json!({ "servedBy": "a/agentloop", "active": { "iteration": 3, "podName": "x-3-0" } })),
        Mark::Write(json!({ "servedBy": null, "active": { "orphaned": true } }))
    );
}

#[test]
fn an_active_iteration_is_marked_whatever_it_contains() {
    let of =
        ServedTask::of(&json!({ "status": { "active": { "iteration": "new kind", "podName": "a-1" } } }));
    let active = of.active.unwrap();
    assert_eq!((active.iteration, active.pod_name.as_str(), active.orphaned), (0, "a-1", false));
    assert_eq!(mark(&json!({ "active": {} })), Mark::Write(json!({ "active": { "orphaned": true } })));
}

#[test]
fn a_task_that_is_marked_already_is_not_written_again() {
    for status in [json!(null), json!({ "active": null }), json!({ "active": { "orphaned": true } })] {
        assert_eq!(mark(&status), Mark::AsItIs, "{status}");
    }
}

#[test]
fn a_task_that_another_release_serves_is_left_alone() {
    assert_eq!(mark(&json!({ "servedBy": "z/agentloop", "active": {} })), Mark::OtherRelease);
}

/// Tasks by number and version, pods by number and the number of their task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Numbers;

impl UninstallHandles for Numbers {
    type Task = (u8, u8);
    type TaskId = u8;
    type Status = &'static str;
    type Pod = (u8, u8);
}

/// Another release serves task 9; every other task must be marked.
#[derive(Default)]
struct Tasks {
    is_late: Cell<bool>,
}

impl UninstallEnvironment<Numbers> for Tasks {
    fn mark(&self, task: &(u8, u8)) -> Mark<&'static str> {
        if task.0 == 9 { Mark::OtherRelease } else { Mark::Write("orphaned") }
    }

    fn id(&self, task: &(u8, u8)) -> u8 {
        task.0
    }

    fn task_of(&self, pod: &(u8, u8)) -> u8 {
        pod.1
    }

    fn is_late(&self) -> bool {
        self.is_late.get()
    }
}

/// An uninstall, and its next request.
struct Run {
    tasks: Tasks,
    sync: UninstallSync<Numbers>,
    step: UninstallStep<Numbers>,
}

impl Run {
    fn new() -> Self {
        let sync = UninstallSync::default();
        let step = UninstallStep::Request(sync.first());
        Self { tasks: Tasks::default(), sync, step }
    }

    /// The machine asks for this, and is answered so.
    #[track_caller]
    fn answers(&mut self, request: UninstallRequest<Numbers>, response: UninstallResponse<Numbers>) {
        assert_eq!(self.step, UninstallStep::Request(request));
        self.step = self.sync.next(&self.tasks, response);
    }

    #[track_caller]
    fn lists(&mut self, pods: &[(u8, u8)], tasks: &[(u8, u8)]) {
        self.answers(UninstallRequest::ListPods, UninstallResponse::Pods(pods.to_vec()));
        self.answers(UninstallRequest::ListTasks, UninstallResponse::Tasks(tasks.to_vec()));
    }

    #[track_caller]
    fn ends(&self, outcome: UninstallOutcome<Numbers>) {
        assert_eq!(self.step, UninstallStep::Finished(outcome));
    }
}

fn write(task: (u8, u8)) -> UninstallRequest<Numbers> {
    UninstallRequest::WriteStatus { task, status: "orphaned" }
}

const DONE: UninstallResponse<Numbers> = UninstallResponse::Done;

fn failed(failure: Failure) -> UninstallResponse<Numbers> {
    UninstallResponse::Failed(failure)
}

fn rejected(code: u16) -> Failure {
    Failure::Rejected { code, message: String::new() }
}

#[test]
fn every_task_is_marked_after_the_pods_are_listed_and_before_one_loses_its_finalizer() {
    let mut run = Run::new();
    run.lists(&[(1, 1), (2, 2)], &[(1, 0), (2, 0)]);
    run.answers(write((1, 0)), DONE);
    run.answers(write((2, 0)), DONE);
    run.answers(UninstallRequest::RemoveFinalizer((1, 1)), DONE);
    run.answers(UninstallRequest::RemoveFinalizer((2, 2)), DONE);
    run.answers(UninstallRequest::ListPods, UninstallResponse::Pods(Vec::new()));
    run.ends(UninstallOutcome::Complete);
}

#[test]
fn a_pod_that_appears_later_keeps_its_finalizer_until_its_task_is_read_again() {
    let mut run = Run::new();
    run.lists(&[], &[(1, 0)]);
    run.answers(write((1, 0)), DONE);
    run.lists(&[(1, 1)], &[(1, 1)]);
    run.answers(write((1, 1)), DONE);
    run.answers(UninstallRequest::RemoveFinalizer((1, 1)), DONE);
    run.answers(UninstallRequest::ListPods, UninstallResponse::Pods(Vec::new()));
    run.ends(UninstallOutcome::Complete);
}

#[test]
fn pods_of_a_task_that_another_release_serves_keep_the_finalizer() {
    let mut run = Run::new();
    run.lists(&[(1, 9)], &[(9, 0)]);
    run.answers(UninstallRequest::ListPods, UninstallResponse::Pods(vec![(1, 9)]));
    run.ends(UninstallOutcome::Complete);
}

#[test]
fn after_a_conflict_or_a_lost_answer_the_task_is_read_and_decided_on_again() {
    for failure in [Failure::Conflict, Failure::Lost, Failure::TimedOut(5), rejected(429), rejected(503)] {
        let mut run = Run::new();
        run.lists(&[], &[(1, 0)]);
        run.answers(write((1, 0)), failed(failure));
        run.answers(UninstallRequest::Pause, DONE);
        run.answers(UninstallRequest::ReadTask((1, 0)), UninstallResponse::Task((1, 1)));
        run.answers(write((1, 1)), DONE);
        run.answers(UninstallRequest::ListPods, UninstallResponse::Pods(Vec::new()));
        run.ends(UninstallOutcome::Complete);
    }
}

#[test]
fn a_task_that_is_gone_needs_no_mark() {
    let mut run = Run::new();
    run.lists(&[(1, 1)], &[(1, 0), (2, 0)]);
    run.answers(write((1, 0)), failed(Failure::NotFound));
    run.answers(write((2, 0)), failed(Failure::Conflict));
    run.answers(UninstallRequest::Pause, DONE);
    run.answers(UninstallRequest::ReadTask((2, 0)), failed(Failure::NotFound));
    run.answers(UninstallRequest::RemoveFinalizer((1, 1)), failed(Failure::NotFound));
    run.answers(UninstallRequest::ListPods, UninstallResponse::Pods(Vec::new()));
    run.ends(UninstallOutcome::Complete);
}

#[test]
fn pods_of_a_task_that_cannot_be_marked_keep_the_finalizer() {
    for (failure, is_late) in [(rejected(403), false), (rejected(422), false), (Failure::Conflict, true)] {
        let mut run = Run::new();
        run.tasks.is_late.set(is_late);
        run.lists(&[(1, 1), (2, 2)], &[(1, 0), (2, 0)]);
        run.answers(write((1, 0)), failed(failure));
        run.answers(write((2, 0)), DONE);
        run.answers(UninstallRequest::RemoveFinalizer((2, 2)), DONE);
        run.answers(UninstallRequest::ListPods, UninstallResponse::Pods(vec![(1, 1)]));
        run.ends(UninstallOutcome::Incomplete { tasks: vec![(1, 0)], pods: Vec::new() });
    }
}

#[test]
fn a_finalizer_that_could_not_be_removed_is_tried_again_if_that_may_help() {
    let mut run = Run::new();
    run.lists(&[(1, 1)], &[]);
    run.answers(UninstallRequest::RemoveFinalizer((1, 1)), failed(Failure::Conflict));
    run.answers(UninstallRequest::Pause, DONE);
    run.lists(&[(1, 1)], &[]);
    run.answers(UninstallRequest::RemoveFinalizer((1, 1)), failed(rejected(403)));
    run.ends(UninstallOutcome::Incomplete { tasks: Vec::new(), pods: vec![(1, 1)] });
}

#[test]
fn nothing_is_tried_again_once_the_time_is_over() {
    let mut run = Run::new();
    run.lists(&[(1, 1)], &[]);
    run.tasks.is_late.set(true);
    run.answers(UninstallRequest::RemoveFinalizer((1, 1)), failed(Failure::Lost));
    run.ends(UninstallOutcome::Incomplete { tasks: Vec::new(), pods: vec![(1, 1)] });
}

#[test]
fn pods_that_get_the_finalizer_again_and_again_end_the_uninstall_once_the_time_is_over() {
    let mut run = Run::new();
    for _ in 0..3 {
        run.lists(&[(1, 1)], &[]);
        run.answers(UninstallRequest::RemoveFinalizer((1, 1)), DONE);
    }
    run.tasks.is_late.set(true);
    run.answers(UninstallRequest::ListPods, UninstallResponse::Pods(vec![(1, 1)]));
    run.ends(UninstallOutcome::Incomplete { tasks: Vec::new(), pods: vec![(1, 1)] });
}

#[test]
fn a_list_that_fails_ends_the_uninstall() {
    let mut run = Run::new();
    run.answers(UninstallRequest::ListPods, UninstallResponse::Pods(vec![(1, 1)]));
    run.answers(UninstallRequest::ListTasks, failed(rejected(403)));
    run.ends(UninstallOutcome::NotListed);
}
