//! The sweep, as src/controller/sweep.rs has it: pods whose task is gone are let go.

use crate::decision;
use crate::operator::{Fate, is_write, request_of};
use crate::server::{self, Reply};
use crate::state::{Operator, Pod, State, Sweep, Todo, Who};
use crate::variants::Variant;

/// The sweep is told of a pod: nothing to do where the cache has its task.
pub fn tell(operator: &mut Operator, variant: Variant, pod: &Pod) {
    let uid = pod.uid;
    operator.to_sweep.retain(|known| *known != uid);
    operator.sweep_later.retain(|known| *known != uid);
    let has_task = operator.task.task.is_some_and(|task| task.uid == pod.of.task);
    if !has_task {
        operator.to_sweep.push(uid);
        operator.to_sweep.sort_unstable();
    } else if pod.held && variant != Variant::SweepLooksOnce {
        // Nothing tells the sweep when the task goes.
        operator.sweep_later.push(uid);
        operator.sweep_later.sort_unstable();
    }
}

/// Pods that were to be looked at again, now that the cache has lost their task; those that are gone are
/// forgotten.
pub fn look_again(operator: &mut Operator) {
    let pods = operator.pods.clone();
    operator.to_sweep.retain(|uid| pods.iter().any(|pod| pod.uid == *uid));
    operator.sweep_later.retain(|uid| pods.iter().any(|pod| pod.uid == *uid));
    let task = operator.task.task.map(|task| task.uid);
    let has_task = |uid: &u8| pods.iter().any(|pod| pod.uid == *uid && Some(pod.of.task) == task);
    let (stay, go): (Vec<u8>, Vec<u8>) = operator.sweep_later.drain(..).partition(has_task);
    operator.sweep_later = stay;
    operator.to_sweep.extend(go);
    operator.to_sweep.sort_unstable();
}

/// The next sweep begins: with a read of the task.
pub fn begin(operator: &mut Operator, variant: Variant) {
    if operator.to_sweep.is_empty() {
        return;
    }
    let uid = operator.to_sweep.remove(0);
    let Some(pod) = operator.pods.iter().find(|pod| pod.uid == uid).copied() else { return };
    let todo = if variant == Variant::SweepFromCache { decision::stop(&pod) } else { vec![Todo::SweepRead] };
    operator.sweep = Some(Box::new(Sweep { pod, todo }));
}

pub fn may_begin(operator: &Operator) -> bool {
    operator.sweep.is_none() && !operator.to_sweep.is_empty()
}

pub fn next(operator: &Operator) -> Option<Todo> {
    operator.sweep.as_ref().and_then(|sweep| sweep.todo.first().copied())
}

/// The sweep does its next thing.
pub fn step(state: &mut State, variant: Variant, who: Who, fate: Fate) {
    let Some(sweep) = state.operators[who].sweep.clone() else { return };
    let (pod, mut todo) = (sweep.pod, sweep.todo);
    if todo.is_empty() {
        return;
    }
    let now = todo.remove(0);
    let mut failed = false;
    if now == Todo::SweepRead {
        let is_there = state.task.task.is_some_and(|task| task.uid == pod.of.task);
        if fate != Fate::Answered {
            failed = true;
        } else if is_there {
            let operator = &mut state.operators[who];
            operator.sweep = None;
            if pod.held && variant != Variant::SweepLooksOnce && !operator.sweep_later.contains(&pod.uid) {
                operator.sweep_later.push(pod.uid);
                operator.sweep_later.sort_unstable();
            }
            return;
        } else {
            todo = decision::stop(&pod);
        }
    } else if let Some(request) = request_of(&state.operators[who], now) {
        debug_assert!(is_write(now));
        match fate {
            Fate::Lost | Fate::Overtaken => failed = true,
            Fate::Delayed => {
                state.late.push(request);
                failed = true;
            }
            _ => {
                let reply = server::commit(state, variant, request);
                failed = fate == Fate::AnswerLost || matches!(reply, Reply::Invalid | Reply::Conflict);
            }
        }
    }
    let operator = &mut state.operators[who];
    operator.sweep = if failed || todo.is_empty() { None } else { Some(Box::new(Sweep { pod, todo })) };
    if failed
        && operator.pods.iter().any(|known| known.uid == pod.uid)
        && !operator.to_sweep.contains(&pod.uid)
    {
        operator.to_sweep.push(pod.uid);
        operator.to_sweep.sort_unstable();
    }
}
