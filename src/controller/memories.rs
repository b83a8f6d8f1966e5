//! What this process remembers of each task from one reconcile to the next, and of each orphaned pod from one check to the
//! next.

use std::collections::HashMap;

use agentloop_core::sync::{ANSWER_LIFETIME, Memory, OrphanMemory};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::handles::Live;

/// What is remembered of one object.
pub(super) trait ObjectMemory: Default {
    /// Whether nothing is remembered.
    fn is_empty(&self) -> bool;
    /// Forgets old answers.
    fn forget_answers(&mut self, is_old: impl Fn(&Instant) -> bool);
}

impl ObjectMemory for Memory<Live> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn forget_answers(&mut self, is_old: impl Fn(&Instant) -> bool) {
        self.forget_answers(is_old);
    }
}

impl ObjectMemory for OrphanMemory<Live> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn forget_answers(&mut self, is_old: impl Fn(&Instant) -> bool) {
        self.forget_answers(is_old);
    }
}

/// By the object's uid.
#[derive(Default)]
pub(super) struct Memories<M: ObjectMemory>(Mutex<HashMap<String, M>>);

/// The memory of one object, for one reconcile. It is put back when this is dropped.
pub(super) struct Borrowed<'a, M: ObjectMemory> {
    memories: &'a Memories<M>,
    uid: String,
    pub(super) memory: M,
}

impl<M: ObjectMemory> Memories<M> {
    /// Takes the memory of an object. An object has one reconcile at a time, so nothing else needs it in the meantime.
    pub(super) fn borrow(&self, uid: String) -> Borrowed<'_, M> {
        let mut memory = self.0.lock().remove(&uid).unwrap_or_default();
        memory.forget_answers(is_old);
        Borrowed { memories: self, uid, memory }
    }

    /// Forgets the objects that no longer exist, and old answers about the others.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, memory| {
            memory.forget_answers(is_old);
            is_there(uid) && !memory.is_empty()
        });
    }
}

fn is_old(time: &Instant) -> bool {
    time.elapsed() >= ANSWER_LIFETIME
}

impl<M: ObjectMemory> Drop for Borrowed<'_, M> {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if !memory.is_empty() {
            self.memories.0.lock().insert(std::mem::take(&mut self.uid), memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time;

    use super::*;

    /// Remembers one answer, and perhaps something that does not age.
    #[derive(Default)]
    struct Noted {
        answer: Option<Instant>,
        other: bool,
    }

    impl ObjectMemory for Noted {
        fn is_empty(&self) -> bool {
            self.answer.is_none() && !self.other
        }

        fn forget_answers(&mut self, is_old: impl Fn(&Instant) -> bool) {
            self.answer.take_if(|time| is_old(time));
        }
    }

    fn note(memories: &Memories<Noted>, uid: &str) {
        memories.borrow(uid.to_owned()).memory.answer = Some(Instant::now());
    }

    fn uids(memories: &Memories<Noted>) -> Vec<String> {
        let mut uids: Vec<String> = memories.0.lock().keys().cloned().collect();
        uids.sort();
        uids
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_answer_about_an_object_that_nothing_reconciles_is_forgotten() {
        let memories = Memories::default();
        note(&memories, "old");
        memories.borrow("other".to_owned()).memory = Noted { answer: Some(Instant::now()), other: true };
        time::advance(ANSWER_LIFETIME.saturating_sub(Duration::from_secs(1))).await;
        note(&memories, "new");
        memories.retain(|_| true);
        assert_eq!(uids(&memories), ["new", "old", "other"]);
        time::advance(Duration::from_secs(1)).await;
        memories.retain(|_| true);
        assert_eq!(uids(&memories), ["new", "other"]);
        assert_eq!(memories.borrow("other".to_owned()).memory.answer, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_of_an_object_that_is_gone_is_forgotten() {
        let memories = Memories::default();
        note(&memories, "stays");
        note(&memories, "gone");
        memories.retain(|uid| uid == "stays");
        assert_eq!(uids(&memories), ["stays"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_memory_is_put_back_with_its_answer_until_the_answer_is_old() {
        let memories = Memories::default();
        let now = Instant::now();
        note(&memories, "uid");
        assert_eq!(memories.borrow("uid".to_owned()).memory.answer, Some(now));
        assert_eq!(memories.borrow("uid".to_owned()).memory.answer, Some(now));
        time::advance(ANSWER_LIFETIME).await;
        assert_eq!(memories.borrow("uid".to_owned()).memory.answer, None);
        assert!(uids(&memories).is_empty());
    }
}
