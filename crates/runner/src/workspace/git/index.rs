//! Git's index: which paths are staged with which content, and nothing of what `git status` refreshes.
//!
//! Format: git's `Documentation/gitformat-index`, versions 2 to 4.

use sha2::{Digest, Sha256};

/// What an index says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::workspace) struct Index {
    /// Hash over path, mode, object and stage of every entry.
    pub(in crate::workspace) digest: [u8; 32],
    /// The tracked paths, sorted.
    pub(in crate::workspace) paths: Vec<Vec<u8>>,
}

/// Times, device, inode and owner come first in an entry; the mode at this place.
const MODE: std::ops::Range<usize> = 24..28;
/// The object's name begins here.
const OBJECT: usize = 40;
const EXTENDED: u16 = 0x4000;
const STAGE: u16 = 0x3000;

/// How many times as long as the index its paths may be together.
const UNPACKED: usize = 4;

impl Index {
    /// Reads an index whose object names have `object` bytes. `None` where it is damaged, or of a kind that does not
    /// list its entries itself (a split index).
    pub(in crate::workspace) fn parse(bytes: &[u8], object: usize) -> Option<Self> {
        let mut rest = bytes.strip_prefix(b"DIRC")?;
        let version = take_u32(&mut rest)?;
        if !(2..=4).contains(&version) {
            return None;
        }
        let count = take_u32(&mut rest)?;
        let mut hash = Sha256::new();
        let mut paths: Vec<Vec<u8>> = Vec::new();
        let mut path = Vec::new();
        let mut total = 0;
        for _ in 0..count {
            let start = rest;
            let head = take(&mut rest, OBJECT + object)?;
            let mut flags = take_u16(&mut rest)?;
            let mut extended = 0;
            if flags & EXTENDED != 0 && version >= 3 {
                extended = take_u16(&mut rest)?;
            }
            if version == 4 {
                let kept = path.len().checked_sub(take_varint(&mut rest)?)?;
                path.truncate(kept);
            } else {
                path.clear();
            }
            let length = rest.iter().position(|byte| *byte == 0)?;
            path.extend_from_slice(take(&mut rest, length)?);
            if version == 4 {
                take(&mut rest, 1)?;
            } else {
                // One to eight NUL bytes, so that the entry's length is a multiple of eight.
                let used = start.len() - rest.len();
                take(&mut rest, 8 - used % 8)?;
            }
            // In version 4 each path may repeat the one before it: a few bytes would be unpacked to any length.
            total += path.len();
            if total / UNPACKED > bytes.len() {
                return None;
            }
            flags &= STAGE;
            hash.update(u64::try_from(path.len()).ok()?.to_le_bytes());
            hash.update(&path);
            hash.update(head.get(MODE)?);
            hash.update(head.get(OBJECT..)?);
            hash.update(flags.to_le_bytes());
            hash.update(extended.to_le_bytes());
            paths.push(path.clone());
        }
        while rest.len() > object {
            let name = take(&mut rest, 4)?;
            let length = take_u32(&mut rest)?;
            take(&mut rest, usize::try_from(length).ok()?)?;
            if name == b"link" {
                return None;
            }
        }
        paths.dedup();
        Some(Self { digest: hash.finalize().into(), paths })
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest, 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    take(rest, 2)?.try_into().ok().map(u16::from_be_bytes)
}

/// A number as in git's pack files ("offset encoding").
fn take_varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value: usize = 0;
    for turn in 0..8 {
        let [byte] = take(rest, 1)? else { return None };
        value = value.checked_add(usize::from(turn > 0))?.checked_shl(if turn > 0 { 7 } else { 0 })?;
        value |= usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each entry adds one byte to the path of the one before it: 100 MB would be unpacked to a terabyte.
    #[test]
    fn paths_that_unpack_to_any_length_are_refused() {
        let count = 2000_u32;
        let mut index = [b"DIRC".as_slice(), &4_u32.to_be_bytes(), &count.to_be_bytes()].concat();
        for _ in 0..count {
            index.extend([0; OBJECT + 20 + 2 + 1]);
            index.extend(b"a\0");
        }
        assert_eq!(Index::parse(&index, 20), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(version in 0_u8..6, count in 0_u8..4, bytes: Vec<u8>) {
            let mut index = b"DIRC\0\0\0".to_vec();
            index.extend([version, 0, 0, 0, count]);
            index.extend(bytes);
            let _ = Index::parse(&index, 20);
        }
    }
}
