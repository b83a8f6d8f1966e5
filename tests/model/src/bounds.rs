//! Numbers that bound the search, below everything else.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};

/// It is always this time. A wait is either still to come or over.
pub static NOW: LazyLock<Timestamp> =
    LazyLock::new(|| Timestamp::from_second(1_800_000_000).unwrap_or_default());
/// When every wait ends: all delays of the settings have this length.
pub static LATER: LazyLock<Timestamp> = LazyLock::new(|| *NOW + SignedDuration::from_secs(DELAY));
/// The length of every delay, in seconds.
pub const DELAY: i64 = 3600;

/// Fair transitions of one operator after which its first iteration is active.
pub const ITERATION_ACTIVE: usize = 5;
/// Fair transitions after which it has confirmed the start of the first pod, and has not started it.
pub const START_CONFIRMED: usize = 10;
/// Fair transitions after which the first pod has been started.
pub const POD_STARTED: usize = 12;
/// Fair transitions after which the first agent has ended, and no operator has seen that.
pub const AGENT_ENDED: usize = 17;

/// A world that has not come to rest after so many fair transitions never will.
pub const MAX_FAIR_TRANSITIONS: usize = 600;
/// Locks among which the states are divided from which liveness is known.
pub const LIVENESS_SHARDS: usize = 64;
