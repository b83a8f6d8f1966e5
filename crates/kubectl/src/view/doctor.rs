//! What `doctor` finds, from what it has read.

use std::collections::{BTreeMap, BTreeSet};

use agentloop_core::settings::{Configuration, Settings};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Canvas;
use crate::text::{self, Colour, line};

/// How good a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// As it must be.
    Good,
    /// It could not be checked, because a right is missing.
    Unknown,
    /// It works, but something should be changed.
    Warning,
    /// It does not work.
    Bad,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How good it is.
    pub grade: Grade,
    /// What was checked.
    pub what: &'static str,
    /// What was found, and what to do.
    pub found: String,
}

impl Check {
    /// A result.
    pub fn new(grade: Grade, what: &'static str, found: impl Into<String>) -> Self {
        Self { grade, what, found: found.into() }
    }

    /// It is as it must be.
    pub fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(Grade::Good, what, found)
    }

    /// It works, but something should be changed.
    pub fn warning(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(Grade::Warning, what, found)
    }

    /// It does not work.
    pub fn bad(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(Grade::Bad, what, found)
    }
}

/// The lines of all results.
pub fn lines(checks: &[Check], canvas: &Canvas) -> Vec<String> {
    let mut lines = Vec::new();
    for check in checks {
        let (mark, colour) = match check.grade {
            Grade::Good => ("ok  ", Colour::Green),
            Grade::Unknown => ("?   ", Colour::Dim),
            Grade::Warning => ("warn", Colour::Yellow),
            Grade::Bad => ("FAIL", Colour::Red),
        };
        let text = format!("{}: {}", check.what, line(&check.found));
        let wrapped = canvas
            .columns
            .map_or_else(|| vec![text.clone()], |columns| text::wrap(&text, columns.saturating_sub(5)));
        for (at, part) in wrapped.iter().enumerate() {
            let mark = if at == 0 { canvas.style.paint(Some(colour), mark) } else { "    ".to_owned() };
            lines.push(format!("{mark} {part}"));
        }
    }
    lines
}

/// Whether the cluster's version can run agentloop.
pub fn kubernetes(major: &str, minor: &str) -> Check {
    let number = |text: &str| {
        text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(0)
    };
    let version = format!("{major}.{minor}");
    if (number(major), number(minor)) >= (1, 33) {
        Check::good("Kubernetes", version)
    } else {
        Check::bad("Kubernetes", format!("{version}; agentloop needs 1.33 or newer: upgrade the cluster"))
    }
}

/// Whether the CRD knows every field that this version writes. `served` is the schema that the API server has.
pub fn fields(own: &Value, served: &Value) -> Check {
    const WHAT: &str = "CRD";
    let missing: Vec<String> = paths(own).difference(&paths(served)).take(5).cloned().collect();
    if missing.is_empty() {
        Check::good(WHAT, "knows every field of this version")
    } else {
        Check::bad(
            WHAT,
            format!(
                "does not know {}: it is older than this plugin, and the API server drops such fields. Upgrade agentloop \
                 with helm upgrade, or apply the CRD of this version",
                missing.join(", ")
            ),
        )
    }
}

/// The paths of all fields of a schema.
fn paths(schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(schema, "", &mut found);
    found
}

fn collect(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, below) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        // Kubernetes owns these.
        if path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect(below, &path, found);
        found.insert(path);
    }
    if let Some(items) = schema.get("items") {
        collect(items, path, found);
    }
}

/// Whether the operator runs, and has this version.
pub fn operator(name: &str, version: Option<&str>, wanted: i32, ready: i32) -> Vec<Check> {
    const WHAT: &str = "operator";
    let own = env!("CARGO_PKG_VERSION");
    let state = if wanted == 0 {
        Check::bad(WHAT, format!("{name} is scaled to zero: kubectl scale deployment/… --replicas=1"))
    } else if ready == 0 {
        Check::bad(
            WHAT,
            format!("{name} has no ready pod: kubectl describe and kubectl logs of its pods say why"),
        )
    } else {
        Check::good(WHAT, format!("{name} has {ready} of {wanted} pods ready"))
    };
    let version = match version {
        Some(version) if version == own => Check::good("versions", format!("operator and plugin are {own}")),
        Some(version) => Check::warning(
            "versions",
            format!(
                "the operator is {version}, this plugin is {own}: use the plugin of the operator's version"
            ),
        ),
        None => Check::warning("versions", "the operator has no label with its version"),
    };
    vec![state, version]
}

/// Whether an operator leads.
pub fn leader(
    name: &str,
    holder: Option<&str>,
    renewed: Option<Timestamp>,
    seconds: i32,
    now: Timestamp,
) -> Check {
    const WHAT: &str = "leader";
    let holder = holder.filter(|holder| !holder.is_empty());
    let (Some(holder), Some(renewed)) = (holder, renewed) else {
        return Check::bad(
            WHAT,
            format!("no operator holds the lease {name}: no operator works; see its pods and their logs"),
        );
    };
    let age = now.duration_since(renewed);
    if age > SignedDuration::from_secs(i64::from(seconds).saturating_mul(2)) {
        return Check::bad(
            WHAT,
            format!(
                "{holder} renewed the lease {name} {} ago: no operator works; see its pods and their logs",
                text::duration(age)
            ),
        );
    }
    Check::good(WHAT, format!("{holder} holds the lease {name}"))
}

/// What the ConfigMap says.
pub fn configuration(name: &str, data: Option<&BTreeMap<String, String>>) -> Vec<Check> {
    const WHAT: &str = "settings";
    let Some(data) = data else {
        return vec![Check::good(WHAT, format!("there is no ConfigMap {name}, so the defaults apply"))];
    };
    let read = Configuration::read(data, None, &Settings::default());
    let mut checks = vec![match &read.newest {
        Ok(settings) => Check::good(
            WHAT,
            format!(
                "ConfigMap {name} is valid; at most {} iterations by default, {} at most",
                settings.default_max_iterations.value, settings.hard_limit.value
            ),
        ),
        Err(invalid) => Check::bad(
            WHAT,
            format!("ConfigMap {name} is invalid ({invalid}), so new tasks wait: fix these keys"),
        ),
    }];
    if read.paused {
        checks.push(Check::warning(
            WHAT,
            format!("all loops are paused: they continue when paused is removed from ConfigMap {name}"),
        ));
    }
    checks
}

/// A right, and the commands that need it.
#[derive(Clone, Copy, Debug)]
pub struct Right {
    /// The verb.
    pub verb: &'static str,
    /// The group.
    pub group: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// The subresource.
    pub subresource: &'static str,
    /// Commands that need it.
    pub needed_by: &'static str,
}

const fn right(
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    needed_by: &'static str,
) -> Right {
    Right { verb, group, resource, subresource, needed_by }
}

/// The rights that the commands need, in the namespace of the tasks.
pub const RIGHTS: &[Right] = &[
    right("get", "agentloop.dev", "agenttasks", "", "get, why"),
    right("list", "agentloop.dev", "agenttasks", "", "list, cost"),
    right("watch", "agentloop.dev", "agenttasks", "", "watch, wait"),
    right("create", "agentloop.dev", "agenttasks", "", "run"),
    right("patch", "agentloop.dev", "agenttasks", "", "resume, suspend"),
    right("delete", "agentloop.dev", "agenttasks", "", "delete"),
    right("list", "", "pods", "", "get, logs"),
    right("get", "", "pods", "log", "logs"),
    right("create", "", "pods", "", "diff, cp, logs without pods"),
    right("create", "", "pods", "exec", "diff, cp, logs without pods"),
    right("delete", "", "pods", "", "diff, cp, logs without pods"),
];

impl Right {
    /// The resource as RBAC names it.
    pub fn name(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// Which rights are missing.
pub fn rights(namespace: &str, allowed: &[(Right, bool)]) -> Check {
    const WHAT: &str = "your rights";
    let missing: Vec<String> = allowed
        .iter()
        .filter(|(_, allowed)| !allowed)
        .map(|(right, _)| format!("{} {} (for {})", right.verb, right.name(), right.needed_by))
        .collect();
    if missing.is_empty() {
        return Check::good(WHAT, format!("you can run every command in namespace {namespace}"));
    }
    let found = format!(
        "in namespace {namespace} you cannot {}: ask an administrator for the cluster's role edit there",
        missing.join(", ")
    );
    Check::warning(WHAT, found)
}

/// Whether a PVC without a class gets a volume. Each class has its name, and whether it is the default.
pub fn storage(classes: &[(String, bool)]) -> Check {
    const WHAT: &str = "storage";
    let default = classes.iter().find(|(_, default)| *default);
    match default {
        Some((name, _)) => Check::good(WHAT, format!("{name} is the default storage class")),
        None if classes.is_empty() => Check::warning(
            WHAT,
            "there is no storage class: workspaces need PersistentVolumes that an administrator creates",
        ),
        None => {
            let names: Vec<&str> = classes.iter().map(|(name, _)| name.as_str()).collect();
            Check::warning(
                WHAT,
                format!(
                    "no storage class is the default: set storageClassName in volumeClaimTemplate (run \
                     --storage-class) to one of {}",
                    names.join(", ")
                ),
            )
        }
    }
}

/// How the runner gets into pods, by the versions of the nodes' container runtimes.
pub fn image_volumes(minor: &str, runtimes: &[String]) -> Check {
    const WHAT: &str = "image volumes";
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    let old: BTreeSet<&str> =
        runtimes.iter().filter(|runtime| !mounts_images(runtime)).map(String::as_str).collect();
    if digits.parse::<u32>().unwrap_or(0) < 35 {
        return Check::good(
            WHAT,
            "not on by default in this version of Kubernetes: the runner is copied by an init container",
        );
    }
    if old.is_empty() {
        return Check::good(WHAT, "all nodes support them");
    }
    let old: Vec<&str> = old.into_iter().collect();
    Check::good(
        WHAT,
        format!("not supported by nodes with {}: the runner is copied by an init container", old.join(", ")),
    )
}

/// The first versions that mount them: containerd 2.1, CRI-O 1.31.
fn mounts_images(runtime: &str) -> bool {
    let Some((name, version)) = runtime.split_once("://") else { return false };
    let mut numbers = version.trim_start_matches('v').split('.').map(|part| {
        part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(0)
    });
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match name {
        "containerd" => version >= (2, 1),
        "cri-o" => version >= (1, 31),
        _ => false,
    }
}

/// Which Pod Security profile a namespace enforces.
pub fn pod_security(namespace: &str, labels: &BTreeMap<String, String>) -> Check {
    const WHAT: &str = "Pod Security";
    match labels.get("pod-security.kubernetes.io/enforce").map(String::as_str) {
        None | Some("privileged") => Check::good(
            WHAT,
            format!("namespace {namespace} enforces no profile; agentloop's own parts need none"),
        ),
        Some(profile) => Check::good(
            WHAT,
            format!(
                "namespace {namespace} enforces {profile}: templates must have its securityContext, as kubectl agentloop run writes it"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::tests::{NOW, canvas};

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn results_are_aligned_and_fit_the_terminal() {
        let checks = [
            Check::good("Kubernetes", "1.37"),
            Check::bad(
                "leader",
                "no operator holds the lease agentloop: no operator works; see its pods and their logs",
            ),
        ];
        assert_eq!(lines(&checks, &canvas(None))[0], "ok   Kubernetes: 1.37");
        for columns in 40..=200 {
            for line in lines(&checks, &canvas(Some(columns))) {
                assert!(text::width(&line) <= columns, "{columns}: {line}");
            }
        }
    }

    #[test]
    fn an_old_crd_is_found_by_the_fields_that_it_lacks() {
        let own = json!({ "properties": {
            "metadata": { "properties": { "x": {} } },
            "spec": { "properties": { "old": {}, "list": { "items": { "properties": { "new": {} } } } } },
        } });
        let served =
            json!({ "properties": { "spec": { "properties": { "old": {}, "list": { "items": {} } } } } });
        assert_eq!(fields(&own, &own).grade, Grade::Good);
        let check = fields(&own, &served);
        assert_eq!(check.grade, Grade::Bad);
        assert!(check.found.starts_with("does not know spec.list.new:"), "{check:?}");
    }

    #[test]
    fn an_operator_that_is_away_or_of_another_version_is_found() {
        let grades = |version, wanted, ready| {
            operator("ns/agentloop", version, wanted, ready)
                .iter()
                .map(|check| check.grade)
                .collect::<Vec<_>>()
        };
        let own = Some(env!("CARGO_PKG_VERSION"));
        assert_eq!(grades(own, 2, 1), [Grade::Good, Grade::Good]);
        assert_eq!(grades(Some("9.9.9"), 0, 0), [Grade::Bad, Grade::Warning]);
        assert_eq!(grades(None, 1, 0), [Grade::Bad, Grade::Warning]);
    }

    #[test]
    fn a_lease_that_is_not_renewed_means_that_no_operator_works() {
        let now: Timestamp = NOW.parse().expect("a time");
        let ago = |seconds| Some(now - SignedDuration::from_secs(seconds));
        assert_eq!(leader("l", Some("pod-1"), ago(10), 15, now).grade, Grade::Good);
        assert_eq!(leader("l", Some("pod-1"), ago(31), 15, now).grade, Grade::Bad);
        assert_eq!(leader("l", Some(""), ago(1), 15, now).grade, Grade::Bad);
        assert_eq!(leader("l", None, None, 15, now).grade, Grade::Bad);
    }

    #[test]
    fn invalid_settings_and_a_pause_are_found_with_the_keys() {
        assert_eq!(configuration("c", None)[0].grade, Grade::Good);
        let invalid = configuration("c", Some(&data(&[("hardLimits", "9")])));
        assert!(invalid[0].grade == Grade::Bad && invalid[0].found.contains("hardLimits"), "{invalid:?}");
        let paused = configuration("c", Some(&data(&[("paused", "true")])));
        assert_eq!(paused.iter().map(|check| check.grade).collect::<Vec<_>>(), [Grade::Good, Grade::Warning]);
    }

    #[test]
    fn missing_rights_are_named_with_the_commands_that_need_them() {
        let all = |allowed| RIGHTS.iter().map(|right| (*right, allowed)).collect::<Vec<_>>();
        assert_eq!(rights("dev", &all(true)).grade, Grade::Good);
        let missing = rights("dev", &all(false));
        assert!(missing.found.contains("get pods/log (for logs)"), "{missing:?}");
    }

    #[test]
    fn versions_storage_and_runtimes_are_judged() {
        assert_eq!(kubernetes("1", "33+").grade, Grade::Good);
        assert_eq!(kubernetes("1", "32").grade, Grade::Bad);
        assert_eq!(storage(&[("fast".to_owned(), true)]).grade, Grade::Good);
        assert!(storage(&[("fast".to_owned(), false)]).found.contains("to one of fast"));
        assert_eq!(storage(&[]).grade, Grade::Warning);
        let runtimes = |names: &[&str]| {
            image_volumes("37", &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(runtimes(&["containerd://2.1.0", "cri-o://1.31.2"]).found, "all nodes support them");
        assert!(runtimes(&["containerd://2.1.0", "containerd://1.7.2"]).found.contains("containerd://1.7.2"));
        assert!(
            pod_security("dev", &data(&[("pod-security.kubernetes.io/enforce", "restricted")]))
                .found
                .contains("restricted")
        );
    }
}
