//! The tasks that another release serves, as this process has seen them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After this time the Event is published again: Events fade.
const TELL_AGAIN: Duration = Duration::from_mins(30);

/// By the task's uid: the release that serves it, and when its Event was last published.
#[derive(Default)]
pub(super) struct Elsewhere(Mutex<HashMap<String, (String, Instant)>>);

impl Elsewhere {
    /// Remembers who serves a task; whether that is to be told.
    pub(super) fn note(&self, uid: &str, release: &str) -> bool {
        let mut known = self.lock();
        let is_old =
            known.get(uid).is_some_and(|(named, told)| named == release && told.elapsed() < TELL_AGAIN);
        if !is_old {
            known.insert(uid.to_owned(), (release.to_owned(), Instant::now()));
        }
        !is_old
    }

    /// Who served a task, which may be gone by now.
    pub(super) fn of(&self, uid: &str) -> Option<String> {
        self.lock().get(uid).map(|(release, _)| release.clone())
    }

    /// This release serves it.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Forgets the tasks of which nothing is there any more.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| is_there(uid));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_told_once_again_later_and_at_once_when_the_release_changes() {
        let elsewhere = Elsewhere::default();
        assert!(elsewhere.note("u", "old/agentloop"));
        assert!(!elsewhere.note("u", "old/agentloop"));
        assert!(elsewhere.note("u", "older/agentloop"));
        tokio::time::advance(TELL_AGAIN).await;
        assert!(elsewhere.note("u", "older/agentloop"));
        assert_eq!(elsewhere.of("u").as_deref(), Some("older/agentloop"));
        elsewhere.retain(|uid| uid != "u");
        assert_eq!(elsewhere.of("u"), None);
    }
}
