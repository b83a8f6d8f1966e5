//! Keeps the last bytes of a long output.

/// Keeps the last [`TAIL_BYTES`](super::TAIL_BYTES) bytes, in at most twice that memory.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    /// Appends bytes and drops the oldest.
    pub fn push(&mut self, bytes: &[u8]) {
        push_within(&mut self.bytes, bytes, super::TAIL_BYTES);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Removes a line feed at the end.
    pub fn trim_end(&mut self) {
        if self.bytes.last() == Some(&b'\n') {
            self.bytes.pop();
        }
    }

    /// The kept bytes as text without terminal escapes. Invalid UTF-8 becomes the replacement character.
    pub fn text(&self) -> String {
        plain(&String::from_utf8_lossy(last(&self.bytes, super::TAIL_BYTES)))
    }
}

/// Appends to a buffer whose last `keep` bytes matter.
pub(super) fn push_within(buffer: &mut Vec<u8>, bytes: &[u8], keep: usize) {
    let bytes = last(bytes, keep);
    // Moving the kept bytes to the front once for every `keep` new bytes costs almost nothing.
    if buffer.len() + bytes.len() > 2 * keep {
        let surplus = (buffer.len() + bytes.len()).saturating_sub(keep).min(buffer.len());
        buffer.drain(..surplus);
    }
    buffer.extend_from_slice(bytes);
}

/// The last `keep` bytes of a slice.
pub(super) fn last(bytes: &[u8], keep: usize) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(keep)..).unwrap_or_default()
}

/// Removes terminal escape sequences (colours, cursor movements, titles).
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
            Some(']') => {
                // Ends with BEL or ESC \, and never after its line, so that a stray sequence hides little.
                while let Some(&c) = chars.peek() {
                    if c == '\n' {
                        break;
                    }
                    chars.next();
                    if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::TAIL_BYTES;
    use super::*;

    #[test]
    fn the_last_bytes_are_kept_however_the_output_is_cut() {
        for piece in [1, 7, 4096, TAIL_BYTES, TAIL_BYTES + 1, 3 * TAIL_BYTES] {
            let mut tail = Tail::default();
            let all: Vec<u8> =
                (0..u32::try_from(3 * TAIL_BYTES).unwrap_or(0)).map(|i| b'a' + (i % 26) as u8).collect();
            for bytes in all.chunks(piece) {
                tail.push(bytes);
                assert!(tail.bytes.len() <= 2 * TAIL_BYTES);
            }
            assert_eq!(tail.text().as_bytes(), &all[2 * TAIL_BYTES..], "in pieces of {piece}");
        }
    }

    #[test]
    fn colours_and_titles_are_removed() {
        assert_eq!(plain("\u{1b}[1;31mred\u{1b}[0m \u{1b}]0;title\u{7}x\u{1b}]8;;u\u{1b}\\y"), "red xy");
        assert_eq!(plain("\u{1b}]never ended\nnext"), "\nnext");
        assert_eq!(plain("\u{1b}"), "");
    }
}
