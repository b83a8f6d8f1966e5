//! kubectl's JSONPath: a template with expressions in braces.
//!
//! `{.a.b}`, `{.list[0]}`, `{.list[-1]}`, `{.list[*]}`, `{.a['with.dots']}`, `{.list[?(@.type=="Stopped")].status}`,
//! `{..name}`, `{"\n"}`, and `{range .items[*]}…{end}`.

use std::str::FromStr;

use serde_json::Value;

use crate::text;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Part>),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Descend,
    Filter { path: Vec<Step>, is: Comparison },
}

#[derive(Clone, Debug, PartialEq)]
enum Comparison {
    Exists,
    Equal(Value),
    NotEqual(Value),
}

impl FromStr for Template {
    type Err = String;

    fn from_str(template: &str) -> Result<Self, String> {
        let mut open: Vec<(Vec<Step>, Vec<Part>)> = Vec::new();
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            push_text(&mut parts, before);
            let (inside, after) = until_brace(after)?;
            rest = after;
            let inside = inside.trim();
            if inside == "end" {
                let (path, outer) = open.pop().ok_or("jsonpath: {end} without {range}")?;
                let inner = std::mem::replace(&mut parts, outer);
                parts.push(Part::Range(path, inner));
            } else if let Some(path) = inside.strip_prefix("range ") {
                open.push((Cursor::path(path.trim())?, std::mem::take(&mut parts)));
            } else if inside.starts_with(['"', '\'']) {
                let mut cursor = Cursor(inside);
                parts.push(Part::Text(cursor.quoted()?));
                cursor.end()?;
            } else {
                parts.push(Part::Path(Cursor::path(inside)?));
            }
        }
        push_text(&mut parts, rest);
        if open.is_empty() { Ok(Self(parts)) } else { Err("jsonpath: {range} without {end}".to_owned()) }
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

/// What is before the closing brace, which may not be the one within quotes, and what is after it.
fn until_brace(text: &str) -> Result<(&str, &str), String> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '}' => {
                let (inside, rest) = text.split_at(at);
                return Ok((inside, rest.get(1..).unwrap_or_default()));
            }
            Some(_) | None => {}
        }
    }
    Err("jsonpath: a brace is not closed".to_owned())
}

/// What is left of an expression.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn path(text: &'a str) -> Result<Vec<Step>, String> {
        let mut cursor = Self(text);
        let steps = cursor.steps()?;
        cursor.end()?;
        Ok(steps)
    }

    fn end(&self) -> Result<(), String> {
        if self.0.trim().is_empty() { Ok(()) } else { Err(format!("jsonpath: cannot read '{}'", self.0)) }
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.0.strip_prefix(text) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        let mut chars = self.0.chars();
        loop {
            let rest = chars.as_str();
            match chars.next() {
                // As in kubectl, a backslash makes a dot a part of the name.
                Some('\\') => word.extend(chars.next()),
                Some(c) if c.is_alphanumeric() || matches!(c, '_' | '-' | '/') => word.push(c),
                _ => {
                    self.0 = rest;
                    return word;
                }
            }
        }
    }

    fn quoted(&mut self) -> Result<String, String> {
        let mut chars = self.0.chars();
        let open = chars.next();
        let mut text = String::new();
        while let Some(c) = chars.next() {
            if Some(c) == open {
                self.0 = chars.as_str();
                return Ok(text);
            }
            text.push(match c {
                '\\' => match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(c) => c,
                    None => break,
                },
                c => c,
            });
        }
        Err("jsonpath: a quote is not closed".to_owned())
    }

    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        // The root.
        let _ = self.eat("$") || self.eat("@");
        loop {
            if self.eat("..") {
                steps.push(Step::Descend);
                if !self.0.starts_with('[') {
                    steps.push(self.field()?);
                }
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else if self.eat(".") {
                if !self.0.is_empty() && !self.0.starts_with('[') {
                    steps.push(self.field()?);
                }
            } else {
                return Ok(steps);
            }
        }
    }

    fn field(&mut self) -> Result<Step, String> {
        if self.eat("*") {
            return Ok(Step::All);
        }
        match self.word() {
            name if name.is_empty() => Err(format!("jsonpath: a name is missing before '{}'", self.0)),
            name => Ok(Step::Field(name)),
        }
    }

    fn bracket(&mut self) -> Result<Step, String> {
        let step = if self.eat("*") || self.eat(":") {
            Step::All
        } else if self.eat("?(") {
            let step = self.filter()?;
            if !self.eat(")") {
                return Err(format!("jsonpath: ')' is missing before '{}'", self.0));
            }
            step
        } else if self.0.starts_with(['"', '\'']) {
            Step::Field(self.quoted()?)
        } else {
            let index = self.word();
            Step::Index(index.parse().map_err(|_| format!("jsonpath: '{index}' is not an index"))?)
        };
        if self.eat("]") { Ok(step) } else { Err(format!("jsonpath: ']' is missing before '{}'", self.0)) }
    }

    fn filter(&mut self) -> Result<Step, String> {
        let path = self.steps()?;
        self.0 = self.0.trim_start();
        let is = if self.eat("==") {
            Comparison::Equal(self.value()?)
        } else if self.eat("!=") {
            Comparison::NotEqual(self.value()?)
        } else {
            Comparison::Exists
        };
        self.0 = self.0.trim_start();
        Ok(Step::Filter { path, is })
    }

    fn value(&mut self) -> Result<Value, String> {
        self.0 = self.0.trim_start();
        if self.0.starts_with(['"', '\'']) {
            return self.quoted().map(Value::String);
        }
        let word = self.word();
        serde_json::from_str(&word)
            .map_err(|_| format!("jsonpath: '{word}' is no value; put text into quotes"))
    }
}

impl Template {
    /// What the template selects, as kubectl prints it: several values are separated by blanks. Fields that are absent
    /// are empty.
    pub fn print(&self, value: &Value) -> String {
        let mut out = String::new();
        print(&self.0, value, &mut out);
        out
    }
}

fn print(parts: &[Part], value: &Value, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(steps) => {
                let found: Vec<String> = select(value, steps).into_iter().map(shown).collect();
                out.push_str(&found.join(" "));
            }
            Part::Range(steps, inner) => {
                for item in select(value, steps) {
                    print(inner, item, out);
                }
            }
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text::lines(text).join("\n"),
        Value::Null => String::new(),
        other => text::line(&other.to_string()),
    }
}

fn select<'a>(value: &'a Value, steps: &[Step]) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        found = found.into_iter().flat_map(|value| follow(value, step)).collect();
    }
    found
}

fn follow<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let at = if *index < 0 { length.saturating_add(*index) } else { *index };
            usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
        }
        Step::All => children(value),
        Step::Descend => {
            let below = children(value).into_iter().flat_map(|child| follow(child, step));
            std::iter::once(value).chain(below).collect()
        }
        Step::Filter { path, is } => {
            let matches = |item: &&Value| {
                let found = select(item, path);
                match is {
                    Comparison::Exists => !found.is_empty(),
                    Comparison::Equal(value) => found.contains(&value),
                    Comparison::NotEqual(value) => !found.is_empty() && !found.contains(&value),
                }
            };
            children(value).into_iter().filter(matches).collect()
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn print(template: &str) -> String {
        let value = json!({
            "metadata": { "name": "x", "labels": { "a.b/c": "yes" } },
            "status": { "iterations": 3, "message": "one\ntwo", "conditions": [
                { "type": "Failed", "status": "False" }, { "type": "Stopped", "status": "True", "n": 1 },
            ] },
        });
        template.parse::<Template>().expect("a template").print(&value)
    }

    #[test]
    fn what_kubectl_selects_is_selected() {
        for (template, expected) in [
            ("{.metadata.name}", "x"),
            ("{$.metadata.name}/{.status.iterations}{\"\\n\"}", "x/3\n"),
            ("{.status.message}", "one\ntwo"),
            ("{.status.none.at.all}.", "."),
            ("{.metadata.labels.a\\.b/c} {.metadata.labels['a.b/c']}", "yes yes"),
            ("{.status.conditions[*].type}", "Failed Stopped"),
            (
                "{.status.conditions[0].type}{.status.conditions[-1].type}{.status.conditions[7].type}",
                "FailedStopped",
            ),
            ("{.status.conditions[?(@.type==\"Stopped\")].status}", "True"),
            ("{.status.conditions[?(@.type!='Stopped')].status}", "False"),
            ("{.status.conditions[?(@.n)].type} {.status.conditions[?(@.n == 1)].type}", "Stopped Stopped"),
            ("{range .status.conditions[*]}{.type}={.status}{'\\t'}{end}", "Failed=False\tStopped=True\t"),
            ("{..type}", "Failed Stopped"),
            ("{.metadata.labels}", "{\"a.b/c\":\"yes\"}"),
            ("no braces", "no braces"),
        ] {
            assert_eq!(print(template), expected, "{template}");
        }
    }

    #[test]
    fn a_template_that_cannot_be_read_is_refused() {
        for template in
            ["{", "{.a", "{.a[}", "{.a[?(@.b}", "{end}", "{range .a}", "{\"x}", "{.a[x]}", "{a}", "{.a b}"]
        {
            assert!(template.parse::<Template>().is_err(), "{template}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_template_makes_the_parser_panic(template in r#"[{}\[\]().@*$"'=!?\\a1 -]{0,24}"#) {
            if let Ok(template) = template.parse::<Template>() {
                template.print(&json!({ "a": [1, { "a": "1" }] }));
            }
        }
    }

    #[test]
    fn printed_values_emit_no_escapes() {
        let value = json!({ "a": "x\u{1b}[31my", "b": ["\u{9b}1m"] });
        let template: Template = "{.a}{.b}".parse().unwrap();
        assert_eq!(template.print(&value), "xy[\"\"]");
    }
}
