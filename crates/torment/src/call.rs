//! What a request of the operator's is.

use http::Method;
use serde_json::Value;

use crate::json;
use crate::plan::What;

/// A request, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Leases and Events: not counted, and left alone.
    Apart,
    /// The start of a watch.
    Watch,
    /// The list that fills a cache of tasks or pods.
    CacheList,
    /// Any other read.
    Read,
    /// A write, and what sort.
    Write(Option<What>),
}

impl Call {
    /// Sorts a request.
    pub fn of(method: &Method, path: &str, query: &str, body: &Value) -> Self {
        if path.contains("/leases") || path.contains("/events") {
            return Self::Apart;
        }
        if *method == Method::GET {
            let is_pods = path.ends_with("/pods") && query.contains("task-uid");
            return if query.contains("watch=true") || query.contains("watch=1") {
                Self::Watch
            } else if path.ends_with("/agenttasks") || is_pods {
                Self::CacheList
            } else {
                Self::Read
            };
        }
        let sort = if path.ends_with("/status") {
            Some(What::Status)
        } else if *method == Method::POST && path.ends_with("/pods") {
            Some(What::Create)
        } else if *method == Method::PATCH && json::has(body, "/spec/schedulingGates") {
            Some(What::Start)
        } else if *method == Method::PATCH
            && json::has(body, "/metadata/$deleteFromPrimitiveList~1finalizers")
        {
            Some(What::Release)
        } else {
            None
        };
        Self::Write(sort)
    }

    /// The sorts that count it.
    pub fn sorts(&self) -> Vec<What> {
        match self {
            Self::Apart | Self::Watch => Vec::new(),
            Self::CacheList | Self::Read => vec![What::Read],
            Self::Write(sort) => [What::Write].into_iter().chain(*sort).collect(),
        }
    }
}
