//! One plan while it is carried out: everything that the proxy, the nemesis, the kubelet and the user share.
//!
//! It only keeps state. What changes the state is in [`nemesis`](crate::nemesis), [`user`](crate::user) and
//! [`kubelet`](crate::kubelet).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use agentloop_test_support::invariants::Invariant;
use anyhow::{Context, Result};
use http_body_util::BodyExt;
use parking_lot::Mutex;

use crate::buffered::{BufferedRequest, BufferedResponse};
use crate::checker::Violation;
use crate::ground_truth::GroundTruth;
use crate::history::NamespaceHistory;
use crate::mutations::{Mutation, Mutator};
use crate::network::Network;
use crate::operator::OperatorProcess;
use crate::plan::Plan;
use crate::refusals::Refusals;
use crate::schedule::Schedule;
use crate::server::AdminClient;
use crate::stale_lists::StaleLists;

/// One plan while it is carried out.
pub struct Experiment {
    /// The plan.
    pub plan: Plan,
    /// A connection to the API server with an administrator's rights.
    pub server: AdminClient,
    /// What happens in the plan's namespace.
    pub history: Arc<NamespaceHistory>,
    /// The task's name.
    pub task: String,
    /// What the agents really did.
    pub ground_truth: GroundTruth,
    /// Breaks the operator on purpose, if the experiment tests the checker.
    pub mutator: Option<Mutator>,
    /// The plan's faults and when they are due.
    pub schedule: Schedule,
    /// The network between the operators and the API server.
    pub network: Network,
    /// The time during which every status write is refused.
    pub refusals: Refusals,
    /// Lists that are served although they are out of date.
    pub lists: Arc<StaleLists>,
    /// How often the user has set a reset token.
    pub tokens: AtomicU32,
    operators: Mutex<Vec<Arc<OperatorProcess>>>,
    in_progress: AtomicUsize,
    problems: Mutex<Vec<String>>,
    violations: Mutex<Vec<Violation>>,
}

/// A fault in progress. The experiment does not end before it does.
pub struct InProgress(Arc<Experiment>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::SeqCst);
        self.0.history.wake();
    }
}

impl Experiment {
    /// An experiment that starts now.
    pub fn new(
        plan: Plan,
        server: AdminClient,
        history: Arc<NamespaceHistory>,
        mutation: Option<Mutation>,
    ) -> Arc<Self> {
        let task = format!("t{}", plan.number);
        let lists = Arc::<StaleLists>::default();
        let mutator = mutation
            .map(|mutation| Mutator::new(mutation, server.clone(), &history.namespace, &task, lists.clone()));
        Arc::new(Self {
            schedule: Schedule::new(&plan.faults),
            task,
            plan,
            server,
            history,
            ground_truth: GroundTruth::default(),
            mutator,
            network: Network::default(),
            refusals: Refusals::default(),
            lists,
            tokens: AtomicU32::new(0),
            operators: Mutex::default(),
            in_progress: AtomicUsize::new(0),
            problems: Mutex::default(),
            violations: Mutex::default(),
        })
    }

    /// Adds an operator; the first one has index 0.
    pub fn add_operator(&self, operator: OperatorProcess) {
        self.operators.lock().push(Arc::new(operator));
    }

    /// The operators, whether they run or not.
    pub fn operators(&self) -> Vec<Arc<OperatorProcess>> {
        self.operators.lock().clone()
    }

    /// The operator with this index.
    pub fn operator(&self, index: usize) -> Result<Arc<OperatorProcess>> {
        self.operators.lock().get(index).cloned().context("there is no such operator")
    }

    /// Restarts every operator that has exited: an operator exits when it loses its Lease.
    pub async fn restart_exited_operators(&self) -> Result<()> {
        for operator in self.operators() {
            operator.restart_if_exited().await?;
        }
        Ok(())
    }

    /// Kills all operators permanently.
    pub async fn kill_operators(&self) -> Result<()> {
        for operator in self.operators() {
            operator.kill().await?;
        }
        self.network.cut_watches(false);
        Ok(())
    }

    /// Passes a request on to the API server and reads the whole response.
    pub async fn pass(&self, request: &BufferedRequest) -> Result<BufferedResponse> {
        let (head, body) = self.server.pass(request.to_request()?).await?.into_parts();
        Ok(BufferedResponse { status: head.status, body: body.collect().await?.to_bytes() })
    }

    /// Records that the plan itself could not be carried out, so that its result is not valid.
    pub fn report_problem(&self, error: &impl std::fmt::Debug) {
        self.problems.lock().push(format!("{error:?}"));
    }

    /// What could not be carried out.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().clone()
    }

    /// Records a violation that is not visible in the history.
    pub fn report_violation(&self, invariant: Invariant, what: impl Into<String>) {
        self.violations.lock().push(Violation::new(invariant, what));
    }

    /// The violations that were recorded.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.lock().clone()
    }

    /// Whether no fault is in progress.
    pub fn is_idle(&self) -> bool {
        self.in_progress.load(Ordering::SeqCst) == 0
    }

    /// Marks a fault as in progress until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InProgress {
        self.in_progress.fetch_add(1, Ordering::SeqCst);
        InProgress(self.clone())
    }
}
