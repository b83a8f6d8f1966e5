//! The commands: `run`, `install`, `version`.

use std::{ffi::OsString, path::Path};

use agentloop_contract::names;

use crate::{
    install,
    run::{self, RunArguments},
    secrets,
};

const USAGE: &str = "usage: agentloop-runner run [--input DIR] [--scratch DIR] [--termination-log FILE] -- COMMAND [ARGUMENT]...
       agentloop-runner install DIR
       agentloop-runner version";

/// Runs one of the program's commands and returns the exit code. The first argument is the program's name.
pub fn main(arguments: impl Iterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.skip(1).collect();
    let (command, rest) =
        arguments.split_first().map_or((None, &[][..]), |(command, rest)| (command.to_str(), rest));
    match (command, rest) {
        (Some("run"), _) => match parse_run(rest) {
            Some(run) => run::run(&run),
            None => usage(),
        },
        (Some("install"), [folder]) => match install::install(Path::new(folder)) {
            Ok(()) => 0,
            Err(error) => {
                secrets::log(format_args!("cannot install into {}: {error}", folder.display()));
                1
            }
        },
        (Some("version" | "--version"), []) => {
            println!("agentloop-runner {}", env!("CARGO_PKG_VERSION"));
            0
        }
        _ => usage(),
    }
}

fn usage() -> i32 {
    eprintln!("{USAGE}");
    2
}

/// Parses the arguments of `run`. Everything after `--` is the agent's command, even if it looks like an option.
fn parse_run(arguments: &[OsString]) -> Option<RunArguments> {
    let mut run = RunArguments {
        input: names::INPUT_DIR.into(),
        scratch: names::SCRATCH_DIR.into(),
        termination_log: names::TERMINATION_LOG.into(),
        command: Vec::new(),
    };
    let mut arguments = arguments.iter();
    loop {
        let argument = match arguments.next()?.to_str()? {
            "--input" => &mut run.input,
            "--scratch" => &mut run.scratch,
            "--termination-log" => &mut run.termination_log,
            "--" => break,
            _ => return None,
        };
        *argument = arguments.next()?.into();
    }
    run.command = arguments.cloned().collect();
    (!run.command.is_empty()).then_some(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Option<RunArguments> {
        parse_run(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn everything_after_two_dashes_is_the_agents_command() {
        let run = parse(&["--input", "/i", "--", "claude", "--input", "x", "--"]).expect("parsed");
        assert_eq!(run.input, Path::new("/i"));
        assert_eq!(run.scratch, Path::new(names::SCRATCH_DIR));
        assert_eq!(run.command, ["claude", "--input", "x", "--"]);
    }

    #[test]
    fn a_command_is_required() {
        for arguments in
            [&[][..], &["--"], &["claude"], &["--input"], &["--input", "x"], &["--other", "x", "--", "c"]]
        {
            assert_eq!(parse(arguments), None, "{arguments:?}");
        }
    }
}
