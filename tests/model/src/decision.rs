//! The real `decide`, asked with real objects, and remembered by the small numbers that it was asked with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use agentloop_core::decide::served::{Served, Serving};
use agentloop_core::decide::{self, Action, Decision, Observed, PodRef, PreviousPod};
use agentloop_core::facts::{Obstacle, PodFacts, Relation};
use agentloop_core::settings::{self, Configuration};
use parking_lot::RwLock;

use crate::objects::{self, DELAY, NOW, pod_number};
use crate::scenarios::Config;
use crate::state::{Attempt, Pod, PodId, Settings, StatusId, Task};
use crate::statuses;
use crate::variants::Variant;

/// What a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    pub release: u8,
    pub task: Task,
    pub pods: Vec<Pod>,
    pub settings: Settings,
    pub previous_pod: PreviousPod,
    pub rejected: Option<Obstacle>,
    pub was_started: bool,
    pub pod_is_gone: bool,
    pub pvc_is_checked: bool,
}

/// What was decided.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: Option<StatusId>,
    pub actions: Vec<Action<PodId>>,
    /// Look again after a while.
    pub timer: bool,
}

/// Asks, and remembers.
pub struct Decider {
    configs: Vec<Config>,
    pub variant: Variant,
    known: RwLock<HashMap<Question, Arc<Answer>>>,
    may_start: RwLock<HashMap<(u8, Task, Attempt), bool>>,
    relation: RwLock<HashMap<(Task, Pod), Relation>>,
}

/// What was found out before, or is now.
fn remembered<K: Eq + Hash, V: Copy>(known: &RwLock<HashMap<K, V>>, key: K, find: impl FnOnce() -> V) -> V {
    if let Some(value) = known.read().get(&key) {
        return *value;
    }
    let value = find();
    known.write().insert(key, value);
    value
}

impl Decider {
    pub fn new(configs: Vec<Config>, variant: Variant) -> Self {
        Self {
            configs,
            variant,
            known: RwLock::default(),
            may_start: RwLock::default(),
            relation: RwLock::default(),
        }
    }

    pub fn ask(&self, mut question: Question) -> Arc<Answer> {
        question.pods.iter_mut().for_each(|pod| pod.version = 0);
        if let Some(answer) = self.known.read().get(&question) {
            return answer.clone();
        }
        let answer = Arc::new(self.decide(&question));
        self.known.write().insert(question, answer.clone());
        answer
    }

    fn decide(&self, question: &Question) -> Answer {
        let mut task = objects::task(&question.task);
        let has_key = self.variant != Variant::UnsignedBelieved;
        let mut pods: Vec<PodFacts> = question.pods.iter().map(|pod| objects::facts(pod, has_key)).collect();
        let mut configuration = self.configuration(question.settings);
        self.variant.tamper_with_input(&mut task, &mut pods, &mut configuration);
        let before = task.status.clone();
        let injection = objects::injection();
        let observed = Observed {
            task: &task,
            pods: &pods,
            configuration: &configuration,
            injection: &injection,
            obstacle: None,
            previous_pod: question.previous_pod.clone(),
            refused: question.rejected.clone(),
            was_started: question.was_started,
            is_gone: question.pod_is_gone,
            pvc_is_checked: question.pvc_is_checked,
            now: *NOW,
        };
        let others = (0..2).filter(|_| self.variant == Variant::ServedIgnored).map(objects::release);
        let serving = Serving { release: objects::release(question.release), take_over: others.collect() };
        let served = serving.decide(&observed, |observed| {
            let mut decision = decide::decide(observed);
            self.variant.tamper_with_decision(&task, before.as_ref(), &pods, &mut decision);
            decision
        });
        let (Served::Here(decision) | Served::Elsewhere { decision, .. }) = served;
        answer(question, decision)
    }

    /// Whether a release may start the pod of this attempt, by this version of its task.
    pub fn may_start(&self, release: u8, task: &Task, of: Attempt) -> bool {
        remembered(&self.may_start, (release, *task, of), || {
            let serving = Serving { release: objects::release(release), take_over: BTreeSet::new() };
            decide::may_start(&objects::task(task), &objects::pod_name(of), &serving)
        })
    }

    /// What a pod of the active attempt's name is to its task.
    pub fn relation(&self, task: &Task, pod: &Pod) -> Relation {
        let pod = Pod { version: 0, ..*pod };
        remembered(&self.relation, (*task, pod), || objects::facts(&pod, true).relation(&objects::task(task)))
    }

    /// What an operator knows of its configuration. All delays are alike.
    pub fn configuration(&self, known: Settings) -> Configuration {
        let read = |place: u8, last_good: &settings::Settings| {
            let config = self.configs.get(usize::from(place)).copied().unwrap_or_default();
            let mut data: BTreeMap<String, String> = BTreeMap::new();
            for delay in ["startRetry", "rateLimit"] {
                data.insert(format!("{delay}MinSeconds"), DELAY.to_string());
                data.insert(format!("{delay}MaxSeconds"), DELAY.to_string());
            }
            data.insert("hardLimit".to_owned(), config.hard.to_string());
            data.insert("defaultMaxIterations".to_owned(), config.hard.to_string());
            data.insert("paused".to_owned(), config.paused.to_string());
            data.insert("freeAttempts".to_owned(), config.free.to_string());
            if config.bad {
                data.insert("hardLimits".to_owned(), String::new());
            }
            Configuration::read(&data, Some((place + 1).to_string()), last_good)
        };
        let last_good = match known.last_good.checked_sub(1) {
            Some(place) => read(place, &settings::Settings::default()).last_good,
            None => settings::Settings {
                start_retry_min_seconds: DELAY,
                start_retry_max_seconds: DELAY,
                rate_limit_min_seconds: DELAY,
                rate_limit_max_seconds: DELAY,
                free_attempts: self.config(0).free.into(),
                ..settings::Settings::default()
            },
        };
        Configuration { consistent: known.consistent, ..read(known.newest, &last_good) }
    }

    pub fn config(&self, place: u8) -> Config {
        self.configs.get(usize::from(place)).copied().unwrap_or_default()
    }

    pub fn configs(&self) -> u8 {
        u8::try_from(self.configs.len()).unwrap_or(u8::MAX)
    }
}

fn answer(question: &Question, decision: Decision) -> Answer {
    let status = decision.status.map(statuses::intern).filter(|after| *after != question.task.status);
    let id = |pod: PodRef| {
        let uid = pod_number(&pod.uid);
        let of = question.pods.iter().find(|pod| pod.uid == uid).map(|pod| pod.of);
        PodId { uid, of: of.expect("a decision is about the pods that it was given") }
    };
    let actions = decision.actions.into_iter().map(|action| action.map(id)).collect();
    Answer { status, actions, timer: decision.requeue_after.is_some() }
}

/// What is done to a pod whose task is gone.
pub fn stop(pod: &Pod) -> Vec<Action<PodId>> {
    let facts = objects::facts(pod, true);
    let decision = decide::stop_all(std::slice::from_ref(&facts));
    decision.actions.into_iter().map(|action| action.map(|_| PodId::from(pod))).collect()
}
