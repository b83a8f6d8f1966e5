//! Reads the events of known agents' streams. Each agent has its own module.

mod claude;
mod codex;
mod gemini;
mod opencode;

use agentloop_contract::report::{ProviderError, Usage};
use jiff::Timestamp;

use super::{TurnEnd, json::Json, provider_error, retry_after};

/// How an event changes the final text.
pub enum Text {
    /// The final text is this.
    Is(String),
    /// The final text continues with this.
    Continues(String),
}

/// What is known from the events so far.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "four independent facts")]
pub struct AgentEvents {
    /// The beginning of the stream was seen.
    pub opened: bool,
    /// An event that ends something was seen.
    pub ended: bool,
    /// The last event of a turn was seen, and no other turn has begun since.
    final_event: bool,
    /// How the last turn failed, if it did.
    failed: Option<Failed>,
    /// When a limit ends, according to an event about limits.
    resets_at: Option<Timestamp>,
    /// The sum over the sessions that are over. The results of the current session replace each other.
    usage: Usage,
    session: Option<(String, Usage)>,
    /// The next text of the agent begins a new message.
    fresh: bool,
}

/// How a turn failed.
#[derive(Clone, Debug, Default)]
struct Failed {
    message: String,
    /// The HTTP status of the failed request, if the stream has a field for it.
    status: Option<i64>,
    /// The stream says that the credential was refused.
    credential: bool,
    /// When to try again, according to a field; if there are several, the latest.
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

    /// How the last turn ended, unless another turn has begun.
    pub fn has_ended(&self) -> Option<TurnEnd> {
        (self.ended && self.final_event).then_some(TurnEnd { failed: self.failed.is_some() })
    }

    /// The error text of the turn that failed.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_ref().map(|failed| failed.message.as_str())
    }

    /// The provider's error in the turn that failed. Fields take precedence over the error's message.
    pub fn provider_error(&self, now: Timestamp) -> Option<ProviderError> {
        let failed = self.failed.as_ref()?;
        let kind = if failed.credential {
            provider_error::FailureKind::Credential
        } else {
            provider_error::find(failed.status, &failed.message)?
        };
        let in_field = failed.until.and_then(|reset| reset.at(now));
        let within = || retry_after::fields(Json::within(&failed.message)?).and_then(|reset| reset.at(now));
        let times = [self.resets_at, in_field, within(), retry_after::find(&failed.message, now)];
        Some(provider_error::with_time(kind, &times, now))
    }

    /// The total usage.
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

/// A valid cost, as a decimal number.
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
        // Rounded to a billionth, so that sums do not show binary rounding errors.
        (Some(a), Some(b)) if (a + b).is_finite() => Some((((a + b) * 1e9).round() / 1e9).to_string()),
        (Some(_), _) => total.cost_usd.take(),
        (None, Some(_)) => one.cost_usd.clone(),
        (None, None) => None,
    };
}
