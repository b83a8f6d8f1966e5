//! Whose task this is: of two releases that watch the same namespace, one serves a task and the other leaves it alone.
//!
//! The status names the release. The first write does, and the resourceVersion that guards every write lets one of two
//! be the first. A release that is uninstalled takes its name out. One that disappeared without doing so leaves it, and
//! another takes over only where an administrator says so: nobody else can know that the first is gone for good.

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

/// Bytes of a name.
const MOST_BYTES: usize = 253;

/// How long what is being deleted is left to the release that serves it. A deletion cannot be taken back, and whoever
/// lets its pods go does the same: so nothing waits for ever for a release that is gone.
const LEFT_TO_ITS_RELEASE: SignedDuration = SignedDuration::from_secs(60);

/// How often a task that another release serves is looked at, though nothing is seen to change: Events fade, and the
/// Event that says whose it is must not.
const LOOK_AGAIN: Duration = Duration::from_mins(30);

/// A release: the operator's namespace and the release's own name. All replicas have it, and every restart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(String);

/// Text that names no release.
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
            name.len() <= MOST_BYTES
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

/// Which release decides, and whose tasks it takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// This release.
    pub release: Release,
    /// Releases that are gone for good, as an administrator says.
    pub take_over: BTreeSet<Release>,
}

/// What is to be done about a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Served {
    /// This release serves it.
    Here(Decision),
    /// Another one does. What this release may do all the same holds for what is being deleted only.
    Elsewhere {
        /// The other one.
        release: String,
        /// What is done.
        decision: Decision,
    },
}

impl Serving {
    /// The other release that serves this task, where one does.
    pub fn other_release<'a>(&self, task: &'a AgentTask) -> Option<&'a str> {
        self.if_other_release(task.status.as_ref()?.served_by.as_deref()?)
    }

    /// The release of this name, unless this one serves its tasks.
    pub fn if_other_release<'a>(&self, named: &'a str) -> Option<&'a str> {
        let is_ours = named.is_empty()
            || named == self.release.as_str()
            || self.take_over.iter().any(|release| release.as_str() == named);
        (!is_ours).then_some(named)
    }

    /// What `decide` says of a task of ours, with our name in the status that is written; of one that another
    /// release serves, nothing.
    pub fn decide(&self, observed: &Observed<'_>, decide: impl Fn(&Observed<'_>) -> Decision) -> Served {
        if let Some(other) = self.other_release(observed.task) {
            let deletion = observed.task.metadata.deletion_timestamp.as_ref().map(|time| time.0);
            let decision = match deletion.map(|deletion| left_for(deletion, observed.now)) {
                None => Decision { requeue_after: Some(LOOK_AGAIN), ..Decision::default() },
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
        let is_leaving = observed.task.metadata.deletion_timestamp.is_some();
        if !is_leaving && !decision.actions.iter().any(Action::is_a_read) {
            self.name_us(observed.task, &mut decision);
        }
        Served::Here(decision)
    }

    /// The status is written before anything is done, so nothing is done to a task that does not bear our name.
    fn name_us(&self, task: &AgentTask, decision: &mut Decision) {
        let before = task.status.as_ref();
        let ours = Some(self.release.as_str());
        if before.and_then(|status| status.served_by.as_deref()) == ours && decision.status.is_none() {
            return;
        }
        let mut status = decision.status.take().or_else(|| before.cloned()).unwrap_or_default();
        status.served_by = ours.map(str::to_owned);
        decision.status = Some(status);
    }

    /// How long a pod whose task is gone is still left to the release that served the task; `None` where it is
    /// anybody's to let go.
    pub fn pod_reserved_for(
        &self,
        served_by: Option<&str>,
        pod: &PodFacts,
        now: Timestamp,
    ) -> Option<Duration> {
        self.if_other_release(served_by?)?;
        let Some(deletion) = pod.deletion else { return Duration::try_from(LEFT_TO_ITS_RELEASE).ok() };
        left_for(deletion, now)
    }

    /// The Event on a task that another release serves.
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

/// How long something that is deleted since then is still left to its release.
fn left_for(deletion: Timestamp, now: Timestamp) -> Option<Duration> {
    let since = now.duration_since(deletion).max(SignedDuration::ZERO);
    let left = LEFT_TO_ITS_RELEASE.checked_sub(since)?;
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}
