//! Classifies the operators' requests.

use agentloop_test_support::json;
use http::Method;
use serde_json::Value;

use crate::plan::RequestKind;

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestClass {
    /// Leases and Events, which are neither counted nor disturbed.
    Exempt,
    /// The start of a watch.
    Watch,
    /// The list that fills a cache of tasks or pods.
    CacheList,
    /// Any other read.
    Read,
    /// A write, and its kind if plans name it.
    Write(Option<RequestKind>),
}

impl RequestClass {
    /// Classifies a request.
    pub fn of(method: &Method, path: &str, query: &str, body: &Value) -> Self {
        if path.contains("/leases") || path.contains("/events") {
            return Self::Exempt;
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
        let kind = if path.ends_with("/status") {
            Some(RequestKind::Status)
        } else if *method == Method::POST && path.ends_with("/pods") {
            Some(RequestKind::Create)
        } else if *method == Method::PATCH && json::has(body, "/spec/schedulingGates") {
            Some(RequestKind::RemoveSchedulingGate)
        } else if *method == Method::PATCH
            && json::has(body, "/metadata/$deleteFromPrimitiveList~1finalizers")
        {
            Some(RequestKind::RemoveFinalizer)
        } else {
            None
        };
        Self::Write(kind)
    }

    /// The kinds that the request counts as.
    pub fn kinds(&self) -> Vec<RequestKind> {
        match self {
            Self::Exempt | Self::Watch => Vec::new(),
            Self::CacheList | Self::Read => vec![RequestKind::Read],
            Self::Write(kind) => [RequestKind::Write].into_iter().chain(*kind).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn leases_and_events_are_exempt_and_watches_are_not_reads() {
        let none = Value::Null;
        let leases = "/apis/coordination.k8s.io/v1/namespaces/n/leases/agentloop";
        assert_eq!(RequestClass::of(&Method::PUT, leases, "", &none), RequestClass::Exempt);
        assert_eq!(
            RequestClass::of(&Method::POST, "/apis/events.k8s.io/v1/namespaces/n/events", "", &none),
            RequestClass::Exempt
        );
        assert_eq!(
            RequestClass::of(&Method::GET, "/api/v1/namespaces/n/pods", "&watch=true", &none),
            RequestClass::Watch
        );
    }

    #[test]
    fn the_list_of_a_previous_tasks_pods_does_not_fill_a_cache() {
        let pods = "/api/v1/namespaces/n/pods";
        let list = |query| RequestClass::of(&Method::GET, pods, query, &Value::Null);
        assert_eq!(list("&labelSelector=agentloop.dev%2Ftask-uid"), RequestClass::CacheList);
        assert_eq!(list("&labelSelector=agentloop.dev%2Ftask%3Dname"), RequestClass::Read);
    }

    #[test]
    fn writes_are_distinguished() {
        let pod = "/api/v1/namespaces/n/pods/p";
        let start = json!({ "spec": { "schedulingGates": [{ "$patch": "delete" }] } });
        let finalizer = json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["f"] } });
        assert_eq!(
            RequestClass::of(&Method::PATCH, pod, "", &start),
            RequestClass::Write(Some(RequestKind::RemoveSchedulingGate))
        );
        assert_eq!(
            RequestClass::of(&Method::PATCH, pod, "", &finalizer),
            RequestClass::Write(Some(RequestKind::RemoveFinalizer))
        );
        assert_eq!(RequestClass::of(&Method::DELETE, pod, "", &Value::Null), RequestClass::Write(None));
        let status = "/apis/agentloop.dev/v1alpha1/namespaces/n/agenttasks/t/status";
        assert_eq!(
            RequestClass::of(&Method::PATCH, status, "", &json!({})),
            RequestClass::Write(Some(RequestKind::Status))
        );
    }
}
