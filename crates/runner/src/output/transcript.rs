//! A bounded copy of an output for people: its beginning and its end.

use super::tail::{last, push_within};

/// How many bytes of the beginning are kept.
const HEAD_BYTES: usize = 256 << 10;
/// How many bytes of the end are kept.
const END_BYTES: usize = 768 << 10;

/// The first and the last bytes of an output.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    head: Vec<u8>,
    end: Vec<u8>,
    total: u64,
}

impl Transcript {
    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = HEAD_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        push_within(&mut self.end, rest, END_BYTES);
    }

    /// Whether nothing was printed.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The parts to write, in order. The middle part says how much was omitted.
    pub fn parts(&self) -> [Vec<u8>; 3] {
        let end = last(&self.end, END_BYTES);
        let omitted = self.total - (self.head.len() + end.len()) as u64;
        let note =
            if omitted == 0 { String::new() } else { format!("\n[agentloop: {omitted} bytes omitted]\n") };
        [self.head.clone(), note.into_bytes(), end.to_vec()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_output_is_kept_as_it_is() {
        let mut transcript = Transcript::default();
        transcript.push(b"one\n");
        transcript.push(b"two\n");
        assert_eq!(transcript.parts().concat(), b"one\ntwo\n");
    }

    #[test]
    fn a_long_output_says_how_much_was_omitted() {
        let mut transcript = Transcript::default();
        let all = vec![b'x'; HEAD_BYTES + END_BYTES];
        transcript.push(&all);
        assert_eq!(transcript.parts().concat(), all);
        transcript.push(b"12345");
        let text = String::from_utf8(transcript.parts().concat()).expect("ascii");
        assert!(text.contains("\n[agentloop: 5 bytes omitted]\n") && text.ends_with("x12345"));
    }
}
