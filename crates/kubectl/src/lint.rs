//! Checks manifests without a cluster: the CRD's schema, the rules between fields, and contradictions.

use agentloop_core::api::{
    ActiveIteration, AgentTask, BreakerStatus, CompletionPolicy, LoopContext, MAX_NAME_CHARS, PodTemplate,
    crd_document,
};
use agentloop_core::pod::{BuildInputs, Injection, build};
use agentloop_core::settings::Settings;
use regex_lite::Regex;
use serde_json::Value;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The API server or the operator would refuse it.
    Error,
    /// It is accepted, but hardly meant.
    Warning,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The field.
    pub path: String,
    /// What is wrong, and what to do.
    pub text: String,
}

fn error(path: &str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Error, path: path.to_owned(), text: text.into() }
}

fn warning(path: &str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Warning, path: path.to_owned(), text: text.into() }
}

/// Whether a document is a task.
pub fn is_task(document: &Value) -> bool {
    let is = |key: &str, value: &str| document.get(key).and_then(Value::as_str) == Some(value);
    is("kind", "AgentTask") && is("apiVersion", "agentloop.dev/v1alpha1")
}

/// What is wrong with a task.
pub fn check(document: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let crd = crd_document();
    if let Some(schema) = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec") {
        match document.get("spec") {
            Some(spec) => walk(schema, spec, "spec", &mut findings),
            None => findings.push(error("spec", "is missing")),
        }
    }
    let metadata = document.get("metadata");
    let text = |key: &str| metadata.and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
    match (text("name"), text("generateName")) {
        (None, None) => findings.push(error("metadata.name", "is missing")),
        (Some(name), _) if name.chars().count() > MAX_NAME_CHARS => {
            findings.push(error(
                "metadata.name",
                format!("must have at most {MAX_NAME_CHARS} characters: it becomes a label and a part of pod names"),
            ));
        }
        _ => {}
    }
    if findings.iter().all(|finding| finding.level != Level::Error) {
        match serde_json::from_value(document.clone()) {
            Ok(task) => {
                rules(&task, &mut findings);
                contradictions(&task, &mut findings);
            }
            Err(unreadable) => findings.push(error("spec", unreadable.to_string())),
        }
    }
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// Compares a value with its schema.
fn walk(schema: &Value, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    let has = |key: &str| schema.get(key).and_then(Value::as_bool) == Some(true);
    if value.is_null() {
        // The API server drops it, except where it means something.
        return;
    }
    let expected = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    let fits = match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    if !fits {
        let article = if expected.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
        findings.push(error(path, format!("must be {article} {expected}, not {}", kind(value))));
        return;
    }
    match value {
        Value::Object(fields) => {
            let known = schema.get("properties").and_then(Value::as_object);
            for (name, below) in fields {
                let inner = format!("{path}.{name}");
                if let Some(schema) = known.and_then(|known| known.get(name)) {
                    walk(schema, below, &inner, findings);
                } else if let Some(schema) =
                    schema.get("additionalProperties").filter(|schema| schema.is_object())
                {
                    walk(schema, below, &inner, findings);
                } else if !has("x-kubernetes-preserve-unknown-fields") {
                    let names = known.into_iter().flat_map(|known| known.keys().map(String::as_str));
                    let hint = nearest(name, names).map(|near| format!(": did you mean {near}?"));
                    findings.push(error(&inner, format!("is not a field{}", hint.unwrap_or_default())));
                }
            }
            let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
            for name in
                required.filter_map(Value::as_str).filter(|name| fields.get(*name).is_none_or(Value::is_null))
            {
                findings.push(error(&format!("{path}.{name}"), "is missing"));
            }
        }
        Value::Array(items) => {
            bounds(schema, ("minItems", "maxItems"), items.len(), "items", path, findings);
            if let Some(schema) = schema.get("items") {
                for (at, item) in items.iter().enumerate() {
                    walk(schema, item, &format!("{path}[{at}]"), findings);
                }
            }
        }
        Value::String(text) => string(schema, text, path, findings),
        Value::Number(number) => {
            let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
            let number = number.as_f64().unwrap_or_default();
            if bound("minimum").is_some_and(|min| number < min)
                || bound("maximum").is_some_and(|max| number > max)
            {
                let range = (bound("minimum").unwrap_or(f64::MIN), bound("maximum").unwrap_or(f64::MAX));
                findings.push(error(path, format!("must be from {} to {}, not {number}", range.0, range.1)));
            }
        }
        _ => {}
    }
}

fn string(schema: &Value, text: &str, path: &str, findings: &mut Vec<Finding>) {
    bounds(schema, ("minLength", "maxLength"), text.chars().count(), "characters", path, findings);
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        if !values.contains(&text) {
            findings.push(error(path, format!("must be one of {}, not \"{text}\"", values.join(", "))));
        }
    }
    let pattern = schema.get("pattern").and_then(Value::as_str);
    if let Some((pattern, read)) = pattern.and_then(|pattern| Some((pattern, Regex::new(pattern).ok()?)))
        && !read.is_match(text)
    {
        findings.push(error(path, format!("must match {pattern}, and \"{text}\" does not")));
    }
}

fn bounds(
    schema: &Value,
    (min, max): (&str, &str),
    count: usize,
    what: &str,
    path: &str,
    findings: &mut Vec<Finding>,
) {
    let bound =
        |key: &str| schema.get(key).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
    if let Some(min) = bound(min).filter(|min| count < *min) {
        findings.push(error(path, format!("must have at least {min} {what}, not {count}")));
    }
    if let Some(max) = bound(max).filter(|max| count > *max) {
        findings.push(error(path, format!("must have at most {max} {what}, not {count}")));
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The name that a misspelt one most likely means.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace(['_', '-'], "");
    let distances = known.map(|known| (distance(&plain(name), &plain(known)), known));
    distances
        .filter(|(distance, _)| *distance <= 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// The number of characters to insert, remove or replace.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, c) in one.chars().enumerate() {
        let mut next = vec![at + 1];
        for (before, (o, pair)) in other.iter().zip(row.windows(2)).enumerate() {
            let [diagonal, above] = pair else { continue };
            let left = next.get(before).copied().unwrap_or(usize::MAX);
            next.push((diagonal + usize::from(*o != c)).min(above + 1).min(left.saturating_add(1)));
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// The rules between fields, as the CRD has them, and what the operator needs of a template.
fn rules(task: &AgentTask, findings: &mut Vec<Finding>) {
    let spec = &task.spec;
    if spec.prompt.is_some() && spec.prompt_from.is_some() {
        findings.push(error("spec.promptFrom", "set prompt or promptFrom, not both"));
    }
    if spec
        .prompt_from
        .as_ref()
        .is_some_and(|from| from.config_map_key_ref.is_some() == from.secret_key_ref.is_some())
    {
        findings.push(error(
            "spec.promptFrom",
            "promptFrom needs exactly one of configMapKeyRef and secretKeyRef",
        ));
    }
    if spec.policy() == CompletionPolicy::Verify && spec.verify().is_none() {
        findings.push(error(
            "spec.completion.verify",
            "completion.policy Verify needs completion.verify.command",
        ));
    }
    if spec.workspace.volume_claim_template.is_some() && spec.workspace.persistent_volume_claim.is_some() {
        findings.push(error(
            "spec.workspace.persistentVolumeClaim",
            "set volumeClaimTemplate or persistentVolumeClaim, not both",
        ));
    }
    let settings = Settings::default();
    let injection = Injection { image: "runner".to_owned(), image_volume: true, ..Injection::default() };
    let inputs = BuildInputs { injection: &injection, settings: &settings, report_key: "00" };
    let thresholds = settings.thresholds(spec, None);
    let first = ActiveIteration { iteration: 1, ..ActiveIteration::default() };
    if let Err(invalid) = build(task, &first, &thresholds, &BreakerStatus::default(), &[], &inputs) {
        findings.push(error("spec.template", invalid.to_string()));
    }
    let PodTemplate(template) = &spec.template;
    let template = template.parse().unwrap_or_default();
    for list in ["initContainers", "containers"] {
        let containers = template.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        for (at, container) in containers.into_iter().flatten().enumerate() {
            if container.get("image").and_then(Value::as_str).is_none_or(str::is_empty) {
                findings.push(error(&format!("spec.template.spec.{list}[{at}].image"), "is missing"));
            }
        }
    }
}

/// What is accepted, but hardly meant.
fn contradictions(task: &AgentTask, findings: &mut Vec<Finding>) {
    let spec = &task.spec;
    if spec.prompt.is_none() && spec.prompt_from.is_none() {
        findings.push(warning("spec.prompt", "is missing: the agent reads an empty goal"));
    }
    let workspace = &spec.workspace;
    let is_volatile =
        workspace.volume_claim_template.is_none() && workspace.persistent_volume_claim.is_none();
    if is_volatile && spec.max_iterations != Some(1) {
        findings.push(warning(
            "spec.workspace",
            "has no volume, so each iteration starts with an empty workspace: set volumeClaimTemplate to keep the work",
        ));
    }
    if let (Some(max), Some(breaker)) = (spec.max_iterations, &spec.breaker) {
        for (field, threshold) in [
            ("noChangeThreshold", breaker.no_change_threshold),
            ("sameErrorThreshold", breaker.same_error_threshold),
        ] {
            if threshold.is_some_and(|threshold| threshold > max) {
                findings.push(warning(
                    &format!("spec.breaker.{field}"),
                    format!("is above maxIterations ({max}), so it never stops the loop"),
                ));
            }
        }
    }
    if spec.policy() == CompletionPolicy::Gate && spec.loop_context == Some(LoopContext::FileOnly) {
        findings.push(warning(
            "spec.loopContext",
            "is FileOnly, so the prompt does not explain the completion gate, which completion.policy Gate needs",
        ));
    }
    if spec.retry_on_exit_codes().iter().any(|code| spec.fail_on_exit_codes.contains(code)) {
        findings.push(warning("spec.failOnExitCodes", "has a code that retryOnExitCodes has too"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(spec: &Value) -> Value {
        let mut manifest = json!({
            "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "metadata": { "name": "x" },
            "spec": {
                "prompt": "Do it.",
                "workspace": { "volumeClaimTemplate": { "spec": {
                    "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } },
                } } },
                "template": { "spec": { "containers": [{ "name": "agent", "image": "i", "command": ["agent"] }] } },
            },
        });
        for (key, value) in spec.as_object().expect("an object") {
            manifest["spec"][key] = value.clone();
        }
        manifest
    }

    fn found(spec: &Value) -> Vec<(Level, String, String)> {
        check(&manifest(spec)).into_iter().map(|found| (found.level, found.path, found.text)).collect()
    }

    #[track_caller]
    fn has(spec: &Value, level: Level, path: &str, words: &str) {
        let all = found(spec);
        let matches =
            |found: &&(Level, String, String)| found.0 == level && found.1 == path && found.2.contains(words);
        assert!(all.iter().any(|found| matches(&found)), "{path}: {words} is not among {all:#?}");
    }

    #[test]
    fn a_good_task_has_no_findings() {
        assert_eq!(found(&json!({})), []);
    }

    #[test]
    fn what_the_schema_refuses_is_an_error_with_the_path_of_the_field() {
        let error = Level::Error;
        has(
            &json!({ "maxIteration": 5 }),
            error,
            "spec.maxIteration",
            "is not a field: did you mean maxIterations?",
        );
        has(&json!({ "max_iterations": 5 }), error, "spec.max_iterations", "did you mean maxIterations?");
        has(
            &json!({ "maxIterations": "5" }),
            error,
            "spec.maxIterations",
            "must be an integer, not a string",
        );
        has(&json!({ "maxIterations": 0 }), error, "spec.maxIterations", "must be from 1 to 10000, not 0");
        has(&json!({ "template": null }), error, "spec.template", "is missing");
        has(&json!({ "workspace": { "mountPath": "w" } }), error, "spec.workspace.mountPath", "must");
        has(&json!({ "completion": { "policy": "Maybe" } }), error, "spec.completion.policy", "one of");
        has(&json!({ "failOnExitCodes": [1, 300] }), error, "spec.failOnExitCodes[1]", "from 1 to 255");
        let template = json!({ "spec": { "containers": [], "anything": { "kubernetes": "knows" } } });
        has(&json!({ "template": template }), error, "spec.template.spec.containers", "at least 1 items");
    }

    #[test]
    fn what_the_rules_between_fields_refuse_is_an_error() {
        let error = Level::Error;
        let from = json!({ "configMapKeyRef": { "name": "a", "key": "b" } });
        has(&json!({ "promptFrom": from }), error, "spec.promptFrom", "not both");
        has(&json!({ "completion": { "policy": "Verify" } }), error, "spec.completion.verify", "needs");
        let template = json!({ "spec": { "containers": [{ "name": "agent", "image": "i" }] } });
        has(&json!({ "template": template }), error, "spec.template", "needs a command");
        let nameless = json!({ "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "spec": {} });
        assert!(check(&nameless).iter().any(|found| found.path == "metadata.name"));
    }

    #[test]
    fn contradictions_are_warnings() {
        let warning = Level::Warning;
        has(&json!({ "prompt": null }), warning, "spec.prompt", "empty goal");
        has(&json!({ "workspace": {} }), warning, "spec.workspace", "empty workspace");
        let never = json!({ "maxIterations": 3, "breaker": { "noChangeThreshold": 4 } });
        has(&never, warning, "spec.breaker.noChangeThreshold", "never stops the loop");
        has(&json!({ "loopContext": "FileOnly" }), warning, "spec.loopContext", "completion gate");
        has(&json!({ "failOnExitCodes": [75] }), warning, "spec.failOnExitCodes", "retryOnExitCodes");
    }

    #[test]
    fn every_example_passes() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
        for name in ["hello", "count", "idle", "calculator", "thresholds", "codex/task", "claude-code/task"] {
            let text = std::fs::read_to_string(format!("{folder}/{name}.yaml")).expect("an example");
            let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
            let tasks: Vec<&Value> = documents.iter().filter(|document| is_task(document)).collect();
            assert!(!tasks.is_empty(), "{name}");
            for task in tasks {
                let errors: Vec<Finding> =
                    check(task).into_iter().filter(|found| found.level == Level::Error).collect();
                assert_eq!(errors, [], "{name}");
            }
        }
    }
}
