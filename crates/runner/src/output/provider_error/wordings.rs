//! The wordings of known agents' and providers' errors, each with its source.
//!
//! Wordings are in lower case, and long enough to have no other meaning. The first match in the table decides.

use super::FailureKind;

/// What precedes a status in an error's text.
pub(super) const BEFORE_STATUS: &[&str] = &[
    "api error",         // Claude Code: "API Error: 500 …", "API Error (429 …)"
    "unexpected status", // Codex: "unexpected status 401 Unauthorized: …"
    "last status",       // Codex: "exceeded retry limit, last status: 429 …"
    "status code",       // axios, OpenAI's libraries: "Request failed with status code 502"
    "error code",        // OpenAI's Python library: "Error code: 429 - {…}"
    "http error",        // curl, Python's requests
    "http status",       // reqwest
    "http/1.1",          // proxies
    "status",            // Gemini CLI: "got status: 503 Service Unavailable"
    "http",              // "HTTP 429"
];

/// Why a request failed, the wording of the error, and its source.
type Wording = (FailureKind, &'static str, &'static str);

/// Errors of the iteration come first: "context limit reached" is no usage limit.
const TABLE: &[Wording] = {
    use FailureKind::{Credential, Limit, Own, Unavailable};
    &[
        // The conversation is full.
        (Own, "context limit", "Claude Code: Context limit reached · /compact or /clear to continue"),
        (Own, "context window", "Codex: ran out of room in the model's context window"),
        (Own, "context length", "OpenAI API: This model's maximum context length is … tokens"),
        (Own, "context_length_exceeded", "OpenAI API, code"),
        (Own, "contextwindowexceeded", "LiteLLM: ContextWindowExceededError"),
        (Own, "contextoverflow", "OpenCode: ContextOverflowError"),
        (Own, "prompt is too long", "Anthropic API: prompt is too long: … tokens > … maximum"),
        (Own, "input is too long", "Amazon Bedrock: Input is too long for requested model"),
        (
            Own,
            "input token count",
            "Gemini API: The input token count exceeds the maximum number of tokens allowed",
        ),
        (
            Own,
            "conversation too long",
            "Claude Code: Conversation too long. Press esc twice to go up a few messages",
        ),
        (Own, "token limit reached", "Gemini CLI, Claude Code"),
        (Own, "maximum number of tokens", "Gemini API"),
        (Own, "output token maximum", "Claude Code: response exceeded the … output token maximum"),
        (Own, "request too large", "Anthropic API: Request too large (max 32MB)"),
        (Own, "request_too_large", "Anthropic API, type"),
        // Bounds that the user set for the agent.
        (Own, "max turns", "Claude Code: Reached max turns"),
        (Own, "maximum session turns", "Gemini CLI: Reached max session turns"),
        (Own, "max session turns", "Gemini CLI"),
        (Own, "max_turns", "Claude Code, subtype error_max_turns"),
        (Own, "max_budget", "Claude Code, subtype error_max_budget_usd"),
        // This machine.
        (Own, "no space left on device", "Linux: ENOSPC"),
        (Own, "enospc", "Node.js"),
        (Own, "disk quota exceeded", "Linux: EDQUOT"),
        (Own, "edquot", "Node.js"),
        (Own, "disk full", "SQLite: database or disk is full"),
        (Own, "disk is full", "SQLite"),
        (Own, "file size limit", "Linux: EFBIG, SIGXFSZ"),
        (Own, "too many open files", "Linux: EMFILE"),
        (Own, "cannot allocate memory", "Linux: ENOMEM"),
        // The model.
        (
            Own,
            "issue with the selected model",
            "Claude Code: There's an issue with the selected model (…). It may not exist or you may not have access to it",
        ),
        (Own, "model not found", "OpenCode: Model not found: …; OpenAI-compatible servers"),
        (Own, "model_not_found", "OpenAI API, code"),
        (Own, "modelnotfound", "OpenCode: ProviderModelNotFoundError; Gemini CLI: ModelNotFoundError"),
        (Own, "unknown model", "Codex and OpenAI-compatible servers"),
        (Own, "invalid model", "Claude Code: invalid model name; LiteLLM"),
        (Own, "model does not exist", "OpenAI-compatible servers"),
        (
            Own,
            "is not supported when using codex",
            "Codex: The '…' model is not supported when using Codex with a ChatGPT account",
        ),
        (Own, "not_found_error", "Anthropic API, type: an unknown model"),
        // The credential.
        (Credential, "not logged in", "Claude Code: Not logged in · Please run /login; Codex: Not logged in"),
        (Credential, "please run /login", "Claude Code: Invalid API key · Please run /login"),
        (Credential, "please log in", "Codex: Please log out and sign in again; Gemini CLI"),
        (Credential, "log in again", "Codex: Your access token could not be refreshed … Please log in again"),
        (Credential, "sign in again", "Codex: Please log out and sign in again"),
        (Credential, "login required", "Codex, Copilot CLI"),
        (Credential, "codex login", "Codex: run `codex login`"),
        (Credential, "opencode auth login", "OpenCode: run `opencode auth login`"),
        (
            Credential,
            "token could not be refreshed",
            "Codex: Your access token could not be refreshed because your refresh token was already used",
        ),
        (Credential, "refresh token", "Codex: Your refresh token has expired, was revoked, was already used"),
        (
            Credential,
            "refresh_token",
            "OAuth: refresh_token_expired, refresh_token_reused, refresh_token_invalidated",
        ),
        (Credential, "invalid_grant", "OAuth, RFC 6749"),
        (Credential, "token has expired", "Claude Code: OAuth token has expired. Please obtain a new token"),
        (Credential, "token expired", "OpenAI-compatible servers"),
        (Credential, "token is expired", "Codex: Provided authentication token is expired"),
        (Credential, "token has been revoked", "Claude Code: OAuth token has been revoked"),
        (Credential, "token revoked", "Claude Code: OAuth token revoked · Please run /login"),
        (Credential, "token has been invalidated", "Codex: Your authentication token has been invalidated"),
        (Credential, "token_expired", "OpenAI API, code"),
        (Credential, "token_revoked", "OpenAI API, code"),
        (Credential, "token_invalidated", "OpenAI API, code"),
        (Credential, "session expired", "Codex, Copilot CLI: Session expired. Please sign in"),
        (Credential, "session has expired", "ChatGPT: Your session has expired"),
        (Credential, "invalid api key", "Claude Code: Invalid API key · Fix external API key"),
        (Credential, "invalid_api_key", "OpenAI API, code"),
        (Credential, "invalid x-api-key", "Anthropic API"),
        (Credential, "invalid bearer token", "Anthropic API"),
        (Credential, "invalid access token", "OAuth servers"),
        (Credential, "invalid authentication", "Google APIs: Request had invalid authentication credentials"),
        (Credential, "incorrect api key", "OpenAI API: Incorrect API key provided"),
        (Credential, "api key not valid", "Gemini API: API key not valid. Please pass a valid API key"),
        (Credential, "api_key_invalid", "Gemini API, reason"),
        (Credential, "api key expired", "Gemini API: API key expired. Please renew the API key"),
        (Credential, "api key has expired", "OpenAI-compatible servers"),
        (
            Credential,
            "api key is missing",
            "Vercel's AI SDK, in OpenCode: API key is missing. Pass it using …",
        ),
        (Credential, "missing api key", "OpenCode, Codex"),
        (Credential, "no api key", "Goose, aider: No API key provided"),
        (Credential, "api key was reported as leaked", "Gemini API"),
        (Credential, "missing environment variable", "Codex: Missing environment variable: `OPENAI_API_KEY`"),
        (Credential, "missing bearer", "OpenAI API: Missing bearer or basic authentication in header"),
        (
            Credential,
            "could not resolve authentication",
            "Anthropic's libraries: Could not resolve authentication method",
        ),
        (Credential, "failed to authenticate", "Claude Code: Failed to authenticate. API Error: 401 …"),
        (Credential, "authentication failed", "Mistral, Copilot CLI"),
        (Credential, "authentication_error", "Anthropic API, type"),
        (Credential, "authenticationerror", "LiteLLM"),
        (Credential, "unauthenticated", "Google APIs, status"),
        (Credential, "permission_error", "Anthropic API, type"),
        (Credential, "organization has been disabled", "Anthropic API: This organization has been disabled"),
        (Credential, "account has been deactivated", "OpenAI API: account_deactivated"),
        (Credential, "401 unauthorized", "HTTP"),
        (Credential, "403 forbidden", "HTTP"),
        // Limits of use.
        (Limit, "429 too many requests", "HTTP"),
        (Limit, "too many requests", "HTTP; OpenCode"),
        (Limit, "rate limit", "OpenAI API: Rate limit reached for …; Claude Code"),
        (Limit, "rate_limit", "Anthropic API, type: rate_limit_error"),
        (Limit, "ratelimit", "LiteLLM: RateLimitError"),
        (Limit, "rate-limit", "OpenRouter: … is temporarily rate-limited upstream"),
        (Limit, "usage limit", "Codex: You've hit your usage limit; Claude AI usage limit reached"),
        (Limit, "session limit", "Claude Code: You've hit your session limit"),
        (Limit, "weekly limit", "Claude Code: You've hit your weekly limit"),
        (Limit, "hour limit", "Claude Code: 5-hour limit reached ∙ resets 3pm"),
        (Limit, "hit your limit", "Claude Code: You've hit your limit · resets …"),
        (Limit, "opus limit", "Claude Code: Opus limit reached"),
        (Limit, "sonnet limit", "Claude Code: Sonnet limit reached"),
        (Limit, "daily limit", "Gemini CLI: You have reached your daily … limit"),
        (Limit, "spending limit", "Claude Code, OpenRouter"),
        (Limit, "request limit", "Copilot CLI, Cursor"),
        (Limit, "out of extra usage", "Claude Code: You're out of extra usage · resets …"),
        (Limit, "insufficient_quota", "OpenAI API, code"),
        (Limit, "exceeded your current quota", "OpenAI and Gemini API"),
        (Limit, "quota exceeded", "Codex: Quota exceeded. Check your plan; Gemini API"),
        (Limit, "exhausted your", "Gemini CLI: You have exhausted your capacity, your daily quota"),
        (Limit, "resource_exhausted", "Google APIs, status"),
        (Limit, "resource exhausted", "Vertex AI: Resource exhausted. Please try again later"),
        (Limit, "credit balance is too low", "Anthropic API"),
        (Limit, "at capacity", "Codex: Selected model is at capacity"),
        (Limit, "throttlingexception", "Amazon Bedrock"),
        // The provider, and the way to it.
        (Unavailable, "overloaded", "Anthropic API: overloaded_error; Gemini API: The model is overloaded"),
        (Unavailable, "internal server error", "HTTP; Anthropic API: api_error"),
        (Unavailable, "internal_server_error", "OpenAI API, type"),
        (Unavailable, "server_error", "OpenAI API, type"),
        (
            Unavailable,
            "server had an error",
            "OpenAI API: The server had an error while processing your request",
        ),
        (Unavailable, "an internal error has occurred", "Gemini API"),
        (Unavailable, "bad gateway", "HTTP"),
        (Unavailable, "service unavailable", "HTTP"),
        (Unavailable, "currently unavailable", "Gemini API: The service is currently unavailable"),
        (Unavailable, "gateway timeout", "HTTP"),
        (Unavailable, "gateway time-out", "nginx"),
        (Unavailable, "deadline_exceeded", "Google APIs, status"),
        (Unavailable, "experiencing high demand", "Codex: We're currently experiencing high demand"),
        (Unavailable, "stream disconnected", "Codex: stream disconnected before completion: …"),
        (Unavailable, "stream closed before", "Codex: stream closed before response.completed"),
        (Unavailable, "idle timeout waiting for", "Codex: idle timeout waiting for SSE"),
        (Unavailable, "error sending request for url", "reqwest, in Codex"),
        (Unavailable, "connection error", "Claude Code: API Error: Connection error"),
        (Unavailable, "connection failed", "Codex: Connection failed: …"),
        (Unavailable, "connection refused", "Linux"),
        (Unavailable, "connection reset", "Linux"),
        (Unavailable, "connection closed", "hyper, undici"),
        (Unavailable, "connection timed out", "Linux"),
        (Unavailable, "unable to connect", "Claude Code: Unable to connect to API (ECONNREFUSED)"),
        (Unavailable, "cannot connect to api", "Vercel's AI SDK, in OpenCode: Cannot connect to API"),
        (
            Unavailable,
            "was there a typo in the url or port",
            "Bun, in OpenCode: Unable to connect. Is the computer able to access the url?",
        ),
        (Unavailable, "request timed out", "Claude Code: API Error: Request timed out"),
        (Unavailable, "request timeout", "HTTP"),
        (Unavailable, "operation timed out", "reqwest"),
        (Unavailable, "fetch failed", "Node.js: TypeError: fetch failed"),
        (Unavailable, "socket hang up", "Node.js"),
        (Unavailable, "socket connection was closed", "Bun: The socket connection was closed unexpectedly"),
        (Unavailable, "econnrefused", "Node.js"),
        (Unavailable, "econnreset", "Node.js"),
        (Unavailable, "etimedout", "Node.js"),
        (Unavailable, "enotfound", "Node.js"),
        (Unavailable, "eai_again", "Node.js"),
        (Unavailable, "ehostunreach", "Node.js"),
        (Unavailable, "enetunreach", "Node.js"),
        (Unavailable, "und_err", "undici: UND_ERR_SOCKET, UND_ERR_HEADERS_TIMEOUT"),
        (Unavailable, "dns error", "hyper: dns error: failed to lookup address information"),
        (Unavailable, "name resolution", "glibc: Temporary failure in name resolution"),
        (Unavailable, "network error", "Claude Code, Gemini CLI"),
    ]
};

/// Why a request failed, according to the error's text in lower case.
pub(super) fn find(message: &str) -> Option<FailureKind> {
    TABLE.iter().find(|(_, wording, _)| message.contains(wording)).map(|(kind, ..)| *kind)
}

#[cfg(test)]
mod tests {
    use super::TABLE;

    #[test]
    fn wordings_are_in_lower_case_and_have_a_source() {
        for (_, wording, source) in TABLE {
            assert_eq!(*wording, wording.to_lowercase());
            assert!(!source.is_empty(), "{wording}");
        }
    }
}
