//! What all reconciles share.

use std::time::Duration;

use agentloop_core::decide::served::Serving;
use agentloop_core::decide::{self, Decision, Observed};
use agentloop_core::facts::PodFacts;

use super::event_obstacles::EventObstacles;
use super::events::Events;
use super::{configuration, injection};
use crate::client::Clients;
use crate::health::Heartbeat;
use crate::metrics::Metrics;
use crate::write::Writer;

/// The rules that the loop carries out.
#[derive(Clone, Copy, Debug)]
pub struct RuleSet {
    /// Decides about a task.
    pub decide: fn(&Observed<'_>) -> Decision,
    /// Decides about the pods of a task that is gone.
    pub stop_all: fn(&[PodFacts]) -> Decision,
}

impl Default for RuleSet {
    fn default() -> Self {
        Self { decide: decide::decide, stop_all: decide::stop_all }
    }
}

/// What all reconciles share.
pub(super) struct ControllerContext {
    pub(super) clients: Clients,
    pub(super) writer: Writer,
    pub(super) metrics: Metrics,
    pub(super) heartbeat: Heartbeat,
    pub(super) configuration: configuration::Watched,
    pub(super) injection: injection::Chosen,
    pub(super) events: Events,
    pub(super) event_obstacles: EventObstacles,
    pub(super) rules: RuleSet,
    pub(super) serving: Serving,
    pub(super) no_new_steps_after: Duration,
}
