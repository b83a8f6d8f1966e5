//! The user's own ignore file, which git applies to all repositories: `core.excludesFile`, or `git/ignore` in the
//! configuration folder.
//!
//! It is outside the workspace, in the image or on a mounted volume, and may be reached through links. So it is read
//! only once, before the agent runs, because the agent could write its own.
//!
//! Two sources are not read: `core.excludesFile` in the configuration of a repository, which the agent can write, and
//! files that `includeIf` includes. What they ignore counts as change.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::Read,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::IgnoreRules;

/// The maximum size of a file that is read.
const LIMIT: u64 = 1 << 20;
/// How deep files may include others.
const DEPTH: usize = 5;
/// How many configuration files are read.
const FILES: usize = 50;

/// The user's patterns for all repositories; none if they cannot be read.
pub fn user(variable: &dyn Fn(&str) -> Option<OsString>) -> IgnoreRules {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("HOME");
    let folder = set("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let folder = folder.map(|folder| folder.join("git"));
    let mut search = Search { home: home.as_deref(), excludes: None, left: FILES };
    let yes = |value: &OsString| matches!(value.as_bytes(), b"1" | b"true" | b"yes" | b"on");
    if !variable("GIT_CONFIG_NOSYSTEM").as_ref().is_some_and(yes) {
        search.file(&set("GIT_CONFIG_SYSTEM").unwrap_or_else(|| "/etc/gitconfig".into()), DEPTH);
    }
    if let Some(file) = set("GIT_CONFIG_GLOBAL") {
        search.file(&file, DEPTH);
    } else {
        let files = [(&folder, "config"), (&home, ".gitconfig")];
        for (folder, name) in files.iter().filter_map(|(folder, name)| Some((folder.as_ref()?, name))) {
            search.file(&folder.join(name), DEPTH);
        }
    }
    let file = search.excludes.or_else(|| Some(folder?.join("ignore")));
    IgnoreRules::parse(b"", &file.and_then(|file| read(&file)).unwrap_or_default())
}

struct Search<'a> {
    home: Option<&'a Path>,
    /// The last value wins.
    excludes: Option<PathBuf>,
    left: usize,
}

impl Search<'_> {
    /// Reads a configuration file and those that it includes.
    fn file(&mut self, path: &Path, depth: usize) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        let Some(text) = read(path) else { return };
        let mut section = Vec::new();
        for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
            let line = match line.strip_prefix(b"[").and_then(|rest| Some((rest, at(rest, b']')?))) {
                Some((rest, end)) => {
                    section = rest.get(..end).unwrap_or_default().trim_ascii().to_ascii_lowercase();
                    rest.get(end + 1..).unwrap_or_default().trim_ascii()
                }
                None => line,
            };
            let Some(equals) = at(line, b'=') else { continue };
            let key = line.get(..equals).unwrap_or_default().trim_ascii().to_ascii_lowercase();
            let value = value(line.get(equals + 1..).unwrap_or_default());
            match (section.as_slice(), key.as_slice()) {
                (b"core", b"excludesfile") => self.excludes = self.path(&value, path),
                (b"include", b"path") => {
                    if let (Some(included), Some(depth)) = (self.path(&value, path), depth.checked_sub(1)) {
                        self.file(&included, depth);
                    }
                }
                _ => {}
            }
        }
    }

    /// A path in a configuration file: `~` is the home directory, and other relative paths are relative to that file.
    fn path(&self, value: &[u8], file: &Path) -> Option<PathBuf> {
        let named = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
        match value {
            [] => None,
            [b'~', b'/', rest @ ..] => Some(self.home?.join(named(rest))),
            _ => Some(file.parent()?.join(named(value))),
        }
    }
}

fn at(text: &[u8], byte: u8) -> Option<usize> {
    text.iter().position(|own| *own == byte)
}

/// A value without quotes, escapes and comments.
fn value(text: &[u8]) -> Vec<u8> {
    let mut value = Vec::new();
    let mut quoted = false;
    let mut bytes = text.trim_ascii().iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' => value.extend(bytes.next()),
            b'#' | b';' if !quoted => break,
            byte => value.push(*byte),
        }
    }
    let length = if quoted { value.len() } else { value.trim_ascii_end().len() };
    value.truncate(length);
    value
}

/// Reads a regular file. Links are followed.
fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= LIMIT).then_some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a test may panic")]

    use std::fs;

    use super::*;
    use crate::workspace::ignore::Effort;

    /// Whether `.mine` is ignored, with files in a home and further variables.
    fn ignores(files: &[(&str, &str)], variables: &[(&str, &str)]) -> bool {
        let home = tempfile::tempdir().expect("temporary folder");
        for (name, text) in files {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, text.replace("HOME", &home.path().display().to_string())).expect("write");
        }
        let rules = user(&|name| match name {
            "HOME" => Some(home.path().into()),
            "GIT_CONFIG_NOSYSTEM" => Some("1".into()),
            name => variables
                .iter()
                .find(|(own, _)| *own == name)
                .map(|(_, value)| value.replace("HOME", &home.path().display().to_string()).into()),
        });
        rules.verdict(b"deep/.mine", false, &Effort::while_allowed(&|| true)) == Some(true)
    }

    #[test]
    fn the_users_own_ignore_file_is_found_wherever_git_looks_for_it() {
        let own = (".config/git/ignore", ".mine\n");
        assert!(!ignores(&[], &[]));
        assert!(ignores(&[own], &[]));
        assert!(ignores(&[("xdg/git/ignore", ".mine\n")], &[("XDG_CONFIG_HOME", "HOME/xdg")]));
        assert!(!ignores(&[own], &[("XDG_CONFIG_HOME", "HOME/xdg")]));
        let file = ("mine", ".mine\n");
        for text in [
            "[core]\n\texcludesFile = ~/mine\n",
            "[Core] excludesfile=\"HOME/mine\" # my own\n",
            "[user]\nname = a\n[core]\nexcludesfile = mine\n",
        ] {
            assert!(ignores(&[file, (".gitconfig", text)], &[]), "{text}");
            assert!(ignores(
                &[file, (".config/git/config", text.replace("= mine", "= ~/mine").as_str())],
                &[]
            ));
            assert!(ignores(&[file, ("other", text)], &[("GIT_CONFIG_GLOBAL", "HOME/other")]), "{text}");
            assert!(!ignores(&[file, (".gitconfig", text)], &[("GIT_CONFIG_GLOBAL", "/dev/null")]), "{text}");
        }
        // It replaces the default file.
        assert!(!ignores(&[own, (".gitconfig", "[core]\nexcludesfile = ~/none\n")], &[]));
    }

    #[test]
    fn included_configuration_is_read_and_a_circle_ends() {
        let files = [
            ("mine", ".mine\n"),
            (".gitconfig", "[include]\npath = a/config\n[include]\npath = .gitconfig\n"),
            ("a/config", "[core]\nexcludesfile = ~/mine\n[include]\npath = config\n"),
        ];
        assert!(ignores(&files, &[]));
    }
}
