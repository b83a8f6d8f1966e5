//! What Events say about pods whose status says nothing.
//!
//! The API server does not cache Events: each list scans the namespace's Events in etcd, whatever it selects. So one list
//! serves all pods of a namespace, and is repeated only after a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agentloop_core::facts::{Obstacle, obstacle_from_events};
use agentloop_core::pod::INPUT_VOLUME;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::{self, Instant};
use tracing::debug;

use crate::client::READ_TIMEOUT;

/// How old a list may be.
const MAX_AGE: Duration = Duration::from_secs(30);
/// A pod that has fallen silent since the list was read causes a new list once the old one has this age.
const MIN_AGE: Duration = Duration::from_secs(10);
/// A namespace whose list has not been renewed for so long is forgotten.
const UNUSED: Duration = Duration::from_mins(5);
/// Events in one page, and pages of one list.
const PAGE: u32 = 500;
const MAX_PAGES: usize = 20;

/// Obstacles that Events report, by namespace.
pub(super) struct EventObstacles {
    client: Client,
    namespaces: Mutex<HashMap<String, Arc<NamespaceList>>>,
}

#[derive(Default)]
struct NamespaceList(tokio::sync::Mutex<Option<ObstacleList>>);

/// The obstacles found in one list, by the uid of their pod.
struct ObstacleList {
    read_at: Instant,
    obstacles: HashMap<String, Obstacle>,
}

impl ObstacleList {
    /// Whether it can still be used for a pod that has been silent for this time.
    fn is_good_for(&self, silent: Duration) -> bool {
        let age = self.read_at.elapsed();
        age < MAX_AGE && (age < MIN_AGE || age < silent)
    }
}

impl EventObstacles {
    pub(super) fn new(client: Client) -> Self {
        Self { client, namespaces: Mutex::default() }
    }

    /// The obstacle that Events report for this pod, which has been silent for this time.
    pub(super) async fn of(&self, namespace: &str, pod_uid: &str, silent: Duration) -> Option<Obstacle> {
        let known = self.namespaces.lock().entry(namespace.to_owned()).or_default().clone();
        // Others that ask while the list is being read wait for it.
        let mut list = known.0.lock().await;
        if !list.as_ref().is_some_and(|list| list.is_good_for(silent)) {
            let obstacles = match time::timeout(READ_TIMEOUT, self.list(namespace)).await {
                Ok(Ok(obstacles)) => obstacles,
                failed => {
                    debug!(namespace, ?failed, "cannot list the Events of pods");
                    list.take().map(|list| list.obstacles).unwrap_or_default()
                }
            };
            *list = Some(ObstacleList { read_at: Instant::now(), obstacles });
        }
        list.as_ref().and_then(|list| list.obstacles.get(pod_uid)).cloned()
    }

    /// Forgets namespaces whose Events are no longer needed.
    pub(super) fn forget_unused(&self) {
        self.namespaces.lock().retain(|_, known| {
            // A locked list is in use.
            known
                .0
                .try_lock()
                .map_or(true, |list| list.as_ref().is_some_and(|list| list.read_at.elapsed() < UNUSED))
        });
    }

    /// The newest obstacle of each pod.
    async fn list(&self, namespace: &str) -> Result<HashMap<String, Obstacle>, kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let mut params = ListParams::default().fields("involvedObject.kind=Pod,type=Warning").limit(PAGE);
        let mut newest: HashMap<String, (Option<Timestamp>, Obstacle)> = HashMap::new();
        for _ in 0..MAX_PAGES {
            let page = api.list(&params).await?;
            for event in page.items {
                take(&mut newest, event);
            }
            let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else { break };
            params = params.continue_token(&token);
        }
        Ok(newest.into_iter().map(|(uid, (_, obstacle))| (uid, obstacle)).collect())
    }
}

/// Keeps the obstacle that this Event reports, if it is the newest of its pod.
fn take(newest: &mut HashMap<String, (Option<Timestamp>, Obstacle)>, event: Event) {
    let (Some(uid), Some(reason), Some(message)) =
        (event.involved_object.uid, event.reason.as_deref(), event.message.as_deref())
    else {
        return;
    };
    let Some(obstacle) = obstacle_from_events([(reason, message)], INPUT_VOLUME) else { return };
    let last = event.last_timestamp.map(|time| time.0).or(event.event_time.map(|time| time.0));
    if newest.get(&uid).is_none_or(|(known, _)| *known <= last) {
        newest.insert(uid, (last, obstacle));
    }
}

#[cfg(test)]
mod tests {
    use agentloop_core::api::WaitReason;

    use super::*;

    fn event(uid: &str, reason: &str, at: &str) -> Event {
        serde_json::from_value(serde_json::json!({
            "metadata": {}, "involvedObject": { "uid": uid }, "reason": reason, "message": reason,
            "lastTimestamp": at,
        }))
        .unwrap()
    }

    #[test]
    fn the_newest_event_that_reports_an_obstacle_counts_in_whatever_order_they_arrive() {
        let events = [
            event("a", "FailedMount", "2026-01-01T00:00:01Z"),
            event("a", "FailedCreatePodSandBox", "2026-01-01T00:00:03Z"),
            event("a", "FailedMount", "2026-01-01T00:00:02Z"),
            event("a", "BackOff", "2026-01-01T00:00:09Z"),
            event("b", "FailedAttachVolume", "2026-01-01T00:00:00Z"),
        ];
        let mut newest = HashMap::new();
        for event in events {
            take(&mut newest, event);
        }
        let reason = |uid| newest.get(uid).map(|(_, obstacle)| obstacle.reason);
        assert_eq!(reason("a"), Some(WaitReason::StartFailed));
        assert_eq!(reason("b"), Some(WaitReason::VolumePending));
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_used_for_half_a_minute_and_less_for_a_pod_that_fell_silent_after_it() {
        let seconds = Duration::from_secs;
        let list = ObstacleList { read_at: Instant::now(), obstacles: HashMap::new() };
        time::advance(seconds(9)).await;
        assert!(list.is_good_for(seconds(0)));
        time::advance(seconds(2)).await;
        assert!(!list.is_good_for(seconds(5)), "the pod was not silent when the list was read");
        assert!(list.is_good_for(seconds(60)));
        time::advance(seconds(20)).await;
        assert!(!list.is_good_for(seconds(60)));
    }
}
