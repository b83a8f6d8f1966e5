//! Enums in a status that accept unknown values.
//!
//! A newer version of the operator may have written a value that this version does not know. Such a value is kept and
//! shown as it is: if the status could not be read, no operator could work on the task.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Maximum bytes of a value, also in the schema. Longer values are cut.
pub(super) const MAX_BYTES: usize = 63;

/// A value of another version.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnknownValue {
    bytes: [u8; MAX_BYTES],
    length: usize,
}

impl UnknownValue {
    /// The value as it was read.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl From<&str> for UnknownValue {
    fn from(text: &str) -> Self {
        let end = (0..=text.len().min(MAX_BYTES)).rev().find(|end| text.is_char_boundary(*end));
        let kept = text.get(..end.unwrap_or_default()).unwrap_or_default().as_bytes();
        let mut bytes = [0; MAX_BYTES];
        bytes.iter_mut().zip(kept).for_each(|(to, from)| *to = *from);
        Self { bytes, length: kept.len() }
    }
}

impl fmt::Debug for UnknownValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for UnknownValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for UnknownValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::from(text.as_str()))
    }
}

/// An enum of the values that this version knows, and of all others. Each value is written like the name of its
/// variant.
macro_rules! open_enum {
    ($($(#[doc = $about:literal])* pub enum $name:ident {
        $($(#[doc = $meaning:literal])* $value:ident,)*
    })*) => { $(
        $(#[doc = $about])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[doc = $meaning])* $value,)*
            /// A value of a newer version.
            #[serde(untagged)]
            Other($crate::api::open_enum::UnknownValue),
        }

        impl $name {
            /// The value in the API.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$value => stringify!($value),)*
                    Self::Other(value) => value.as_str(),
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

        /// The values that this version knows, each with its meaning.
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let values = vec![$({
                    let meaning = [$($meaning.trim()),*].join("\n");
                    serde_json::json!({ "type": "string", "const": stringify!($value), "description": meaning })
                }),*];
                let about = [$($about.trim()),*].join("\n");
                schemars::json_schema!({ "description": about, "oneOf": values })
            }
        }
    )* };
}

pub(super) use open_enum;
