//! What is searched: which faults and acts, how many of each, and what agents do.

use crate::state::{Budget, End, Spec, Workspace};
use crate::user::Act;

/// A version of the ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub hard: u8,
    pub paused: bool,
    /// It has a key that is refused.
    pub bad: bool,
    /// `freeAttempts`: the same in all versions of one scenario.
    pub free: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self { hard: 9, paused: false, bad: false, free: 20 }
    }
}

/// Bounds of one search.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// One word.
    pub name: &'static str,
    /// What it is about, for people.
    pub about: &'static str,
    /// How many operators work at once.
    pub operators: usize,
    /// Each operator is of a release of its own; else they are replicas of one.
    pub releases: bool,
    /// The task as its user makes it.
    pub spec: Spec,
    /// How agents end: the first as a rule, the others within the budget.
    pub ends: &'static [End],
    /// What users and administrators do, in any order, within the budget.
    pub acts: &'static [Act],
    /// The versions of the ConfigMap, one after the other.
    pub configs: Vec<Config>,
    /// How many faults of each kind.
    pub budget: Budget,
    /// Ordinary steps of the first operator alone that come before all others.
    pub after: usize,
    /// How many steps after those are searched; 0: all that there are.
    pub steps: usize,
    /// The first operator's cache of tasks never catches up after that.
    pub frozen: bool,
    /// The first version of the settings; operators have seen the one before.
    pub settings: u8,
    /// Of how many states one is followed to its end; 0: none, 1: all.
    pub rests: u64,
}

/// One operator, nothing but ordinary iterations.
pub fn plain(name: &'static str, about: &'static str) -> Scenario {
    Scenario {
        name,
        about,
        operators: 1,
        releases: false,
        spec: Spec {
            limit: 2,
            suspend: false,
            token: 0,
            template: 0,
            goal: 0,
            keep: 0,
            workspace: Workspace::None,
        },
        ends: &[End::Changed],
        acts: &[],
        configs: vec![Config::default()],
        budget: Budget::default(),
        after: 0,
        steps: 0,
        frozen: false,
        settings: 0,
        rests: 1,
    }
}

/// Steps after which the first pod has been started.
pub const RUNNING: usize = 12;
/// Steps after which its agent has ended, and no operator has seen that.
pub const ENDED: usize = 17;

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    let mut all = with_one_operator();
    all.extend(with_odd_ends());
    all.extend(with_two_operators());
    all
}

fn limit(limit: u8) -> Spec {
    Spec { limit, suspend: false, token: 0, template: 0, goal: 0, keep: 0, workspace: Workspace::None }
}

/// The hard limit is lowered, then all is paused.
fn configs() -> Vec<Config> {
    vec![
        Config { hard: 2, ..Config::default() },
        Config { hard: 1, ..Config::default() },
        Config { hard: 1, paused: true, ..Config::default() },
    ]
}

fn with_one_operator() -> Vec<Scenario> {
    let none = Budget::default();
    vec![
        Scenario {
            budget: Budget { crashes: 1, lost: 1, failed_starts: 1, snapshots: 1, ..none },
            rests: 10,
            ..plain(
                "crashes",
                "an operator that dies, lost answers, failed starts, caches that go back in time",
            )
        },
        Scenario {
            budget: Budget { crashes: 1, lost: 1, delayed: 1, ..none },
            rests: 10,
            ..plain("late", "requests that are done long after they were given up, lost answers, a crash")
        },
        Scenario {
            budget: Budget { crashes: 1, overtaken: 2, ..none },
            ..plain("overtaken", "patches of pods that the server gives up on, and a crash")
        },
        Scenario {
            acts: &[Act::Limit(1), Act::Limit(2), Act::Limit(3)],
            budget: Budget { acts: 2, ..none },
            rests: 10,
            ..plain("limits", "the limit is moved up and down")
        },
        Scenario {
            acts: &[Act::Limit(1), Act::Limit(2), Act::Limit(3)],
            budget: Budget { acts: 1, crashes: 1, ..none },
            ..plain("limit-crash", "the limit is moved, and the operator dies")
        },
        Scenario {
            spec: limit(0),
            configs: configs(),
            acts: &[Act::Configure],
            budget: Budget { acts: 2, crashes: 1, ..none },
            rests: 10,
            ..plain("settings", "the hard limit is lowered, then all is paused, and the operator dies")
        },
        Scenario {
            acts: &[Act::Suspend, Act::Resume],
            budget: Budget { acts: 2, crashes: 1, ..none },
            ..plain("suspend", "the task is suspended and resumed, and the operator dies")
        },
        Scenario {
            spec: limit(1),
            acts: &[Act::Delete, Act::DeleteForeground, Act::Create],
            budget: Budget { acts: 2, ..none },
            ..plain("delete", "the task is deleted in both ways and made again")
        },
        Scenario {
            spec: limit(1),
            acts: &[Act::Delete, Act::DeleteForeground, Act::Create],
            budget: Budget { acts: 1, crashes: 1, snapshots: 1, ..none },
            rests: 20,
            ..plain("delete-crash", "the task is deleted, the operator dies, and its caches go back in time")
        },
        Scenario {
            acts: &[Act::DeletePod],
            budget: Budget { acts: 1, silences: 1, crashes: 1, ..none },
            ..plain("nodes", "nodes go silent and are lost, pods are deleted by hand, the operator dies")
        },
        Scenario {
            spec: limit(3),
            ends: &[
                End::Changed,
                End::Unchanged,
                End::Error,
                End::Ready,
                End::Refused,
                End::Fatal,
                End::Killed,
            ],
            acts: &[Act::Reset],
            budget: Budget { acts: 1, odd_ends: 2, ..none },
            rests: 10,
            ..plain("ends", "agents end in all ways, and a reset lifts what they did")
        },
        Scenario {
            spec: Spec { workspace: Workspace::Retained, ..limit(1) },
            acts: &[Act::Workspace(Workspace::Deleted), Act::Workspace(Workspace::Retained), Act::Delete],
            budget: Budget { acts: 2, crashes: 1, lost: 1, ..none },
            rests: 10,
            ..plain(
                "workspace",
                "the PVC is to be kept or not, the task is deleted, the operator dies, writes come late",
            )
        },
        Scenario {
            acts: &[Act::Squat, Act::Unsquat, Act::Template],
            budget: Budget { acts: 1, refusals: 1, crashes: 1, ..none },
            rests: 10,
            ..plain(
                "refusals",
                "pods are refused, their name is taken, the template changes, the operator dies",
            )
        },
    ]
}

/// What an operator makes of the ways in which agents end.
fn with_odd_ends() -> Vec<Scenario> {
    let none = Budget::default();
    vec![
        Scenario {
            spec: limit(1),
            ends: &[End::Refused, End::Changed],
            configs: vec![Config { free: 1, ..Config::default() }],
            budget: Budget { odd_ends: 1, crashes: 1, lost: 1, ..none },
            rests: 10,
            ..plain("free", "the provider refuses every attempt, answers are lost, the operator dies")
        },
        Scenario {
            ends: &[End::Forged, End::Touched],
            budget: Budget { odd_ends: 1, crashes: 1, ..none },
            ..plain(
                "reports",
                "agents forge reports or touch what does not count as a change, and the operator dies",
            )
        },
        Scenario {
            ends: &[End::Ready],
            acts: &[Act::Goal],
            budget: Budget { acts: 1, crashes: 1, ..none },
            ..plain("goals", "the task gets another goal, and the operator dies")
        },
    ]
}

/// Only two releases are followed to their end here, where it would cost more than the search: one operator alone
/// shows L1, L2 and S8.
fn with_two_operators() -> Vec<Scenario> {
    let none = Budget::default();
    let two = |name, about| Scenario { operators: 2, rests: 0, ..plain(name, about) };
    vec![
        Scenario { spec: limit(1), ..two("two", "two operators at once") },
        Scenario {
            releases: true,
            spec: limit(1),
            rests: 1,
            ..two("releases", "two releases watch the task")
        },
        Scenario {
            spec: limit(1),
            acts: &[Act::Limit(1), Act::Limit(2)],
            budget: Budget { acts: 1, ..none },
            after: ENDED,
            steps: 18,
            ..two("limits-two", "the limit is moved once the first agent has ended, and two operators look")
        },
        Scenario {
            spec: limit(0),
            configs: configs(),
            acts: &[Act::Configure],
            budget: Budget { acts: 1, ..none },
            after: ENDED,
            steps: 18,
            ..two("settings-two", "the hard limit is lowered, and two operators look")
        },
        Scenario {
            spec: Spec { workspace: Workspace::Retained, ..limit(1) },
            acts: &[Act::Workspace(Workspace::Deleted), Act::Workspace(Workspace::Retained)],
            budget: Budget { acts: 2, ..none },
            after: ENDED,
            steps: 14,
            rests: 20,
            ..two(
                "workspace-two",
                "the PVC is to be kept or not once the agent has ended, and two operators look",
            )
        },
        Scenario {
            spec: limit(1),
            acts: &[Act::Delete, Act::Create],
            budget: Budget { acts: 2, ..none },
            after: RUNNING,
            frozen: true,
            steps: 16,
            ..two("recreate", "the task is made again while one of two operators sees only the first")
        },
    ]
}
