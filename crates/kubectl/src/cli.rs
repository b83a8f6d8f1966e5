//! Commands and flags.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use jiff::SignedDuration;

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
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
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
    /// Create a task from an image, a command and a prompt.
    #[command(after_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// List tasks.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one task as a tree: its iterations with outcome, changes, cost, duration and pod.
    Get(GetArgs),
    /// Explain the state of a task: the verdict, its evidence, each threshold with its origin, what resumes it.
    Why(WhyArgs),
    /// Print the output of a task's agent; the JSON streams of known agents as text.
    Logs(LogsArgs),
    /// List the files that an iteration changed, from its report.
    Files(FilesArgs),
    /// Print git's diff of the workspace, and the names of untracked files.
    #[command(after_help = READER_HELP)]
    Diff(DiffArgs),
    /// Copy files from the workspace.
    #[command(name = "cp", after_help = READER_HELP)]
    Copy(CopyArgs),
    /// Follow one task until it stops, or all tasks: progress, timeline, streaks, spend.
    Watch(WatchArgs),
    /// Wait until a task stops; the exit code says how.
    Wait(WaitArgs),
    /// Show what tasks, or the iterations of one task, cost according to their agents.
    Cost(CostArgs),
    /// Resume a stopped or suspended task, with the patch that its stop needs.
    Resume(ResumeArgs),
    /// Suspend tasks: the running pod is stopped, and no other is started.
    Suspend(ChangeArgs),
    /// Delete tasks.
    Delete(ChangeArgs),
    /// Check manifests without a cluster: fields, bounds, rules between fields, contradictions.
    #[command(after_help = LINT_HELP)]
    Lint(LintArgs),
    /// Check whether agentloop works: versions, leader, settings, rights, storage, Pod Security.
    Doctor(DoctorArgs),
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

const RUN_HELP: &str = "\
The prompt is read from standard input if neither --prompt nor --file is set. Examples:
  kubectl agentloop run fix --image=localhost/codex:0.169.0 --preset=codex --prompt='Make \"npm test\" pass.' \\
    --verify='npm test' --watch
  kubectl agentloop run count --image=busybox:1 --prompt='Count.' --verify='test $(wc -l <n) -ge 3' -- sh -c 'echo x >>n'
  kubectl agentloop run fix --image=IMAGE --preset=claude-code --file=PROMPT.md --dry-run -o yaml >task.yaml";

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

/// Flags of `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Name of the task.
    pub name: String,
    /// Image of the agent's container.
    #[arg(long)]
    pub image: String,
    /// A known agent: its command, and the variable with its key, from a Secret of the same name.
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// Name of the Secret whose key api-key has the credential of the preset [default: the name of the preset].
    #[arg(long, value_name = "NAME", requires = "preset")]
    pub secret: Option<String>,
    /// The goal.
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    pub prompt: Option<String>,
    /// File with the goal; - is standard input.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Maximum number of iterations [default: the operator's setting].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub max: Option<i32>,
    /// Shell command that decides whether the task is done.
    #[arg(long, value_name = "COMMAND", conflicts_with = "until_exit")]
    pub verify: Option<String>,
    /// The task is done when the agent exits with 0; by default, the agent must print a completion gate.
    #[arg(long)]
    pub until_exit: bool,
    /// Size of the workspace's volume.
    #[arg(long, value_name = "SIZE", default_value = "1Gi", conflicts_with_all = ["pvc", "ephemeral"])]
    pub storage: String,
    /// Storage class of that volume [default: the cluster's].
    #[arg(long, value_name = "NAME", conflicts_with_all = ["pvc", "ephemeral"])]
    pub storage_class: Option<String>,
    /// An existing PVC as the workspace.
    #[arg(long, value_name = "NAME", conflicts_with = "ephemeral")]
    pub pvc: Option<String>,
    /// An empty workspace in each iteration.
    #[arg(long)]
    pub ephemeral: bool,
    /// Variable of the agent; can be repeated.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// User and group of the agent.
    #[arg(long, value_name = "UID", default_value = "65532", value_parser = clap::value_parser!(i64).range(0..))]
    pub user: i64,
    /// Follow the task until it stops.
    #[arg(short, long)]
    pub watch: bool,
    /// Print the object: name, json or yaml.
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// How to create it.
    #[command(flatten)]
    pub write: WriteArgs,
    /// The agent's command and its arguments, after --.
    #[arg(
        last = true,
        value_name = "COMMAND",
        required_unless_present = "preset",
        conflicts_with = "preset"
    )]
    pub command: Vec<String>,
}

/// A known agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Claude Code.
    ClaudeCode,
    /// Codex.
    Codex,
    /// OpenCode.
    Opencode,
    /// Gemini CLI.
    GeminiCli,
}

fn variable(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE"),
    }
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

/// Flags of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Name of the task.
    pub name: String,
    /// Follow the output of this iteration and of the next ones, until the task stops.
    #[arg(short, long)]
    pub follow: bool,
    /// Number of the iteration, or all [default: the last one].
    #[arg(long, value_name = "N|all", value_parser = Which::from_str)]
    pub iteration: Option<Which>,
    /// Print the lines of the agent as they are.
    #[arg(long)]
    pub raw: bool,
    /// Only the last lines of each log.
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(i64).range(0..))]
    pub tail: Option<i64>,
}

/// Which iterations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// This one.
    Number(i32),
}

impl FromStr for Which {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(number @ 1..) => Ok(Self::Number(number)),
            _ if text == "all" => Ok(Self::All),
            _ => Err("must be the number of an iteration, or all"),
        }
    }
}

const READER_HELP: &str = "\
The workspace is read by a pod that is removed afterwards: with the task's image and user, without a ServiceAccount token
and without more privileges than the profile restricted allows; the workspace is mounted read-only. It needs the rights to
create pods and pods/exec, and to delete pods.";

/// Flags of `files`.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// Name of the task.
    pub name: String,
    /// Number of the iteration [default: the last one].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub iteration: Option<i32>,
}

/// Flags of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Name of the task.
    pub name: String,
    /// The commit to compare with [default: HEAD, so that only what is not committed is shown].
    #[arg(long, value_name = "COMMIT")]
    pub base: Option<String>,
    /// Only count the changed lines of each file.
    #[arg(long)]
    pub stat: bool,
}

/// Flags of `cp`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// The task and the path in its workspace.
    #[arg(value_name = "NAME:PATH")]
    pub source: Source,
    /// File or folder to copy to.
    #[arg(value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    pub target: PathBuf,
}

/// A path in the workspace of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name of the task.
    pub name: String,
    /// Path in its workspace, or absolute.
    pub path: String,
}

impl FromStr for Source {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some((name, path)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), path: path.to_owned() })
            }
            _ => Err("must be NAME:PATH, such as fix:src/main.rs"),
        }
    }
}

/// Flags of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Name of the task [default: all tasks].
    #[arg(conflicts_with_all = ["all_namespaces", "selector"])]
    pub name: Option<String>,
    /// Which tasks.
    #[command(flatten)]
    pub selection: Selection,
}

/// Flags of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Name of the task.
    pub name: String,
    /// What to wait for.
    #[arg(long = "for", value_enum, value_name = "STATE", default_value = "stopped")]
    pub until: Until,
    /// How long to wait, such as 90s or 2h [default: without an end].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// Any stop, success included.
    Stopped,
}

/// Flags of `cost`.
#[derive(Debug, Args)]
pub struct CostArgs {
    /// Name of a task, for the cost of its iterations [default: all tasks].
    #[arg(conflicts_with_all = ["all_namespaces", "selector"])]
    pub name: Option<String>,
    /// Which tasks.
    #[command(flatten)]
    pub selection: Selection,
    /// How to print it.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Print no line with the names of the columns.
    #[arg(long)]
    pub no_headers: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let refused = || "must be a duration, such as 90s, 30m or 2h".to_owned();
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let duration: SignedDuration = text.parse().map_err(|_| refused())?;
    Duration::try_from(duration).map_err(|_| refused())
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

const LINT_HELP: &str = "\
Documents of other kinds are skipped. The API server checks a little more, such as validation rules about mounts:
  kubectl apply --dry-run=server -f FILE";

/// Flags of `lint`.
#[derive(Debug, Args)]
pub struct LintArgs {
    /// File with manifests; can be repeated; - is standard input.
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Fail for warnings too.
    #[arg(long)]
    pub strict: bool,
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Also run a task of one iteration in the namespace, and remove it.
    #[arg(long)]
    pub hello: bool,
    /// Image of that task; it must have a shell.
    #[arg(long, default_value = "busybox:1")]
    pub image: String,
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
            &["wait", "x", "--timeout", "soon"],
            &["wait", "x", "--for", "ever"],
            &["watch", "x", "-A"],
            &["run", "x", "--image", "i"],
            &["run", "x", "--image", "i", "--preset", "codex", "--", "codex"],
            &["run", "x", "--image", "i", "--pvc", "p", "--ephemeral", "--", "a"],
            &["run", "x", "--image", "i", "--env", "=", "--", "a"],
            &["logs", "x", "--iteration", "0"],
            &["cp", "x", "there"],
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
