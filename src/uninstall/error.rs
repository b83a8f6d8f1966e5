//! Why an uninstall fails, and what it leaves behind.

use std::fmt::Write as _;
use std::time::Duration;

use kube::core::ParseExpressionError;

use crate::client::{ConnectError, RequestError};

/// How many objects an error names, besides the total number.
const NAMED: usize = 10;

/// Why the uninstall is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A request failed, and the uninstall cannot continue without it.
    #[error("{doing}: {source}")]
    Request {
        /// What it was for, with the object's name.
        doing: String,
        /// Why it failed.
        source: RequestError,
    },
    /// The Deployment's selector cannot be used.
    #[error("cannot use the selector of Deployment {0}: {1}")]
    Selector(String, ParseExpressionError),
    /// The operator does not stop.
    #[error(
        "the operator is still running after {} s: {pods} ({deployment} is scaled to zero). \
         If the node is lost, make sure that the machine is off, delete the pod with --force, then try again",
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
    /// Another operator holds the Lease.
    #[error("lease {lease} is still held by {holder} after {} s: stop that operator, then try again", after.as_secs())]
    LeaseHeld {
        /// The Lease.
        lease: String,
        /// Its holder.
        holder: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Some objects still depend on the operator.
    #[error("{count} object(s) still wait for the operator; fix this, then try again:{list}")]
    Incomplete {
        /// How many.
        count: usize,
        /// The first of them, and why.
        list: String,
    },
}

/// A list that failed. In a namespace that is gone, our permissions are gone too, and the server's answer is the same as
/// for permissions that were removed. So the message says what to do in either case.
pub(super) fn unlisted(what: &str, namespace: Option<&str>, source: RequestError) -> Error {
    let doing = match namespace {
        Some(name) if source.reason() == "forbidden" => format!(
            "listing the {what} in namespace {name} (if it is gone, remove it from watch.namespaces with helm upgrade, \
             or uninstall with --no-hooks)"
        ),
        Some(name) => format!("listing the {what} in namespace {name}"),
        None => format!("listing the {what}"),
    };
    Error::Request { doing, source }
}

/// The objects that still depend on the operator.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    count: usize,
    list: String,
}

impl Troubles {
    pub(super) fn add(&mut self, line: &str) {
        self.count += 1;
        if self.count <= NAMED {
            // Writing to a String cannot fail.
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
    fn many_troubles_are_counted_and_the_first_are_named() {
        let mut troubles = Troubles::default();
        for n in 0..12 {
            troubles.add(&format!("pod {n}"));
        }
        let words = troubles.into_result().unwrap_err().to_string();
        assert!(words.starts_with("12 object(s)"), "{words}");
        assert!(words.ends_with("pod 9\n  and 2 more"), "{words}");
    }
}
