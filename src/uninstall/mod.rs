//! The uninstall hook: after it, nothing in the cluster waits for an operator that will not come back.
//!
//! The order is the protocol's, and each step rests on the one before:
//! 1. the Deployment is scaled to zero, and its pods are gone: nobody claims, nobody starts a pod;
//! 2. the Lease is taken, so that an operator which somebody scales up again meanwhile stands by;
//! 3. every active iteration is marked as orphaned, so that a later installation never runs it again, and our name is
//!    removed from the tasks, so that any later installation serves them;
//! 4. only then our finalizer is removed from the pods. A pod whose task could not be marked keeps it.
//!
//! Tasks that another release serves are left alone, and so are their pods. The rules of steps 3 and 4 are
//! `agentloop_core::sync`'s; `sync.rs` drives them.
//!
//! Running pods are left to run. Everything may be repeated.

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

pub use error::Error;

use crate::app::own_namespace;
use crate::cli::UninstallArgs;
use crate::client::Clients;
use crate::metrics::Metrics;
use crate::namespaces::Namespaces;
use crate::write::Writer;

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// Objects in one answer.
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
        // Nobody may be listening any more; the work is done all the same.
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
    /// Nothing is done unless Helm installed the Deployment as this release. The Job before an uninstall is rendered
    /// with everything else, and whoever applies it like everything else does not mean to uninstall.
    pub helm_release: Option<String>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// When that time is over.
    pub deadline: Instant,
}

impl Hook {
    /// Lets go of everything; each thing done is told as one line.
    pub async fn run(&self, tell: &mut (dyn FnMut(String) + Send)) -> Result<(), Error> {
        if let Some(release) = &self.helm_release
            && !self.is_helms(release).await?
        {
            tell(self.applied_by_hand(release));
            return Ok(());
        }
        self.stop_operator(tell).await?;
        let election = self.take_lease().await?;
        let done = self.mark_and_remove_finalizers(tell).await;
        // Nothing is left behind, and an operator that waits may go on. It expires in any case.
        if let Err(error) = election.delete().await {
            warn!(lease = self.lease, %error, "the lease is not deleted; it expires by itself");
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
