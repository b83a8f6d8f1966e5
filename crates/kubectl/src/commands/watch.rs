//! `watch`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use agentloop_core::api::AgentTask;
use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use terminal_size::{Height, terminal_size};
use tokio::{signal, time};

use super::follow::{gone, refusal, states, stop_code};
use super::get::known;
use crate::cli::WatchArgs;
use crate::failure::{Failure, Request, exit};
use crate::session::{Session, print};
use crate::view::task::Pods;
use crate::view::{list, watch as view};

/// How often durations are drawn again.
const TICK: Duration = Duration::from_secs(1);

pub(super) async fn run(session: &Session, args: &WatchArgs) -> Result<u8, Failure> {
    match &args.name {
        Some(name) => {
            let _: AgentTask = session.task(name).await?;
            follow(session, name).await
        }
        None => many(session, args).await,
    }
}

/// Shows one task until it stops. Returns the exit code of its stop.
pub(super) async fn follow(session: &Session, name: &str) -> Result<u8, Failure> {
    let mut screen = Screen::open(session)?;
    let mut states = states(session, name);
    let mut tick = time::interval(TICK);
    let mut last: Option<AgentTask> = None;
    let mut pods = Pods::default();
    let mut said = String::new();
    loop {
        tokio::select! {
            state = states.next() => {
                let task = state.transpose()?.flatten().ok_or_else(|| gone(session, name))?;
                if screen.live {
                    pods = session.pods_of(&task).await.map(|pods| known(&pods)).unwrap_or_default();
                } else {
                    let line = view::plain(&task);
                    if line != said {
                        print(std::slice::from_ref(&line))?;
                        said = line;
                    }
                }
                let code = stop_code(&task);
                last = Some(task);
                if let (Some(code), Some(task)) = (code, &last) {
                    screen.close();
                    if screen.live {
                        print(&view::lines(task, &pods, &session.terminal.canvas()))?;
                    }
                    return Ok(code);
                }
            }
            _ = tick.tick(), if screen.live => {}
            _ = signal::ctrl_c(), if screen.live => return Ok(exit::OK),
        }
        if let (true, Some(task)) = (screen.live, &last) {
            Screen::draw(&view::lines(task, &pods, &session.terminal.canvas()))?;
        }
    }
}

/// Shows all tasks until the user ends it.
async fn many(session: &Session, args: &WatchArgs) -> Result<u8, Failure> {
    let namespace = (!args.selection.all_namespaces).then_some(session.namespace.as_str());
    let api: Api<AgentTask> = match namespace {
        Some(namespace) => session.api(namespace),
        None => Api::all(session.client.clone()),
    };
    let mut config = watcher::Config::default();
    config.label_selector.clone_from(&args.selection.selector);
    let mut events = std::pin::pin!(watch(api, config).default_backoff());
    let options = list::Options { namespaces: args.selection.all_namespaces, wide: false, headers: true };
    let screen = Screen::open(session)?;
    let mut tick = time::interval(TICK);
    let mut tasks: BTreeMap<(String, String), AgentTask> = BTreeMap::new();
    let mut said: BTreeMap<(String, String), String> = BTreeMap::new();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Apply(task) | Event::InitApply(task))) => {
                    let key = (task.namespace().unwrap_or_default(), task.name_any());
                    let line = view::plain(&task);
                    if !screen.live && said.get(&key) != Some(&line) {
                        print(std::slice::from_ref(&line))?;
                        said.insert(key.clone(), line);
                    }
                    tasks.insert(key, task);
                }
                Some(Ok(Event::Delete(task))) => {
                    let key = (task.namespace().unwrap_or_default(), task.name_any());
                    if !screen.live {
                        print(&[format!("{}/{}  deleted", key.0, key.1)])?;
                    }
                    said.remove(&key);
                    tasks.remove(&key);
                }
                // The tasks that still exist follow.
                Some(Ok(Event::Init)) => tasks.clear(),
                Some(Ok(Event::InitDone)) => {}
                Some(Err(error)) => if let Some(error) = refusal(&error) {
                    let request = Request { verb: "watch", resource: "agenttasks", name: None, namespace };
                    return Err(request.failed(&error));
                },
                None => return Ok(exit::OK),
            },
            _ = tick.tick(), if screen.live => {}
            _ = signal::ctrl_c(), if screen.live => return Ok(exit::OK),
        }
        if screen.live {
            let shown: Vec<AgentTask> = tasks.values().cloned().collect();
            Screen::draw(&list::lines(&shown, options, &session.terminal.canvas()))?;
        }
    }
}

/// The alternate screen of a terminal, if there is one.
struct Screen {
    live: bool,
    /// It is shown. Leaving it twice would move the cursor over what was printed in between.
    is_open: bool,
}

impl Screen {
    fn open(session: &Session) -> Result<Self, Failure> {
        let screen = Self { live: session.terminal.live, is_open: session.terminal.live };
        if screen.live {
            write!(io::stdout(), "\u{1b}[?1049h\u{1b}[?25l")?;
        }
        Ok(screen)
    }

    fn draw(lines: &[String]) -> Result<(), Failure> {
        let height = terminal_size().map_or(usize::MAX, |(_, Height(height))| usize::from(height));
        let mut text = String::from("\u{1b}[H");
        let shown = lines.iter().take(height.saturating_sub(1));
        for line in shown {
            text.push_str(line);
            // Clears what an earlier, longer line left.
            text.push_str("\u{1b}[K\r\n");
        }
        text.push_str("\u{1b}[J");
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.is_open) {
            // Nothing can be done for a terminal that is gone.
            let mut out = io::stdout();
            let _ = write!(out, "\u{1b}[?25h\u{1b}[?1049l").and_then(|()| out.flush());
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.close();
    }
}
