//! What Events tell of pods whose status is silent.
//!
//! The API server keeps Events in no cache: each list is a scan of the namespace's Events in etcd, whatever it selects.
//! So one list serves all pods of a namespace, and is made again only after a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentloop_core::facts::{Obstacle, obstacle_from_events};
use agentloop_core::pod::INPUT_VOLUME;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::{self, Instant};
use tracing::debug;

use crate::client::READ_TIMEOUT;

/// How old a list may be.
const OLD: Duration = Duration::from_secs(30);
/// How old it is at least before a pod that has fallen silent since is worth a new one.
const YOUNG: Duration = Duration::from_secs(10);
/// After this a namespace that nobody has asked about is forgotten.
const FORGOTTEN: Duration = Duration::from_mins(5);
/// Events in one answer, and answers for one list.
const PAGE: u32 = 500;
const MOST_PAGES: usize = 20;

/// What Events tell, by namespace.
pub(super) struct Told {
    client: Client,
    namespaces: Mutex<HashMap<String, Arc<Namespace>>>,
}

#[derive(Default)]
struct Namespace(tokio::sync::Mutex<Option<Heard>>);

/// One list.
struct Heard {
    at: Instant,
    obstacles: HashMap<String, Obstacle>,
}

impl Heard {
    /// Whether it is still good for a pod that has been silent for so long.
    fn is_good_for(&self, silent: Duration) -> bool {
        let age = self.at.elapsed();
        age < OLD && (age < YOUNG || age < silent)
    }
}

impl Told {
    pub(super) fn new(client: Client) -> Self {
        Self { client, namespaces: Mutex::default() }
    }

    /// The obstacle that Events tell of this pod, which has been silent for so long.
    pub(super) async fn of(&self, namespace: &str, pod_uid: &str, silent: Duration) -> Option<Obstacle> {
        let place = self.lock().entry(namespace.to_owned()).or_default().clone();
        // Whoever comes while the list is on its way waits for the same one.
        let mut heard = place.0.lock().await;
        if !heard.as_ref().is_some_and(|heard| heard.is_good_for(silent)) {
            let obstacles = match time::timeout(READ_TIMEOUT, self.list(namespace)).await {
                Ok(Ok(obstacles)) => obstacles,
                failed => {
                    debug!(namespace, ?failed, "the Events of pods cannot be read");
                    heard.take().map(|heard| heard.obstacles).unwrap_or_default()
                }
            };
            *heard = Some(Heard { at: Instant::now(), obstacles });
        }
        heard.as_ref().and_then(|heard| heard.obstacles.get(pod_uid)).cloned()
    }

    /// Forgets namespaces that nobody asks about.
    pub(super) fn forget_what_is_old(&self) {
        self.lock().retain(|_, place| {
            // One that is being listed is not old.
            place
                .0
                .try_lock()
                .map_or(true, |heard| heard.as_ref().is_some_and(|heard| heard.at.elapsed() < FORGOTTEN))
        });
    }

    /// The newest obstacle of each pod.
    async fn list(&self, namespace: &str) -> Result<HashMap<String, Obstacle>, kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let mut params = ListParams::default().fields("involvedObject.kind=Pod,type=Warning").limit(PAGE);
        let mut newest: HashMap<String, (Option<Timestamp>, Obstacle)> = HashMap::new();
        for _ in 0..MOST_PAGES {
            let page = api.list(&params).await?;
            for event in page.items {
                take(&mut newest, event);
            }
            let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else { break };
            params = params.continue_token(&token);
        }
        Ok(newest.into_iter().map(|(uid, (_, obstacle))| (uid, obstacle)).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Namespace>>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
    fn the_newest_event_that_says_something_counts_in_whatever_order_they_come() {
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
    async fn a_list_serves_for_half_a_minute_and_less_for_a_pod_that_fell_silent_after_it() {
        let seconds = Duration::from_secs;
        let heard = Heard { at: Instant::now(), obstacles: HashMap::new() };
        time::advance(seconds(9)).await;
        assert!(heard.is_good_for(seconds(0)));
        time::advance(seconds(2)).await;
        assert!(!heard.is_good_for(seconds(5)), "the pod was not silent yet");
        assert!(heard.is_good_for(seconds(60)));
        time::advance(seconds(20)).await;
        assert!(!heard.is_good_for(seconds(60)));
    }
}
