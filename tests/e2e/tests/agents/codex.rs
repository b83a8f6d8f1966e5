//! Codex, on the Responses API.

use anyhow::Result;
use serde_json::json;

use crate::{
    scenarios::{refused, scenarios},
    setup::Agent,
};

/// The provider in `config.toml`, to which settings can be added.
macro_rules! provider {
    ($more:literal) => {
        concat!(
            "model = \"scripted\"\nmodel_provider = \"scripted\"\n\n[model_providers.scripted]\nname = \"scripted\"\n",
            "base_url = \"{model}/v1\"\nwire_api = \"responses\"\nenv_key = \"MODEL_KEY\"\n",
            $more
        )
    };
}

/// It leaves retries to agentloop.
const CODEX: Agent = Agent {
    name: "codex",
    image: "localhost/agentloop-test-codex:1",
    command: &["codex", "exec", "--json", "--skip-git-repo-check", "--sandbox=danger-full-access", "-"],
    env: &[("CODEX_HOME", "/home/agent")],
    key: "MODEL_KEY",
    config: Some(("config.toml", provider!("request_max_retries = 0\nstream_max_retries = 0\n"))),
    requests_at_a_rate_limit: 1,
    #[cfg(feature = "all-agents")]
    requests_at_an_error: 1,
    rate_limit: "rate_limit_exceeded",
    #[cfg(feature = "all-agents")]
    unavailable: "high demand",
    unauthenticated: "401 Unauthorized",
};

/// It retries as often as it does by default.
const RETRYING: Agent = Agent { config: Some(("config.toml", provider!(""))), ..CODEX };

scenarios!(CODEX);

#[tokio::test]
async fn a_pause_that_codex_makes_itself_does_not_affect_the_loop() -> Result<()> {
    let error = json!({ "type": "rate_limit_exceeded", "message": "Rate limit reached" });
    let refuse = json!({ "first": 2, "error": error, "retryAfter": 1 });
    refused(&RETRYING, "pause", refuse, &[(1, 0), (2, 0)], None).await
}

/// Codex reports only the minute, which has already begun when the limit ends.
#[tokio::test]
async fn a_usage_limit_that_ends_within_the_minute_does_not_delay_the_task_until_tomorrow() -> Result<()> {
    let error = json!({ "type": "usage_limit_reached", "plan_type": "pro", "resetsIn": 5 });
    let refuse = json!({ "first": 1, "error": error });
    let pods = [(1, 0), (1, 1), (2, 0)];
    refused(&RETRYING, "usage", refuse, &pods, Some(("RateLimited", "usage limit"))).await
}
