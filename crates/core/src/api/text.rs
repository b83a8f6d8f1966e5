//! JSON that is passed through, kept as text.
//!
//! A tree of values takes up to a hundred times the memory of its text, and the author of a task chooses the text. So
//! only the text stays in memory, and it is parsed only to build a pod or a PVC.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer, forward_to_deserialize_any};
use serde_json::Value;
use serde_json::value::RawValue;

/// Maximum values, including nested ones, of a text that is parsed: far more than the largest pod has, and about 10 MB.
const MAX_VALUES: usize = 20_000;

/// Valid JSON as text. A clone shares the text.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonText(Arc<str>);

/// Why a text was not parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unparsed {
    /// It has more values than any pod.
    #[error("it has more than {MAX_VALUES} values")]
    TooManyValues,
    /// It is nested too deeply, or a number is out of range.
    #[error("it is nested too deeply or has a number out of range")]
    Unreadable,
}

impl JsonText {
    /// The text as it was read.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tree of values.
    pub fn parse(&self) -> Result<Value, Unparsed> {
        let mut left = MAX_VALUES;
        let counted = read(&self.0, Count { left: &mut left });
        match counted {
            Ok(()) => serde_json::from_str(&self.0).map_err(|_| Unparsed::Unreadable),
            Err(_) if left == 0 => Err(Unparsed::TooManyValues),
            Err(_) => Err(Unparsed::Unreadable),
        }
    }

    /// The canonical form: equal for equal values, with sorted keys and without spaces. It takes about as much memory
    /// as the text. A text that cannot be parsed is its own canonical form.
    pub fn canonical(&self) -> String {
        let mut out = String::with_capacity(self.0.len());
        match read(&self.0, Canonical { out: &mut out }) {
            Ok(()) => out,
            Err(_) => self.0.as_ref().to_owned(),
        }
    }
}

fn read<'de, S: DeserializeSeed<'de>>(text: &'de str, seed: S) -> Result<S::Value, serde_json::Error> {
    seed.deserialize(&mut serde_json::Deserializer::from_str(text))
}

impl Default for JsonText {
    fn default() -> Self {
        Self("null".into())
    }
}

impl From<&Value> for JsonText {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl fmt::Debug for JsonText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A borrowed raw value is written unchanged. It becomes a tree only if the serializer asks for one.
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(RawOrBuffered(deserializer))?;
        Ok(Self(Box::<str>::from(raw).into()))
    }
}

/// Reads a raw value from any deserializer. `RawValue` alone needs text, and fails if serde has buffered the value, as
/// it does for a watch event, an adjacently tagged enum, whose tag comes after its content.
struct RawOrBuffered<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for RawOrBuffered<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, RawVisitor { name, visitor })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct RawVisitor<V> {
    name: &'static str,
    visitor: V,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for RawVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(formatter)
    }

    /// Called by `serde_json` for text.
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(map)
    }

    /// Called by all other deserializers.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, buffered: D) -> Result<V::Value, D::Error> {
        let value = Value::deserialize(buffered)?;
        value.deserialize_newtype_struct(self.name, self.visitor).map_err(de::Error::custom)
    }
}

/// Counts down by one for each value, and fails at zero.
struct Count<'a> {
    left: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        *self.left = self.left.saturating_sub(1);
        if *self.left == 0 {
            return Err(de::Error::custom(Unparsed::TooManyValues));
        }
        deserializer.deserialize_any(self)
    }
}

macro_rules! ignore_scalars {
    ($($method:ident($type:ty))*) => { $(
        fn $method<E: de::Error>(self, _: $type) -> Result<(), E> {
            Ok(())
        }
    )* };
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    ignore_scalars! { visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str) }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Count { left: &mut *self.left })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(Count { left: &mut *self.left })?;
        }
        Ok(())
    }
}

/// Writes the values that it reads in the canonical form.
struct Canonical<'a> {
    out: &'a mut String,
}

impl Canonical<'_> {
    fn write<E: de::Error>(self, value: &impl Serialize) -> Result<(), E> {
        self.out.push_str(&serde_json::to_string(value).map_err(E::custom)?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Canonical<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! write_scalars {
    ($($method:ident($type:ty))*) => { $(
        fn $method<E: de::Error>(self, value: $type) -> Result<(), E> {
            self.write(&value)
        }
    )* };
}

impl<'de> Visitor<'de> for Canonical<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    write_scalars! { visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str) }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.write(&())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.out.push('[');
        let start = self.out.len();
        loop {
            let before = self.out.len();
            if before > start {
                self.out.push(',');
            }
            if seq.next_element_seed(Canonical { out: &mut *self.out })?.is_none() {
                self.out.truncate(before);
                break;
            }
        }
        self.out.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let start = self.out.len();
        let mut entries: Vec<(String, Range<usize>)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let from = self.out.len();
            map.next_value_seed(Canonical { out: &mut *self.out })?;
            entries.push((key, from..self.out.len()));
        }
        // The sort is stable: of a duplicate key the last one counts, as for the other parsers here.
        entries.sort_by(|one, other| one.0.cmp(&other.0));
        let values = self.out.split_off(start);
        self.out.push('{');
        let mut comma = "";
        for (at, (key, range)) in entries.iter().enumerate() {
            if entries.get(at.saturating_add(1)).is_some_and(|next| next.0 == *key) {
                continue;
            }
            self.out.push_str(comma);
            comma = ",";
            Canonical { out: &mut *self.out }.write(key)?;
            self.out.push(':');
            self.out.push_str(
                values
                    .get(range.start.saturating_sub(start)..range.end.saturating_sub(start))
                    .unwrap_or_default(),
            );
        }
        self.out.push('}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn text(text: &str) -> JsonText {
        serde_json::from_str(text).expect("JSON")
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        scalar.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..6).prop_map(Value::from_iter),
            ]
        })
    }

    /// The same value as text with the keys of every object in reverse.
    fn reversed(value: &Value) -> String {
        match value {
            Value::Array(list) => {
                format!("[ {} ]", list.iter().map(reversed).collect::<Vec<_>>().join(" , "))
            }
            Value::Object(map) => {
                let entry =
                    |(key, value)| format!("{} : {}", Value::from(Clone::clone(key)), reversed(value));
                format!("{{ {} }}", map.iter().rev().map(entry).collect::<Vec<_>>().join(" , "))
            }
            scalar => scalar.to_string(),
        }
    }

    proptest! {
        #[test]
        fn a_value_that_was_written_is_read_again(value in any_json()) {
            prop_assert_eq!(text(&value.to_string()).parse().unwrap(), value.clone());
            prop_assert_eq!(text(&reversed(&value)).parse().unwrap(), value.clone());
            prop_assert_eq!(serde_json::to_value(text(&value.to_string())).unwrap(), value);
        }

        #[test]
        fn the_canonical_form_is_that_of_the_values(value in any_json()) {
            // Equal to the text of the tree: pods of earlier versions have a hash of that text.
            prop_assert_eq!(text(&reversed(&value)).canonical(), value.to_string());
        }

        #[test]
        fn a_value_that_serde_has_buffered_is_read_too(value in any_json()) {
            #[derive(Deserialize)]
            #[serde(tag = "type", content = "object")]
            enum Event {
                Added(JsonText),
            }
            for event in [
                format!("{{\"type\":\"Added\",\"object\":{value}}}"),
                format!("{{\"object\":{value},\"type\":\"Added\"}}"),
            ] {
                let Event::Added(read) = serde_json::from_str(&event).unwrap();
                prop_assert_eq!(read.parse().unwrap(), value.clone());
            }
            let read: JsonText = serde_json::from_value(value.clone()).unwrap();
            prop_assert_eq!(read.parse().unwrap(), value);
        }
    }

    #[test]
    fn text_is_kept_as_it_was_sent() {
        let sent = "{\"b\": 1.50, \"a\": 123456789012345678901234567890, \"c\": 1e999}";
        let kept = text(sent);
        assert_eq!(kept.as_str(), sent);
        assert_eq!(serde_json::to_string(&kept).unwrap(), sent);
        assert_eq!(kept.parse(), Err(Unparsed::Unreadable), "no type holds 1e999");
        assert_eq!(kept.canonical(), sent);
    }

    #[test]
    fn of_a_duplicate_key_the_last_one_counts() {
        let twice = text("{\"a\":1,\"b\":{},\"a\":2}");
        assert_eq!(twice.canonical(), twice.parse().unwrap().to_string());
    }

    #[test]
    fn a_text_that_would_take_too_much_memory_is_not_parsed() {
        let many = |count: usize| text(&format!("[{}{{}}]", "{},".repeat(count)));
        assert!(many(19_000).parse().is_ok());
        assert_eq!(many(20_000).parse(), Err(Unparsed::TooManyValues));
        assert_eq!(
            text(&format!("{}{}", "[".repeat(500), "]".repeat(500))).parse(),
            Err(Unparsed::Unreadable)
        );
        let keys = (0..30_000).map(|n| format!("\"{n}\":0")).collect::<Vec<_>>().join(",");
        assert_eq!(text(&format!("{{{keys}}}")).parse(), Err(Unparsed::TooManyValues));
    }

    #[test]
    fn a_clone_shares_the_text() {
        let one = JsonText::from(&json!({ "a": 1 }));
        assert!(std::ptr::eq(one.as_str(), one.clone().as_str()));
    }
}
