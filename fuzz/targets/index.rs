//! Git's index: whatever its bytes are, it is read in bounded memory, and equal indexes have equal hashes.
#![no_main]

use std::cell::Cell;

use agentloop_fuzz::within;
use agentloop_runner::workspace::git::index::{Index, IndexError};
use libfuzzer_sys::fuzz_target;

/// How much memory the paths may take.
const ROOM: usize = 4 << 10;

fuzz_target!(|bytes: &[u8]| {
    for object in [20, 32] {
        let reserved = Cell::new(0_usize);
        let reserve = |bytes: usize| {
            reserved.set(reserved.get().saturating_add(bytes));
            reserved.get() <= ROOM
        };
        let bounded = within(bytes.len(), 2, 4 * ROOM, || Index::parse(bytes, object, &reserve));
        let whole = within(bytes.len(), 64, 4096, || Index::parse(bytes, object, &|_| true));
        // These keep only the last path.
        let digest = within(bytes.len(), 16, 1024, || Index::digest(bytes, object));
        let strict = within(bytes.len(), 16, 1024, || Index::strict(bytes, object));
        assert_eq!(digest.is_some(), strict.is_some());
        match &whole {
            Ok(index) => {
                assert_eq!(Some(index.digest), digest);
                assert!(
                    index.paths.is_sorted_by(|one, next| one < next),
                    "the paths must be sorted to be searched"
                );
                let length: usize = index.paths.iter().map(Vec::len).sum();
                assert!(length <= 4 * bytes.len() + 4, "{length} bytes from {}", bytes.len());
                // What git caches about files, to compare them faster, does not count here.
                if let Some(touched) = touched(bytes) {
                    assert_eq!(Index::digest(&touched, object), digest, "times");
                    assert_eq!(Index::strict(&touched, object), strict, "times");
                }
            }
            Err(error) => assert_eq!(*error, IndexError::Malformed, "memory is not limited here"),
        }
        match bounded {
            Err(IndexError::TooLarge) => assert!(reserved.get() > ROOM),
            bounded => assert_eq!(bounded, whole),
        }
    }
});

/// The same index with another time in its first entry.
fn touched(bytes: &[u8]) -> Option<Vec<u8>> {
    let count = u32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
    let mut touched = bytes.to_vec();
    *touched.get_mut(12).filter(|_| count > 0)? ^= 0xff;
    Some(touched)
}
