//! Words that the operator writes into a status, and reads again.
//!
//! A newer version may have written a word that this one does not know. It is kept and shown as it is: a
//! status that could not be read would take the task out of everybody's reach.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes kept of a word, and the longest that the schema takes.
pub(super) const MOST_BYTES: usize = 63;

/// A word of another version.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Word {
    bytes: [u8; MOST_BYTES],
    length: usize,
}

impl Word {
    /// The word as it was read.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        let end = (0..=text.len().min(MOST_BYTES)).rev().find(|end| text.is_char_boundary(*end));
        let kept = text.get(..end.unwrap_or_default()).unwrap_or_default().as_bytes();
        let mut bytes = [0; MOST_BYTES];
        bytes.iter_mut().zip(kept).for_each(|(to, from)| *to = *from);
        Self { bytes, length: kept.len() }
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::from(text.as_str()))
    }
}

/// An enum of the words that this version knows, and of all others. Each word is written as the variant is named.
macro_rules! words {
    ($($(#[doc = $about:literal])* pub enum $name:ident {
        $($(#[doc = $meaning:literal])* $word:ident,)*
    })*) => { $(
        $(#[doc = $about])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[doc = $meaning])* $word,)*
            /// A word of a newer version.
            #[serde(untagged)]
            Other($crate::api::words::Word),
        }

        impl $name {
            /// The word as the API has it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$word => stringify!($word),)*
                    Self::Other(word) => word.as_str(),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        /// The words that this version knows, each with its meaning.
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let words = vec![$({
                    let meaning = [$($meaning.trim()),*].join("\n");
                    serde_json::json!({ "type": "string", "const": stringify!($word), "description": meaning })
                }),*];
                let about = [$($about.trim()),*].join("\n");
                schemars::json_schema!({ "description": about, "oneOf": words })
            }
        }
    )* };
}

pub(super) use words;
