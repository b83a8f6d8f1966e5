//! What every agent is tested with.

use std::time::Duration;

use agentloop_e2e::{DONE, LIMIT, PATIENCE, TaskManifest, eventually, iterations};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::setup::{Agent, KEY, attempts, cost, requests, set_key, usage, work};

/// The tests of an agent, by the same names for all. `make test-agents` runs all of them, and `make test` only a few.
macro_rules! scenarios {
    ($agent:expr) => {
        #[tokio::test]
        async fn it_continues_past_its_limit_by_the_pasted_command_until_it_reports_that_it_is_done()
        -> anyhow::Result<()> {
            $crate::scenarios::past_the_limit(&$agent).await
        }

        #[tokio::test]
        async fn a_key_that_the_model_refuses_fails_the_task_immediately_and_another_key_resumes_it()
        -> anyhow::Result<()> {
            $crate::scenarios::another_key(&$agent).await
        }

        #[tokio::test]
        async fn a_model_that_limits_its_rate_is_called_again_later_and_no_iteration_is_charged()
        -> anyhow::Result<()> {
            $crate::scenarios::rate_limit(&$agent).await
        }

        #[cfg(feature = "all-agents")]
        #[tokio::test]
        async fn a_model_that_fails_is_called_again_later_and_no_iteration_is_charged() -> anyhow::Result<()>
        {
            $crate::scenarios::server_error(&$agent).await
        }

        #[cfg(feature = "all-agents")]
        #[tokio::test]
        async fn a_model_that_never_answers_costs_the_iteration_but_not_the_task() -> anyhow::Result<()> {
            $crate::scenarios::silence(&$agent).await
        }
    };
}
pub(crate) use scenarios;

/// Two iterations, the limit, the pasted command, and two more iterations, of which the last one is ready.
pub async fn past_the_limit(agent: &Agent) -> Result<()> {
    agent
        .ns("work")
        .await?
        .run(async |ns| {
            let script = json!({ "key": KEY, "iterations": [
                work(1, false), work(2, false), work(3, false), work(4, true),
            ] });
            set_key(ns, KEY).await?;
            agent.start(ns, &script, TaskManifest::new("writer", &[]).max(2)).await?;
            let snapshot = ns.until_state("writer", iterations(2), LIMIT).await?;
            ns.exactly(&snapshot, 2)?;
            ensure!(usage(&snapshot) == cost(&script, 2), "{:?}", usage(&snapshot));

            ns.paste(&snapshot, "maxIterations").await?;
            let snapshot = ns.until_state("writer", iterations(2), DONE).await?;
            ns.exactly(&snapshot, 4)?;
            ensure!(snapshot.iterations() == 4, "{snapshot}");
            ensure!(
                usage(&snapshot) == cost(&script, 4),
                "{:?}, not {:?}",
                usage(&snapshot),
                cost(&script, 4)
            );
            ensure!(snapshot.history("changed") == ["Changed"; 4], "{:?}", snapshot.history("changed"));
            ensure!(snapshot.history("exitCode") == ["0"; 4], "{:?}", snapshot.history("exitCode"));
            // The output of the agent's own shell went to the model and came back in the gate.
            let errors = ["1", "2", "3"].map(|commits| format!("{commits} commits are too few"));
            ensure!(snapshot.history("error").starts_with(&errors), "{:?}", snapshot.history("error"));
            ensure!(requests(ns).await?.len() == 16, "{:#?}", requests(ns).await?);

            let pvc = ns.pvc_of(&snapshot).await?;
            let line =
                "cd /workspace/notes && git log --format=%an && cat text && ls ../.agentloop/*/iterations";
            let kept = ns.run_in_pvc(&pvc, line).await?;
            let expected = "agent agent agent agent line 1 line 2 line 3 line 4 0001 0002 0003 0004";
            ensure!(kept.split_whitespace().eq(expected.split(' ')), "the PVC contains {kept:?}");
            Ok(())
        })
        .await
}

/// A key that has expired, and then the right one.
pub async fn another_key(agent: &Agent) -> Result<()> {
    agent
        .ns("key")
        .await?
        .run(async |ns| {
            let script = json!({ "key": KEY, "iterations": [[], work(2, true)] });
            set_key(ns, "an-expired-key").await?;
            agent.start(ns, &script, TaskManifest::new("stranger", &[]).max(5)).await?;
            let snapshot = ns.until_state("stranger", iterations(2), "Failed/Unauthenticated").await?;
            ns.exactly(&snapshot, 1)?;
            ensure!(snapshot.iterations() == 1, "{snapshot}");
            ensure!(snapshot.message().contains(agent.unauthenticated), "{snapshot}");
            ensure!(usage(&snapshot) == [0; 3], "{:?}", usage(&snapshot));
            let requests = requests(ns).await?;
            ensure!(
                !requests.is_empty() && requests.iter().all(|line| line == "refused: 401"),
                "{requests:?}"
            );

            set_key(ns, KEY).await?;
            ns.stays("stranger", Duration::from_secs(2), |now| now.0 == snapshot.0).await?;
            ns.paste(&snapshot, "resetToken").await?;
            let snapshot = ns.until_state("stranger", iterations(1), DONE).await?;
            ns.exactly(&snapshot, 2)?;
            ensure!(usage(&snapshot) == cost(&script, 2), "{:?}", usage(&snapshot));
            Ok(())
        })
        .await
}

/// Two attempts meet a rate limit.
pub async fn rate_limit(agent: &Agent) -> Result<()> {
    let error = json!({ "type": agent.rate_limit, "message": "Rate limit reached" });
    let refuse = json!({ "first": 2 * agent.requests_at_a_rate_limit, "error": error });
    refused(agent, "429", refuse, &[(1, 0), (1, 1), (1, 2), (2, 0)], Some(("RateLimited", "429"))).await
}

/// One attempt meets a model that fails.
#[cfg(feature = "all-agents")]
pub async fn server_error(agent: &Agent) -> Result<()> {
    let error = json!({ "type": "api_error", "message": "Internal server error" });
    let refuse = json!({ "status": 500, "first": agent.requests_at_an_error, "error": error });
    refused(agent, "500", refuse, &[(1, 0), (1, 1), (2, 0)], Some(("ProviderUnavailable", agent.unavailable)))
        .await
}

/// Runs a task whose first requests are refused. Checks its pods, and why it waits and a word in its message.
pub async fn refused(
    agent: &Agent,
    name: &str,
    refuse: Value,
    pods: &[(i32, i32)],
    wait: Option<(&str, &str)>,
) -> Result<()> {
    agent
        .ns(name)
        .await?
        .run(async |ns| {
            let first = refuse.get("first").and_then(Value::as_u64).context("how many are refused?")?;
            let script =
                json!({ "key": KEY, "refuse": refuse, "iterations": [work(1, false), work(2, true)] });
            set_key(ns, KEY).await?;
            agent.start(ns, &script, TaskManifest::new("patient", &[]).max(2)).await?;
            if let Some((reason, word)) = wait {
                let state = format!("Waiting/{reason}");
                let snapshot = ns
                    .until("patient", iterations(2), "waits for its provider", |snapshot| {
                        snapshot.state() == state
                    })
                    .await?;
                ensure!(snapshot.iterations() == 0 && snapshot.message().contains(word), "{snapshot}");
                ensure!(
                    snapshot.0.pointer("/status/waiting/retryTime").is_some(),
                    "no time is reported: {snapshot}"
                );
            }
            let snapshot = ns.until_state("patient", iterations(5), DONE).await?;
            ensure!(snapshot.iterations() == 2, "{snapshot}");
            ensure!(attempts(ns, &snapshot) == pods, "{:?}", attempts(ns, &snapshot));
            ensure!(usage(&snapshot) == cost(&script, 2), "{:?}", usage(&snapshot));
            ensure!(snapshot.history("changed") == ["Changed"; 2], "{:?}", snapshot.history("changed"));
            eventually(PATIENCE, "the model got exactly the expected requests", async || {
                let requests = requests(ns).await.map_err(|error| error.to_string())?;
                let refusals = requests.iter().filter(|line| line.starts_with("refused: ")).count();
                if (refusals as u64, requests.len()) == (first, refusals + 8) {
                    Ok(())
                } else {
                    Err(requests.join("\n"))
                }
            })
            .await
        })
        .await
}

/// The first iteration waits for an answer that never comes, until its time is over.
#[cfg(feature = "all-agents")]
pub async fn silence(agent: &Agent) -> Result<()> {
    agent
        .ns("silence")
        .await?
        .run(async |ns| {
            let script = json!({ "key": KEY, "iterations": [[{ "hang": true }], work(2, true)] });
            set_key(ns, KEY).await?;
            let task = TaskManifest::new("silent", &[]).max(2).with("iterationTimeoutSeconds", json!(20));
            agent.start(ns, &script, task).await?;
            let snapshot = ns.until_state("silent", iterations(4), DONE).await?;
            ns.exactly(&snapshot, 2)?;
            ensure!(snapshot.iterations() == 2, "{snapshot}");
            ensure!(usage(&snapshot) == cost(&script, 2), "{:?}", usage(&snapshot));
            let outcomes = snapshot.history("outcome");
            ensure!(outcomes.first().is_some_and(|outcome| outcome == "TimedOut"), "{outcomes:?}");
            let requests = requests(ns).await?;
            ensure!(requests.first().is_some_and(|line| line == "no answer"), "{requests:?}");
            Ok(())
        })
        .await
}
