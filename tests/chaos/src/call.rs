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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sorted(method: &Method, path: &str, query: &str, body: &Value) -> Call {
        Call::of(method, path, query, body)
    }

    #[test]
    fn leases_and_events_are_apart_and_watches_are_no_reads() {
        let none = Value::Null;
        let leases = "/apis/coordination.k8s.io/v1/namespaces/n/leases/agentloop";
        assert_eq!(sorted(&Method::PUT, leases, "", &none), Call::Apart);
        assert_eq!(
            sorted(&Method::POST, "/apis/events.k8s.io/v1/namespaces/n/events", "", &none),
            Call::Apart
        );
        assert_eq!(sorted(&Method::GET, "/api/v1/namespaces/n/pods", "&watch=true", &none), Call::Watch);
    }

    #[test]
    fn the_list_of_an_earlier_tasks_pods_is_no_cache() {
        let pods = "/api/v1/namespaces/n/pods";
        let list = |query| sorted(&Method::GET, pods, query, &Value::Null);
        assert_eq!(list("&labelSelector=agentloop.dev%2Ftask-uid"), Call::CacheList);
        assert_eq!(list("&labelSelector=agentloop.dev%2Ftask%3Dname"), Call::Read);
    }

    #[test]
    fn writes_are_told_apart() {
        let pod = "/api/v1/namespaces/n/pods/p";
        let start = json!({ "spec": { "schedulingGates": [{ "$patch": "delete" }] } });
        let release = json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["f"] } });
        assert_eq!(sorted(&Method::PATCH, pod, "", &start), Call::Write(Some(What::Start)));
        assert_eq!(sorted(&Method::PATCH, pod, "", &release), Call::Write(Some(What::Release)));
        assert_eq!(sorted(&Method::DELETE, pod, "", &Value::Null), Call::Write(None));
        let status = "/apis/agentloop.dev/v1alpha1/namespaces/n/agenttasks/t/status";
        assert_eq!(sorted(&Method::PATCH, status, "", &json!({})), Call::Write(Some(What::Status)));
    }
}
