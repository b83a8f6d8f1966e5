//! Which words can come next on a command line.

use clap::{Arg, Command, ValueHint};

/// What can only be read elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Names of tasks.
    Tasks,
    /// Names of namespaces.
    Namespaces,
    /// Names of contexts.
    Contexts,
    /// Names of files.
    Files,
}

/// What can come next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Words, each with its help.
    pub values: Vec<(String, String)>,
    /// Words that can only be read elsewhere.
    pub wanted: Option<Wanted>,
    /// How the candidates must begin.
    pub prefix: String,
}

/// What can come next. The last word is not finished.
pub fn candidates(root: &Command, words: &[String]) -> Candidates {
    let mut root = root.clone();
    // Flags of the whole program belong to its commands too.
    root.build();
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let mut command = &root;
    let mut expects: Option<&Arg> = None;
    for word in before {
        if expects.take().is_some() {
            continue;
        }
        if word.starts_with('-') && word.len() > 1 {
            expects = flag(command, word).filter(|arg| arg.get_action().takes_values() && !is_optional(arg));
        } else if let Some(below) = command.find_subcommand(word) {
            command = below;
        }
    }
    if let Some(arg) = expects {
        return values_of(arg, "", last);
    }
    if let Some((name, value)) = last.split_once('=').filter(|_| last.starts_with("--")) {
        return flag(command, name).map(|arg| values_of(arg, &format!("{name}="), value)).unwrap_or_default();
    }
    if last.starts_with('-') {
        return Candidates { values: flags_of(command), wanted: None, prefix: last.to_owned() };
    }
    let mut found = Candidates { prefix: last.to_owned(), ..Candidates::default() };
    let commands = command.get_subcommands().filter(|below| !below.is_hide_set());
    found.values.extend(commands.map(|below| (below.get_name().to_owned(), about(below.get_about()))));
    if let Some(arg) = command.get_positionals().next() {
        let values = values_of(arg, "", last);
        found.values.extend(values.values);
        found.wanted = values.wanted;
    }
    found
}

fn about(help: Option<&clap::builder::StyledStr>) -> String {
    help.map(|help| help.to_string().lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
}

/// A flag that can stand without its value.
fn is_optional(arg: &Arg) -> bool {
    arg.is_require_equals_set()
}

fn flag<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.trim_start_matches('-');
    command.get_arguments().find(|arg| {
        if word.starts_with("--") {
            arg.get_long() == Some(name)
        } else {
            // The last of several short flags is the one that may have a value.
            name.chars().last().is_some_and(|last| arg.get_short() == Some(last))
        }
    })
}

fn flags_of(command: &Command) -> Vec<(String, String)> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(|arg| Some((format!("--{}", arg.get_long()?), about(arg.get_help())))).collect()
}

fn values_of(arg: &Arg, before: &str, value: &str) -> Candidates {
    let possible = arg.get_possible_values();
    let values = possible.iter().filter(|value| !value.is_hide_set());
    let values = values.map(|value| (format!("{before}{}", value.get_name()), about(value.get_help())));
    let mut values: Vec<(String, String)> = values.collect();
    let is_path = arg.get_value_hint() == ValueHint::AnyPath || arg.get_value_hint() == ValueHint::FilePath;
    let wanted = match arg.get_id().as_str() {
        "name" | "names" => Some(Wanted::Tasks),
        "namespace" => Some(Wanted::Namespaces),
        "context" => Some(Wanted::Contexts),
        "output" => {
            let formats = ["table", "wide", "json", "yaml", "name", "jsonpath="];
            values.extend(formats.map(|format| (format!("{before}{format}"), String::new())));
            None
        }
        _ if is_path => Some(Wanted::Files),
        _ => None,
    };
    Candidates { values, wanted, prefix: format!("{before}{value}") }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn after(words: &[&str]) -> Candidates {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        candidates(&Cli::command(), &words)
    }

    fn words(found: &Candidates) -> Vec<&str> {
        let started = |(word, _): &'_ &(String, String)| word.starts_with(&found.prefix);
        found.values.iter().filter(started).map(|(word, _)| word.as_str()).collect()
    }

    #[test]
    fn commands_come_first_and_hidden_ones_are_not_offered() {
        let found = after(&[""]);
        assert!(words(&found).contains(&"list") && words(&found).contains(&"why"), "{found:?}");
        assert!(!words(&found).iter().any(|word| word.starts_with("__")), "{found:?}");
        assert_eq!(words(&after(&["-n", "dev", "comp"])), ["completion"]);
    }

    #[test]
    fn names_of_tasks_namespaces_contexts_and_files_are_read_elsewhere() {
        for (line, wanted) in [
            (&["why", "i"][..], Wanted::Tasks),
            (&["resume", "one", ""], Wanted::Tasks),
            (&["resume", "--dry-run", "o"], Wanted::Tasks),
            (&["get", "x", "-n", ""], Wanted::Namespaces),
            (&["--namespace=de"], Wanted::Namespaces),
            (&["list", "--context", ""], Wanted::Contexts),
            (&["--kubeconfig", ""], Wanted::Files),
        ] {
            assert_eq!(after(line).wanted, Some(wanted), "{line:?}");
        }
    }

    #[test]
    fn flags_and_their_values_are_offered() {
        assert_eq!(words(&after(&["list", "--need"])), ["--needs-me"]);
        assert!(words(&after(&["list", "--"])).contains(&"--namespace"), "flags of the whole program too");
        assert_eq!(words(&after(&["list", "-o", "j"])), ["json", "jsonpath="]);
        assert_eq!(words(&after(&["list", "--output=w"])), ["--output=wide"]);
        assert_eq!(words(&after(&["delete", "--dry-run=s"])), ["--dry-run=server"]);
        assert_eq!(words(&after(&["completion", ""])), ["bash", "zsh", "fish", "kubectl"]);
    }
}
