//! A fake kubelet and scheduler for one namespace: it runs every pod that may run, and notes when.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentloop_chaos::server::{AdminClient, pods};
use anyhow::{Result, bail};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::played;
use super::state::{State, Todo};
use super::{Event, Pod, list, watch_path};
use crate::api::Lines;

/// How long it waits before it opens a watch that failed again.
const BETWEEN_WATCHES: Duration = Duration::from_millis(100);
/// How long nothing may happen until a namespace is at rest.
pub const QUIET: Duration = Duration::from_millis(500);

/// How long an agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// For this time.
    Lasts(Duration),
    /// Until [`State::release`], or until its pod is deleted.
    UntilReleased,
}

/// Says how long the agent of a loop's iteration runs, by the loop's name and the iteration's number.
pub type Script = dyn Fn(&str, usize) -> Agent + Send + Sync;

pub(super) struct Shared {
    pub(super) server: AdminClient,
    pub(super) namespace: String,
    script: Box<Script>,
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

impl Shared {
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_replace(());
        answer
    }
}

/// The kubelet. It stops when it is dropped.
pub struct Kubelet {
    shared: Arc<Shared>,
    running: JoinHandle<()>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Kubelet {
    /// Runs the pods of a namespace.
    pub fn start(
        server: &AdminClient,
        namespace: &str,
        script: impl Fn(&str, usize) -> Agent + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            server: server.clone(),
            namespace: namespace.to_owned(),
            script: Box::new(script),
            state: Mutex::default(),
            changes: watch::channel(()).0,
        });
        let running = tokio::spawn(follow(shared.clone()));
        Self { shared, running }
    }

    /// Reads or changes what it knows.
    pub fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until `look` finds something.
    pub async fn until<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(found) = self.state(&mut look) {
                return Ok(found);
            }
            if let Some(problem) = self.state(|state| state.problems.first().cloned()) {
                bail!("the fake kubelet: {problem}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, changes.changed()).await.is_err() {
                let (started, ended, running) =
                    self.state(|state| (state.started, state.ended, state.running()));
                bail!(
                    "not within {} s: {what}; {started} pods started, {ended} ended, {running} run",
                    limit.as_secs()
                );
            }
        }
    }

    /// Waits until no pod has changed for a while.
    pub async fn at_rest(&self) {
        loop {
            let quiet = self.state(|state| state.last_change.map_or(QUIET, |last| last.elapsed()));
            if quiet >= QUIET {
                return;
            }
            sleep(QUIET.saturating_sub(quiet)).await;
        }
    }
}

async fn follow(shared: Arc<Shared>) {
    let mut lives = JoinSet::new();
    loop {
        // The API server may be away for a moment. What is missed is read again.
        let _ = follow_once(&shared, &mut lives).await;
        sleep(BETWEEN_WATCHES).await;
    }
}

async fn follow_once(shared: &Arc<Shared>, lives: &mut JoinSet<()>) -> Result<()> {
    let (pods, version) = list(&shared.server, &shared.namespace).await?;
    shared.change(|state| state.forget_all_but(&pods, Instant::now()));
    for pod in pods {
        observe(shared, lives, pod);
    }
    let mut events = Lines::open(&shared.server, &watch_path(&shared.namespace, &version)).await?;
    while let Some(event) = events.next::<Event>().await? {
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => observe(shared, lives, event.object),
            "DELETED" => shared.change(|state| state.goes(&event.object.metadata.uid, Instant::now())),
            _ => break,
        }
        while lives.try_join_next().is_some() {}
    }
    Ok(())
}

fn observe(shared: &Arc<Shared>, lives: &mut JoinSet<()>, pod: Pod) {
    let todo = shared.change(|state| state.observe(&pod, Instant::now()));
    if matches!(todo, Todo::Nothing) {
        return;
    }
    let shared = shared.clone();
    lives.spawn(async move {
        let done = if let Todo::Run(number, stop) = todo {
            let agent = (shared.script)(pod.owner(), number);
            played::run(&shared, &pod, agent, stop).await
        } else {
            let path = pods(&shared.namespace, &pod.metadata.name);
            played::remove(&shared.server, &path, &pod.metadata.uid).await
        };
        if let Err(error) = done {
            shared.change(|state| state.problems.push(format!("{error:#}")));
        }
    });
}
