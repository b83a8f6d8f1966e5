//! What can go wrong, and what cannot be let go.

use std::fmt::Write as _;
use std::time::Duration;

use kube::core::ParseExpressionError;

use crate::client::{ConnectError, RequestError};

/// How many objects an error names; the number of all is told as well.
const NAMED: usize = 10;

/// Why not everything was let go.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A request failed without which nothing can go on.
    #[error("{doing}: {source}")]
    Request {
        /// What was to be done, with the object's name.
        doing: String,
        /// What came of it.
        source: RequestError,
    },
    /// The Deployment's selector cannot be used.
    #[error("the selector of Deployment {0} cannot be read: {1}")]
    Selector(String, ParseExpressionError),
    /// The operator does not go away.
    #[error(
        "the operator still works after {} s: {pods} ({deployment} is scaled to zero). \
         Where its node is lost, delete the pod with --force once the machine is known to be off, then repeat",
        after.as_secs()
    )]
    StillThere {
        /// The Deployment.
        deployment: String,
        /// Its pods.
        pods: String,
        /// How long they were waited for.
        after: Duration,
    },
    /// Somebody else holds the Lease.
    #[error("lease {lease} is still held by {holder} after {} s: stop that operator, then repeat", after.as_secs())]
    LeaseHeld {
        /// The Lease.
        lease: String,
        /// Who holds it.
        holder: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Some objects could not be let go.
    #[error("{count} object(s) still wait for the operator; fix this and repeat:{list}")]
    Incomplete {
        /// How many.
        count: usize,
        /// The first of them, and why.
        list: String,
    },
}

/// What could not be listed. In a namespace that is gone our rights are gone too, and that is answered in the
/// same words as rights that somebody took away: so the cure for each is told.
pub(super) fn unlisted(what: &str, namespace: Option<&str>, source: RequestError) -> Error {
    let doing = match namespace {
        Some(name) if source.reason() == "forbidden" => format!(
            "listing the {what} in namespace {name} (if it is gone, take it out of watch.namespaces by helm upgrade, \
             or uninstall with --no-hooks)"
        ),
        Some(name) => format!("listing the {what} in namespace {name}"),
        None => format!("listing the {what}"),
    };
    Error::Request { doing, source }
}

/// What could not be let go.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    count: usize,
    list: String,
}

impl Troubles {
    pub(super) fn add(&mut self, line: &str) {
        self.count += 1;
        if self.count <= NAMED {
            // A String takes everything.
            let _ = write!(self.list, "\n  {line}");
        }
    }

    pub(super) fn into_result(mut self) -> Result<(), Error> {
        if self.count == 0 {
            return Ok(());
        }
        if self.count > NAMED {
            let _ = write!(self.list, "\n  and {} more", self.count - NAMED);
        }
        Err(Error::Incomplete { count: self.count, list: self.list })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_troubles_are_counted_and_some_named() {
        let mut troubles = Troubles::default();
        for n in 0..12 {
            troubles.add(&format!("pod {n}"));
        }
        let words = troubles.into_result().unwrap_err().to_string();
        assert!(words.starts_with("12 object(s)"), "{words}");
        assert!(words.ends_with("pod 9\n  and 2 more"), "{words}");
    }
}
