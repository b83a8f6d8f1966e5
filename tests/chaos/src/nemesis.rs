//! Sees to it that what a plan says happens when it says so.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{self, Instant};

use crate::checker::Violation;
use crate::classify::RequestClass;
use crate::ground_truth::GroundTruth;
use crate::history::NamespaceHistory;
use crate::json;
use crate::lock;
use crate::mutations::{Memory, Mutation};
use crate::operator::{Operator, Program};
use crate::plan::{Fault, Meanwhile, Moment, Plan, RequestKind, Until};
use crate::proxy::{BufferedRequest, BufferedResponse, Proxy, Wire, Wires};
use crate::refusals::Refusals;
use crate::server::Server;
use crate::stale_lists::StaleLists;
use crate::user;

/// How long a request, or a process, is held back at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a creation is.
const LONGEST_DEFERRAL: Duration = Duration::from_mins(2);
/// How long a late creation waits for the end of an earlier pod of its name.
const ROOM: Duration = Duration::from_secs(3);
/// The operators' names.
const NAMES: [&str; 2] = ["a", "b"];

/// What becomes of a request.
pub enum Disposition {
    /// It goes on.
    Pass,
    /// This is its answer.
    Answer(BufferedResponse),
    /// It has none.
    Drop,
}

/// One plan while it is carried out.
pub struct Nemesis {
    /// The plan.
    pub plan: Plan,
    /// The administrator's connection.
    pub server: Server,
    /// What happens in the plan's namespace.
    pub history: Arc<NamespaceHistory>,
    /// The task's name.
    pub task: String,
    /// What the agents really did.
    pub ground_truth: GroundTruth,
    /// How the operator is broken on purpose.
    pub mutation: Option<Mutation>,
    /// What a break has to remember.
    pub memory: Mutex<Memory>,
    operators: Mutex<Vec<Arc<Operator>>>,
    counts: Mutex<HashMap<RequestKind, u32>>,
    done: Mutex<Vec<bool>>,
    /// How many faults are under way.
    busy: AtomicUsize,
    /// How often the user has set a token.
    pub tokens: AtomicU32,
    writes: watch::Sender<u32>,
    wires: watch::Sender<Wires>,
    cut_until: Mutex<Option<Instant>>,
    refusals: Refusals,
    /// Lists of earlier moments.
    pub lists: StaleLists,
    problems: Mutex<Vec<String>>,
    accusations: Mutex<Vec<Violation>>,
}

/// A fault that is under way; the plan does not end before it.
pub struct Busy(Arc<Nemesis>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
        self.0.history.poke();
    }
}

impl Nemesis {
    /// For a plan that starts now.
    pub fn new(
        plan: Plan,
        server: Server,
        history: Arc<NamespaceHistory>,
        mutation: Option<Mutation>,
    ) -> Arc<Self> {
        let (writes, _) = watch::channel(0);
        let wires = Wires { cuts: [0; 2], expired: false, late_until: None, delay: Duration::ZERO };
        let (wires, _) = watch::channel(wires);
        Arc::new(Self {
            task: format!("t{}", plan.number),
            done: Mutex::new(vec![false; plan.faults.len()]),
            plan,
            server,
            history,
            ground_truth: GroundTruth::default(),
            mutation,
            memory: Mutex::default(),
            operators: Mutex::default(),
            counts: Mutex::default(),
            busy: AtomicUsize::new(0),
            tokens: AtomicU32::new(0),
            writes,
            wires,
            cut_until: Mutex::new(None),
            refusals: Refusals::default(),
            lists: StaleLists::default(),
            problems: Mutex::default(),
            accusations: Mutex::default(),
        })
    }

    /// Opens the proxies and starts the plan's operators.
    pub async fn open(self: &Arc<Self>, program: &Program, folder: &Path) -> Result<Vec<Proxy>> {
        self.open_for(program, folder, &self.history.namespace).await
    }

    /// The same, for operators that serve several namespaces: their names between commas.
    pub async fn open_for(
        self: &Arc<Self>,
        program: &Program,
        folder: &Path,
        namespaces: &str,
    ) -> Result<Vec<Proxy>> {
        let own_clock = self.plan.clock != 0
            || self.plan.faults.iter().any(|planned| matches!(planned.fault, Fault::Clock(_)));
        let mut proxies = Vec::new();
        for (place, name) in NAMES.iter().enumerate() {
            let proxy = Proxy::open(self, place).await?;
            let operator =
                Operator::new(program, name, namespaces, proxy.address, folder, self.plan.lease, own_clock)
                    .await?;
            if own_clock {
                operator.set_clock(if place == 0 { self.plan.clock } else { 0 }).await?;
            }
            lock(&self.operators).push(Arc::new(operator));
            proxies.push(proxy);
        }
        for operator in self.operators().iter().take(self.plan.operators) {
            operator.start().await?;
        }
        Ok(proxies)
    }

    /// The operators, running or not.
    pub fn operators(&self) -> Vec<Arc<Operator>> {
        lock(&self.operators).clone()
    }

    fn operator(&self, place: usize) -> Result<Arc<Operator>> {
        self.operators().get(place).cloned().context("no such operator")
    }

    /// Writes of the operators so far.
    pub fn writes(&self) -> u32 {
        *self.writes.borrow()
    }

    /// What of the plan has happened.
    pub fn fired(&self) -> Vec<bool> {
        lock(&self.done).clone()
    }

    /// Things that the plan could not do, which make its verdict worthless.
    pub fn problems(&self) -> Vec<String> {
        lock(&self.problems).clone()
    }

    /// Notes a violation that no history shows.
    pub fn accuse(&self, invariant: &'static str, what: impl Into<String>) {
        lock(&self.accusations).push(Violation::new(invariant, what));
    }

    /// What was noted.
    pub fn accusations(&self) -> Vec<Violation> {
        lock(&self.accusations).clone()
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.busy.load(Ordering::SeqCst) == 0
    }

    /// Marks something as under way.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::SeqCst);
        Busy(self.clone())
    }

    /// Counts a request under all its sorts.
    pub fn count(&self, call: &RequestClass) -> Vec<(RequestKind, u32)> {
        let mut counts = lock(&self.counts);
        let mut numbers = Vec::new();
        for sort in call.sorts() {
            let count = counts.entry(sort).or_default();
            *count += 1;
            numbers.push((sort, *count));
            if sort == RequestKind::Write {
                self.writes.send_replace(*count);
            }
        }
        numbers
    }

    /// The faults of a moment; each comes once.
    fn due(&self, reached: impl Fn(Moment) -> bool) -> Vec<Fault> {
        let mut done = lock(&self.done);
        let all = self.plan.faults.iter().zip(done.iter_mut());
        let due = all.filter(|(planned, done)| !**done && reached(planned.at));
        due.map(|(planned, done)| {
            *done = true;
            planned.fault.clone()
        })
        .collect()
    }

    /// Passes a request on and reads the whole answer.
    pub async fn pass(&self, sent: &BufferedRequest) -> Result<BufferedResponse> {
        let answer = self.server.pass(sent.to_request()?).await?;
        let (head, body) = answer.into_parts();
        Ok(BufferedResponse { status: head.status, body: body.collect().await?.to_bytes() })
    }

    /// What the plan does with a request that has come.
    pub async fn before(
        self: &Arc<Self>,
        place: usize,
        numbers: &[(RequestKind, u32)],
        sent: &BufferedRequest,
    ) -> Result<Disposition> {
        let faults = self.due(|at| numbers.iter().any(|(what, n)| at == Moment::Before(*what, *n)));
        let mut go = Disposition::Pass;
        for fault in faults {
            let busy = self.busy();
            match fault {
                Fault::Kill | Fault::KillAndServeStaleLists => {
                    self.kill(place, fault == Fault::KillAndServeStaleLists).await?;
                    go = Disposition::Drop;
                }
                Fault::Refuse(code) => go = Disposition::Answer(BufferedResponse::refusal(code)),
                Fault::Stall => {
                    drop(busy);
                    // Longer than any operator waits.
                    time::sleep(Duration::from_secs(20)).await;
                    go = Disposition::Drop;
                }
                Fault::Defer(until, meanwhile) => {
                    let (nemesis, sent) = (self.clone(), sent.clone());
                    tokio::spawn(async move {
                        nemesis.wait(until, LONGEST_DEFERRAL).await;
                        nemesis.wait_for_room(&sent).await;
                        if let Err(error) = nemesis.pass_late(sent).await {
                            nemesis.problem(&error);
                        }
                        drop(busy);
                    });
                    match meanwhile {
                        Meanwhile::Cut => {}
                        Meanwhile::Wait => time::sleep(Duration::from_secs(6)).await,
                        Meanwhile::Kill => self.kill(place, false).await?,
                    }
                    go = Disposition::Drop;
                }
                Fault::DelayCreate => {
                    self.lists.keep(&self.server, &self.history.namespace).await?;
                    let (nemesis, sent) = (self.clone(), sent.clone());
                    tokio::spawn(async move {
                        if let Err(error) = nemesis.delayed_create(place, &sent).await {
                            nemesis.problem(&error);
                        }
                        drop(busy);
                    });
                    go = Disposition::Drop;
                }
                fault => self.perform(place, fault, Some(sent)).await?,
            }
        }
        if matches!(go, Disposition::Pass) {
            let is_status = numbers.iter().any(|(what, _)| *what == RequestKind::Status);
            match self.refusals.meet(is_status) {
                Ok(None) => {}
                Ok(Some(code)) => go = Disposition::Answer(BufferedResponse::refusal(code)),
                Err(what) => self.accuse("L3", what),
            }
        }
        Ok(go)
    }

    async fn pass_late(&self, mut sent: BufferedRequest) -> Result<()> {
        let call = RequestClass::of(&sent.method, &sent.path, &sent.query, &sent.body);
        self.mutate_before(&call, &mut sent).await?;
        self.pass(&sent).await?;
        Ok(())
    }

    /// While the pod of an iteration that is over is still there, a late creation of it is refused anyway.
    async fn wait_for_room(&self, sent: &BufferedRequest) {
        let name = json::name(&sent.body);
        let room = |history: &NamespaceHistory| {
            history.pods().iter().all(|pod| json::name(pod) != name).then_some(())
        };
        self.history.until(ROOM, room).await;
    }

    async fn delayed_create(&self, place: usize, sent: &BufferedRequest) -> Result<()> {
        self.wait(Until::MovedOn, LONGEST_DEFERRAL).await;
        self.wait_for_room(sent).await;
        self.operator(place)?.kill().await?;
        self.pass_late(sent.clone()).await?;
        self.kill(place, true).await
    }

    /// What the plan does with an answer that is on its way.
    pub async fn after(
        self: &Arc<Self>,
        place: usize,
        numbers: &[(RequestKind, u32)],
    ) -> Result<Disposition> {
        let faults = self.due(|at| numbers.iter().any(|(what, n)| at == Moment::After(*what, *n)));
        let mut go = Disposition::Pass;
        for fault in faults {
            let _busy = self.busy();
            match fault {
                Fault::Kill | Fault::KillAndServeStaleLists => {
                    self.kill(place, fault == Fault::KillAndServeStaleLists).await?;
                    go = Disposition::Drop;
                }
                Fault::Lose => go = Disposition::Drop,
                fault => self.perform(place, fault, None).await?,
            }
        }
        Ok(go)
    }

    /// An agent runs. True where the pod is about to be told to stop.
    pub async fn running(self: &Arc<Self>, iteration: i32) -> Result<bool> {
        let mut stops = false;
        for fault in self.due(|at| at == Moment::Running(iteration)) {
            let _busy = self.busy();
            stops |= fault.stops_the_pod();
            self.perform(0, fault, None).await?;
        }
        Ok(stops)
    }

    /// The task has stopped; true where that was not the end.
    pub async fn stopped(self: &Arc<Self>, count: u32) -> Result<bool> {
        let faults = self.due(|at| at == Moment::Stopped(count));
        let goes_on = !faults.is_empty();
        for fault in faults {
            let _busy = self.busy();
            self.perform(0, fault, None).await?;
        }
        Ok(goes_on)
    }

    async fn perform(
        self: &Arc<Self>,
        place: usize,
        fault: Fault,
        sent: Option<&BufferedRequest>,
    ) -> Result<()> {
        let result = self.try_to(place, fault.clone(), sent).await;
        if let Err(error) = &result {
            self.problem(&format!("{fault:?}: {error:#}"));
        }
        result
    }

    async fn try_to(
        self: &Arc<Self>,
        place: usize,
        fault: Fault,
        sent: Option<&BufferedRequest>,
    ) -> Result<()> {
        match fault {
            Fault::KeepLists => self.lists.keep(&self.server, &self.history.namespace).await?,
            Fault::Pause(until) => self.wait(until, LONGEST_PAUSE).await,
            Fault::Freeze(until) => {
                let operator = self.operator(place)?;
                operator.freeze().await?;
                self.wait(until, LONGEST_PAUSE).await;
                operator.thaw().await?;
            }
            Fault::CutWatches => self.cut_watches(false),
            Fault::ExpireWatches => self.cut_watches(true),
            Fault::DelayWatches(millis) => {
                self.wires.send_modify(|wires| wires.delay = Duration::from_millis(millis));
            }
            Fault::CutNetwork(millis) => {
                *lock(&self.cut_until) = Some(Instant::now() + Duration::from_millis(millis));
                self.cut_watches(false);
            }
            Fault::RefuseStatuses(code, millis) => {
                let length = Duration::from_millis(millis);
                self.refusals.begin(code, length);
                let busy = self.busy();
                tokio::spawn(async move {
                    time::sleep(length).await;
                    drop(busy);
                });
            }
            Fault::StartSecondOperator => self.operator(1)?.start().await?,
            Fault::Clock(ahead) => self.operator(0)?.set_clock(ahead).await?,
            Fault::User(act) => user::act(self, act, sent).await?,
            Fault::Kill => self.kill(place, false).await?,
            Fault::KillAndServeStaleLists => self.kill(place, true).await?,
            // Only a request can be lost, refused or held.
            Fault::Lose | Fault::Refuse(_) | Fault::Stall | Fault::Defer(..) | Fault::DelayCreate => {}
        }
        Ok(())
    }

    /// Notes that the plan itself could not be carried out.
    pub fn problem(&self, error: &impl std::fmt::Debug) {
        lock(&self.problems).push(format!("{error:?}"));
    }

    async fn kill(&self, place: usize, stale_lists: bool) -> Result<()> {
        let operator = self.operator(place)?;
        operator.kill().await?;
        self.wires.send_modify(|wires| {
            wires.cuts.iter_mut().skip(place).take(1).for_each(|cuts| *cuts += 1);
            if stale_lists {
                wires.late_until = Some(Instant::now() + Duration::from_secs(1));
            }
        });
        if stale_lists {
            self.lists.serve_to(place);
        }
        operator.start().await
    }

    /// Starts every operator again that has ended by itself, as one does that lost its Lease.
    pub async fn revive(&self) -> Result<()> {
        for operator in self.operators() {
            operator.revive().await?;
        }
        Ok(())
    }

    /// Kills all operators for good.
    pub async fn end(&self) -> Result<()> {
        for operator in self.operators() {
            operator.kill().await?;
        }
        self.cut_watches(false);
        Ok(())
    }

    fn cut_watches(&self, expired: bool) {
        self.wires.send_modify(|wires| {
            wires.expired = expired;
            wires.cuts.iter_mut().for_each(|cuts| *cuts += 1);
        });
    }

    /// Whether nothing comes through now.
    pub fn is_cut_off(&self) -> bool {
        lock(&self.cut_until).is_some_and(|until| Instant::now() < until)
    }

    /// For a watch that starts now.
    pub fn wire(&self, place: usize) -> Wire {
        Wire::new(place, self.wires.subscribe())
    }

    async fn wait(&self, until: Until, most: Duration) {
        match until {
            Until::Millis(millis) => time::sleep(Duration::from_millis(millis).min(most)).await,
            Until::Writes(count) => {
                let mut writes = self.writes.subscribe();
                let wanted = *writes.borrow() + count;
                let come =
                    time::timeout(most.min(Duration::from_secs(4)), writes.wait_for(|now| *now >= wanted));
                drop(come.await);
            }
            Until::MovedOn => {
                let place = |task: &Value| {
                    (json::number(task, "/status/iterations"), json::number(task, "/status/nextAttempt"))
                };
                let from = self.history.task().as_deref().map(place);
                let moved = |history: &NamespaceHistory| {
                    let task = history.task();
                    let moved = task.as_deref().map(place) != from
                        || task.is_some_and(|task| json::has(&task, "/status/stop"));
                    moved.then_some(())
                };
                self.history.until(most, moved).await;
            }
            Until::Stopped => {
                let stopped = |history: &NamespaceHistory| {
                    history.task().is_none_or(|task| json::has(&task, "/status/stop")).then_some(())
                };
                self.history.until(most, stopped).await;
            }
        }
    }
}

impl BufferedResponse {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// An answer that looks like success.
    pub fn success(body: &Value) -> Self {
        Self { status: StatusCode::OK, body: body.to_string().into() }
    }
}
