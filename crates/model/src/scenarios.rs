//! What is searched: which faults and acts, how many of each, and what agents do.

use crate::state::{Budget, End, Spec};
use crate::user::Act;

/// A version of the ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub hard: u8,
    pub paused: bool,
    /// It has a key that is refused.
    pub bad: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { hard: 9, paused: false, bad: false }
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
        spec: Spec { limit: 2, suspend: false, token: 0, template: 0, keep: 0 },
        ends: &[End::Changed],
        acts: &[],
        configs: vec![Config::default()],
        budget: Budget::default(),
        after: 0,
        frozen: false,
        settings: 0,
        rests: 1,
    }
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    let none = Budget::default();
    let limit = |limit| Spec { limit, suspend: false, token: 0, template: 0, keep: 0 };
    vec![
        Scenario {
            budget: Budget { crashes: 1, lost: 1, delayed: 1, failed_starts: 1, snapshots: 1, ..none },
            ..plain(
                "crashes",
                "one operator that dies, requests without an answer, caches that go back in time",
            )
        },
        Scenario {
            operators: 2,
            spec: limit(1),
            budget: Budget { delayed: 1, ..none },
            ..plain("two", "two operators at once, and a request that arrives late")
        },
        Scenario {
            acts: &[Act::Limit(1), Act::Limit(2), Act::Limit(3)],
            budget: Budget { acts: 2, crashes: 1, lost: 1, ..none },
            ..plain("limits", "the limit is moved up and down")
        },
        Scenario {
            operators: 2,
            acts: &[Act::Limit(1), Act::Limit(2)],
            spec: limit(1),
            budget: Budget { acts: 2, ..none },
            ..plain("limits-two", "the limit is moved, and two operators look")
        },
        Scenario {
            acts: &[Act::Suspend, Act::Resume],
            budget: Budget { acts: 2, delayed: 1, crashes: 1, ..none },
            ..plain("suspend", "the task is suspended and resumed")
        },
        Scenario {
            operators: 2,
            spec: limit(1),
            acts: &[Act::Delete, Act::Create],
            budget: Budget { acts: 2, ..none },
            ..plain("recreate", "the task is deleted and made again, and two operators look")
        },
        Scenario {
            spec: limit(1),
            acts: &[Act::Delete, Act::DeleteForeground, Act::Create],
            budget: Budget { acts: 2, delayed: 1, crashes: 1, snapshots: 1, ..none },
            ..plain(
                "delete",
                "the task is deleted in both ways and made again, with crashes and late requests",
            )
        },
        Scenario {
            acts: &[Act::DeletePod],
            budget: Budget { acts: 1, silences: 1, crashes: 1, ..none },
            ..plain("nodes", "nodes go silent and are lost, pods are deleted by hand")
        },
        Scenario {
            operators: 2,
            spec: limit(0),
            configs: vec![
                Config { hard: 2, ..Config::default() },
                Config { hard: 1, ..Config::default() },
                Config { hard: 1, paused: true, ..Config::default() },
            ],
            acts: &[Act::Configure],
            budget: Budget { acts: 2, ..none },
            ..plain("settings", "the hard limit is lowered, then all is paused, and two operators look")
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
            budget: Budget { acts: 1, odd_ends: 3, crashes: 1, ..none },
            ..plain("ends", "agents end in all ways, and a reset lifts what they did")
        },
        Scenario {
            acts: &[Act::Squat, Act::Unsquat, Act::Template],
            budget: Budget { acts: 2, refusals: 1, crashes: 1, ..none },
            ..plain("refusals", "pods are refused, their name is taken, the template changes")
        },
    ]
}
