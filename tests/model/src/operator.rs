//! The operator's shell, as src/controller has it: each request is one step.
//!
//! `reconcile.rs` is [`begin`] and [`Todo::Decide`], `act.rs` the other [`Todo`]s, `latest.rs` is
//! [`newest_task`] and [`known_pods`].

use crate::decision::{Decider, Question};
use crate::invariants;
use crate::server::{self, Reply};
use crate::state::{
    Attempt, Operator, Pod, PreviousPod, Read, Refusal, Request, Run, State, StatusId, Task, Todo, Who,
};
use crate::statuses;
use crate::variants::Variant;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    Answered,
    /// Done, or for a read just asked; the answer is lost.
    AnswerLost,
    /// Never arrives.
    Lost,
    /// The operator gives up on it; it arrives later.
    Delayed,
    /// The API server refuses the pod.
    Refused,
    /// The API server gives up on the patch: a conflict, though no other pod has the name.
    Overtaken,
}

/// What is known of the task by its own writes, where the cache is older.
fn newest_task(operator: &mut Operator) -> Read {
    let cached = operator.task;
    match (operator.newest_task, cached.task) {
        (Some(newest), Some(task))
            if newest.task.is_some_and(|known| known.uid == task.uid) && newest.version > cached.version =>
        {
            newest
        }
        (_, Some(_)) => {
            operator.newest_task = None;
            cached
        }
        (_, None) => cached,
    }
}

/// The pods of a task, as new as they are known.
fn known_pods(operator: &mut Operator, uid: u8) -> Vec<Pod> {
    let mut pods: Vec<Pod> = Vec::new();
    for cached in operator.pods.iter().filter(|pod| pod.of.task == uid) {
        let newest = operator.newest_pods.iter().position(|known| known.uid == cached.uid);
        match newest {
            Some(place) if operator.newest_pods[place].version > cached.version => {
                pods.push(operator.newest_pods[place]);
            }
            Some(place) => {
                operator.newest_pods.remove(place);
                pods.push(*cached);
            }
            None => pods.push(*cached),
        }
    }
    for known in operator.newest_pods.iter().filter(|pod| pod.of.task == uid) {
        if pods.iter().all(|pod| pod.uid != known.uid) {
            pods.push(*known);
        }
    }
    pods
}

/// Remembers an answer, unless a newer one is remembered.
fn remember(operator: &mut Operator, pod: Pod) {
    match operator.newest_pods.iter_mut().find(|known| known.uid == pod.uid) {
        Some(known) if known.version > pod.version => {}
        Some(known) => *known = pod,
        None => {
            operator.newest_pods.push(pod);
            operator.newest_pods.sort_unstable();
        }
    }
}

fn forget(operator: &mut Operator, uid: u8) {
    operator.newest_pods.retain(|known| known.uid != uid);
}

/// The claim that a task shows.
fn claim(task: &Task) -> Option<Attempt> {
    let (iteration, attempt) = statuses::get(task.status).active?;
    Some(Attempt { task: task.uid, iteration, attempt })
}

/// A reconcile begins, if the operator has reason for one.
pub fn begin(state: &mut State, decider: &Decider, who: Who) {
    let operator = &mut state.operators[who];
    operator.woken = false;
    operator.timer = false;
    if operator.task.task.is_none() {
        return;
    }
    let task = newest_task(operator);
    operator.run = Some(Box::new(Run {
        task,
        settings: operator.settings,
        previous_pod: PreviousPod::Unknown,
        refused: None,
        is_gone: false,
        todo: vec![Todo::Decide],
        again: false,
        timer: false,
    }));
    step(state, decider, who, Fate::Answered);
}

/// Whether the operator has reason to look at the task.
pub fn may_begin(operator: &Operator) -> bool {
    operator.run.is_none() && (operator.woken || operator.timer) && operator.task.task.is_some()
}

/// What the operator does next.
pub fn next(operator: &Operator) -> Option<Todo> {
    operator.run.as_ref().and_then(|run| run.todo.first().copied())
}

/// Whether a thing to do is a write, which can be delayed.
pub fn is_write(todo: Todo) -> bool {
    !matches!(
        todo,
        Todo::Decide
            | Todo::ReadTask
            | Todo::ReadSettings
            | Todo::ListEarlier
            | Todo::ReadPod
            | Todo::Adopt
            | Todo::ConfirmStart(_)
            | Todo::SweepRead
    )
}

/// Whether a thing to do is a patch of a pod, which needs no version and may be overtaken all the same.
pub fn is_pod_patch(todo: Todo) -> bool {
    matches!(todo, Todo::Start(_) | Todo::Hold(_) | Todo::Release(_))
}

/// What the reconcile has come to after one thing was done.
enum Outcome {
    Rest,
    Again,
    /// Go on, and look again later.
    Later,
    /// Leave the rest and end.
    End,
    /// Leave the rest and end with an error: tried again.
    Fail,
}

/// The operator does the next thing.
pub fn step(state: &mut State, decider: &Decider, who: Who, fate: Fate) {
    let Some(mut run) = state.operators[who].run.take() else { return };
    if run.todo.is_empty() {
        return;
    }
    let todo = run.todo.remove(0);
    let outcome = match todo {
        Todo::Decide => {
            decide(state, decider, who, &mut run);
            Outcome::Rest
        }
        _ if fate != Fate::Answered && !is_write(todo) => Outcome::Fail,
        Todo::WriteStatus(after) => write_status(state, decider.variant, who, &mut run, after, fate),
        Todo::ReadTask => read_task(state, decider.variant, who, &mut run),
        Todo::ReadSettings => {
            let operator = &mut state.operators[who];
            take_settings(operator, decider, state.settings, true);
            run.settings = crate::state::Settings { consistent: true, ..operator.settings };
            Outcome::Again
        }
        Todo::ListEarlier => {
            run.previous_pod = list_earlier(state, decider.variant, &run);
            Outcome::Again
        }
        Todo::ReadPod => {
            read_pod(state, who, &mut run);
            Outcome::Again
        }
        Todo::Create => create(state, decider.variant, who, &mut run, fate),
        Todo::Adopt => adopt(state, decider.variant, who, &mut run),
        Todo::ConfirmStart(pod) => confirm_start(state, decider.variant, who, &mut run, pod),
        Todo::Start(pod) | Todo::Hold(pod) | Todo::Release(pod) | Todo::Delete(pod, _) => {
            let claimed = run.task.task.as_ref().and_then(claim);
            let request = match (todo, claimed) {
                (Todo::Start(pod), Some(of)) => Some(Request::Start { pod, of }),
                _ => request_of(&state.operators[who], todo),
            };
            // A pod that the caches have lost meanwhile is gone.
            match request {
                Some(request) => {
                    let outcome = write_pod(state, decider.variant, who, request, (todo, pod), fate);
                    run.timer |= matches!(outcome, Outcome::Later);
                    outcome
                }
                None => Outcome::Rest,
            }
        }
        Todo::DeleteTask | Todo::SweepRead => Outcome::Rest,
    };
    match outcome {
        Outcome::Rest | Outcome::Later => {}
        Outcome::Again => run.again = true,
        Outcome::End => return end(&mut state.operators[who], false, false),
        Outcome::Fail => return end(&mut state.operators[who], true, false),
    }
    if run.todo.is_empty() {
        if !run.again {
            return end(&mut state.operators[who], false, run.timer);
        }
        run.again = false;
        run.todo.push(Todo::Decide);
    }
    state.operators[who].run = Some(run);
}

fn end(operator: &mut Operator, woken: bool, timer: bool) {
    operator.run = None;
    operator.woken |= woken;
    operator.timer |= timer;
}

/// Gathers what is known, and asks the real `decide`.
fn decide(state: &mut State, decider: &Decider, who: Who, run: &mut Run) {
    let operator = &mut state.operators[who];
    let Some(task) = run.task.task else { return };
    let answer = decider.ask(Question {
        release: operator.release,
        pods: known_pods(operator, task.uid),
        settings: run.settings,
        previous_pod: run.previous_pod,
        refused: run.refused,
        was_started: operator.started.is_some() && operator.started == claim(&task),
        is_gone: run.is_gone,
        task,
    });
    run.todo.clear();
    run.todo.extend(answer.status.map(Todo::WriteStatus));
    run.todo.extend(&answer.todo);
    run.timer = answer.timer;
    decider.variant.reorder(&mut run.todo);
}

fn write_status(
    state: &mut State,
    variant: Variant,
    who: Who,
    run: &mut Run,
    after: StatusId,
    fate: Fate,
) -> Outcome {
    let Some(task) = run.task.task else { return Outcome::End };
    let request = Request::Status { uid: task.uid, version: run.task.version, before: task.status, after };
    let reply = match fate {
        Fate::Lost => None,
        Fate::Delayed => {
            state.late.push(request);
            None
        }
        _ => Some(server::commit(state, variant, request)),
    };
    match reply.filter(|_| fate == Fate::Answered) {
        Some(Reply::Task(read)) => {
            run.task = read;
            run.refused = None;
            run.is_gone = false;
            state.operators[who].newest_task = Some(read);
            Outcome::Rest
        }
        Some(Reply::Conflict) if variant == Variant::BlindRetry => {
            // The same patch once more, with the version that is there now.
            if let Some(now) = state.task.task.filter(|now| now.uid == task.uid) {
                let merged = statuses::merged(now.status, task.status, after);
                run.task = state.task;
                run.todo.insert(0, Todo::WriteStatus(merged));
                return Outcome::Rest;
            }
            Outcome::End
        }
        Some(Reply::NotFound) => Outcome::End,
        _ => {
            run.todo = vec![Todo::ReadTask];
            Outcome::Rest
        }
    }
}

/// Goes on with what the API server itself says; false where the task is gone, or another has its name.
fn read(state: &mut State, variant: Variant, who: Who, run: &mut Run) -> bool {
    let is_same = state.task.task.is_some_and(|now| run.task.task.is_some_and(|task| task.uid == now.uid));
    if is_same {
        run.task = state.task;
        run.settings.consistent &= variant == Variant::ConsistentAcrossReads;
        state.operators[who].newest_task = Some(state.task);
    }
    is_same
}

fn read_task(state: &mut State, variant: Variant, who: Who, run: &mut Run) -> Outcome {
    if read(state, variant, who, run) { Outcome::Again } else { Outcome::End }
}

/// A version of the settings was seen: by the watch, or by a read.
pub fn take_settings(operator: &mut Operator, decider: &Decider, place: u8, consistent: bool) {
    let known = &mut operator.settings;
    if !consistent && place < known.newest {
        return;
    }
    known.newest = place;
    if !decider.config(place).bad {
        known.last_good = place + 1;
    }
    known.consistent = consistent && decider.variant == Variant::ConsistencyRemembered;
}

/// A list from the API server itself, of pods that bear the task's name.
fn list_earlier(state: &State, variant: Variant, run: &Run) -> PreviousPod {
    let own = run.task.task.map(|task| task.uid);
    let is_earlier = |pod: &&Pod| {
        let may_run = !pod.has_ended() && (!pod.gated || variant != Variant::GatedEarlierIgnored);
        !pod.foreign && Some(pod.of.task) != own && may_run
    };
    if variant != Variant::EarlierIgnored && state.pods.iter().any(|pod| is_earlier(&pod)) {
        PreviousPod::Pod
    } else {
        PreviousPod::None
    }
}

fn read_pod(state: &mut State, who: Who, run: &mut Run) {
    let Some(of) = run.task.task.as_ref().and_then(claim) else { return };
    match state.named(of).filter(|pod| !pod.foreign).copied() {
        Some(pod) => remember(&mut state.operators[who], pod),
        None => run.is_gone = true,
    }
}

fn create(state: &mut State, variant: Variant, who: Who, run: &mut Run, fate: Fate) -> Outcome {
    let Some(task) = run.task.task else { return Outcome::Rest };
    let Some(of) = claim(&task) else { return Outcome::Rest };
    let request = Request::Create { of, template: task.spec.template, goal: task.spec.goal };
    invariants::check_pod_write(state, who, of);
    let reply = match fate {
        Fate::Lost => return Outcome::Fail,
        Fate::Delayed => {
            state.late.push(request);
            return Outcome::Fail;
        }
        Fate::Refused => {
            run.refused = Some(Refusal::Quota);
            return Outcome::Again;
        }
        Fate::Answered | Fate::AnswerLost | Fate::Overtaken => server::commit(state, variant, request),
    };
    if fate == Fate::AnswerLost {
        return Outcome::Fail;
    }
    if let Reply::Pod(pod) = reply {
        remember(&mut state.operators[who], pod);
        Outcome::Again
    } else {
        run.todo.insert(0, Todo::Adopt);
        Outcome::Rest
    }
}

/// A pod has the name: our own, or somebody else's, which is never touched.
fn adopt(state: &mut State, variant: Variant, who: Who, run: &mut Run) -> Outcome {
    let Some(of) = run.task.task.as_ref().and_then(claim) else { return Outcome::Rest };
    match state.named(of).copied() {
        None => {}
        Some(pod) if variant == Variant::ForeignAdopted => {
            remember(&mut state.operators[who], Pod { foreign: false, ..pod });
        }
        Some(pod) if pod.foreign => run.refused = Some(Refusal::NameConflict),
        Some(pod) => remember(&mut state.operators[who], pod),
    }
    Outcome::Again
}

/// The read, made after the pod was seen, that a start is confirmed by.
fn confirm_start(state: &mut State, variant: Variant, who: Who, run: &mut Run, pod: u8) -> Outcome {
    let before = run.task.task.as_ref().and_then(claim);
    if variant != Variant::StartUnconfirmed && !read(state, variant, who, run) {
        return Outcome::Rest;
    }
    let Some(task) = run.task.task else { return Outcome::Rest };
    let now = claim(&task);
    let stands = now.is_some() && now == before && !task.spec.suspend && !task.deleting;
    if !stands && variant != Variant::StartUnconfirmed {
        return Outcome::Again;
    }
    state.operators[who].started = now;
    run.todo.insert(0, Todo::Start(pod));
    Outcome::Rest
}

/// The write on a pod that a thing to do means, from what the operator knows of the pod.
pub fn request_of(operator: &Operator, todo: Todo) -> Option<Request> {
    let known = |uid: u8| {
        let swept = operator.sweep.as_ref().map(|sweep| &sweep.pod);
        let pods = operator.pods.iter().chain(&operator.newest_pods).chain(swept);
        pods.into_iter().find(|pod| pod.uid == uid).map(|pod| pod.of)
    };
    Some(match todo {
        Todo::Hold(pod) => Request::Hold { pod, of: known(pod)? },
        Todo::Release(pod) => Request::Release { pod, of: known(pod)? },
        Todo::Delete(pod, _) => Request::Delete { pod, of: known(pod)? },
        _ => return None,
    })
}

fn write_pod(
    state: &mut State,
    variant: Variant,
    who: Who,
    request: Request,
    (todo, uid): (Todo, u8),
    fate: Fate,
) -> Outcome {
    if let Some(of) = state.pod(uid).map(|pod| pod.of) {
        invariants::check_pod_write(state, who, of);
    }
    let reply = match fate {
        Fate::Lost => return Outcome::Fail,
        Fate::Delayed => {
            state.late.push(request);
            return Outcome::Fail;
        }
        Fate::Overtaken => Reply::Conflict,
        _ => server::commit(state, variant, request),
    };
    if fate == Fate::AnswerLost {
        return Outcome::Fail;
    }
    let operator = &mut state.operators[who];
    match reply {
        Reply::Pod(pod) if pod.deletion != crate::state::Deletion::No && !pod.held => forget(operator, uid),
        Reply::Pod(pod) => remember(operator, pod),
        Reply::NotFound => forget(operator, uid),
        Reply::Conflict => {
            forget(operator, uid);
            return if variant == Variant::ConflictIsDone { Outcome::Rest } else { Outcome::Later };
        }
        _ => return Outcome::Fail,
    }
    if matches!(todo, Todo::Delete(_, false)) { Outcome::Again } else { Outcome::Rest }
}
