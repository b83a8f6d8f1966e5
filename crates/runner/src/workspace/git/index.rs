//! Reads git's index: the staged paths and their content, without what `git status` refreshes.
//!
//! The format is described in git's `Documentation/gitformat-index`; versions 2 to 4 are read.
//!
//! Why not the crate `gix-index`: version 0.58.0 brings 57 crates, and the whole runner, which is copied into every
//! pod, is built from 38. This parser takes no memory that its caller has not allowed, and fuzzing checks that
//! (`fuzz/targets/index.rs`).

use sha2::{Digest, Sha256};

/// The content of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Hash over path, mode, object and stage of every entry.
    pub digest: [u8; 32],
    /// The tracked paths, sorted.
    pub paths: Vec<Vec<u8>>,
}

/// Why an index cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexError {
    /// It is damaged, or a split index, which does not list all of its entries itself.
    Malformed,
    /// Its paths take more memory than allowed.
    TooLarge,
}

/// The mode of an entry. Times, device and inode precede it, the owner follows it.
const MODE: std::ops::Range<usize> = 24..28;
/// The position of the object's name.
const OBJECT: usize = 40;
const EXTENDED: u16 = 0x4000;
const STAGE: u16 = 0x3000;
const ASSUME_VALID: u16 = 0x8000;

/// The total length of the paths may be this many times the length of the index.
const UNPACKED: usize = 4;

/// About how much memory a path takes beside its bytes.
const PATH_BYTES: usize = 64;
/// Extensions that consist of times and inodes, or of offsets in the file.
const VOLATILE: [&[u8]; 4] = [b"UNTR", b"FSMN", b"EOIE", b"IEOT"];

impl Index {
    /// Reads an index whose object names have `object` bytes. Asks `reserve` for the memory of each path before it keeps
    /// the path.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn parse(bytes: &[u8], object: usize, reserve: &dyn Fn(usize) -> bool) -> Result<Self, IndexError> {
        let mut paths = Vec::new();
        let mut full = false;
        let hashes = read(bytes, object, &mut |path| {
            // Git sorts the paths, and an unsorted list could not be searched.
            if paths.last().is_some_and(|last: &Vec<u8>| last.as_slice() > path) {
                return false;
            }
            full = !reserve(path.len() + PATH_BYTES);
            if !full {
                paths.push(path.to_vec());
            }
            !full
        });
        let (digest, _) = hashes.ok_or(if full { IndexError::TooLarge } else { IndexError::Malformed })?;
        paths.dedup();
        Ok(Self { digest, paths })
    }

    /// Computes only the [`digest`](Self::digest), which takes no memory.
    pub fn digest(bytes: &[u8], object: usize) -> Option<[u8; 32]> {
        read(bytes, object, &mut |_| true).map(|(digest, _)| digest)
    }

    /// A hash over everything except what git caches about the files to compare them faster: times, inodes, owners,
    /// lengths, and extensions made from them.
    pub fn strict(bytes: &[u8], object: usize) -> Option<[u8; 32]> {
        read(bytes, object, &mut |_| true).map(|(_, strict)| strict)
    }
}

/// Reads an index and passes each path to `keep`, until that returns false. Returns the two hashes.
fn read(bytes: &[u8], object: usize, keep: &mut dyn FnMut(&[u8]) -> bool) -> Option<([u8; 32], [u8; 32])> {
    let mut rest = bytes.strip_prefix(b"DIRC")?;
    let version = take_u32(&mut rest)?;
    if !(2..=4).contains(&version) {
        return None;
    }
    let count = take_u32(&mut rest)?;
    let mut hash = Sha256::new();
    let mut strict = Sha256::new();
    let mut path = Vec::new();
    let mut total = 0_usize;
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
        let padding = if version == 4 {
            take(&mut rest, 1)?
        } else {
            // One to eight NUL bytes, so that the entry's length is a multiple of eight.
            let used = start.len() - rest.len();
            take(&mut rest, 8 - used % 8)?
        };
        // In version 4, each path may repeat the previous one, so a few bytes could unpack to any length.
        total = total.saturating_add(path.len());
        if total / UNPACKED > bytes.len() || !keep(&path) {
            return None;
        }
        strict.update((flags & ASSUME_VALID).to_le_bytes());
        strict.update(padding);
        flags &= STAGE;
        hash.update(u64::try_from(path.len()).ok()?.to_le_bytes());
        hash.update(&path);
        hash.update(head.get(MODE)?);
        hash.update(head.get(OBJECT..)?);
        hash.update(flags.to_le_bytes());
        hash.update(extended.to_le_bytes());
    }
    while rest.len() > object {
        let name = take(&mut rest, 4)?;
        let length = take_u32(&mut rest)?;
        let content = take(&mut rest, usize::try_from(length).ok()?)?;
        if name == b"link" {
            return None;
        }
        if !VOLATILE.contains(&name) {
            strict.update(name);
            strict.update(length.to_le_bytes());
            strict.update(content);
        }
    }
    let digest: [u8; 32] = hash.finalize().into();
    strict.update(digest);
    Some((digest, strict.finalize().into()))
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

/// A number in the offset encoding of git's pack files.
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

    /// Each entry adds one byte to the previous path: 100 MB would unpack to a terabyte.
    #[test]
    fn paths_that_unpack_to_any_length_are_rejected() {
        let count = 2000_u32;
        let mut index = [b"DIRC".as_slice(), &4_u32.to_be_bytes(), &count.to_be_bytes()].concat();
        for _ in 0..count {
            index.extend([0; OBJECT + 20 + 2 + 1]);
            index.extend(b"a\0");
        }
        assert_eq!(Index::parse(&index, 20, &|_| true), Err(IndexError::Malformed));
    }

    /// A version 4 index of 128 MiB unpacks to four times as much.
    #[test]
    fn reading_stops_as_soon_as_the_paths_take_too_much_memory() {
        let count = 1000_u32;
        let mut index = [b"DIRC".as_slice(), &4_u32.to_be_bytes(), &count.to_be_bytes()].concat();
        for _ in 0..count {
            index.extend([0; OBJECT + 20 + 2 + 1]);
            index.extend(b"a\0");
        }
        let reserved = std::cell::Cell::new(0);
        let reserve = |bytes| {
            reserved.set(reserved.get() + bytes);
            reserved.get() < 1000
        };
        assert_eq!(Index::parse(&index, 20, &reserve), Err(IndexError::TooLarge));
        assert!(reserved.get() < 2000, "{} bytes", reserved.get());
    }

    /// Git rejects such an index, and a binary search would not find its paths.
    #[test]
    fn paths_that_are_not_sorted_are_rejected() {
        let index = |names: [&str; 2]| {
            let mut index = [b"DIRC".as_slice(), &2_u32.to_be_bytes(), &2_u32.to_be_bytes()].concat();
            for name in names {
                index.extend([0; OBJECT + 20 + 2]);
                index.extend(name.as_bytes());
                index.extend([0; 1]);
            }
            index
        };
        let paths = |names| Index::parse(&index(names), 20, &|_| true).map(|index| index.paths);
        assert_eq!(paths(["a", "b"]), Ok(vec![b"a".to_vec(), b"b".to_vec()]));
        assert_eq!(paths(["b", "a"]), Err(IndexError::Malformed));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(version in 0_u8..6, count in 0_u8..4, bytes: Vec<u8>) {
            let mut index = b"DIRC\0\0\0".to_vec();
            index.extend([version, 0, 0, 0, count]);
            index.extend(bytes);
            let _ = Index::parse(&index, 20, &|_| true);
        }
    }
}
