//! Commands, flags and exit codes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use agentloop_core::decide::served::{InvalidRelease, Release, Serving};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::namespaces::Namespaces;
use crate::telemetry::LogFormat;

/// What the process's exit code means.
pub mod exit {
    /// Stopped when asked to.
    pub const OK: u8 = 0;
    /// Failed; the last line on standard error says why.
    pub const FAILED: u8 = 1;
    /// Wrong usage (the code that clap uses).
    pub const USAGE: u8 = 2;
    /// Another operator took the Lease, or the Lease could not be renewed in time. A restarted process stands by.
    pub const LEASE_LOST: u8 = 3;
}

const EXIT_CODES: &str = "\
Exit codes:
  0    stopped when asked to
  1    failed; the last line on standard error says why
  2    wrong usage
  3    the lease was lost: another operator leads, or the API server could not be reached
  130, 143  a second SIGINT or SIGTERM interrupted the graceful shutdown";

/// Runs autonomous coding agents in a bounded loop on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "agentloop", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Format of the log [default: human on a terminal, otherwise json].
    #[arg(long, global = true, env = "AGENTLOOP_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// What to log, in the syntax of RUST_LOG. The setting logLevel changes the operator's own level at run time.
    #[arg(long, global = true, env = "RUST_LOG", default_value = "info")]
    pub log_level: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator until it receives a signal.
    Controller(Box<ControllerArgs>),
    /// Print the CustomResourceDefinition as YAML.
    Crd,
    /// Prepare an uninstallation: scale the operator to zero, mark active iterations, remove finalizers.
    Uninstall(Box<UninstallArgs>),
}

/// Flags of `agentloop controller`.
#[derive(Clone, Debug, Args)]
pub struct ControllerArgs {
    /// Namespaces to watch, separated by commas; empty means all.
    #[arg(
        long,
        env = "AGENTLOOP_WATCH_NAMESPACES",
        default_value = "",
        value_name = "NAMES",
        hide_default_value = true
    )]
    pub watch_namespaces: Namespaces,
    /// The operator's own namespace, which has its ConfigMap and Lease [default: from the kubeconfig or the pod].
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// Name of the ConfigMap with the settings.
    #[arg(long, env = "AGENTLOOP_CONFIG_MAP", default_value = "agentloop-config", value_name = "NAME")]
    pub config_map: String,
    /// How the runner gets into an agent's pod.
    #[command(flatten)]
    pub runner: RunnerArgs,
    /// Leader election.
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// Which release this is.
    #[command(flatten)]
    pub serving: ServingArgs,
    /// Address that serves /livez and /readyz to the kubelet.
    #[arg(long, env = "AGENTLOOP_PROBE_ADDRESS", default_value = "0.0.0.0:8081", value_name = "IP:PORT")]
    pub probe_address: SocketAddr,
    /// Address that serves /metrics, /livez and /readyz.
    #[arg(long, env = "AGENTLOOP_HTTP_ADDRESS", default_value = "0.0.0.0:8080", value_name = "IP:PORT")]
    pub http_address: SocketAddr,
    /// How many tasks are reconciled at the same time.
    #[arg(long, env = "AGENTLOOP_CONCURRENCY", default_value = "8", value_name = "N")]
    pub concurrency: NonZeroU16,
}

/// How the runner gets into an agent's pod.
#[derive(Clone, Debug, Args)]
pub struct RunnerArgs {
    /// Image with the runner.
    #[arg(long = "runner-image", env = "AGENTLOOP_RUNNER_IMAGE", value_name = "REF", value_parser = image)]
    pub image: String,
    /// When the kubelet pulls that image: Always, IfNotPresent or Never; if empty, the API server chooses by the tag.
    #[arg(
        long = "runner-image-pull-policy",
        env = "AGENTLOOP_RUNNER_IMAGE_PULL_POLICY",
        default_value = "",
        hide_default_value = true,
        value_name = "POLICY"
    )]
    pub pull_policy: PullPolicy,
    /// How the runner gets into pods: mounted as an image volume, or copied by an init container. With auto, the operator
    /// uses image volumes if the API server and all nodes support them.
    #[arg(
        long = "runner-injection",
        env = "AGENTLOOP_RUNNER_INJECTION",
        default_value = "auto",
        value_enum,
        value_name = "HOW"
    )]
    pub injection: RunnerInjection,
    /// Resources of the init container, as JSON; if empty, those of the agent's container.
    #[arg(
        long = "runner-resources",
        env = "AGENTLOOP_RUNNER_RESOURCES",
        hide_default_value = true,
        value_name = "JSON",
        value_parser = object
    )]
    pub resources: Option<Object>,
    /// Fields that are added to the init container's security context or replace fields of it, as JSON; null removes a
    /// field.
    #[arg(
        long = "runner-security-context",
        env = "AGENTLOOP_RUNNER_SECURITY_CONTEXT",
        hide_default_value = true,
        value_name = "JSON",
        value_parser = object
    )]
    pub security_context: Option<Object>,
}

/// A JSON object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(pub serde_json::Map<String, serde_json::Value>);

/// How the runner gets into an agent's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RunnerInjection {
    /// An image volume if the API server and all nodes support it, otherwise an init container.
    Auto,
    /// An image volume.
    ImageVolume,
    /// An init container that copies the runner into an emptyDir.
    InitContainer,
}

/// When the kubelet pulls an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Not set: the API server chooses by the image's tag.
    ByTag,
    /// `Always`.
    Always,
    /// `IfNotPresent`.
    IfNotPresent,
    /// `Never`.
    Never,
}

impl FromStr for PullPolicy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Ok(Self::ByTag),
            "Always" => Ok(Self::Always),
            "IfNotPresent" => Ok(Self::IfNotPresent),
            "Never" => Ok(Self::Never),
            _ => Err("must be Always, IfNotPresent or Never"),
        }
    }
}

impl PullPolicy {
    /// The value in a pod.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::ByTag => None,
            Self::Always => Some("Always"),
            Self::IfNotPresent => Some("IfNotPresent"),
            Self::Never => Some("Never"),
        }
    }
}

/// Leader election.
#[derive(Clone, Debug, Args)]
pub struct LeaseArgs {
    /// Name of the Lease for leader election.
    #[arg(long, env = "AGENTLOOP_LEASE_NAME", default_value = "agentloop", value_name = "NAME")]
    pub lease_name: String,
    /// Whether to elect a leader. Without it, counts stay exact, but two operators cause each other conflicts.
    #[arg(long, env = "AGENTLOOP_LEADER_ELECTION", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub leader_election: bool,
    /// Name of this process in the Lease; must be unique [default: the pod's name and a random part].
    #[arg(long, env = "AGENTLOOP_IDENTITY", value_name = "ID")]
    pub identity: Option<String>,
}

impl LeaseArgs {
    /// The given identity, or one that no other process has.
    pub fn identity(&self) -> String {
        match &self.identity {
            Some(identity) if !identity.is_empty() => identity.clone(),
            _ => unique_identity(),
        }
    }
}

/// Which release this is, and whose tasks it takes over.
#[derive(Clone, Debug, Args)]
pub struct ServingArgs {
    /// Name of this release. Its tasks record it together with the namespace [default: the Lease's name].
    #[arg(long, env = "AGENTLOOP_RELEASE", value_name = "NAME")]
    pub release: Option<String>,
    /// Releases that no longer exist and whose tasks this release takes over: namespace/name, separated by commas.
    #[arg(
        long,
        env = "AGENTLOOP_TAKE_OVER",
        default_value = "",
        value_name = "RELEASES",
        hide_default_value = true
    )]
    pub take_over: Releases,
}

impl ServingArgs {
    /// What the operator with this namespace and Lease serves.
    pub fn serving(&self, namespace: &str, lease: &str) -> Serving {
        let name = self.release.as_deref().filter(|name| !name.is_empty()).unwrap_or(lease);
        Serving { release: Release::new(namespace, name), take_over: self.take_over.0.clone() }
    }
}

/// Names of releases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Releases(pub BTreeSet<Release>);

impl FromStr for Releases {
    type Err = InvalidRelease;

    fn from_str(text: &str) -> Result<Self, InvalidRelease> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(Self(names.map(str::parse).collect::<Result<_, _>>()?))
    }
}

/// The name of the pod or the host, and a random part: a restarted container is another process with the same name.
pub fn unique_identity() -> String {
    let given = |variable| std::env::var(variable).ok().filter(|name: &String| !name.is_empty());
    let host = || hostname::get().ok().map(|name| name.to_string_lossy().into_owned());
    let name = given("POD_NAME").or_else(host).unwrap_or_else(|| crate::NAME.to_owned());
    format!("{name}_{:08x}", fastrand::u32(..))
}

/// Flags of `agentloop uninstall`.
#[derive(Clone, Debug, Args)]
pub struct UninstallArgs {
    /// The operator's namespace [default: from the kubeconfig or the pod].
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// The operator's Deployment; it is scaled to zero.
    #[arg(long, env = "AGENTLOOP_DEPLOYMENT", default_value = "agentloop", value_name = "NAME")]
    pub deployment: String,
    /// Namespaces that the operator watched, separated by commas; empty means all.
    #[arg(
        long,
        env = "AGENTLOOP_WATCH_NAMESPACES",
        default_value = "",
        value_name = "NAMES",
        hide_default_value = true
    )]
    pub watch_namespaces: Namespaces,
    /// Name of the operator's Lease.
    #[arg(long, env = "AGENTLOOP_LEASE_NAME", default_value = "agentloop", value_name = "NAME")]
    pub lease_name: String,
    /// Which release this is.
    #[command(flatten)]
    pub serving: ServingArgs,
    /// Do nothing unless Helm installed the Deployment as this release.
    #[arg(long, env = "AGENTLOOP_IF_HELM_RELEASE", value_name = "NAME")]
    pub if_helm_release: Option<String>,
    /// Seconds after which the command gives up; keep it below the timeout of the hook. It can be run again.
    #[arg(long, default_value = "240", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
}

fn image(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("must be an image, such as registry.example/agentloop:1.0".to_owned());
    }
    Ok(text.to_owned())
}

fn object(text: &str) -> Result<Object, String> {
    if text.trim().is_empty() {
        return Ok(Object::default());
    }
    serde_json::from_str(text).map(Object).map_err(|error| format!("must be a JSON object: {error}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.trim_end_matches('s').parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a number of seconds from 1 to 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["agentloop"], args].concat())
    }

    fn controller(args: &[&str]) -> ControllerArgs {
        match parse(&[&["controller", "--runner-image", "r"], args].concat()).expect("arguments").command {
            Command::Controller(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_defined_consistently() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_what_the_help_says() {
        let args = controller(&[]);
        assert_eq!(args.config_map, "agentloop-config");
        assert_eq!(args.runner.injection, RunnerInjection::Auto);
        assert_eq!(args.concurrency.get(), 8);
        assert!(args.lease.leader_election);
        assert_eq!(args.http_address.to_string(), "0.0.0.0:8080");
        assert_eq!(args.probe_address.to_string(), "0.0.0.0:8081");
    }

    #[test]
    fn leader_election_can_be_turned_off() {
        assert!(!controller(&["--leader-election", "false"]).lease.leader_election);
    }

    #[test]
    fn a_concurrency_of_zero_a_missing_image_and_unknown_values_are_refused() {
        for args in [
            &["controller"][..],
            &["controller", "--runner-image", " "],
            &["controller", "--runner-image", "r", "--concurrency", "0"],
            &["controller", "--runner-image", "r", "--runner-injection", "magic"],
            &["controller", "--runner-image", "r", "--runner-resources", "[]"],
            &["controller", "--runner-image", "r", "--watch-namespaces", "Team"],
            &["controller", "--runner-image", "r", "--take-over", "agentloop"],
            &["controller", "--runner-image", "r", "--take-over", "a/b/c"],
            &["uninstall", "--take-over", "Old/agentloop"],
            &["uninstall", "--timeout", "0"],
        ] {
            assert_eq!(i32::from(exit::USAGE), parse(args).expect_err("wrong usage").exit_code(), "{args:?}");
        }
    }

    #[test]
    fn releases_to_take_over_are_separated_by_commas() {
        let args = controller(&["--take-over", "old/agentloop, older/a.b"]);
        let named: Vec<&str> = args.serving.take_over.0.iter().map(Release::as_str).collect();
        assert_eq!(named, ["old/agentloop", "older/a.b"]);
        assert_eq!(controller(&[]).serving.take_over, Releases::default());
    }

    #[test]
    fn a_release_has_the_name_that_is_set_or_that_of_its_lease() {
        let called = |args: &[&str]| controller(args).serving.serving("ns", "lease").release.to_string();
        assert_eq!(called(&[]), "ns/lease");
        assert_eq!(called(&["--release", ""]), "ns/lease");
        assert_eq!(called(&["--release", "loops"]), "ns/loops");
    }

    #[test]
    fn two_processes_of_one_pod_have_two_identities() {
        assert_ne!(unique_identity(), unique_identity());
    }
}
