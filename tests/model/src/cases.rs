//! Which search finds which broken variant, and by which invariant.

use agentloop_test_support::invariants::Invariant;
use agentloop_test_support::invariants::Invariant::{
    L1, L2, S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, S11, S12,
};

use crate::api::{ConfigMapVersion, ModelSpec, PodEnd, WorkspacePolicy};
use crate::bounds::{AGENT_ENDED, ITERATION_ACTIVE, POD_STARTED, START_CONFIRMED};
use crate::scenario::{Scenario, UninstallPlan, plain};
use crate::scenarios::{REINSTALL, STILL_RUNNING};
use crate::state::Budget;
use crate::user::UserAction;
use crate::variants::Variant;

/// One broken variant, the smallest scenario that shows it, and the invariants of which one is violated.
pub struct VariantCase {
    /// What is broken.
    pub variant: Variant,
    /// Where it shows.
    pub scenario: Scenario,
    /// What is violated: whichever of these comes first.
    pub violates: &'static [Invariant],
}

/// All broken variants.
pub fn cases() -> Vec<VariantCase> {
    let mut all = guards_of_pods();
    all.extend(guards_of_the_status());
    all.extend(guards_of_the_settings());
    all.extend(pods_of_previous_tasks());
    all.extend(cleanup());
    all.extend(facts_about_pods());
    all.extend(attempts());
    all.extend(status());
    all.extend(uninstalls());
    all
}

fn case(variant: Variant, scenario: &Scenario, violates: &'static [Invariant]) -> VariantCase {
    VariantCase { variant, scenario: scenario.clone(), violates }
}

fn limit(limit: u8) -> ModelSpec {
    ModelSpec::of_limit(limit)
}

/// One iteration, no faults, liveness unchecked.
fn base() -> Scenario {
    Scenario { spec: limit(1), liveness_sample: 0, ..plain("small", "") }
}

fn with(budget: Budget, user_actions: &'static [UserAction]) -> Scenario {
    Scenario { user_actions, budget, ..base() }
}

fn edited(user_actions: &'static [UserAction]) -> Scenario {
    with(Budget { user_actions: 1, ..Budget::default() }, user_actions)
}

fn two(scenario: Scenario) -> Scenario {
    Scenario { operators: 2, ..scenario }
}

fn frozen(scenario: Scenario) -> Scenario {
    Scenario { is_first_cache_frozen: true, ..scenario }
}

fn live(scenario: Scenario) -> Scenario {
    Scenario { liveness_sample: 1, ..scenario }
}

fn from(prefix: usize, scenario: Scenario) -> Scenario {
    Scenario { prefix, ..scenario }
}

fn ending(ends: &'static [PodEnd]) -> Scenario {
    Scenario { ends, spec: limit(2), ..base() }
}

fn delayed() -> Scenario {
    with(Budget { delayed: 1, ..Budget::default() }, &[])
}

fn deleted_by_hand() -> Scenario {
    with(Budget { crashes: 1, user_actions: 1, ..Budget::default() }, &[UserAction::DeletePod])
}

fn failing() -> Scenario {
    with(Budget { failed_starts: 1, ..Budget::default() }, &[])
}

fn guards_of_pods() -> Vec<VariantCase> {
    let conflicting = with(Budget { patch_conflicts: 2, ..Budget::default() }, &[]);
    let named = edited(&[UserAction::CreateForeignPod]);
    let kept = Scenario { spec: ModelSpec { pod_history_limit: 10, ..limit(1) }, ..failing() };
    let late = || frozen(two(delayed()));
    vec![
        case(Variant::NoSchedulingGate, &delayed(), &[S1, S2]),
        case(Variant::NoFinalizer, &deleted_by_hand(), &[S2]),
        case(Variant::NoUidPrecondition, &from(START_CONFIRMED, late()), &[S2]),
        case(Variant::StartUnconfirmed, &from(ITERATION_ACTIVE, late()), &[S1, S2]),
        case(Variant::PodConflictTakenForNotFound, &live(conflicting), &[L1]),
        case(Variant::ForeignPodAdopted, &named, &[S4]),
        case(Variant::PreviousAttemptAdopted, &live(kept), &[S2, S4, L1]),
        case(Variant::FinalizerRemovedBeforeSettled, &deleted_by_hand(), &[S2, S4]),
    ]
}

fn guards_of_the_status() -> Vec<VariantCase> {
    let racing = two(Scenario { spec: limit(2), ..base() });
    let lowered = Scenario { spec: limit(2), ..edited(&[UserAction::SetLimit(1)]) };
    let releases = two(Scenario { releases: true, ..base() });
    vec![
        case(Variant::StatusWithoutVersion, &racing, &[S2, S4]),
        case(Variant::BlindRetry, &racing, &[S2, S4]),
        case(Variant::SpecVersionIgnored, &lowered, &[S3]),
        case(Variant::ServedByIgnored, &releases, &[S11]),
    ]
}

fn guards_of_the_settings() -> Vec<VariantCase> {
    let of_limit = |hard_limit| ConfigMapVersion { hard_limit, ..ConfigMapVersion::default() };
    let older = two(Scenario { spec: limit(0), config_maps: vec![of_limit(2); 2], config_map: 1, ..base() });
    let newer = Scenario {
        spec: limit(0),
        config_maps: vec![of_limit(1); 3],
        config_map: 1,
        ends: &[PodEnd::Refused],
        ..frozen(two(edited(&[UserAction::ChangeConfigMap])))
    };
    vec![
        case(Variant::AnyConfigurationTakenForNewest, &from(AGENT_ENDED, older.clone()), &[S3]),
        case(Variant::ConsistentReadNeverExpires, &from(AGENT_ENDED, older), &[S3]),
        case(Variant::ConsistentReadOutlivesTaskRead, &from(AGENT_ENDED + 1, newer), &[S3]),
    ]
}

fn pods_of_previous_tasks() -> Vec<VariantCase> {
    let budget = Budget { user_actions: 2, ..Budget::default() };
    let again = || frozen(two(with(budget, &[UserAction::DeleteTask, UserAction::CreateTask])));
    vec![
        case(Variant::PreviousPodsIgnored, &from(POD_STARTED, again()), &[S1]),
        case(Variant::GatedPreviousPodsIgnored, &from(START_CONFIRMED, again()), &[S1]),
    ]
}

fn cleanup() -> Vec<VariantCase> {
    let owned = Scenario {
        spec: ModelSpec { workspace: WorkspacePolicy::Retain, ..limit(1) },
        prefix: AGENT_ENDED + 1,
        ..live(with(
            Budget { user_actions: 2, delayed: 1, ..Budget::default() },
            &[
                UserAction::SetWorkspacePolicy(WorkspacePolicy::Delete),
                UserAction::SetWorkspacePolicy(WorkspacePolicy::Retain),
            ],
        ))
    };
    let crashing = two(with(Budget { crashes: 1, ..Budget::default() }, &[]));
    vec![
        case(Variant::PvcOwnerWithoutVersion, &owned, &[S8]),
        case(Variant::PvcOwnerByOlderSpec, &owned, &[S8]),
        case(Variant::OrphansCheckedOnce, &live(edited(&[UserAction::DeleteTask])), &[S8, L1]),
        case(Variant::OrphanAnswersKept, &live(edited(&[UserAction::DeleteTask])), &[S8]),
        case(Variant::OrphansJudgedByCache, &from(AGENT_ENDED, crashing), &[S2, S4]),
    ]
}

fn facts_about_pods() -> Vec<VariantCase> {
    let budget = Budget { user_actions: 1, silent_nodes: 1, ..Budget::default() };
    let silent = Scenario { spec: limit(2), ..with(budget, &[UserAction::DeletePod]) };
    let other_goal = Scenario { ends: &[PodEnd::Ready], ..edited(&[UserAction::ChangeGoal]) };
    vec![
        case(Variant::DeletingPodTakenForEnded, &deleted_by_hand(), &[S1, S2, S4]),
        case(Variant::SilentPodTakenForEnded, &silent, &[S1, S4]),
        case(Variant::RunningPodTakenForEnded, &ending(&[PodEnd::Changed]), &[S1]),
        case(Variant::FreeWithoutProof, &ending(&[PodEnd::Killed]), &[S4]),
        case(Variant::CompletionGoalIgnored, &other_goal, &[S10]),
        case(Variant::UnsignedReportAccepted, &ending(&[PodEnd::Forged]), &[S10]),
        case(Variant::TouchedWorkspaceIsFree, &ending(&[PodEnd::Touched]), &[S4]),
    ]
}

fn attempts() -> Vec<VariantCase> {
    let refused = Scenario {
        config_maps: vec![ConfigMapVersion { free_attempts: 1, ..ConfigMapVersion::default() }],
        ends: &[PodEnd::Refused],
        ..base()
    };
    let budget = Budget { user_actions: 2, lost: 1, ..Budget::default() };
    let suspended = with(budget, &[UserAction::Suspend, UserAction::Resume]);
    vec![
        case(Variant::FreeAttemptsUncounted, &refused, &[S9]),
        case(Variant::IterationWithdrawnOnSuspend, &suspended, &[S2]),
        case(Variant::AttemptNumberReset, &failing(), &[S2]),
    ]
}

fn status() -> Vec<VariantCase> {
    let raised = edited(&[UserAction::SetLimit(3)]);
    vec![
        case(Variant::StopIgnored, &ending(&[PodEnd::Fatal]), &[S5]),
        case(Variant::NeverRequeues, &live(failing()), &[L1]),
        case(Variant::AlwaysWrites, &live(base()), &[L1, L2]),
        case(Variant::LimitShownEarly, &base(), &[S6]),
        case(Variant::IterationSkipped, &raised, &[S7]),
    ]
}

fn uninstalls() -> Vec<VariantCase> {
    let uninstalled = |plan: UninstallPlan, scenario| Scenario { uninstall: Some(plan), ..two(scenario) };
    let deleted = || uninstalled(REINSTALL, edited(&[UserAction::DeletePod]));
    let other = || Scenario { releases: true, ..uninstalled(REINSTALL, delayed()) };
    let running = uninstalled(STILL_RUNNING, edited(&[UserAction::DeletePod]));
    vec![
        case(Variant::UninstallWithoutMark, &from(POD_STARTED, deleted()), &[S2]),
        case(Variant::OrphanedIgnored, &from(POD_STARTED, deleted()), &[S2]),
        case(Variant::UninstallWithoutVersion, &from(POD_STARTED, other()), &[S11]),
        case(Variant::UninstallListsPodsOnce, &from(ITERATION_ACTIVE, other()), &[S12]),
        case(Variant::UninstallKeepsServedBy, &from(POD_STARTED, deleted()), &[S12]),
        case(Variant::UninstallMarksOnce, &from(ITERATION_ACTIVE - 1, running), &[S2, S4]),
    ]
}
