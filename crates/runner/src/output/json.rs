//! Reads JSON in place, without building values: a tree of small objects takes a hundred times the memory of its text.

use std::fmt;

use serde::{
    Deserializer as _,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// A JSON value as its text. If a value is absent or has another type than requested, the result is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// The value, if it is the whole text.
    pub fn whole(text: &'a str) -> Option<Self> {
        serde_json::from_str::<IgnoredAny>(text).is_ok().then(|| Self(text.trim()))
    }

    /// The first object in a text, with any text around it: `API Error: 401 {"type":"error",…}`.
    pub fn within(text: &'a str) -> Option<Self> {
        let rest = text.get(text.find('{')?..)?;
        let raw = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>().next()?.ok()?;
        Some(Self(raw.get()))
    }

    /// The value of an object's key. If the key occurs twice, the last value counts.
    pub fn get(self, key: &str) -> Self {
        let mut found = "null";
        self.entries(|name, value| {
            if name == key {
                found = value.0;
            }
        });
        Self(found)
    }

    /// Keys and values of an object.
    pub fn entries(self, each: impl FnMut(&str, Json<'a>)) {
        if self.0.starts_with('{') {
            // The text was parsed before, so this cannot fail.
            let _ = serde_json::Deserializer::from_str(self.0).deserialize_map(Walk(each));
        }
    }

    /// The items of an array.
    pub fn items(self, mut each: impl FnMut(Json<'a>)) {
        if self.0.starts_with('[') {
            let walk = Walk(|_: &str, value| each(value));
            let _ = serde_json::Deserializer::from_str(self.0).deserialize_seq(walk);
        }
    }

    /// The text of a string.
    pub fn text(self) -> Option<String> {
        self.0.starts_with('"').then(|| serde_json::from_str(self.0).ok()).flatten()
    }

    /// Whether this is the given string.
    pub fn is(self, text: &str) -> bool {
        self.0.len() <= 6 * text.len() + 2 && self.text().is_some_and(|own| own == text)
    }

    /// A whole number.
    pub fn integer(self) -> Option<i64> {
        self.0.parse().ok()
    }

    /// A number.
    pub fn number(self) -> Option<f64> {
        self.0
            .starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
            .then(|| self.0.parse().ok())?
    }

    /// `true` or `false`.
    pub fn flag(self) -> Option<bool> {
        self.0.parse().ok()
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.0.starts_with('{')
    }
}

struct Walk<F>(F);

impl<'a, F: FnMut(&str, Json<'a>)> Visitor<'a> for Walk<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<std::borrow::Cow<'a, str>>()? {
            (self.0)(&name, Json(map.next_value::<&'a RawValue>()?.get()));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element::<&'a RawValue>()? {
            (self.0)("", Json(value.get()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_and_wrong_types_are_none() {
        let json =
            Json::whole(r#" {"a":"x\n","b":{"c":7,"\u0064":1.5},"e":[true,null],"a2":"y","c":1,"c":2} "#)
                .expect("json");
        assert_eq!(json.get("a").text().as_deref(), Some("x\n"));
        assert!(json.get("a2").is("y") && !json.get("a2").is("z") && !json.get("b").is("y"));
        assert_eq!((json.get("b").get("c").integer(), json.get("b").get("d").number()), (Some(7), Some(1.5)));
        assert_eq!(
            (json.get("a").integer(), json.get("b").text(), json.get("none").flag()),
            (None, None, None)
        );
        assert_eq!(json.get("c").integer(), Some(2));
        let mut flags = Vec::new();
        json.get("e").items(|item| flags.push(item.flag()));
        assert_eq!(flags, [Some(true), None]);
        assert!(Json::whole("{\"a\":").is_none() && Json::within("no {object").is_none());
        assert_eq!(
            Json::within("API Error: 401 {\"code\":401} (x)").and_then(|j| j.get("code").integer()),
            Some(401)
        );
    }
}
