//! From signals to a graceful end.
//!
//! The first SIGTERM or SIGINT asks: nothing new is begun, what runs may finish. A later one means it: the process exits
//! at once, which the protocol survives at any point.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Signals so soon after the first are the same wish: `timeout`, and a terminal with a shell, tell the process and its
/// group.
const SAME_WISH: Duration = Duration::from_secs(1);

/// A token that the first signal cancels.
///
/// # Errors
/// Where the handlers cannot be installed.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        let (name, _) = either(&mut terminate, &mut interrupt).await;
        info!(signal = name, "stopping: what runs may finish");
        asked.cancel();
        let since = Instant::now();
        let (name, code) = loop {
            let next = either(&mut terminate, &mut interrupt).await;
            if since.elapsed() > SAME_WISH {
                break next;
            }
        };
        warn!(signal = name, "stopping at once");
        std::process::exit(code);
    });
    Ok(token)
}

/// The next signal: its name, and the exit code of a process that dies of it.
async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", 143),
        _ = interrupt.recv() => ("SIGINT", 130),
    }
}
