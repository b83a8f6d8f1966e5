//! Where the workspace and the mounts of a template may be in the agent's container.

use agentloop_contract::names::TERMINATION_LOG;
use serde_json::{Map, Value};

/// Folders in which nothing may be mounted: the runner's own folder, and those from which the runner learns about its
/// container.
const RESERVED: &[&str] = &["/agentloop", "/proc", "/sys", "/dev"];
/// Folders below them in which mounts are common: shared memory and devices.
const ALLOWED_BELOW: &[&str] = &["/dev/", "/sys/fs/"];

/// The path in the form that the kernel resolves it to; `None` if it has `..` or is not absolute.
pub(super) fn clean(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.contains(&"..")).then(|| format!("/{}", parts.join("/")))
}

fn is_at_or_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Why the workspace cannot be mounted there.
pub(super) fn bad_workspace(path: &str) -> Option<String> {
    let Some(cleaned) = clean(path) else {
        return Some(format!("mountPath {path} must be an absolute path without '..'"));
    };
    let reserved = cleaned == "/" || RESERVED.iter().any(|folder| is_at_or_below(&cleaned, folder));
    reserved.then(|| format!("mountPath {path} must not be / or in /agentloop, /proc, /sys or /dev"))
}

/// Why a mount of the agent's container is not allowed: it would hide the runner or what the runner relies on.
pub(super) fn bad_mount(agent: &Map<String, Value>) -> Option<String> {
    let mounts = [("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")];
    mounts.iter().find_map(|(list, key)| {
        let list = agent.get(*list)?.as_array()?;
        list.iter().filter_map(|mount| mount.get(*key)?.as_str()).find_map(|path| {
            // The kubelet takes a relative path as relative to the root.
            let from_root = format!("/{path}");
            let Some(cleaned) = clean(&from_root) else {
                return Some(format!("{key} {path} of the agent's container must not contain '..'"));
            };
            let allowed = ALLOWED_BELOW.iter().any(|folder| cleaned.starts_with(folder))
                && !is_at_or_below(&cleaned, TERMINATION_LOG);
            let reserved = cleaned == "/" || RESERVED.iter().any(|folder| is_at_or_below(&cleaned, folder));
            (reserved && !allowed).then(|| {
                format!("{key} {path} of the agent's container must not be / or in /agentloop, /proc, /sys or /dev, except below /dev/ and /sys/fs/")
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn different_spellings_of_a_path_are_the_same_path() {
        for path in ["/a/b", "//a/b", "/a//b/", "/./a/./b/.", "///a/b///"] {
            assert_eq!(clean(path).as_deref(), Some("/a/b"), "{path}");
        }
        for path in ["", "a", "/..", "/a/../b", "/a/.."] {
            assert_eq!(clean(path), None, "{path}");
        }
        assert_eq!(clean("/a..b/..c").as_deref(), Some("/a..b/..c"));
    }

    #[test]
    fn the_workspace_cannot_hide_the_runner_or_what_it_relies_on() {
        for path in [
            "/",
            "//",
            "/.",
            "/agentloop",
            "//agentloop/bin",
            "/./agentloop",
            "/agentloop/",
            "/agentloop/.",
            "/x/..",
            "/x/../agentloop",
            "/proc",
            "/proc/self",
            "//sys",
            "/dev",
            "/dev/shm",
            "/dev/termination-log",
            "relative",
        ] {
            assert!(bad_workspace(path).is_some(), "{path}");
        }
        for path in ["/workspace", "/agentloops", "/home/dev", "/processes", "/a..b", "//srv//x/"] {
            assert_eq!(bad_workspace(path), None, "{path}");
        }
    }

    #[test]
    fn neither_can_mounts_of_the_template() {
        let bad = |list: &str, key: &str, path: &str| {
            let agent = json!({ list: [{ "name": "v", key: path }] });
            bad_mount(agent.as_object().unwrap()).is_some()
        };
        for path in [
            "/",
            "/agentloop",
            "//agentloop/bin",
            "agentloop/bin",
            "/agentloop/run/x",
            "/proc",
            "/proc/1",
            "/sys",
            "/dev",
            "/dev/termination-log",
            "/dev//termination-log",
            "/a/../agentloop",
        ] {
            assert!(bad("volumeMounts", "mountPath", path), "{path}");
            assert!(bad("volumeDevices", "devicePath", path), "{path}");
        }
        for path in ["/dev/shm", "/dev/fuse", "/sys/fs/cgroup", "/cache", "/workspace"] {
            assert!(!bad("volumeMounts", "mountPath", path), "{path}");
        }
        assert!(!bad("volumeDevices", "devicePath", "/dev/xvda"));
    }
}
