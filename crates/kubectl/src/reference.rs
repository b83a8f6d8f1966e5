//! The reference page, from the definition of the command line.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory};

use crate::cli::Cli;

const INTRODUCTION: &str = "\
# kubectl agentloop

<!-- Generated from crates/kubectl/src/cli.rs: make generate. -->

A kubectl plugin for the people whose loops run: it starts loops, shows what they do, why they stopped and what they
changed, and resumes them. It has your own rights and needs nothing in the cluster but agentloop. Its sentences are those
of the status.

A release has it as a static program for Linux, and a manifest for [Krew](https://krew.sigs.k8s.io). To build it from
this repository for your user:

    cargo install --locked --path crates/kubectl

kubectl finds it in your `PATH`. Then:

    kubectl agentloop run count --image=busybox:1 --prompt='Count to three.' --max=2 --verify='test $(wc -l <n) -ge 3' \\
      --watch -- sh -c 'echo x >>n'
    kubectl agentloop why count
    kubectl agentloop resume count --max=+1
    kubectl agentloop wait count && kubectl agentloop logs count --iteration=all

In output for people, text of an agent is between quotes and without escape sequences and other characters that control a
terminal. Colours and live views are used only on a terminal; the variable `NO_COLOR` switches colours off. Formats for
programs (`-o json`, `yaml`, `name`, `jsonpath`) are those of kubectl.
";

/// The page as Markdown.
pub fn markdown() -> String {
    let mut root = Cli::command();
    root.build();
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n| Command | What it does |\n|---|---|\n");
    let commands: Vec<&Command> = root.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    for command in &commands {
        let name = command.get_name();
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| [`{name}`](#{name}) | {} |", cell(command.get_about()));
    }
    if let Some(codes) = root.get_after_help() {
        page.push_str("\n## Exit codes\n\n| Code | Meaning |\n|---|---|\n");
        for line in codes.to_string().lines().skip(1) {
            let (code, meaning) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
            let _ = writeln!(page, "| {code} | {} |", meaning.trim());
        }
    }
    page.push_str("\n## Flags of every command\n\n");
    let is_global = |arg: &&Arg| arg.is_global_set();
    table(&mut page, root.get_arguments().filter(is_global));
    for command in commands {
        let _ = write!(page, "\n## {}\n\n{}\n", command.get_name(), cell(command.get_about()));
        let usage = command.clone().render_usage().to_string();
        let _ = write!(page, "\n    {}\n\n", usage.trim_start_matches("Usage: ").replace('\n', "\n    "));
        table(&mut page, command.get_arguments().filter(|arg| !arg.is_global_set()));
        if let Some(more) = command.get_after_help() {
            page.push('\n');
            for line in more.to_string().lines() {
                let text = if line.starts_with("  ") { format!("  {line}") } else { format!("\n{line}\n") };
                let _ = writeln!(page, "{text}");
            }
        }
    }
    while page.contains("\n\n\n") {
        page = page.replace("\n\n\n", "\n\n");
    }
    page.trim_end().to_owned() + "\n"
}

fn table<'a>(page: &mut String, args: impl Iterator<Item = &'a Arg>) {
    let shown = |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    let mut args = args.filter(shown).peekable();
    if args.peek().is_none() {
        return;
    }
    page.push_str("| Argument | Meaning |\n|---|---|\n");
    for arg in args {
        let _ = writeln!(page, "| {} | {} |", spelling(arg), meaning(arg));
    }
}

fn spelling(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let takes = arg.get_action().takes_values();
    let value = value.replace('|', "\\|");
    let mut names = Vec::new();
    names.extend(arg.get_short().map(|short| format!("`-{short}`")));
    names.extend(arg.get_long().map(|long| match (takes, arg.is_require_equals_set()) {
        (true, true) => format!("`--{long}[={value}]`"),
        (true, false) => format!("`--{long} {value}`"),
        (false, _) => format!("`--{long}`"),
    }));
    if names.is_empty() { format!("`{value}`") } else { names.join(", ") }
}

fn meaning(arg: &Arg) -> String {
    let mut text = cell(arg.get_help());
    let possible = arg.get_possible_values();
    if arg.get_action().takes_values() && !possible.is_empty() {
        let values: Vec<String> = possible.iter().map(|value| format!("`{}`", value.get_name())).collect();
        let _ = write!(text, " One of {}.", values.join(", "));
    }
    text
}

/// Text of one line, with a full stop, that a table can have.
fn cell(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    let text = text.replace('\n', " ").replace('|', "\\|");
    if text.ends_with(['.', ']']) || text.is_empty() { text } else { text + "." }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_matches_the_command_line() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kubectl-agentloop.md");
        let found = std::fs::read_to_string(path).expect("the page");
        assert!(found == markdown(), "docs/kubectl-agentloop.md does not match the code: run make generate");
    }
}
