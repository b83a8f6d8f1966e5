//! Calls the real `decide` with real objects, and remembers what it decided by the small numbers of its input.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use agentloop_core::decide::served::{Served, Serving};
use agentloop_core::decide::{self, Action, Decision, Observed, PodRef, PreviousPod};
use agentloop_core::facts::{Obstacle, PodFacts, Relation};
use agentloop_core::settings::{self, Configuration};
use agentloop_core::sync::{Mark, ServedTask};
use parking_lot::RwLock;

use crate::api::{Attempt, ConfigMapVersion, KnownConfiguration, ModelPod, ModelPodId, ModelTask, StatusId};
use crate::bounds::{DELAY, NOW};
use crate::names;
use crate::objects;
use crate::statuses;
use crate::variants::Variant;

/// What a decision depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DecisionInput {
    pub release: u8,
    pub task: ModelTask,
    pub pods: Vec<ModelPod>,
    pub configuration: KnownConfiguration,
    pub previous_pod: PreviousPod,
    pub refused: Option<Obstacle>,
    pub was_started: bool,
    pub pod_is_gone: bool,
    pub pvc_is_checked: bool,
}

/// What was decided.
#[derive(Clone, Debug, Default)]
pub struct ModelDecision {
    pub status: Option<StatusId>,
    pub actions: Vec<Action<ModelPodId>>,
    /// Decide again after a while.
    pub timer: bool,
}

/// Decides, and remembers.
pub struct Decider {
    configs: Vec<ConfigMapVersion>,
    pub variant: Variant,
    decided: RwLock<HashMap<DecisionInput, Arc<ModelDecision>>>,
    may_start: RwLock<HashMap<(u8, ModelTask, Attempt), bool>>,
    relation: RwLock<HashMap<(ModelTask, ModelPod), Relation>>,
    marks: RwLock<HashMap<(u8, ModelTask), Mark<StatusId>>>,
}

/// What was found before, or is found now.
fn remembered<K: Eq + Hash, V: Clone>(known: &RwLock<HashMap<K, V>>, key: K, find: impl FnOnce() -> V) -> V {
    if let Some(value) = known.read().get(&key) {
        return value.clone();
    }
    let value = find();
    known.write().insert(key, value.clone());
    value
}

impl Decider {
    pub fn new(configs: Vec<ConfigMapVersion>, variant: Variant) -> Self {
        Self {
            configs,
            variant,
            decided: RwLock::default(),
            may_start: RwLock::default(),
            relation: RwLock::default(),
            marks: RwLock::default(),
        }
    }

    /// Decides.
    pub fn decide(&self, mut input: DecisionInput) -> Arc<ModelDecision> {
        input.pods.iter_mut().for_each(|pod| pod.version = 0);
        if let Some(decision) = self.decided.read().get(&input) {
            return decision.clone();
        }
        let decision = Arc::new(self.decide_now(&input));
        self.decided.write().insert(input, decision.clone());
        decision
    }

    fn decide_now(&self, input: &DecisionInput) -> ModelDecision {
        let mut task = objects::task(&input.task);
        let has_key = self.variant != Variant::UnsignedReportAccepted;
        let mut pods: Vec<PodFacts> = input.pods.iter().map(|pod| objects::facts(pod, has_key)).collect();
        let mut configuration = self.configuration(input.configuration);
        self.variant.tamper_with_input(&mut task, &mut pods, &mut configuration);
        let before = task.status.clone();
        let injection = objects::injection();
        let observed = Observed {
            task: &task,
            pods: &pods,
            configuration: &configuration,
            injection: &injection,
            obstacle: None,
            previous_pod: input.previous_pod.clone(),
            refused: input.refused.clone(),
            was_started: input.was_started,
            is_gone: input.pod_is_gone,
            pvc_is_checked: input.pvc_is_checked,
            now: *NOW,
        };
        let others = (0..2).filter(|_| self.variant == Variant::ServedByIgnored).map(names::release);
        let serving = Serving { release: names::release(input.release), take_over: others.collect() };
        let served = serving.decide(&observed, |observed| {
            let mut decision = decide::decide(observed);
            self.variant.tamper_with_decision(&task, before.as_ref(), &pods, &mut decision);
            decision
        });
        let (Served::Here(decision) | Served::Elsewhere { decision, .. }) = served;
        of_decision(input, decision)
    }

    /// Whether a release may start the pod of this attempt, by this version of its task.
    pub fn may_start(&self, release: u8, task: &ModelTask, of: Attempt) -> bool {
        remembered(&self.may_start, (release, *task, of), || {
            let serving = Serving { release: names::release(release), take_over: BTreeSet::new() };
            decide::may_start(&objects::task(task), &names::pod_name(of), &serving)
        })
    }

    /// What a pod of the active attempt's name is to its task.
    pub fn relation(&self, task: &ModelTask, pod: &ModelPod) -> Relation {
        let pod = ModelPod { version: 0, ..*pod };
        remembered(&self.relation, (*task, pod), || objects::facts(&pod, true).relation(&objects::task(task)))
    }

    /// What an uninstall of this release does to the task.
    pub fn mark(&self, release: u8, task: &ModelTask) -> Mark<StatusId> {
        remembered(&self.marks, (release, *task), || {
            let json = serde_json::to_value(objects::task(task)).unwrap_or_default();
            let serving = Serving { release: names::release(release), take_over: BTreeSet::new() };
            match ServedTask::of(&json).mark(&serving) {
                Mark::OtherRelease => Mark::OtherRelease,
                Mark::AsItIs => Mark::AsItIs,
                Mark::Write(patch) => {
                    Mark::Write(statuses::patched(task.status, &self.variant.tamper_with_mark(patch)))
                }
            }
        })
    }

    /// What an operator knows of its configuration. All delays have the same length.
    pub fn configuration(&self, known: KnownConfiguration) -> Configuration {
        let read = |index: u8, last_valid: &settings::Settings| {
            let config = self.config(index);
            let mut data: BTreeMap<String, String> = BTreeMap::new();
            for delay in ["startRetry", "rateLimit"] {
                data.insert(format!("{delay}MinSeconds"), DELAY.to_string());
                data.insert(format!("{delay}MaxSeconds"), DELAY.to_string());
            }
            data.insert("hardLimit".to_owned(), config.hard_limit.to_string());
            data.insert("defaultMaxIterations".to_owned(), config.hard_limit.to_string());
            data.insert("noChangeThreshold".to_owned(), config.no_change.to_string());
            data.insert("paused".to_owned(), config.paused.to_string());
            data.insert("freeAttempts".to_owned(), config.free_attempts.to_string());
            if config.is_invalid {
                data.insert("hardLimits".to_owned(), String::new());
            }
            Configuration::read(&data, Some((index + 1).to_string()), last_valid)
        };
        let last_valid = match known.last_valid.checked_sub(1) {
            Some(index) => read(index, &settings::Settings::default()).last_valid,
            None => settings::Settings {
                start_retry_min_seconds: DELAY,
                start_retry_max_seconds: DELAY,
                rate_limit_min_seconds: DELAY,
                rate_limit_max_seconds: DELAY,
                free_attempts: self.config(0).free_attempts.into(),
                ..settings::Settings::default()
            },
        };
        Configuration { consistent: known.consistent, ..read(known.newest, &last_valid) }
    }

    pub fn config(&self, index: u8) -> ConfigMapVersion {
        self.configs.get(usize::from(index)).copied().unwrap_or_default()
    }

    pub fn config_versions(&self) -> u8 {
        u8::try_from(self.configs.len()).unwrap_or(u8::MAX)
    }
}

fn of_decision(input: &DecisionInput, decision: Decision) -> ModelDecision {
    let status = decision.status.map(statuses::intern).filter(|after| *after != input.task.status);
    let id = |pod: PodRef| {
        let uid = names::pod_number(&pod.uid);
        let of = input.pods.iter().find(|pod| pod.uid == uid).map(|pod| pod.of);
        ModelPodId { uid, of: of.expect("a decision is about the pods that it was given") }
    };
    let actions = decision.actions.into_iter().map(|action| action.map(id)).collect();
    ModelDecision { status, actions, timer: decision.requeue_after.is_some() }
}

/// What is done to a pod whose task is gone.
pub fn stop(pod: &ModelPod) -> Vec<Action<ModelPodId>> {
    let facts = objects::facts(pod, true);
    let decision = decide::stop_all(std::slice::from_ref(&facts));
    decision.actions.into_iter().map(|action| action.map(|_| ModelPodId::from(pod))).collect()
}
