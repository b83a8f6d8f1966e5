//! What the events of known agents' streams say, each agent in a module of its own.

mod claude;
mod codex;
mod gemini;
mod opencode;

use agentloop_contract::report::{ProviderError, Usage};
use jiff::Timestamp;

use super::{TurnEnd, json::Json, provider_error, retry_after};

/// What an event does to the final text.
pub enum Text {
    /// It is this.
    Is(String),
    /// It goes on with this.
    GoesOn(String),
}

/// What the events said so far.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "four independent facts")]
pub struct AgentEvents {
    /// The stream's beginning was seen.
    pub opened: bool,
    /// An event came that ends something.
    pub ended: bool,
    /// The last event of a turn was the last one so far: nothing has begun after it.
    final_event: bool,
    /// The last turn failed, and how.
    failed: Option<Failed>,
    /// When a limit ends that an event of its own named.
    resets_at: Option<Timestamp>,
    /// Sums of the sessions that are over, and the one that is not: its results replace each other.
    usage: Usage,
    session: Option<(String, Usage)>,
    /// The next words of the agent begin a new message.
    fresh: bool,
}

/// How a turn failed.
#[derive(Clone, Debug, Default)]
struct Failed {
    words: String,
    /// Status of the refused request, where the stream has a field for it.
    status: Option<i64>,
    /// The stream's own word for a refused credential.
    credential: bool,
    /// A time to come back that a field names; of several, the latest.
    until: Option<retry_after::Reset>,
}

impl AgentEvents {
    /// Whether an event belongs to a known agent's stream.
    pub fn known(kind: &str, event: Json) -> bool {
        claude::knows(kind, event)
            || codex::knows(kind, event)
            || opencode::knows(kind, event)
            || gemini::knows(kind, event)
    }

    /// Takes an event.
    pub fn take(&mut self, kind: &str, event: Json) -> Option<Text> {
        if opencode::knows(kind, event) {
            opencode::take(self, kind, event)
        } else if gemini::knows(kind, event) {
            gemini::take(self, kind, event)
        } else if claude::knows(kind, event) {
            claude::take(self, kind, event)
        } else if codex::knows(kind, event) {
            codex::take(self, kind, event)
        } else {
            None
        }
    }

    fn begins(&mut self) {
        self.final_event = false;
    }

    fn succeeded(&mut self) {
        (self.ended, self.final_event, self.failed) = (true, true, None);
    }

    fn fails(&mut self, failed: Failed) {
        (self.ended, self.final_event, self.failed) = (true, true, Some(failed));
    }

    /// How the last turn ended, unless another one has begun.
    pub fn has_ended(&self) -> Option<TurnEnd> {
        (self.ended && self.final_event).then_some(TurnEnd { failed: self.failed.is_some() })
    }

    /// The words of the turn that failed.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_ref().map(|failed| failed.words.as_str())
    }

    /// The refusal of the turn that failed. What a field names comes before what words name.
    pub fn provider_error(&self, now: Timestamp) -> Option<ProviderError> {
        let failed = self.failed.as_ref()?;
        let kind = if failed.credential {
            provider_error::FailureKind::Credential
        } else {
            provider_error::find(failed.status, &failed.words)?
        };
        let told = failed.until.and_then(|reset| reset.at(now));
        let within = || retry_after::fields(Json::within(&failed.words)?).and_then(|reset| reset.at(now));
        let times = [self.resets_at, told, within(), retry_after::find(&failed.words, now)];
        Some(provider_error::with_time(kind, &times, now))
    }

    /// All that was used.
    pub fn usage(&self) -> Option<Usage> {
        let mut usage = self.usage.clone();
        if let Some((_, last)) = &self.session {
            sum(&mut usage, last);
        }
        (usage != Usage::default()).then_some(usage)
    }

    fn add_session(&mut self, session: String, usage: Usage) {
        let replaces = !session.is_empty();
        match self.session.replace((session, usage)) {
            Some((other, usage))
                if !replaces || self.session.as_ref().is_none_or(|(own, _)| *own != other) =>
            {
                sum(&mut self.usage, &usage);
            }
            _ => {}
        }
    }
}

/// A cost that makes sense, as a decimal number.
fn cost(json: Json) -> Option<String> {
    json.number().filter(|cost| cost.is_finite() && *cost >= 0.0).map(|cost| cost.to_string())
}

fn add(sum: &mut Option<i64>, count: Option<i64>) {
    if let Some(count) = count.filter(|count| *count >= 0) {
        *sum = Some(sum.unwrap_or(0).saturating_add(count));
    }
}

fn sum(total: &mut Usage, one: &Usage) {
    add(&mut total.input_tokens, one.input_tokens);
    add(&mut total.cached_input_tokens, one.cached_input_tokens);
    add(&mut total.output_tokens, one.output_tokens);
    let cost = |usage: &Usage| usage.cost_usd.as_deref().and_then(|cost| cost.parse::<f64>().ok());
    total.cost_usd = match (cost(total), cost(one)) {
        // Rounded to a billionth, so that a sum does not show the noise of binary fractions.
        (Some(a), Some(b)) if (a + b).is_finite() => Some((((a + b) * 1e9).round() / 1e9).to_string()),
        (Some(_), _) => total.cost_usd.take(),
        (None, Some(_)) => one.cost_usd.clone(),
        (None, None) => None,
    };
}
