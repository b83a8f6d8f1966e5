//! The real `decide`, asked with real objects, and remembered by the small numbers that it was asked with.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use agentloop_core::api::WaitReason;
use agentloop_core::decide::served::{Served, Serving};
use agentloop_core::decide::{self, Action, Decision, Observed};
use agentloop_core::facts::{Obstacle, PodFacts};
use agentloop_core::settings::{self, Configuration};

use crate::objects::{self, DELAY, NOW, pod_number};
use crate::scenarios::Config;
use crate::state::{Pod, PreviousPod, Refusal, Settings, StatusId, Task, Todo};
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
    pub refused: Option<Refusal>,
    pub was_started: bool,
    pub is_gone: bool,
}

/// What was decided.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: Option<StatusId>,
    pub todo: Vec<Todo>,
    /// Look again after a while.
    pub timer: bool,
}

/// Asks, and remembers.
pub struct Decider {
    configs: Vec<Config>,
    pub variant: Variant,
    known: RwLock<HashMap<Question, Arc<Answer>>>,
}

impl Decider {
    pub fn new(configs: Vec<Config>, variant: Variant) -> Self {
        Self { configs, variant, known: RwLock::default() }
    }

    pub fn ask(&self, mut question: Question) -> Arc<Answer> {
        question.pods.iter_mut().for_each(|pod| pod.version = 0);
        if let Some(answer) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&question) {
            return answer.clone();
        }
        let answer = Arc::new(self.decide(&question));
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(question, answer.clone());
        answer
    }

    fn decide(&self, question: &Question) -> Answer {
        let mut task = objects::task(&question.task);
        let has_key = self.variant != Variant::UnsignedBelieved;
        let mut pods: Vec<PodFacts> = question.pods.iter().map(|pod| objects::facts(pod, has_key)).collect();
        let mut configuration = self.configuration(question.settings);
        self.variant.tamper_with_input(&mut task, &mut pods, &mut configuration);
        let before = task.status.clone();
        let refused = question.refused.map(|refusal| match refusal {
            Refusal::Quota => obstacle(WaitReason::QuotaExceeded),
            Refusal::NameConflict => obstacle(WaitReason::NameConflict),
        });
        let injection = objects::injection();
        let observed = Observed {
            task: &task,
            pods: &pods,
            configuration: &configuration,
            injection: &injection,
            obstacle: None,
            previous_pod: match question.previous_pod {
                PreviousPod::Unknown => decide::PreviousPod::Unknown,
                PreviousPod::None => decide::PreviousPod::None,
                PreviousPod::Pod => decide::PreviousPod::Pod("earlier".to_owned()),
            },
            refused,
            was_started: question.was_started,
            is_gone: question.is_gone,
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
        answer(question, &pods, decision)
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

fn obstacle(reason: WaitReason) -> Obstacle {
    Obstacle { reason, detail: String::new() }
}

fn answer(question: &Question, pods: &[PodFacts], decision: Decision) -> Answer {
    let status = decision.status.map(statuses::intern).filter(|after| *after != question.task.status);
    let todo = decision.actions.iter().map(|action| match action {
        Action::ReadConfiguration => Todo::ReadSettings,
        Action::ListPreviousPods => Todo::ListEarlier,
        Action::ReadPod => Todo::ReadPod,
        Action::CreatePod => Todo::Create,
        Action::RemoveSchedulingGate(pod) => Todo::ConfirmStart(pod_number(&pod.uid)),
        Action::AddFinalizer(pod) => Todo::Hold(pod_number(&pod.uid)),
        Action::DeletePod(pod) => {
            let bound = pods.iter().any(|facts| facts.uid == pod.uid && facts.bound);
            Todo::Delete(pod_number(&pod.uid), bound)
        }
        Action::RemoveFinalizer(pod) => Todo::Release(pod_number(&pod.uid)),
        Action::DeleteTask => Todo::DeleteTask,
    });
    Answer { status, todo: todo.collect(), timer: decision.requeue_after.is_some() }
}

/// What the sweep does with a pod whose task is gone.
pub fn stop(pod: &Pod) -> Vec<Todo> {
    let facts = objects::facts(pod, true);
    let decision = decide::stop_all(std::slice::from_ref(&facts));
    let mut actions = decision.actions.iter().map(|action| match action {
        Action::RemoveFinalizer(_) => Todo::Release(pod.uid),
        _ => Todo::Delete(pod.uid, pod.bound),
    });
    actions.by_ref().collect()
}
