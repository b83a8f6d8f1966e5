//! If a task is edited into another one in the middle of its loop, it ends like a new task with that spec, or the edit is
//! refused with a message.
//!
//! Both specs of a pair are drawn from the schema of the CRD. `AGENTLOOP_TRANSITIONS` is the number of pairs;
//! `AGENTLOOP_SEED` selects them: a pair depends only on the seed and its number.

use agentloop_contract::completion_gate::CompletionGate;
use agentloop_contract::context::Context;
use agentloop_contract::names::ANNOTATION_CONTEXT;
use agentloop_contract::report::{Change, End, Error, Report, Verified};
use agentloop_core::api::{AgentTask, AgentTaskSpec, AgentTaskStatus, CompletionPolicy, Phase};
use agentloop_core::pod::completion_hash;
use fastrand::Rng;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::kubelet::{AgentWork, TestOperator, bind, ended, set_status, try_bind};
use crate::namespace::{TestNamespace, eventually, object};
use crate::specs;

/// The exit code of an agent that fails.
const FAILS: i32 = 3;
/// The most bytes that a status may have.
const MAX_BYTES: usize = 16 * 1024;
/// How many pairs run at the same time.
const CONCURRENCY: usize = 12;

/// What the agent of a pair does, iteration by iteration.
#[derive(Clone, Copy, Debug)]
struct Script {
    way: Way,
    /// The iteration in which it says that it is done.
    done: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Files change, and it exits 0.
    Works,
    /// Nothing changes, and it exits 0.
    Idles,
    /// Files change, and it fails with the same error each time.
    Fails,
}

impl Script {
    fn draw(rng: &mut Rng) -> Self {
        let way = [Way::Works, Way::Idles, Way::Fails][rng.usize(..3)];
        Self { way, done: rng.bool().then(|| rng.i32(1..=6)) }
    }

    fn is_done(self, iteration: i32) -> bool {
        self.done == Some(iteration)
    }

    /// What the runner of this pod reports.
    fn report(self, pod: &Pod) -> Report {
        let context = context_of(pod);
        let done = self.is_done(context.iteration);
        let fails = self.way == Way::Fails && !done;
        Report {
            exit_code: Some(if fails { FAILS } else { 0 }),
            changed: if self.way == Way::Idles { Change::Unchanged } else { Change::Changed },
            gate: done.then(|| CompletionGate { ready: true, ..CompletionGate::default() }),
            verify: context.verify.map(|_| Verified {
                passed: done,
                exit_code: Some(i32::from(!done)),
                timed_out: false,
                last_lines: Vec::new(),
            }),
            error: fails.then(|| Error::new("the same as ever")),
            ..Report::of(End::Exited)
        }
    }
}

/// How a loop ends: its phase and the number of counted iterations.
type Ended = (Phase, i32);

/// How a loop with this `spec` ends if it settles iteration `from` next, with streaks that count from `clear`. `asked`: the
/// pod of `from` was created for the completion in the spec.
fn ends(spec: &AgentTaskSpec, script: Script, from: i32, clear: i32, asked: bool) -> Ended {
    if spec.suspend {
        return (Phase::Suspended, from - 1);
    }
    let mut next = from;
    loop {
        let must_pass = spec.verify().is_some();
        let informed = next != from || asked;
        let exits_well = script.way != Way::Fails || script.is_done(next);
        let done = match spec.policy() {
            CompletionPolicy::Gate | CompletionPolicy::Verify => script.is_done(next) && informed,
            CompletionPolicy::ExitCode => exits_well && informed && (!must_pass || script.is_done(next)),
        };
        if done {
            return (Phase::Succeeded, next);
        }
        if !exits_well && spec.fail_on_exit_codes.contains(&FAILS) {
            return (Phase::Failed, next);
        }
        if let Some(phase) = stops(spec, script, next, clear) {
            return (phase, next);
        }
        next += 1;
    }
}

/// The stop that follows from the counters after `settled` iterations.
fn stops(spec: &AgentTaskSpec, script: Script, settled: i32, clear: i32) -> Option<Phase> {
    let breaker = spec.breaker.clone().unwrap_or_default();
    // The iteration that reports that it is done has no error, and the streak starts again after it.
    let well = script.done.filter(|done| *done <= settled).unwrap_or(0);
    let opens = match script.way {
        Way::Works => false,
        Way::Idles => settled - clear >= breaker.no_change_threshold.unwrap_or(3),
        Way::Fails => settled - clear.max(well) >= breaker.same_error_threshold.unwrap_or(5),
    };
    if opens {
        return Some(Phase::CircuitOpen);
    }
    (settled >= spec.max_iterations.unwrap_or(10).min(50)).then_some(Phase::IterationLimitReached)
}

/// The result of one pair.
#[derive(Debug)]
enum PairResult {
    /// It ended exactly like the new task.
    Same,
    /// It ended otherwise because of what it had done before the edit: more iterations than the new bounds allow.
    Carried,
    /// The edit was refused with a message, and the loop ended as without the edit.
    Refused,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_edited_into_another_ends_like_a_new_one_or_the_edit_is_refused() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().map_or(default, |text| text.parse().expect("a whole number"))
    };
    let (pairs, seed) = (number("AGENTLOOP_TRANSITIONS", 40), number("AGENTLOOP_SEED", 1));
    let ns = TestNamespace::with_tasks().await;
    let _operator = TestOperator::start(&ns);
    let schema = specs::schema();
    let mut tried = 0;
    let outcomes: Vec<PairResult> = futures::stream::iter(0..pairs)
        .map(|pair| pair_of(&ns, &schema, seed, pair))
        .buffer_unordered(CONCURRENCY)
        .inspect(|_| {
            tried += 1;
            if tried % 100 == 0 {
                println!("{tried} of {pairs} pairs");
            }
        })
        .collect()
        .await;
    let same = outcomes.iter().filter(|outcome| matches!(outcome, PairResult::Same)).count();
    let carried = outcomes.iter().filter(|outcome| matches!(outcome, PairResult::Carried)).count();
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, PairResult::Refused)).count();
    println!("{pairs} pairs: {same} end like a new task, {carried} beyond its bounds, {refused} refused");
    assert!(same > 0 && carried > 0 && refused > 0, "the pairs are too similar to show anything");
    ns.end().await;
}

/// A task that the API server accepts. If it refuses one, its message must name the field.
async fn draw_valid(ns: &TestNamespace, schema: &Value, rng: &mut Rng, name: &str) -> AgentTask {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    loop {
        let task: AgentTask =
            object(json!({ "metadata": { "name": name }, "spec": specs::draw(schema, rng) }));
        match ns.api::<AgentTask>().create(&dry, &task).await {
            Ok(_) => return task,
            Err(error) => assert_is_a_refusal(&error),
        }
    }
}

/// Checks that the server's message names the field.
#[track_caller]
fn assert_is_a_refusal(error: &kube::Error) {
    let kube::Error::Api(status) = error else { panic!("{error}") };
    assert!(status.code == 422 && status.message.contains("spec"), "{}", status.message);
}

async fn pair_of(ns: &TestNamespace, schema: &Value, seed: u64, pair: u64) -> PairResult {
    let mut rng = Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(pair));
    let script = Script::draw(&mut rng);
    let (name, fresh_name) = (format!("edited-{pair}"), format!("fresh-{pair}"));
    let first = draw_valid(ns, schema, &mut rng, &name).await;
    let second = draw_valid(ns, schema, &mut rng, &fresh_name).await;
    let about = format!(
        "seed {seed}, pair {pair}: {script:?}\n  from {}\n  to   {}",
        serde_json::to_string(&first.spec).expect("JSON"),
        serde_json::to_string(&second.spec).expect("JSON"),
    );

    let api = ns.api::<AgentTask>();
    let params = PostParams::default();
    api.create(&params, &second).await.expect("accepted");
    let fresh = run_to_end(ns, &fresh_name, script).await;
    let expected = ends(&second.spec, script, 1, 0, true);
    check(ns, &about, &second.spec, &fresh_name, fresh.as_ref(), &[expected]).await;

    api.create(&params, &first).await.expect("accepted");
    let own = ends(&first.spec, script, 1, 0, true);
    let edited_in = if first.spec.suspend { 0 } else { rng.i32(1..=own.1.min(4)) };
    let runs = rng.bool() && edited_in > 0;
    let mut asked = true;
    if edited_in > 0 {
        let pod = run_to(ns, &name, script, edited_in).await;
        if runs {
            asked = completion_hash(&first.spec) == completion_hash(&second.spec);
            bind(&ns.api(), &pod.name_any()).await;
            play(ns, &pod, "Running", &json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } })).await;
        }
    } else {
        ns.until_phase(&name, Phase::Suspended).await;
    }
    if let Err(error) = edit(ns, &name, &second.spec).await {
        assert_is_a_refusal(&error);
        let status = run_to_end(ns, &name, script).await;
        check(ns, &about, &first.spec, &name, status.as_ref(), &[own]).await;
        return PairResult::Refused;
    }
    let edited = run_to_end(ns, &name, script).await;
    let from = edited_in.max(1);
    let token = second.spec.reset_token.is_some() && second.spec.reset_token != first.spec.reset_token;
    let clear = if token { from - 1 } else { 0 };
    let carried = if second.spec.suspend && runs {
        // It was stopped during the iteration, which is counted.
        vec![(Phase::Suspended, from)]
    } else {
        // A pod that had not started is created again if its template changed, and the bounds are checked again before.
        let again = stops(&second.spec, script, from - 1, clear).map(|phase| (phase, from - 1));
        let again = again.filter(|_| !runs && from > 1 && !second.spec.suspend);
        [Some(ends(&second.spec, script, from, clear, asked)), again].into_iter().flatten().collect()
    };
    check(ns, &about, &second.spec, &name, edited.as_ref(), &carried).await;
    let (Some(edited), Some(fresh)) = (edited, fresh) else { return PairResult::Carried };
    if (edited.phase, edited.iterations) != (fresh.phase, fresh.iterations) || token {
        return PairResult::Carried;
    }
    assert_eq!(shown(&edited), shown(&fresh), "{about}");
    PairResult::Same
}

fn context_of(pod: &Pod) -> Context {
    let context = pod.annotations().get(ANNOTATION_CONTEXT).expect("the pod has its context");
    serde_json::from_str(context).expect("a context")
}

/// Everything that the status shows about an end, without times, names, texts and versions.
fn shown(status: &AgentTaskStatus) -> Value {
    let conditions: Vec<_> =
        status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect();
    json!([
        status.phase,
        status.reason,
        status.progress,
        status.breaker,
        status.thresholds,
        status.active,
        status.waiting,
        conditions
    ])
}

async fn check(
    ns: &TestNamespace,
    about: &str,
    spec: &AgentTaskSpec,
    name: &str,
    status: Option<&AgentTaskStatus>,
    expected: &[Ended],
) {
    let Some(status) = status else {
        let may_go = expected.iter().any(|(phase, _)| *phase == Phase::Succeeded);
        assert!(may_go && spec.ttl_seconds_after_succeeded == Some(0), "{name} is gone: {about}");
        return;
    };
    let ended = (status.phase.expect("a phase"), status.iterations);
    assert!(expected.contains(&ended), "{name} ended as {ended:?}, not as {expected:?}: {about}");
    let kept = spec.pod_history_limit();
    eventually(&format!("{name} keeps {kept} pods: {about}"), || async {
        let of_task = ListParams::default().labels(&format!("agentloop.dev/task={name}"));
        let pods = ns.api::<Pod>().list(&of_task).await.expect("a list").items;
        (pods.len() <= kept).then_some(())
    })
    .await;
}

async fn edit(ns: &TestNamespace, name: &str, spec: &AgentTaskSpec) -> Result<(), kube::Error> {
    let api = ns.api::<AgentTask>();
    loop {
        let mut task = api.get(name).await.expect("the task is there");
        task.spec = spec.clone();
        match api.replace(name, &PostParams::default(), &task).await {
            Ok(task) => {
                // The new spec applies from here on.
                let generation = task.metadata.generation;
                ns.until(name, "the edit is observed", |s| s.observed_generation == generation).await;
                return Ok(());
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
}

/// The pod of the active iteration, once it can be scheduled. A pod that was settled in the meantime has no context.
async fn startable(ns: &TestNamespace, status: &AgentTaskStatus) -> Option<Pod> {
    let active = status.active.as_ref()?;
    let pod = ns.api::<Pod>().get_opt(&active.pod_name).await.expect("an answer")?;
    let gated = pod.spec.as_ref()?.scheduling_gates.iter().flatten().count() > 0;
    let settled = !pod.annotations().contains_key(ANNOTATION_CONTEXT);
    (!gated && !settled).then_some(pod)
}

/// Runs whole iterations until the pod of `iteration` may start, and returns it before it starts.
async fn run_to(ns: &TestNamespace, name: &str, script: Script, iteration: i32) -> Pod {
    let what = format!("{name}: iteration {iteration}");
    loop {
        let next = eventually(&what, || async {
            let pod = startable(ns, &ns.status(name).await).await?;
            if context_of(&pod).iteration == iteration {
                return Some(Some(pod));
            }
            advance(ns, &pod, script).await.then_some(None)
        });
        if let Some(pod) = next.await {
            return pod;
        }
    }
}

/// Runs the loop until it rests; `None` if its task is gone.
async fn run_to_end(ns: &TestNamespace, name: &str, script: Script) -> Option<AgentTaskStatus> {
    /// What was found last.
    enum LoopStep {
        Iteration,
        Rest(Box<AgentTaskStatus>),
        Gone,
    }
    let what = format!("the end of {name}");
    let tasks: Api<AgentTask> = ns.api();
    loop {
        let step = eventually(&what, || async {
            let Some(task) = tasks.get_opt(name).await.expect("an answer") else {
                return Some(LoopStep::Gone);
            };
            let generation = task.metadata.generation;
            let status = task.status.unwrap_or_default();
            let bytes = serde_json::to_string(&status).expect("JSON").len();
            assert!(bytes < MAX_BYTES, "{name}: the status has {bytes} bytes");
            if let Some(pod) = startable(ns, &status).await {
                return advance(ns, &pod, script).await.then_some(LoopStep::Iteration);
            }
            let stays = status.stop.is_some() || status.phase == Some(Phase::Suspended);
            let rests = status.active.is_none() && stays && status.observed_generation == generation;
            rests.then(|| LoopStep::Rest(Box::new(status)))
        });
        match step.await {
            LoopStep::Iteration => {}
            LoopStep::Rest(status) => return Some(*status),
            LoopStep::Gone => return None,
        }
    }
}

/// Does what a kubelet does next to a pod that may start. Returns false if there is nothing to do.
async fn advance(ns: &TestNamespace, pod: &Pod, script: Script) -> bool {
    let name = pod.name_any();
    let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_leaving = pod.metadata.deletion_timestamp.is_some();
    if matches!(phase, Some("Succeeded" | "Failed")) || (is_leaving && !bound) {
        return false;
    }
    if is_leaving {
        end(ns, pod, &AgentWork(Report::of(End::Interrupted))).await;
        ns.force_delete(&name).await;
        return true;
    }
    // The operator may delete it at this moment.
    if !bound && try_bind(&ns.api(), &name).await.is_err() {
        return false;
    }
    end(ns, pod, &AgentWork(script.report(pod))).await;
    true
}

async fn end(ns: &TestNamespace, pod: &Pod, work: &AgentWork) {
    let (phase, state) = ended(pod, work);
    play(ns, pod, phase, &state).await;
}

/// Reports as a kubelet does: the phase of a pod, and the state of every container.
async fn play(ns: &TestNamespace, pod: &Pod, phase: &str, state: &Value) {
    let containers: Vec<Value> = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| {
        json!({ "name": container.name, "image": "none", "imageID": "", "ready": false, "restartCount": 0, "state": state })
    }).collect();
    set_status(&ns.api(), &pod.name_any(), json!({ "phase": phase, "containerStatuses": containers })).await;
}
