//! The uninstall hook: after it, nothing in the cluster waits for an operator that will not come back.
//!
//! The order is part of the protocol, and each step depends on the one before:
//! 1. the Deployment is scaled to zero, and its pods are gone: no operator starts an iteration or a pod;
//! 2. the Lease is taken, so that an operator that is scaled up again in the meantime stands by;
//! 3. every active iteration is marked as orphaned, so that a later installation never runs it again, and our name is
//!    removed from the tasks, so that any later installation serves them;
//! 4. only then is our finalizer removed from the pods. A pod whose task could not be marked keeps it.
//!
//! Tasks that another release serves are left alone, and so are their pods. The rules of steps 3 and 4 are
//! `agentloop_core::sync`'s; `sync.rs` drives them.
//!
//! Running pods are left running. The hook can be run again at any time.

mod error;
mod finalizers;
mod iterations;
mod operator;
mod sync;

use std::io::Write as _;
use std::time::Duration;

use agentloop_core::decide::served::Serving;
use kube::ResourceExt;
use kube::api::ListParams;
use tokio::time::Instant;
use tracing::warn;

pub use self::error::Error;
use crate::app::own_namespace;
use crate::cli::UninstallArgs;
use crate::client::Clients;
use crate::metrics::Metrics;
use crate::namespaces::Namespaces;
use crate::write::Writer;

/// The time between two checks of something that the hook waits for.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Objects in one page.
const PAGE: u32 = 250;

/// Runs the hook, and prints what it did.
pub async fn run(args: UninstallArgs) -> Result<(), Error> {
    let clients = Clients::connect().await?;
    let namespace = own_namespace(args.namespace.as_deref(), &clients);
    let serving = args.serving.serving(&namespace, &args.lease_name);
    let hook = Hook {
        serving,
        writer: Writer::new(clients.write.clone(), Metrics::new()),
        clients,
        namespace,
        deployment: args.deployment,
        lease: args.lease_name,
        namespaces: args.watch_namespaces,
        helm_release: args.if_helm_release,
        timeout: args.timeout,
        deadline: Instant::now() + args.timeout,
    };
    hook.run(&mut |line| {
        // Standard output may be closed; the work must still be done.
        let _ = writeln!(std::io::stdout(), "{line}");
    })
    .await
}

/// The hook, with all that it needs.
pub struct Hook {
    /// To read with.
    pub clients: Clients,
    /// To write with.
    pub writer: Writer,
    /// The operator's namespace.
    pub namespace: String,
    /// The operator's Deployment.
    pub deployment: String,
    /// The operator's Lease.
    pub lease: String,
    /// The operator's release, and those whose tasks it took over. Tasks of others are left alone.
    pub serving: Serving,
    /// The namespaces that were served.
    pub namespaces: Namespaces,
    /// The hook does nothing unless Helm installed the Deployment as this release. The Job is rendered together with all
    /// other objects, and a user who applies them all does not want to uninstall.
    pub helm_release: Option<String>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// When that time is over.
    pub deadline: Instant,
}

impl Hook {
    /// Runs all steps, and reports each as one line.
    pub async fn run(&self, report: &mut (dyn FnMut(String) + Send)) -> Result<(), Error> {
        if let Some(release) = &self.helm_release
            && !self.is_helms(release).await?
        {
            report(self.applied_by_hand(release));
            return Ok(());
        }
        self.stop_operator(report).await?;
        let election = self.take_lease().await?;
        let done = self.mark_and_remove_finalizers(report).await;
        // So that nothing is left behind, and an operator that waits can continue. The Lease expires in any case.
        if let Err(error) = election.delete().await {
            warn!(lease = self.lease, %error, "cannot delete the lease; it will expire");
        }
        done
    }
}

fn page(token: Option<String>) -> ListParams {
    ListParams { continue_token: token, ..ListParams::default().limit(PAGE) }
}

fn named(kind: &str, object: &impl ResourceExt) -> String {
    format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any())
}
