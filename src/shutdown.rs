//! Graceful shutdown on signals.
//!
//! After the first SIGTERM or SIGINT, no new work starts, and running reconciles may finish. After a later one, the process
//! exits immediately; the protocol is safe at any point.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Signals within this time after the first one count as the same request: `timeout`, and a shell in a terminal, signal
/// both the process and its group.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// A token that the first signal cancels.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let requested = token.clone();
    tokio::spawn(async move {
        let (name, _) = either(&mut terminate, &mut interrupt).await;
        info!(signal = name, "stopping; running reconciles may finish");
        requested.cancel();
        let since = Instant::now();
        let (name, code) = loop {
            let next = either(&mut terminate, &mut interrupt).await;
            if since.elapsed() > SAME_REQUEST {
                break next;
            }
        };
        warn!(signal = name, "stopping immediately");
        std::process::exit(code);
    });
    Ok(token)
}

/// The next signal: its name, and the exit code of a process that it ends.
async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", 143),
        _ = interrupt.recv() => ("SIGINT", 130),
    }
}
