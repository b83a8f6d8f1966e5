//! What it means if the API server rejects the creation of a pod or a PVC.

use jiff::SignedDuration;

use crate::{api::WaitReason, facts::Obstacle};

/// How long an object that a controller creates may be missing in a new namespace before the task reports it.
const NEW_NAMESPACE_GRACE: SignedDuration = SignedDuration::from_secs(30);

/// A rejection by the API server that may last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The namespace is so new that its controllers have not finished with it: tried again soon, without a message.
    NotReady,
    /// The task waits for this obstacle.
    Wait(Obstacle),
}

/// What a rejection with this code and message means. `lasted` is the time since the first one of its kind. `None` if
/// it is an ordinary error, which is tried again.
pub fn rejection(code: u16, message: &str, lasted: SignedDuration) -> Option<Rejection> {
    if is_new_namespace(code, message) && lasted < NEW_NAMESPACE_GRACE {
        return Some(Rejection::NotReady);
    }
    let reason = match code {
        403 if message.contains("exceeded quota") || is_unknown_quota(message) => WaitReason::QuotaExceeded,
        // If a webhook does not answer, the API server reports an internal error.
        500 if message.contains("failed calling webhook") => WaitReason::PodRejected,
        400 | 403 | 404 | 405 | 413 | 415 | 422 | 429 | 504 => WaitReason::PodRejected,
        _ => return None,
    };
    Some(Rejection::Wait(Obstacle { reason, message: message.to_owned() }))
}

/// Whether the message is about something that appears shortly after a namespace is created: its default
/// ServiceAccount, the usage of a quota, or the namespace itself, which another replica of the API server may not know
/// yet.
fn is_new_namespace(code: u16, message: &str) -> bool {
    match code {
        403 => is_without_default_account(message) || is_unknown_quota(message),
        404 => message.starts_with("namespaces \"") && message.ends_with("\" not found"),
        _ => false,
    }
}

/// Another ServiceAccount, named in the template, does not appear by itself.
fn is_without_default_account(message: &str) -> bool {
    message.contains("error looking up service account ")
        && message.ends_with("serviceaccount \"default\" not found")
}

fn is_unknown_quota(message: &str) -> bool {
    message.contains("is forbidden: status unknown for quota: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of Kubernetes 1.37.
    const NO_DEFAULT: &str = "pods \"x-1-0\" is forbidden: error looking up service account team/default: serviceaccount \"default\" not found";
    const NO_NAMED: &str = "pods \"x-1-0\" is forbidden: error looking up service account team/bot: serviceaccount \"bot\" not found";
    const NO_COUNT: &str = "pods \"x-1-0\" is forbidden: status unknown for quota: most, resources: pods";
    const NO_NAMESPACE: &str = "namespaces \"team\" not found";

    fn after(seconds: i64, code: u16, message: &str) -> Option<Rejection> {
        rejection(code, message, SignedDuration::from_secs(seconds))
    }

    #[track_caller]
    fn wait_reason(rejection: Option<Rejection>) -> WaitReason {
        match rejection {
            Some(Rejection::Wait(obstacle)) => obstacle.reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_new_namespace_does_not_have_yet_is_not_reported_for_30_seconds() {
        for (code, message) in [(403, NO_DEFAULT), (403, NO_COUNT), (404, NO_NAMESPACE)] {
            assert_eq!(after(0, code, message), Some(Rejection::NotReady), "{message}");
            assert_eq!(after(29, code, message), Some(Rejection::NotReady), "{message}");
        }
        assert_eq!(wait_reason(after(30, 403, NO_DEFAULT)), WaitReason::PodRejected);
        assert_eq!(wait_reason(after(30, 404, NO_NAMESPACE)), WaitReason::PodRejected);
        assert_eq!(wait_reason(after(30, 403, NO_COUNT)), WaitReason::QuotaExceeded);
    }

    #[test]
    fn what_a_user_must_create_is_reported_immediately() {
        let others = [
            (403, NO_NAMED),
            (403, "pods \"serviceaccount \"default\" not found\" is forbidden: no"),
            (404, "configmaps \"default\" not found"),
            (422, NO_DEFAULT),
            (403, "pods is forbidden: User \"x\" cannot create resource \"pods\""),
        ];
        for (code, message) in others {
            assert_eq!(wait_reason(after(0, code, message)), WaitReason::PodRejected, "{message}");
        }
        assert_eq!(
            wait_reason(after(0, 403, "exceeded quota: full, requested: pods=1")),
            WaitReason::QuotaExceeded
        );
    }

    #[test]
    fn an_internal_error_of_the_server_is_not_a_rejection_unless_it_names_a_webhook() {
        assert_eq!(after(0, 500, "etcdserver: request timed out"), None);
        assert_eq!(after(0, 503, "the server is not ready"), None);
        assert_eq!(after(0, 401, "Unauthorized"), None);
        let webhook = "Internal error occurred: failed calling webhook \"a.b.c\"";
        assert_eq!(wait_reason(after(0, 500, webhook)), WaitReason::PodRejected);
    }
}
