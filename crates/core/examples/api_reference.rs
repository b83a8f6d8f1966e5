//! Prints docs/api.md: every field, bound, enum and rule of the API, from the types.
//!
//! `make generate` writes the page; `tests/generated.rs` fails if the page differs from the types.

use std::{fmt::Write as _, io::Write as _};

use agentloop_core::api::{
    CompletionPolicy, IterationOutcome, KNOWN_VALUES, LoopContext, Phase, StopReason, ThresholdSource,
    WaitReason, WhenDeleted, WorkspaceChange, crd,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde_json::Value;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(markdown().as_bytes())
}

/// The whole page.
pub fn markdown() -> String {
    let crd = crd();
    let enums = enums();
    let mut page = head(&crd);
    for version in &crd.spec.versions {
        page += &version_section(version, &enums);
    }
    page += &enums_section(&enums);
    page
}

/// An enum of the API.
struct Enum {
    name: String,
    description: String,
    /// Each value and its meaning.
    values: Vec<(String, String)>,
}

/// All enums, in the order of the fields that use them.
fn enums() -> Vec<Enum> {
    vec![
        with_default::<LoopContext>(),
        with_default::<CompletionPolicy>(),
        with_default::<WhenDeleted>(),
        enum_of::<Phase>(),
        enum_of::<WaitReason>(),
        enum_of::<StopReason>(),
        enum_of::<IterationOutcome>(),
        enum_of::<WorkspaceChange>(),
        enum_of::<ThresholdSource>(),
    ]
}

/// Reads the enum from the type's own schema, because the CRD does not have the meaning of each value.
fn enum_of<T: JsonSchema>() -> Enum {
    let schema = schema_for!(T);
    let text =
        |value: &Value, key: &str| one_line(value.get(key).and_then(Value::as_str).unwrap_or_default());
    let described = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    Enum {
        name: T::schema_name().into_owned(),
        description: text(schema.as_value(), "description"),
        values: described.map(|value| (text(value, "const"), text(value, "description"))).collect(),
    }
}

/// The same for an enum with a default, which is marked.
fn with_default<T: JsonSchema + Default + Serialize>() -> Enum {
    let default = serde_json::to_value(T::default()).unwrap_or_default();
    let mut found = enum_of::<T>();
    for (_, meaning) in found.values.iter_mut().filter(|(value, _)| default == value.as_str()) {
        meaning.push_str(" The default.");
    }
    found
}

fn head(crd: &CustomResourceDefinition) -> String {
    let names = &crd.spec.names;
    let list = |names: &Option<Vec<String>>| names.clone().unwrap_or_default().join(", ");
    format!(
        "<!-- Written by `make generate` from crates/core/src/api: change the types, not this page. -->\n\n\
         # API reference\n\n\
         agentloop has one resource, `{kind}`. [Concepts](concepts.md) explains how its fields work together, and\n\
         [configuration](configuration.md) describes the settings for all tasks.\n\n\
         | | |\n|---|---|\n\
         | Group | `{group}` |\n| Kind | `{kind}` |\n| Scope | {scope} |\n\
         | Plural, short name, category | `{plural}`, `{short}`, `{category}` |\n\n\
         A field is optional unless its bounds say *required*. The API server checks the bounds, and the rules below each\n\
         table, when an object is written. A rule marked *on update* compares the new object with the old one. Lengths are in\n\
         characters.\n",
        kind = names.kind,
        group = crd.spec.group,
        scope = crd.spec.scope,
        plural = names.plural,
        short = list(&names.short_names),
        category = list(&names.categories),
    )
}

fn version_section(version: &CustomResourceDefinitionVersion, enums: &[Enum]) -> String {
    let mut text = format!("\n## {}\n\n### Columns of `kubectl get`\n\n", version.name);
    text += "| Column | Shows | Path |\n|---|---|---|\n";
    for column in version.additional_printer_columns.iter().flatten() {
        let wide = if column.priority.unwrap_or(0) > 0 { " (with `-o wide`)" } else { "" };
        let shows = column.description.clone().unwrap_or_default();
        row(&mut text, &[format!("{}{wide}", column.name), shows, code(&column.json_path)]);
    }
    let Some(root) = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()) else {
        return text;
    };
    for (part, title) in [("spec", "What users write"), ("status", "What the operator writes")] {
        if let Some(schema) = root.properties.as_ref().and_then(|properties| properties.get(part)) {
            let required = root.required.iter().flatten().any(|name| name == part);
            text += &part_section(part, title, schema, required, enums);
        }
    }
    text += "\n### Rules on the whole object\n\n";
    let mut rules = Vec::new();
    rules_of("", root, &mut rules);
    text += &rules_table(&rules);
    text
}

fn part_section(part: &str, title: &str, schema: &JSONSchemaProps, required: bool, enums: &[Enum]) -> String {
    let mut fields = Vec::new();
    collect(part, schema, required, &mut fields);
    let mut text =
        format!("\n### {title}: `{part}`\n\n| Field | Type | Bounds | Meaning |\n|---|---|---|---|\n");
    for (path, schema, required) in &fields {
        let cells = [code(path), type_of(schema, enums), bounds(schema, *required), meaning(schema)];
        row(&mut text, &cells);
    }
    let mut rules = Vec::new();
    for (path, schema, _) in &fields {
        rules_of(path, schema, &mut rules);
    }
    if !rules.is_empty() {
        let _ = write!(text, "\n### Rules on `{part}`\n\n{}", rules_table(&rules));
    }
    text
}

/// A field and all fields below it, each with its path and whether it is required.
fn collect<'a>(
    path: &str,
    schema: &'a JSONSchemaProps,
    required: bool,
    fields: &mut Vec<(String, &'a JSONSchemaProps, bool)>,
) {
    fields.push((path.to_owned(), schema, required));
    let (path, object) = match item(schema) {
        Some(item) => (format!("{path}[]"), item),
        None => (path.to_owned(), schema),
    };
    for (name, below) in object.properties.iter().flatten() {
        let required = object.required.iter().flatten().any(|needed| needed == name);
        collect(&format!("{path}.{name}"), below, required, fields);
    }
}

/// The schema of the items of a list.
fn item(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(item) => Some(item),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

fn type_of(schema: &JSONSchemaProps, enums: &[Enum]) -> String {
    let known = schema.description.as_deref().and_then(|text| text.split_once(KNOWN_VALUES));
    let known = known.iter().flat_map(|(_, values)| values.trim_end_matches('.').split(", "));
    let allowed: Vec<&str> =
        schema.enum_.iter().flatten().filter_map(|value| value.0.as_str()).chain(known).collect();
    if !allowed.is_empty() {
        let named = enums.iter().find(|known| known.values.iter().map(|(value, _)| value).eq(allowed.iter()));
        return match named {
            Some(found) => format!("[{}](#{})", found.name, found.name.to_lowercase()),
            None => allowed.join(", "),
        };
    }
    match (schema.type_.as_deref(), item(schema), schema.format.as_deref()) {
        (Some("array"), Some(item), _) => format!("list of {}", type_of(item, enums)),
        (Some("string"), _, Some("date-time")) => "time".to_owned(),
        (Some("object"), ..) if schema.x_kubernetes_preserve_unknown_fields == Some(true) => {
            "object (other fields are kept)".to_owned()
        }
        (Some(type_), ..) => type_.to_owned(),
        (None, ..) => "anything".to_owned(),
    }
}

fn bounds(schema: &JSONSchemaProps, required: bool) -> String {
    let mut bounds_found = Vec::new();
    if required {
        bounds_found.push("*required*".to_owned());
    }
    if let Some(default) = &schema.default {
        bounds_found.push(format!("default {}", code(&default.0.to_string())));
    }
    bounds_found.extend(range(schema.minimum, schema.maximum, ""));
    bounds_found.extend(range(whole(schema.min_length), whole(schema.max_length), " characters"));
    bounds_found.extend(range(whole(schema.min_items), whole(schema.max_items), " items"));
    if let Some(pattern) = &schema.pattern {
        bounds_found.push(format!("matches {}", code(pattern)));
    }
    if let Some(item) = item(schema).filter(|item| item.properties.is_none()) {
        let each = bounds(item, false);
        if !each.is_empty() {
            bounds_found.push(format!("each {each}"));
        }
    }
    bounds_found.join("; ")
}

/// The bounds of lists and texts are small enough to be exact.
#[allow(clippy::cast_precision_loss)]
fn whole(number: Option<i64>) -> Option<f64> {
    number.map(|number| number as f64)
}

fn range(min: Option<f64>, max: Option<f64>, unit: &str) -> Option<String> {
    match (min.filter(|min| *min > 0.0 || unit.is_empty()), max) {
        (Some(min), Some(max)) => Some(format!("{min} to {max}{unit}")),
        (Some(min), None) => Some(format!("at least {min}{unit}")),
        (None, Some(max)) => Some(format!("at most {max}{unit}")),
        (None, None) => None,
    }
}

fn meaning(schema: &JSONSchemaProps) -> String {
    let text = schema.description.as_deref().unwrap_or_default();
    one_line(text.split_once(KNOWN_VALUES).map_or(text, |(meaning, _)| meaning.trim_end()))
}

/// Path, message and expression of each rule on this field.
fn rules_of(path: &str, schema: &JSONSchemaProps, rules: &mut Vec<[String; 3]>) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        rules.push([path.to_owned(), rule.message.clone().unwrap_or_default(), rule.rule.clone()]);
    }
}

fn rules_table(rules: &[[String; 3]]) -> String {
    let mut text = "| Field | Message | Rule (CEL) |\n|---|---|---|\n".to_owned();
    for [path, message, rule] in rules {
        let place = if path.is_empty() { "the object".to_owned() } else { code(path) };
        let when = if rule.contains("oldSelf") { ", *on update*" } else { "" };
        row(&mut text, &[format!("{place}{when}"), message.clone(), code(rule)]);
    }
    text
}

fn enums_section(enums: &[Enum]) -> String {
    let mut text = "\n## Enums\n".to_owned();
    for Enum { name, description, values } in enums {
        let _ = write!(text, "\n### {name}\n\n{description}\n\n| Value | Meaning |\n|---|---|\n");
        for (value, meaning) in values {
            row(&mut text, &[code(value), meaning.clone()]);
        }
    }
    text
}

fn row(text: &mut String, cells: &[String]) {
    for cell in cells {
        let cell = cell.replace('|', "\\|");
        let _ = if cell.is_empty() { write!(text, "| ") } else { write!(text, "| {cell} ") };
    }
    text.push_str("|\n");
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
