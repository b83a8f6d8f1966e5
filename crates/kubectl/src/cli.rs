//! Commands and flags.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::output::Format;
use crate::resume::Limit;

const EXIT_CODES: &str = "\
Exit codes:
  0    done; for `run --watch` and `wait`: the task succeeded
  1    failed; standard error says why
  2    wrong usage
  10   the task reached its limit of iterations
  11   the circuit breaker stopped the task
  12   the task failed
  124  the time that --timeout allows is over";

/// Shows, follows and resumes the loops of agentloop, with your own rights.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-agentloop",
    bin_name = "kubectl agentloop",
    version,
    after_help = EXIT_CODES,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which cluster, as whom.
    #[command(flatten)]
    pub connection: Connection,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct Connection {
    /// Namespace [default: that of the context].
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Kubeconfig file [default: KUBECONFIG, or ~/.kube/config].
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// User to impersonate.
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Group to impersonate; can be repeated.
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub impersonate_groups: Vec<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List tasks.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one task as a tree: its iterations with outcome, changes, cost, duration and pod.
    Get(GetArgs),
    /// Explain the state of a task: the verdict, its evidence, each threshold with its origin, what resumes it.
    Why(WhyArgs),
    /// Resume a stopped or suspended task, with the patch that its stop needs.
    Resume(ResumeArgs),
    /// Suspend tasks: the running pod is stopped, and no other is started.
    Suspend(ChangeArgs),
    /// Delete tasks.
    Delete(ChangeArgs),
    /// Print the versions of the plugin and of the operator.
    Version(VersionArgs),
    /// Print the completion script of a shell.
    #[command(after_help = COMPLETION_HELP)]
    Completion(CompletionArgs),
    /// Complete a command line, as kubectl asks for it.
    #[command(name = "__complete", hide = true)]
    Complete(CompleteArgs),
}

const COMPLETION_HELP: &str = "\
For `kubectl-agentloop`, source the script of your shell:
  source <(kubectl agentloop completion bash)
  source <(kubectl agentloop completion zsh)
  kubectl agentloop completion fish | source
For `kubectl agentloop`, kubectl asks a program named kubectl_complete-agentloop, which must be in your PATH:
  kubectl agentloop completion kubectl >~/.local/bin/kubectl_complete-agentloop
  chmod +x ~/.local/bin/kubectl_complete-agentloop";

/// Which tasks to read.
#[derive(Clone, Debug, Default, Args)]
pub struct Selection {
    /// All namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only tasks with these labels, such as app=web,tier!=test.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
}

/// How to print objects.
#[derive(Clone, Debug, Default, Args)]
pub struct OutputArgs {
    /// Format: table, wide, json, yaml, name, or jsonpath=TEMPLATE.
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// Flags of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Which tasks.
    #[command(flatten)]
    pub selection: Selection,
    /// Only tasks that need a person: stopped without success, or stalled.
    #[arg(long)]
    pub needs_me: bool,
    /// How to print them.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Print no line with the names of the columns.
    #[arg(long)]
    pub no_headers: bool,
}

/// Flags of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Name of the task.
    pub name: String,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Flags of `why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// Name of the task.
    pub name: String,
}

/// Whether a change is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// Send it.
    #[default]
    None,
    /// Only print what would be sent.
    Client,
    /// Let the API server check it and store nothing.
    Server,
}

/// Flags of every command that changes something.
#[derive(Clone, Debug, Default, Args)]
pub struct WriteArgs {
    /// Change nothing. `client`: only print what would be sent; `server`: let the API server check it.
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_value = "none",
        default_missing_value = "client"
    )]
    pub dry_run: DryRun,
    /// Print the kubectl command that does the same, and change nothing.
    #[arg(long)]
    pub show_kubectl: bool,
}

/// Which tasks to change.
#[derive(Clone, Debug, Default, Args)]
pub struct Targets {
    /// Names of tasks.
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "selector"])]
    pub names: Vec<String>,
    /// All tasks of the namespace; with -A, of all namespaces.
    #[arg(long, conflicts_with_all = ["names", "selector"])]
    pub all: bool,
    /// The tasks with these labels.
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "names")]
    pub selector: Option<String>,
    /// In all namespaces.
    #[arg(short = 'A', long, conflicts_with = "names")]
    pub all_namespaces: bool,
}

/// Flags of `suspend` and `delete`.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Which tasks.
    #[command(flatten)]
    pub targets: Targets,
    /// How to change them.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Flags of `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Which tasks.
    #[command(flatten)]
    pub targets: Targets,
    /// Limit of iterations: a number, or +N for N more than now [default: twice the count, if the limit is reached].
    #[arg(long, value_name = "N|+N", value_parser = Limit::from_str)]
    pub max: Option<Limit>,
    /// Set both streaks of the circuit breaker to zero, also if the stop does not need it.
    #[arg(long)]
    pub reset: bool,
    /// How to change them.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Flags of `version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Only the version of the plugin; no request is sent.
    #[arg(long)]
    pub client: bool,
}

/// Flags of `completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell; `kubectl` for the program that kubectl asks.
    #[arg(value_enum)]
    pub shell: CompletionTarget,
}

/// Whose completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletionTarget {
    /// GNU bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// fish.
    Fish,
    /// kubectl.
    Kubectl,
}

impl CompletionTarget {
    /// The shell.
    pub fn shell(self) -> Option<Shell> {
        match self {
            Self::Bash => Some(Shell::Bash),
            Self::Zsh => Some(Shell::Zsh),
            Self::Fish => Some(Shell::Fish),
            Self::Kubectl => None,
        }
    }
}

/// The words to complete.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct CompleteArgs {
    /// The words after `kubectl agentloop`; the last one is not finished.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, action = ArgAction::Append)]
    pub words: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::failure::exit;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["kubectl-agentloop"], args].concat())
    }

    #[test]
    fn the_command_line_is_defined_consistently() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_the_cluster_are_accepted_before_and_after_the_command() {
        for args in [&["-n", "dev", "get", "x"], &["get", "x", "-n", "dev"]] {
            assert_eq!(parse(args).expect("arguments").connection.namespace.as_deref(), Some("dev"));
        }
    }

    #[test]
    fn wrong_usage_has_its_own_exit_code() {
        for args in [
            &["get"][..],
            &["list", "x"],
            &["list", "-o", "xml"],
            &["list", "-o", "jsonpath={"],
            &["resume"],
            &["resume", "x", "--all"],
            &["resume", "x", "--max", "0"],
            &["resume", "x", "--max", "+x"],
            &["suspend", "-A", "x"],
            &["delete", "x", "--dry-run=maybe"],
            &["completion", "tcsh"],
        ] {
            let error = parse(args).expect_err("wrong usage");
            assert_eq!(error.exit_code(), i32::from(exit::USAGE), "{args:?}");
        }
    }

    #[test]
    fn a_dry_run_without_a_value_is_that_of_the_client() {
        for (arg, expected) in [("--dry-run", DryRun::Client), ("--dry-run=server", DryRun::Server)] {
            let Command::Delete(args) = parse(&["delete", arg, "x"]).expect("arguments").command else {
                panic!("delete")
            };
            assert_eq!((args.write.dry_run, args.targets.names), (expected, vec!["x".to_owned()]));
        }
    }
}
