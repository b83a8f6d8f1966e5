//! Claude Code, on the Messages API.

use crate::{scenarios::scenarios, setup::Agent};

/// As in `examples/claude-code`. It retries each request once, and not ten times for more than a minute.
const CLAUDE_CODE: Agent = Agent {
    name: "claude-code",
    image: "localhost/agentloop-test-claude-code:1",
    command: &[
        "claude",
        "--print",
        "--output-format=stream-json",
        "--verbose",
        "--dangerously-skip-permissions",
    ],
    env: &[
        ("HOME", "/home/agent"),
        ("ANTHROPIC_BASE_URL", "{model}"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("CLAUDE_CODE_MAX_RETRIES", "1"),
    ],
    key: "ANTHROPIC_API_KEY",
    config: None,
    requests_at_a_rate_limit: 2,
    #[cfg(feature = "all-agents")]
    requests_at_an_error: 2,
    rate_limit: "rate_limit_error",
    #[cfg(feature = "all-agents")]
    unavailable: "500",
    unauthenticated: "401",
};

scenarios!(CLAUDE_CODE);
