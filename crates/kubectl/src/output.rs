//! `-o json|yaml|name|jsonpath`: objects as they are in the API.

use std::fmt::Write as _;
use std::str::FromStr;

use agentloop_core::api::AgentTask;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::jsonpath::Template;
use crate::text;

/// A format of objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For people with wide terminals.
    Wide,
    /// The objects as JSON.
    Json,
    /// The objects as YAML.
    Yaml,
    /// `agenttask.agentloop.dev/NAME`.
    Name,
    /// What a template selects.
    JsonPath(Template),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "table" => Self::Table,
            "wide" => Self::Wide,
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            _ => match text.split_once('=') {
                Some(("jsonpath", template)) => Self::JsonPath(template.parse()?),
                _ if text == "jsonpath" => {
                    return Err("needs a template, such as jsonpath='{.status.message}{\"\\n\"}'".to_owned());
                }
                _ => return Err("must be table, wide, json, yaml, name or jsonpath=TEMPLATE".to_owned()),
            },
        })
    }
}

/// A name as kubectl prints it.
pub fn name(task: &AgentTask) -> String {
    format!("agenttask.agentloop.dev/{}", text::line(&task.name_any()))
}

/// An object as kubectl prints it: with its kind, which lists leave out, and without the record of who set which field.
pub fn complete(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.entry("apiVersion").or_insert_with(|| AgentTask::api_version(&()).into());
        fields.entry("kind").or_insert_with(|| AgentTask::kind(&()).into());
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    }
}

/// A list as kubectl prints it.
pub fn list(items: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items })
}

/// One object, or a [`list`] of them, in a format that is not for people.
pub fn print(format: &Format, value: &Value) -> Result<String, Failure> {
    match format {
        Format::Yaml => yaml(value),
        Format::JsonPath(template) => Ok(template.print(value)),
        _ => Ok(json(value) + "\n"),
    }
}

/// JSON that a terminal shows as it is: characters that could control it are escaped.
pub fn json(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    if text.is_ascii() && !text.contains('\u{7f}') {
        return text;
    }
    // Outside of strings JSON is ASCII, so whatever is replaced is in a string.
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || text::line(c.encode_utf8(&mut [0; 4])).starts_with(c) {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        }
    }
    safe
}

fn yaml(value: &Value) -> Result<String, Failure> {
    let text = serde_saphyr::to_string(value)
        .map_err(|error| Failure::new(format!("cannot write the object as YAML: {error}")))?;
    // Strings with control characters are in double quotes, where the writer escapes them. What it leaves as it is, is
    // removed.
    Ok(text.lines().map(|line| text::line(line) + "\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_those_of_kubectl() {
        assert_eq!("wide".parse(), Ok(Format::Wide));
        assert!(matches!("jsonpath={.status.phase}".parse(), Ok(Format::JsonPath(_))));
        assert!("jsonpath".parse::<Format>().is_err() && "go-template".parse::<Format>().is_err());
    }

    #[test]
    fn json_is_the_same_value_and_has_no_characters_that_control_a_terminal() {
        let value = json!({ "error": "a\u{1b}[31mb\u{9b}2J\u{7f}\u{202e}c\u{2028}日本\n", "n": 1 });
        let text = super::json(&value);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains(['\u{202e}', '\u{2028}']) && text.contains("日本"), "{text:?}");
    }

    #[test]
    fn yaml_is_the_same_value_and_has_no_characters_that_control_a_terminal() {
        let value = json!({ "error": "a\u{1b}[31mb\u{7f}", "lines": "one\ntwo\n", "n": 1, "yes": "yes" });
        let text = print(&Format::Yaml, &value).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, value, "{text}");
    }
}
