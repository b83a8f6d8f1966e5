//! The tasks that another release serves, as far as this process knows.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The Event is published again after this time, because Events expire.
const REPEAT_EVENT_AFTER: Duration = Duration::from_mins(30);

/// By the task's uid: the release that serves it, and when its Event was last published.
#[derive(Default)]
pub(super) struct Elsewhere(Mutex<HashMap<String, (String, Instant)>>);

impl Elsewhere {
    /// Remembers which release serves a task. Returns whether an Event must be published.
    pub(super) fn note(&self, uid: &str, release: &str) -> bool {
        let mut known = self.0.lock();
        let is_old = known
            .get(uid)
            .is_some_and(|(named, published)| named == release && published.elapsed() < REPEAT_EVENT_AFTER);
        if !is_old {
            known.insert(uid.to_owned(), (release.to_owned(), Instant::now()));
        }
        !is_old
    }

    /// The release that served a task, which may be gone by now.
    pub(super) fn of(&self, uid: &str) -> Option<String> {
        self.0.lock().get(uid).map(|(release, _)| release.clone())
    }

    /// This release serves the task now.
    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// Forgets tasks that no longer exist and have no pods.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| is_there(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_event_is_published_once_and_again_later_and_immediately_when_the_release_changes() {
        let elsewhere = Elsewhere::default();
        assert!(elsewhere.note("u", "old/agentloop"));
        assert!(!elsewhere.note("u", "old/agentloop"));
        assert!(elsewhere.note("u", "older/agentloop"));
        tokio::time::advance(REPEAT_EVENT_AFTER).await;
        assert!(elsewhere.note("u", "older/agentloop"));
        assert_eq!(elsewhere.of("u").as_deref(), Some("older/agentloop"));
        elsewhere.retain(|uid| uid != "u");
        assert_eq!(elsewhere.of("u"), None);
    }
}
