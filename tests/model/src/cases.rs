//! Which search sees which broken variant, and by which invariant.

use agentloop_test_support::invariants::Invariant;

use crate::scenarios::{Config, ENDED, RUNNING, Scenario, plain};
use crate::state::{Budget, End, Spec, Workspace};
use crate::user::Act;
use crate::variants::Variant;

/// One broken variant, the smallest scenario that shows it, and the invariants of which one is violated.
pub struct Case {
    /// What is broken.
    pub variant: Variant,
    /// Where it shows.
    pub scenario: Scenario,
    /// What is violated: whichever of these comes first.
    pub violates: &'static [Invariant],
}

/// Steps after which one operator has claimed the first iteration.
const CLAIMED: usize = 5;
/// Steps after which it has confirmed the start of the first pod, and not started it.
const CONFIRMED: usize = 10;

fn case(variant: Variant, scenario: &Scenario, violates: &'static [Invariant]) -> Case {
    Case { variant, scenario: scenario.clone(), violates }
}

/// All broken variants.
#[allow(clippy::too_many_lines)] // a table
pub fn cases() -> Vec<Case> {
    use Invariant::{L1, L2, S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, S11};
    let none = Budget::default();
    let limit = |limit| Spec {
        limit,
        suspend: false,
        token: 0,
        template: 0,
        goal: 0,
        keep: 0,
        workspace: Workspace::None,
    };
    let base = Scenario { spec: limit(1), rests: 0, ..plain("small", "") };
    let with = |budget: Budget, acts: &'static [Act]| Scenario { acts, budget, ..base.clone() };
    let two = |scenario: Scenario| Scenario { operators: 2, ..scenario };
    let ending = |ends: &'static [End]| Scenario { ends, spec: limit(2), ..base.clone() };
    let resting = |scenario: Scenario| Scenario { rests: 1, ..scenario };

    let late = with(Budget { delayed: 1, ..none }, &[]);
    let deleted_by_hand = with(Budget { crashes: 1, acts: 1, ..none }, &[Act::DeletePod]);
    let suspended = with(Budget { acts: 2, ..none }, &[Act::Suspend, Act::Resume]);
    let suspended_at_once = Scenario { budget: Budget { acts: 2, lost: 1, ..none }, ..suspended };
    let lowered = Scenario { spec: limit(2), ..with(Budget { acts: 1, ..none }, &[Act::Limit(1)]) };
    let raised = with(Budget { acts: 1, ..none }, &[Act::Limit(3)]);
    let again = two(with(Budget { acts: 2, ..none }, &[Act::Delete, Act::Create]));
    let silent = with(Budget { acts: 1, silences: 1, ..none }, &[Act::DeletePod]);
    let configured = two(Scenario {
        spec: limit(0),
        configs: vec![Config { hard: 2, ..Config::default() }, Config { hard: 2, ..Config::default() }],
        ..with(Budget { acts: 1, ..none }, &[Act::Configure])
    });
    let failing = with(Budget { failed_starts: 1, ..none }, &[]);
    let deleted = with(Budget { acts: 1, ..none }, &[Act::Delete]);
    let from = |after: usize, scenario: &Scenario| Scenario { after, ..scenario.clone() };
    let newer = Scenario {
        spec: limit(0),
        configs: vec![Config { hard: 1, ..Config::default() }; 3],
        settings: 1,
        ends: &[End::Refused],
        frozen: true,
        ..two(with(Budget { acts: 1, ..none }, &[Act::Configure]))
    };
    let older = Scenario { settings: 1, budget: none, ..configured.clone() };
    let frozen = |scenario: Scenario| Scenario { frozen: true, ..scenario };
    let refused = Scenario {
        configs: vec![Config { free: 1, ..Config::default() }],
        ends: &[End::Refused],
        ..base.clone()
    };
    let given_another = Scenario { ends: &[End::Ready], ..with(Budget { acts: 1, ..none }, &[Act::Goal]) };
    let releases = two(Scenario { releases: true, ..base.clone() });
    let owned = Scenario {
        spec: Spec { workspace: Workspace::Retained, ..limit(1) },
        after: ENDED + 1,
        rests: 1,
        ..with(
            Budget { acts: 2, delayed: 1, ..none },
            &[Act::Workspace(Workspace::Deleted), Act::Workspace(Workspace::Retained)],
        )
    };
    let kept = Spec { keep: 10, ..limit(1) };
    vec![
        case(Variant::NoGate, &late, &[S1, S2]),
        case(Variant::NoFinalizer, &deleted_by_hand, &[S2]),
        case(Variant::NoUid, &from(CONFIRMED, &frozen(two(late.clone()))), &[S2]),
        case(Variant::StartUnconfirmed, &from(CLAIMED, &frozen(two(late.clone()))), &[S1, S2]),
        case(Variant::StatusUnguarded, &two(Scenario { spec: limit(2), ..base.clone() }), &[S2, S4]),
        case(Variant::BlindRetry, &two(Scenario { spec: limit(2), ..base.clone() }), &[S2, S4]),
        case(Variant::ConflictIsDone, &resting(with(Budget { overtaken: 2, ..none }, &[])), &[L1]),
        case(Variant::LimitReadLate, &lowered, &[S3]),
        case(Variant::SettingsUnfenced, &from(ENDED, &older), &[S3]),
        case(Variant::ConsistentAcrossReads, &from(ENDED + 1, &newer), &[S3]),
        case(Variant::ConsistencyRemembered, &from(ENDED, &older), &[S3]),
        case(Variant::EarlierIgnored, &from(RUNNING, &frozen(again.clone())), &[S1]),
        case(Variant::GatedEarlierIgnored, &from(CONFIRMED, &frozen(again.clone())), &[S1]),
        case(Variant::ForeignAdopted, &with(Budget { acts: 1, ..none }, &[Act::Squat]), &[S4]),
        case(
            Variant::OtherAttemptAdopted,
            &resting(Scenario { spec: kept, ..failing.clone() }),
            &[S2, S4, L1],
        ),
        case(Variant::PvcUnguarded, &owned, &[S8]),
        case(Variant::PvcGoesBack, &owned, &[S8]),
        case(Variant::SweepLooksOnce, &resting(deleted.clone()), &[S8, L1]),
        case(
            Variant::SweepFromCache,
            &from(ENDED, &two(with(Budget { crashes: 1, ..none }, &[]))),
            &[S2, S4],
        ),
        case(Variant::DeletingIsEnded, &deleted_by_hand, &[S1, S2, S4]),
        case(Variant::SilentIsEnded, &Scenario { spec: limit(2), ..silent.clone() }, &[S1, S4]),
        case(Variant::RunningIsEnded, &ending(&[End::Changed]), &[S1]),
        case(Variant::FreeWithoutProof, &ending(&[End::Killed]), &[S4]),
        case(Variant::FreeUncounted, &refused, &[S9]),
        case(Variant::GoalIgnored, &given_another, &[S10]),
        case(Variant::ServedIgnored, &releases, &[S11]),
        case(Variant::UnsignedBelieved, &ending(&[End::Forged]), &[S10]),
        case(Variant::TouchedIsFree, &ending(&[End::Touched]), &[S4]),
        case(Variant::ReleasedBeforeSettled, &deleted_by_hand, &[S2, S4]),
        case(Variant::WithdrawnOnSuspend, &suspended_at_once, &[S2]),
        case(Variant::AttemptForgotten, &failing, &[S2]),
        case(Variant::StopForgotten, &ending(&[End::Fatal]), &[S5]),
        case(Variant::NeverRetries, &resting(failing.clone()), &[L1]),
        case(Variant::AlwaysWrites, &resting(base.clone()), &[L1, L2]),
        case(Variant::LimitShownEarly, &base, &[S6]),
        case(Variant::IterationSkipped, &raised, &[S7]),
    ]
}
