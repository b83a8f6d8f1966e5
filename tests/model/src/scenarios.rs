//! All scenarios: which faults and user actions, how many of each, and what agents do.

use crate::api::{ConfigMapVersion, ModelSpec, PodEnd, WorkspacePolicy};
use crate::bounds::{AGENT_ENDED, ITERATION_ACTIVE, POD_STARTED};
use crate::scenario::{Scenario, UninstallPlan, plain};
use crate::state::Budget;
use crate::user::UserAction;

const NONE: Budget = Budget {
    crashes: 0,
    lost: 0,
    delayed: 0,
    refusals: 0,
    patch_conflicts: 0,
    user_actions: 0,
    failed_starts: 0,
    odd_ends: 0,
    silent_nodes: 0,
    frozen_replicas: 0,
    forgotten: 0,
};

/// Every scenario.
pub fn all() -> Vec<Scenario> {
    let mut all = faults();
    all.extend(edits());
    all.extend(configurations());
    all.extend(workspaces());
    all.extend(agent_ends());
    all.extend(two_operators());
    all.extend(uninstalls());
    all
}

fn limit(limit: u8) -> ModelSpec {
    ModelSpec::of_limit(limit)
}

fn faults() -> Vec<Scenario> {
    vec![
        Scenario {
            budget: Budget { crashes: 1, lost: 1, failed_starts: 1, frozen_replicas: 1, ..NONE },
            liveness_sample: 10,
            ..plain("crashes", "a crash, a lost answer, a failed start, caches that go back in time")
        },
        Scenario {
            budget: Budget { crashes: 1, lost: 1, delayed: 1, ..NONE },
            liveness_sample: 10,
            ..plain("delayed", "a write that is carried out after its sender gave up, a lost answer, a crash")
        },
        Scenario {
            budget: Budget { crashes: 1, patch_conflicts: 2, ..NONE },
            ..plain("patch-conflicts", "patches of pods that the API server gives up on, and a crash")
        },
        Scenario {
            user_actions: &[UserAction::DeletePod],
            budget: Budget { user_actions: 1, silent_nodes: 1, crashes: 1, ..NONE },
            ..plain("nodes", "a node goes silent or is lost, a pod is deleted by hand, the operator dies")
        },
        Scenario {
            user_actions: &[
                UserAction::CreateForeignPod,
                UserAction::DeleteForeignPod,
                UserAction::ChangeTemplate,
            ],
            budget: Budget { user_actions: 1, refusals: 1, crashes: 1, ..NONE },
            liveness_sample: 10,
            ..plain(
                "refusals",
                "a pod is refused, its name is taken or the template changes, the operator dies",
            )
        },
    ]
}

fn edits() -> Vec<Scenario> {
    const LIMITS: &[UserAction] =
        &[UserAction::SetLimit(1), UserAction::SetLimit(2), UserAction::SetLimit(3)];
    const DELETIONS: &[UserAction] =
        &[UserAction::DeleteTask, UserAction::DeleteTaskInForeground, UserAction::CreateTask];
    vec![
        Scenario {
            user_actions: LIMITS,
            budget: Budget { user_actions: 2, ..NONE },
            liveness_sample: 10,
            ..plain("limits", "the limit is raised and lowered")
        },
        Scenario {
            user_actions: LIMITS,
            budget: Budget { user_actions: 1, crashes: 1, ..NONE },
            ..plain("limit-crash", "the limit is changed, and the operator dies")
        },
        Scenario {
            user_actions: &[UserAction::Suspend, UserAction::Resume],
            budget: Budget { user_actions: 2, crashes: 1, ..NONE },
            ..plain("suspend", "the task is suspended and resumed, and the operator dies")
        },
        Scenario {
            spec: limit(1),
            user_actions: DELETIONS,
            budget: Budget { user_actions: 2, ..NONE },
            ..plain("delete", "the task is deleted in both ways and created again")
        },
        Scenario {
            spec: limit(1),
            user_actions: DELETIONS,
            budget: Budget { user_actions: 1, crashes: 1, frozen_replicas: 1, ..NONE },
            liveness_sample: 20,
            ..plain("delete-crash", "the task is deleted, the operator dies, and its caches go back in time")
        },
        Scenario {
            spec: limit(1),
            user_actions: &[UserAction::DeleteTask],
            budget: Budget { user_actions: 1, forgotten: 2, ..NONE },
            ..plain(
                "delete-forget",
                "the task is deleted, and answers are forgotten before the caches catch up",
            )
        },
    ]
}

/// The hard limit is lowered, then everything is paused.
fn lowered_and_paused() -> Vec<ConfigMapVersion> {
    vec![
        ConfigMapVersion { hard_limit: 2, ..ConfigMapVersion::default() },
        ConfigMapVersion { hard_limit: 1, ..ConfigMapVersion::default() },
        ConfigMapVersion { hard_limit: 1, paused: true, ..ConfigMapVersion::default() },
    ]
}

fn configurations() -> Vec<Scenario> {
    let two = ConfigMapVersion { hard_limit: 2, ..ConfigMapVersion::default() };
    let changed = |config_maps, name, about| Scenario {
        spec: limit(0),
        config_maps,
        user_actions: &[UserAction::ChangeConfigMap],
        budget: Budget { user_actions: 2, crashes: 1, ..NONE },
        liveness_sample: 10,
        ..plain(name, about)
    };
    vec![
        changed(
            lowered_and_paused(),
            "settings",
            "the hard limit is lowered, then everything is paused, and the operator dies",
        ),
        changed(
            vec![two, ConfigMapVersion { paused: true, ..two }, two],
            "pause",
            "everything is paused and continues, and the operator dies",
        ),
        changed(
            vec![
                two,
                ConfigMapVersion { hard_limit: 1, is_invalid: true, ..two },
                ConfigMapVersion { hard_limit: 1, ..two },
            ],
            "settings-invalid",
            "the ConfigMap becomes invalid and is corrected with a lower limit, and the operator dies",
        ),
        Scenario {
            spec: limit(3),
            ends: &[PodEnd::Unchanged],
            ..changed(
                vec![
                    ConfigMapVersion { no_change: 3, ..ConfigMapVersion::default() },
                    ConfigMapVersion { no_change: 1, ..ConfigMapVersion::default() },
                    ConfigMapVersion { no_change: 2, ..ConfigMapVersion::default() },
                ],
                "thresholds",
                "the threshold for iterations without a change moves, and the operator dies",
            )
        },
    ]
}

fn workspaces() -> Vec<Scenario> {
    const POLICIES: &[UserAction] = &[
        UserAction::SetWorkspacePolicy(WorkspacePolicy::Delete),
        UserAction::SetWorkspacePolicy(WorkspacePolicy::Retain),
        UserAction::DeleteTask,
    ];
    let retained = ModelSpec { workspace: WorkspacePolicy::Retain, ..limit(1) };
    vec![
        Scenario {
            spec: retained,
            user_actions: POLICIES,
            budget: Budget { user_actions: 2, crashes: 1, lost: 1, ..NONE },
            liveness_sample: 10,
            ..plain(
                "workspace",
                "whenDeleted of the PVC changes, the task is deleted, the operator dies, answers are lost",
            )
        },
        Scenario {
            spec: retained,
            user_actions: POLICIES,
            budget: Budget { user_actions: 1, refusals: 2, crashes: 1, ..NONE },
            liveness_sample: 10,
            ..plain(
                "workspace-refused",
                "the PVC or the pod is refused, whenDeleted changes or the task is deleted, the operator dies",
            )
        },
    ]
}

fn agent_ends() -> Vec<Scenario> {
    vec![
        Scenario {
            spec: limit(3),
            ends: &[
                PodEnd::Changed,
                PodEnd::Unchanged,
                PodEnd::Error,
                PodEnd::Ready,
                PodEnd::Refused,
                PodEnd::Fatal,
                PodEnd::Killed,
            ],
            user_actions: &[UserAction::SetResetToken],
            budget: Budget { user_actions: 1, odd_ends: 2, ..NONE },
            liveness_sample: 10,
            ..plain("ends", "agents end in every way, and a reset lifts the stop")
        },
        Scenario {
            spec: limit(1),
            ends: &[PodEnd::Refused, PodEnd::Changed],
            config_maps: vec![ConfigMapVersion { free_attempts: 1, ..ConfigMapVersion::default() }],
            budget: Budget { odd_ends: 1, crashes: 1, lost: 1, ..NONE },
            liveness_sample: 10,
            ..plain("free", "the provider refuses every attempt, an answer is lost, the operator dies")
        },
        Scenario {
            ends: &[PodEnd::Forged, PodEnd::Touched],
            budget: Budget { odd_ends: 1, crashes: 1, ..NONE },
            ..plain(
                "reports",
                "agents forge reports or touch what does not count as a change, and the operator dies",
            )
        },
        Scenario {
            ends: &[PodEnd::Ready],
            user_actions: &[UserAction::ChangeGoal],
            budget: Budget { user_actions: 1, crashes: 1, ..NONE },
            ..plain("goals", "the goal changes, and the operator dies")
        },
    ]
}

fn two(name: &'static str, about: &'static str) -> Scenario {
    Scenario { operators: 2, spec: limit(1), ..plain(name, about) }
}

fn two_operators() -> Vec<Scenario> {
    vec![
        Scenario { liveness_sample: 20, ..two("two", "two operators at the same time") },
        Scenario { releases: true, ..two("releases", "two releases watch the task") },
        Scenario {
            user_actions: &[UserAction::SetLimit(1), UserAction::SetLimit(2)],
            budget: Budget { user_actions: 1, ..NONE },
            prefix: AGENT_ENDED,
            max_depth: 18,
            liveness_sample: 50,
            ..two("limits-two", "the limit changes after the first agent has ended, with two operators")
        },
        Scenario {
            spec: limit(0),
            config_maps: lowered_and_paused(),
            user_actions: &[UserAction::ChangeConfigMap],
            budget: Budget { user_actions: 1, ..NONE },
            prefix: AGENT_ENDED,
            max_depth: 18,
            liveness_sample: 50,
            ..two("settings-two", "the hard limit is lowered, with two operators")
        },
        Scenario {
            spec: ModelSpec { workspace: WorkspacePolicy::Retain, ..limit(1) },
            user_actions: &[
                UserAction::SetWorkspacePolicy(WorkspacePolicy::Delete),
                UserAction::SetWorkspacePolicy(WorkspacePolicy::Retain),
            ],
            budget: Budget { user_actions: 2, ..NONE },
            prefix: AGENT_ENDED,
            max_depth: 14,
            liveness_sample: 50,
            ..two(
                "workspace-two",
                "whenDeleted of the PVC changes after the agent has ended, with two operators",
            )
        },
        Scenario {
            user_actions: &[UserAction::DeleteTask, UserAction::CreateTask],
            budget: Budget { user_actions: 2, ..NONE },
            prefix: POD_STARTED,
            is_first_cache_frozen: true,
            max_depth: 16,
            liveness_sample: 50,
            ..two("recreate", "the task is created again while one of two operators sees only the first task")
        },
    ]
}

/// The operator is stopped, and another one is installed once the uninstall has reported success.
pub const REINSTALL: UninstallPlan = UninstallPlan { stops_operator: true, second_runs: false };
/// An operator of another release runs already.
const BESIDE_ANOTHER: UninstallPlan = UninstallPlan { stops_operator: true, second_runs: true };
/// The operator continues although the uninstall believes that it is stopped.
pub const STILL_RUNNING: UninstallPlan = UninstallPlan { stops_operator: false, second_runs: false };

fn uninstalls() -> Vec<Scenario> {
    let uninstalled = |plan, name, about| Scenario {
        uninstall: Some(plan),
        user_actions: &[UserAction::DeletePod],
        liveness_sample: 20,
        ..two(name, about)
    };
    vec![
        Scenario {
            spec: limit(2),
            budget: Budget { user_actions: 1, ..NONE },
            ..uninstalled(
                REINSTALL,
                "uninstall",
                "an uninstall and a new installation in a loop of two iterations, a pod is deleted by hand",
            )
        },
        Scenario {
            budget: Budget { user_actions: 1, crashes: 1, lost: 1, ..NONE },
            ..uninstalled(
                REINSTALL,
                "uninstall-crash",
                "the same in one iteration, with a crash and a lost answer",
            )
        },
        Scenario {
            budget: Budget { user_actions: 1, delayed: 1, lost: 1, ..NONE },
            ..uninstalled(
                REINSTALL,
                "uninstall-delayed",
                "the same with a write that is carried out after its sender gave up, and a lost answer",
            )
        },
        Scenario {
            releases: true,
            budget: Budget { user_actions: 1, crashes: 1, ..NONE },
            ..uninstalled(
                REINSTALL,
                "uninstall-other",
                "an uninstall and the installation of another release, with a crash",
            )
        },
        Scenario {
            releases: true,
            prefix: POD_STARTED,
            budget: Budget { user_actions: 1, ..NONE },
            ..uninstalled(
                BESIDE_ANOTHER,
                "uninstall-beside",
                "an uninstall while another release watches the task already",
            )
        },
        Scenario {
            budget: Budget { user_actions: 1, ..NONE },
            prefix: ITERATION_ACTIVE - 1,
            max_depth: 24,
            ..uninstalled(
                STILL_RUNNING,
                "uninstall-running",
                "an uninstall that believes the operator to be stopped while it still runs, to a depth of 24",
            )
        },
    ]
}
