//! A panic at one object stays with that object: it is reported, and tried again like any other error.
//!
//! No input should make the rules panic, and where one does it is a fault of ours. It must not stop the tasks of
//! everybody else: without this, a panic would end the process, and the same object would end it again after every
//! restart.

use std::any::Any;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};

use agentloop_contract::text::cut_bytes;
use futures::FutureExt;

/// Bytes of a panic's own words: they go into logs and Events.
const MOST_BYTES: usize = 400;

/// Why the work at one object did not succeed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault<E> {
    /// It failed.
    #[error(transparent)]
    Failed(#[from] E),
    /// It panicked, with these words.
    #[error("agentloop panicked: {0}")]
    Panicked(String),
}

/// Does the work, and reports a panic as an error.
///
/// Whatever the work had half done is dropped with it. What outlives it (caches, counters, the maps behind a mutex) is
/// changed in single steps, and all locks are taken whether or not they are poisoned.
pub(super) async fn caught<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, Fault<E>> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result.map_err(Fault::Failed),
        Err(panic) => Err(Fault::Panicked(words(panic.as_ref()))),
    }
}

/// The same for work that does not wait.
pub(super) fn caught_now<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| words(panic.as_ref()))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    cut_bytes(text.unwrap_or("without words"), MOST_BYTES)
}

#[cfg(test)]
#[allow(clippy::panic, reason = "this is about panics")]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    #[error("failed")]
    struct Failure;

    async fn panics_after_a_wait(words: String) -> Result<(), Failure> {
        tokio::task::yield_now().await;
        panic!("{words}")
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error_with_its_words() {
        let fault = caught(panics_after_a_wait("overflow at 9".to_owned())).await.unwrap_err();
        assert_eq!(fault.to_string(), "agentloop panicked: overflow at 9");
        let fault = caught::<(), Failure>(async { panic::panic_any(7) }).await.unwrap_err();
        assert_eq!(fault, Fault::Panicked("without words".to_owned()));
        let fault = caught(panics_after_a_wait("x".repeat(10_000))).await.unwrap_err();
        assert!(fault.to_string().len() < 500, "{fault}");
    }

    #[tokio::test]
    async fn what_does_not_panic_ends_as_it_did() {
        assert_eq!(caught::<_, Failure>(async { Ok(3) }).await, Ok(3));
        assert_eq!(caught::<(), _>(async { Err(Failure) }).await, Err(Fault::Failed(Failure)));
        assert_eq!(caught_now(|| 3), Ok(3));
        assert_eq!(caught_now(|| -> i32 { panic!("at once") }), Err("at once".to_owned()));
    }
}
