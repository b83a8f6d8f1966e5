//! What it means that the API server refuses to create a pod or a volume claim.

use jiff::SignedDuration;

use crate::{api::WaitReason, facts::Obstacle};

/// How long what a controller makes by itself may be missing before that is called a refusal.
const SETTLES_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// A refusal that may stand for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The namespace is so new that its controllers have not got to it: tried again at once, and nothing is shown.
    NotYet,
    /// It is waited for.
    Stands(Obstacle),
}

/// What a refusal with this code and these words means, the first of its kind having come so long ago; `None` where
/// it is no refusal but an error, which is tried again.
pub fn refusal(code: u16, message: &str, lasted: SignedDuration) -> Option<Refusal> {
    if is_not_settled(code, message) && lasted < SETTLES_WITHIN {
        return Some(Refusal::NotYet);
    }
    let reason = match code {
        403 if message.contains("exceeded quota") || is_unknown_quota(message) => WaitReason::QuotaExceeded,
        // The server tells a webhook that does not answer as a fault of its own.
        500 if message.contains("failed calling webhook") => WaitReason::PodRejected,
        400 | 403 | 404 | 405 | 413 | 415 | 422 | 429 | 504 => WaitReason::PodRejected,
        _ => return None,
    };
    Some(Refusal::Stands(Obstacle { reason, message: message.to_owned() }))
}

/// Whether the words are those for something that comes by itself in a namespace that was just made: its default
/// ServiceAccount, the count of a quota, or the namespace itself, which another API server may not have seen.
fn is_not_settled(code: u16, message: &str) -> bool {
    match code {
        403 => is_without_default_account(message) || is_unknown_quota(message),
        404 => message.starts_with("namespaces \"") && message.ends_with("\" not found"),
        _ => false,
    }
}

/// A ServiceAccount that is named in the template is for people to make.
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

    /// The words of Kubernetes 1.37.
    const NO_DEFAULT: &str = "pods \"x-1-0\" is forbidden: error looking up service account team/default: serviceaccount \"default\" not found";
    const NO_NAMED: &str = "pods \"x-1-0\" is forbidden: error looking up service account team/bot: serviceaccount \"bot\" not found";
    const NO_COUNT: &str = "pods \"x-1-0\" is forbidden: status unknown for quota: most, resources: pods";
    const NO_NAMESPACE: &str = "namespaces \"team\" not found";

    fn after(seconds: i64, code: u16, message: &str) -> Option<Refusal> {
        refusal(code, message, SignedDuration::from_secs(seconds))
    }

    #[track_caller]
    fn stands(refusal: Option<Refusal>) -> WaitReason {
        match refusal {
            Some(Refusal::Stands(obstacle)) => obstacle.reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_comes_by_itself_in_a_new_namespace_is_not_called_a_refusal_for_half_a_minute() {
        for (code, message) in [(403, NO_DEFAULT), (403, NO_COUNT), (404, NO_NAMESPACE)] {
            assert_eq!(after(0, code, message), Some(Refusal::NotYet), "{message}");
            assert_eq!(after(29, code, message), Some(Refusal::NotYet), "{message}");
        }
        assert_eq!(stands(after(30, 403, NO_DEFAULT)), WaitReason::PodRejected);
        assert_eq!(stands(after(30, 404, NO_NAMESPACE)), WaitReason::PodRejected);
        assert_eq!(stands(after(30, 403, NO_COUNT)), WaitReason::QuotaExceeded);
    }

    #[test]
    fn what_a_person_must_make_is_refused_at_once() {
        let others = [
            (403, NO_NAMED),
            (403, "pods \"serviceaccount \"default\" not found\" is forbidden: no"),
            (404, "configmaps \"default\" not found"),
            (422, NO_DEFAULT),
            (403, "pods is forbidden: User \"x\" cannot create resource \"pods\""),
        ];
        for (code, message) in others {
            assert_eq!(stands(after(0, code, message)), WaitReason::PodRejected, "{message}");
        }
        assert_eq!(
            stands(after(0, 403, "exceeded quota: full, requested: pods=1")),
            WaitReason::QuotaExceeded
        );
    }

    #[test]
    fn a_fault_of_the_server_is_an_error_unless_it_speaks_of_a_webhook() {
        assert_eq!(after(0, 500, "etcdserver: request timed out"), None);
        assert_eq!(after(0, 503, "the server is not ready"), None);
        assert_eq!(after(0, 401, "Unauthorized"), None);
        let webhook = "Internal error occurred: failed calling webhook \"a.b.c\"";
        assert_eq!(stands(after(0, 500, webhook)), WaitReason::PodRejected);
    }
}
