//! What this process remembers of each task from one reconcile to the next.

use std::collections::HashMap;

use agentloop_core::sync::{ANSWER_LIFETIME, Memory};
use parking_lot::Mutex;

use super::handles::Live;

/// By the task's uid.
#[derive(Default)]
pub(super) struct Memories(Mutex<HashMap<String, Memory<Live>>>);

/// The memory of one task, for one reconcile. It is put back when this is dropped.
pub(super) struct Borrowed<'a> {
    memories: &'a Memories,
    uid: String,
    pub(super) memory: Memory<Live>,
}

impl Memories {
    /// Takes the memory of a task. A task has one reconcile at a time, so nothing else needs it in the meantime.
    pub(super) fn borrow(&self, uid: String) -> Borrowed<'_> {
        let mut memory = self.0.lock().remove(&uid).unwrap_or_default();
        memory.forget_answers(|time| time.elapsed() >= ANSWER_LIFETIME);
        Borrowed { memories: self, uid, memory }
    }

    /// Forgets the tasks that no longer exist.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| is_there(uid));
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if !memory.is_empty() {
            self.memories.0.lock().insert(std::mem::take(&mut self.uid), memory);
        }
    }
}
