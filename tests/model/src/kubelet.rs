//! Scheduler, kubelets, nodes: what becomes of a pod.

use crate::invariants;
use crate::server::change_pod;
use crate::state::{Agent, Deletion, End, Place, Pod, Ran, Shown, State};

/// One thing that happens to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happening {
    /// The scheduler gives it a node.
    Bind,
    /// Its agent starts, whatever the API shows yet.
    Start,
    /// The kubelet tells that the agent runs.
    ShowRunning,
    /// It ends, and the kubelet tells so.
    End(End),
    /// Its node says nothing any more; the agent goes on.
    Silence,
    /// The node is heard again.
    Return,
    /// An administrator says that the node is off, and it is: the pod garbage collector ends the pod.
    Collect,
    /// Its deletion was asked for so long ago that its node is called silent.
    GrowOld,
}

/// What can happen to a pod; `ends` are those of an agent that runs.
pub fn happenings(state: &State, pod: &Pod, ends: &[End], out: &mut Vec<Happening>) {
    let Some(place) = state.place(pod.uid).copied() else { return };
    if pod.has_ended() || pod.foreign {
        return;
    }
    if !pod.bound {
        if !pod.gated && pod.deletion == Deletion::No {
            out.push(Happening::Bind);
        }
        return;
    }
    if place.silent {
        out.push(Happening::Return);
        out.push(Happening::Collect);
        if pod.deletion == Deletion::Asked {
            out.push(Happening::GrowOld);
        }
    } else if state.budget.silences > 0 {
        out.push(Happening::Silence);
    }
    match place.agent {
        Agent::NotYet if !place.silent => {
            // Also where it is being deleted: the kubelet may not have seen that yet.
            out.push(Happening::Start);
            if pod.deletion != Deletion::No || state.budget.failed_starts > 0 {
                out.push(Happening::End(End::NeverStarted));
            }
        }
        Agent::Runs if !place.silent => {
            if pod.shown == Shown::Pending {
                out.push(Happening::ShowRunning);
            }
            if pod.deletion != Deletion::No {
                out.push(Happening::End(End::Interrupted));
            }
            for (place, end) in ends.iter().enumerate() {
                if place == 0 || state.budget.odd_ends > 0 {
                    out.push(Happening::End(*end));
                }
            }
        }
        _ => {}
    }
}

/// It happens.
pub fn happen(state: &mut State, uid: u8, what: Happening, usual: End) {
    let Some(pod) = state.pod(uid).copied() else { return };
    match what {
        Happening::Bind => {
            change_pod(state, uid, |pod| {
                pod.bound = true;
                true
            });
        }
        Happening::Start => {
            invariants::check_agent_start(state, &pod);
            at(state, uid, |place| place.agent = Agent::Runs);
            state.ran.push(Ran { of: pod.of, goal: pod.goal, end: None });
            state.ran.sort_unstable();
        }
        Happening::ShowRunning => show(state, uid, Shown::Running),
        Happening::End(end) => {
            match end {
                End::NeverStarted if pod.deletion == Deletion::No => state.budget.failed_starts -= 1,
                End::NeverStarted | End::Interrupted => {}
                end if end != usual => state.budget.odd_ends -= 1,
                _ => {}
            }
            state.ran.iter_mut().filter(|ran| ran.of == pod.of).for_each(|ran| ran.end = Some(end));
            state.ran.sort_unstable();
            at(state, uid, |place| place.agent = Agent::Over);
            show(state, uid, Shown::Ended(end));
        }
        Happening::Silence => {
            state.budget.silences -= 1;
            at(state, uid, |place| place.silent = true);
        }
        Happening::Return => at(state, uid, |place| place.silent = false),
        Happening::Collect => {
            at(state, uid, |place| {
                place.agent = Agent::Over;
                place.silent = false;
            });
            change_pod(state, uid, |pod| {
                pod.shown = Shown::Ended(End::Collected);
                if pod.deletion == Deletion::No {
                    pod.deletion = Deletion::Asked;
                }
                true
            });
        }
        Happening::GrowOld => grow_old(state, uid),
    }
}

fn show(state: &mut State, uid: u8, shown: Shown) {
    change_pod(state, uid, |pod| {
        pod.shown = shown;
        true
    });
}

fn at(state: &mut State, uid: u8, change: impl FnOnce(&mut Place)) {
    state.places.iter_mut().find(|place| place.pod == uid).map(change);
}

/// Time passes over a deletion: it is seen so wherever the deletion is seen, without any write.
fn grow_old(state: &mut State, uid: u8) {
    let grow = |pods: &mut crate::state::Pods| {
        if pods.iter().any(|pod| pod.uid == uid && pod.deletion == Deletion::Asked) {
            std::sync::Arc::make_mut(pods).iter_mut().filter(|pod| pod.uid == uid).for_each(aged);
        }
    };
    grow(&mut state.pods);
    state.replica.iter_mut().for_each(|replica| grow(&mut replica.1));
    for operator in &mut state.operators {
        grow(&mut operator.pods);
        operator.memory.answers().1.filter(|pod| pod.uid == uid).for_each(aged);
    }
}

fn aged(pod: &mut Pod) {
    if pod.deletion == Deletion::Asked {
        pod.deletion = Deletion::LongAgo;
    }
}
