//! Watches the ConfigMap with the settings.

use agentloop_core::settings::Configuration;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

use super::events::{EventRecord, Events};
use super::panics::caught_now;
use crate::client::{READ_TIMEOUT, RequestError, bounded};
use crate::metrics::{Metrics, Place};

/// The configuration as it was last seen.
pub(super) struct Watched {
    api: Api<ConfigMap>,
    name: String,
    /// `None` until the ConfigMap, or its absence, was seen for the first time.
    seen: watch::Sender<Option<Configuration>>,
    report: Report,
    _stop: DropGuard,
}

/// Who is told about a configuration.
#[derive(Clone)]
struct Report {
    metrics: Metrics,
    events: Events,
}

/// Starts to watch; ends when the answer is dropped.
pub(super) fn watch(
    client: &Client,
    namespace: &str,
    name: &str,
    metrics: Metrics,
    events: Events,
) -> Watched {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let (seen, _) = watch::channel(None);
    let report = Report { metrics, events };
    let stop = CancellationToken::new();
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = watcher(api.clone(), only).default_backoff().take_until(stop.clone().cancelled_owned());
    tokio::spawn(follow(stream, seen.clone(), report.clone()));
    Watched { api, name: name.to_owned(), seen, report, _stop: stop.drop_guard() }
}

async fn follow(
    stream: impl Stream<Item = Result<watcher::Event<ConfigMap>, watcher::Error>>,
    seen: watch::Sender<Option<Configuration>>,
    report: Report,
) {
    let mut stream = std::pin::pin!(stream);
    let mut listed = None;
    // Without this task nothing would ever be read again.
    let take = |map: Option<&ConfigMap>| {
        if let Err(words) = caught_now(|| take(&seen, &report, map, false)) {
            report.metrics.panicked(Place::Configuration);
            error!(panic = words, "agentloop panicked at the configuration; the one before stays in force");
        }
    };
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => listed = None,
            Ok(watcher::Event::InitApply(map)) => listed = Some(map),
            Ok(watcher::Event::InitDone) => take(listed.take().as_ref()),
            Ok(watcher::Event::Apply(map)) => take(Some(&map)),
            Ok(watcher::Event::Delete(_)) => take(None),
            Err(error) => warn!(%error, "the watch of the configuration is disturbed; it goes on"),
        }
    }
}

/// Takes over what was read, and tells where it changed something.
fn take(
    seen: &watch::Sender<Option<Configuration>>,
    report: &Report,
    map: Option<&ConfigMap>,
    consistent: bool,
) {
    seen.send_if_modified(|slot| {
        // Never remembered as consistent: it was so when it was read, and may be old at the next decision.
        let read = match map {
            None => Configuration::absent(),
            Some(map) => {
                let data = map.data.clone().unwrap_or_default();
                match slot.as_ref() {
                    Some(known) => Configuration::read(&data, map.resource_version(), &known.last_good),
                    None => Configuration::read_first(&data, map.resource_version()),
                }
            }
        };
        if slot.as_ref() == Some(&read) {
            return false;
        }
        // A watch may still be on its way to what a consistent read has told already.
        if !consistent
            && slot.as_ref().is_some_and(|known| read.is_older_than(known.version.as_deref()))
            && map.is_some()
        {
            return false;
        }
        report.tell(&read, map);
        *slot = Some(read);
        true
    });
}

impl Report {
    fn tell(&self, read: &Configuration, map: Option<&ConfigMap>) {
        self.metrics.config_refused(read.newest.is_err());
        if let Err(refused) = &read.newest {
            error!(%refused, "the configuration is refused; the last good one stays in force");
            if let Some(map) = map {
                let message = format!("refused, the last good configuration stays in force: {refused}");
                let record = EventRecord { warning: true, reason: "ConfigInvalid".to_owned(), message };
                self.events.publish(map.object_ref(&()), record);
            }
        } else {
            info!(version = read.version, paused = read.paused, "the configuration is taken");
        }
    }
}

impl Watched {
    /// Waits until the configuration was seen for the first time.
    pub(super) async fn synced(&self) {
        // The sender lives in self: this cannot fail.
        drop(self.seen.subscribe().wait_for(Option::is_some).await);
    }

    /// What was seen last; call [`Watched::synced`] first.
    pub(super) fn get(&self) -> Configuration {
        self.seen.borrow().clone().unwrap_or_default()
    }

    /// A signal for each change.
    pub(super) fn changes(&self) -> impl Stream<Item = ()> + Send + 'static {
        futures::stream::unfold(self.seen.subscribe(), |mut seen| async move {
            seen.changed().await.ok()?;
            Some(((), seen))
        })
    }

    /// Reads the configuration from the API server itself: what this returns is in force.
    pub(super) async fn read(&self) -> Result<Configuration, RequestError> {
        let map = bounded(READ_TIMEOUT, self.api.get_opt(&self.name)).await?;
        take(&self.seen, &self.report, map.as_ref(), true);
        Ok(Configuration { consistent: true, ..self.get() })
    }
}
