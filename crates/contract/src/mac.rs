//! Proves that a report comes from the runner of its pod.
//!
//! The operator puts a random key into the pod, which only the runner reads. The runner's report ends with an
//! authentication code over everything before it (HMAC-SHA256, truncated to 128 bits as RFC 2104, section 5 allows). An
//! agent that writes a report of its own, and then kills the runner, does not know the key.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::hex;

/// Bytes of the code, before it is written in hex.
const CODE_BYTES: usize = 16;
/// The text between the report's other fields and its code.
const BEFORE: &str = ",\"mac\":\"";
/// The text after the code.
const AFTER: &str = "\"}";

/// How many bytes longer a code makes a report.
pub const BYTES: usize = BEFORE.len() + 2 * CODE_BYTES + AFTER.len() - 1;

/// What the end of a message proves about its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// There is no code: the message comes from a runner without a key, or from another program.
    Absent,
    /// The code matches the key: the runner wrote the message, byte for byte.
    Valid,
    /// The code does not match the key.
    Invalid,
}

/// Appends the code to a JSON object as its last field; `None` if the text is not a JSON object with a field.
pub fn sign(json: &str, key: &[u8]) -> Option<String> {
    let fields = json.strip_suffix('}')?;
    let code = Hmac::<Sha256>::new_from_slice(key).ok()?.chain_update(fields).finalize().into_bytes();
    let code = hex::encode(code.get(..CODE_BYTES)?);
    Some(format!("{fields}{BEFORE}{code}{AFTER}"))
}

/// Checks the code at the end of a message.
pub fn check(message: &str, key: &[u8]) -> Signature {
    let end = message.trim().strip_suffix(AFTER).and_then(|rest| rest.rsplit_once(BEFORE));
    let Some((fields, code)) = end else { return Signature::Absent };
    let valid = hex::decode(code).zip(Hmac::<Sha256>::new_from_slice(key).ok()).is_some_and(|(code, mac)| {
        code.len() == CODE_BYTES && mac.chain_update(fields).verify_truncated_left(&code).is_ok()
    });
    if valid { Signature::Valid } else { Signature::Invalid }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::{End, MAX_BYTES, Report};

    fn signed(key: &[u8]) -> String {
        Report { exit_code: Some(3), ..Report::of(End::Exited) }.encode(MAX_BYTES, Some(key)).expect("fits")
    }

    #[test]
    fn a_signed_report_is_read_like_any_other_and_checked_by_its_key() {
        let json = signed(b"key");
        assert_eq!(Report::decode(&json).map(|report| report.exit_code), Ok(Some(3)));
        assert_eq!(check(&json, b"key"), Signature::Valid);
        assert_eq!(check(&json, b"another"), Signature::Invalid);
    }

    #[test]
    fn a_report_without_a_code_does_not_count_as_signed() {
        let json = Report::of(End::Exited).encode(MAX_BYTES, None).expect("fits");
        assert_eq!(check(&json, b"key"), Signature::Absent);
        assert_eq!(check("", b"key"), Signature::Absent);
        assert_eq!(check("{\"version\":1,\"mac\":\"\"}", b"key"), Signature::Invalid);
        assert_eq!(check("{\"version\":1,\"mac\":\"zz\"}", b"key"), Signature::Invalid);
    }

    /// The code is that of RFC 4231, test case 2, cut.
    #[test]
    fn the_code_is_hmac_sha256() {
        let json = sign("what do ya want for nothing?}", b"Jefe").expect("an end");
        assert_eq!(json, "what do ya want for nothing?,\"mac\":\"5bdcc146bf60754e6a042426089575c7\"}");
    }

    proptest! {
        #[test]
        fn no_byte_of_a_signed_report_can_be_changed(at in 0_usize..200, to in "[ -~]") {
            let json = signed(b"key");
            let at = at % json.len();
            let mut changed = json.clone();
            changed.replace_range(at..=at, &to);
            prop_assume!(changed != json);
            // In hex, the case of a letter has no meaning.
            prop_assume!(!changed.eq_ignore_ascii_case(&json));
            prop_assert_ne!(check(&changed, b"key"), Signature::Valid);
        }
    }
}
