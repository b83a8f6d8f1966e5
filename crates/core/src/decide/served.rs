//! Which release serves a task: if two Helm releases watch the same namespace, one serves the task and the other leaves
//! it alone.
//!
//! The first write of the status records the release, and the resourceVersion that guards every write lets only one
//! release be first. A release that is uninstalled removes its name. If a release disappears without doing so, another
//! one takes over only if an administrator says so, because the operator cannot know that a release is gone for good.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    cleanup::stop_all,
    events::EventRecord,
    types::{Action, Decision, Observed},
};
use crate::{api::AgentTask, facts::PodFacts};

/// Maximum bytes of a name.
const MAX_NAME_BYTES: usize = 253;

/// How long an object that is being deleted is reserved for the release that serves it. After that any release cleans
/// it up, so that nothing waits forever for a release that is gone. This is safe, because a deletion cannot be undone,
/// and every release would do the same.
const RESERVED_FOR: SignedDuration = SignedDuration::from_secs(60);

/// How often a task that another release serves is reconciled even if nothing changes. Events expire, so the Event that
/// names the other release must be published again.
const CHECK_INTERVAL: Duration = Duration::from_mins(30);

/// A Helm release: its namespace and its name. All replicas of an operator have the same, also after a restart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(String);

/// The text is not a release.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a release: expected namespace/name, such as agentloop-system/agentloop")]
pub struct InvalidRelease(String);

impl Release {
    /// The release of this name in this namespace.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}"))
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for Release {
    type Err = InvalidRelease;

    fn from_str(text: &str) -> Result<Self, InvalidRelease> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = |name: &str| {
            name.len() <= MAX_NAME_BYTES
                && name.starts_with(plain)
                && name.ends_with(plain)
                && name.chars().all(|c| plain(c) || c == '-' || c == '.')
        };
        match text.split_once('/') {
            Some((namespace, name)) if fits(namespace) && fits(name) => Ok(Self::new(namespace, name)),
            _ => Err(InvalidRelease(text.to_owned())),
        }
    }
}

/// The release that decides, and the releases whose tasks it takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// This release.
    pub release: Release,
    /// Releases that are gone for good, according to an administrator.
    pub take_over: BTreeSet<Release>,
}

/// The decision about a task, and which release serves it.
#[derive(Clone, Debug, PartialEq)]
pub enum Served {
    /// This release serves it.
    Here(Decision),
    /// Another release serves it. This release acts on it only if its deletion was requested some time ago.
    Elsewhere {
        /// The other release.
        release: String,
        /// What this release does.
        decision: Decision,
    },
}

impl Serving {
    /// The other release that serves this task, if one does.
    pub fn other_release<'a>(&self, task: &'a AgentTask) -> Option<&'a str> {
        self.if_other_release(task.status.as_ref()?.served_by.as_deref()?)
    }

    /// `named`, if that is another release whose tasks this one does not take over.
    pub fn if_other_release<'a>(&self, named: &'a str) -> Option<&'a str> {
        let is_ours = named.is_empty()
            || named == self.release.as_str()
            || self.take_over.iter().any(|release| release.as_str() == named);
        (!is_ours).then_some(named)
    }

    /// The decision of `decide`, with this release recorded in the status. If another release serves the task, `decide`
    /// is not called.
    pub fn decide(&self, observed: &Observed<'_>, decide: impl Fn(&Observed<'_>) -> Decision) -> Served {
        if let Some(other) = self.other_release(observed.task) {
            let deletion = observed.task.metadata.deletion_timestamp.as_ref().map(|time| time.0);
            let decision = match deletion.map(|deletion| remaining(deletion, observed.now)) {
                None => Decision { requeue_after: Some(CHECK_INTERVAL), ..Decision::default() },
                Some(Some(wait)) => Decision { requeue_after: Some(wait), ..Decision::default() },
                Some(None) => {
                    let uid = observed.task.uid().unwrap_or_default();
                    let own = observed.pods.iter().filter(|pod| pod.belongs_to(&uid));
                    stop_all(&own.cloned().collect::<Vec<PodFacts>>())
                }
            };
            return Served::Elsewhere { release: other.to_owned(), decision };
        }
        let mut decision = decide(observed);
        let is_being_deleted = observed.task.metadata.deletion_timestamp.is_some();
        if !is_being_deleted && !decision.actions.iter().any(Action::is_a_read) {
            self.record_release(observed.task, &mut decision);
        }
        Served::Here(decision)
    }

    /// The status is written before any action, so no action happens on a task whose status does not name this release.
    fn record_release(&self, task: &AgentTask, decision: &mut Decision) {
        let before = task.status.as_ref();
        let ours = Some(self.release.as_str());
        if before.and_then(|status| status.served_by.as_deref()) == ours && decision.status.is_none() {
            return;
        }
        let mut status = decision.status.take().or_else(|| before.cloned()).unwrap_or_default();
        status.served_by = ours.map(str::to_owned);
        decision.status = Some(status);
    }

    /// How long a pod whose task is gone is still reserved for the release that served the task; `None` if any release
    /// may clean it up.
    pub fn pod_reserved_for(
        &self,
        served_by: Option<&str>,
        pod: &PodFacts,
        now: Timestamp,
    ) -> Option<Duration> {
        self.if_other_release(served_by?)?;
        let Some(deletion) = pod.deletion else { return Duration::try_from(RESERVED_FOR).ok() };
        remaining(deletion, now)
    }

    /// The Event for a task that another release serves.
    pub fn served_by_another_event(&self, other: &str) -> EventRecord {
        let Self { release, .. } = self;
        EventRecord {
            warning: true,
            reason: "ServedByAnother".to_owned(),
            message: format!(
                "release {other} serves this task, so release {release}, which also watches this namespace, leaves it alone. Let \
                 only one of them watch the namespace (watch.namespaces). If {other} is gone for good, set takeOver=[{other}] \
                 in the values of {release}: helm upgrade … --reuse-values --set 'takeOver={{{other}}}'"
            ),
        }
    }
}

/// How long an object that was deleted at this time is still reserved for its release.
fn remaining(deletion: Timestamp, now: Timestamp) -> Option<Duration> {
    let since = now.duration_since(deletion).max(SignedDuration::ZERO);
    let left = RESERVED_FOR.checked_sub(since)?;
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}
