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
use crate::client::{READ_TIMEOUT, RequestError, with_timeout};
use crate::metrics::{Metrics, PanicSource};
use crate::telemetry::LogControl;

/// The configuration as it was last read.
pub(super) struct Watched {
    api: Api<ConfigMap>,
    name: String,
    /// `None` until the ConfigMap, or its absence, has been read for the first time.
    current: watch::Sender<Option<Configuration>>,
    reporter: Reporter,
    _stop: DropGuard,
}

/// Reports a new configuration, and sets its log level.
#[derive(Clone)]
pub(super) struct Reporter {
    pub(super) metrics: Metrics,
    pub(super) events: Events,
    pub(super) logs: LogControl,
}

/// Starts the watch; it ends when the result is dropped.
pub(super) fn watch(client: &Client, namespace: &str, name: &str, reporter: Reporter) -> Watched {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let (current, _) = watch::channel(None);
    let stop = CancellationToken::new();
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = watcher(api.clone(), only).default_backoff().take_until(stop.clone().cancelled_owned());
    tokio::spawn(follow(stream, current.clone(), reporter.clone()));
    Watched { api, name: name.to_owned(), current, reporter, _stop: stop.drop_guard() }
}

async fn follow(
    stream: impl Stream<Item = Result<watcher::Event<ConfigMap>, watcher::Error>>,
    current: watch::Sender<Option<Configuration>>,
    reporter: Reporter,
) {
    let mut stream = std::pin::pin!(stream);
    let mut listed = None;
    // A panic must not end this task: no change would ever be read again.
    let take = |map: Option<&ConfigMap>| {
        if let Err(message) = caught_now(|| take(&current, &reporter, map, false)) {
            reporter.metrics.panicked(PanicSource::Configuration);
            error!(panic = message, "panic while reading the configuration; keeping the previous one");
        }
    };
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => listed = None,
            Ok(watcher::Event::InitApply(map)) => listed = Some(map),
            Ok(watcher::Event::InitDone) => take(listed.take().as_ref()),
            Ok(watcher::Event::Apply(map)) => take(Some(&map)),
            Ok(watcher::Event::Delete(_)) => take(None),
            Err(error) => warn!(%error, "the watch of the configuration was interrupted; resuming"),
        }
    }
}

/// Takes over what was read, and reports it if it has changed.
fn take(
    current: &watch::Sender<Option<Configuration>>,
    reporter: &Reporter,
    map: Option<&ConfigMap>,
    consistent: bool,
) {
    current.send_if_modified(|slot| {
        // Never remembered as consistent: at the next decision it may be out of date.
        let read = match map {
            None => Configuration::absent(),
            Some(map) => {
                let data = map.data.clone().unwrap_or_default();
                match slot.as_ref() {
                    Some(known) => Configuration::read(&data, map.resource_version(), &known.last_valid),
                    None => Configuration::read_first(&data, map.resource_version()),
                }
            }
        };
        if slot.as_ref() == Some(&read) {
            return false;
        }
        // A watch may lag behind a consistent read.
        if !consistent
            && slot.as_ref().is_some_and(|known| read.is_older_than(known.version.as_deref()))
            && map.is_some()
        {
            return false;
        }
        reporter.report(&read, map);
        *slot = Some(read);
        true
    });
}

impl Reporter {
    fn report(&self, read: &Configuration, map: Option<&ConfigMap>) {
        self.metrics.config_invalid(read.newest.is_err());
        if let Err(invalid) = &read.newest {
            error!(%invalid, "the configuration is invalid; keeping the last valid one");
            if let Some(map) = map {
                let message = format!("invalid, the last valid configuration stays in effect: {invalid}");
                let record = EventRecord { warning: true, reason: "ConfigInvalid".to_owned(), message };
                self.events.publish(map.object_ref(&()), record);
            }
        } else {
            info!(version = read.version, paused = read.paused, "loaded the configuration");
        }
        self.logs.set(read.last_valid.log_level);
    }
}

impl Watched {
    /// Waits until the configuration has been read for the first time.
    pub(super) async fn synced(&self) {
        // This cannot fail, because self owns the sender.
        drop(self.current.subscribe().wait_for(Option::is_some).await);
    }

    /// What was read last; call [`Watched::synced`] first.
    pub(super) fn get(&self) -> Configuration {
        self.current.borrow().clone().unwrap_or_default()
    }

    /// A signal for each change.
    pub(super) fn changes(&self) -> impl Stream<Item = ()> + Send + 'static {
        futures::stream::unfold(self.current.subscribe(), |mut current| async move {
            current.changed().await.ok()?;
            Some(((), current))
        })
    }

    /// Reads the configuration from the API server itself: the result is up to date.
    pub(super) async fn read(&self) -> Result<Configuration, RequestError> {
        let map = with_timeout(READ_TIMEOUT, self.api.get_opt(&self.name)).await?;
        take(&self.current, &self.reporter, map.as_ref(), true);
        Ok(Configuration { consistent: true, ..self.get() })
    }
}
