//! Many tasks at once. `AGENTLOOP_E2E_TASKS` and `AGENTLOOP_E2E_ITERATIONS` make them more.

use std::{env, time::Duration};

use agentloop_e2e::{Task, TestNamespace, eventually};
use anyhow::{Result, ensure};

fn number(name: &str, default: i32) -> i32 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test]
async fn many_tasks_at_once_each_run_exactly_their_iterations() -> Result<()> {
    let (tasks, rounds) = (number("AGENTLOOP_E2E_TASKS", 20), number("AGENTLOOP_E2E_ITERATIONS", 3));
    TestNamespace::shared("many")
        .await?
        .run(async |ns| {
            let names: Vec<String> = (1..=tasks).map(|task| format!("task-{task}")).collect();
            let done = format!("ready-at={rounds}");
            for name in &names {
                let task = Task::new(name, &["change", &done]).max(rounds + 1);
                ns.create(&task).await?;
            }
            let within = Duration::from_mins(2) + Duration::from_secs(4) * (tasks * rounds).unsigned_abs();
            let mut left = names;
            eventually(within, "all tasks are done", async || {
                let mut going = Vec::new();
                for name in &left {
                    let snapshot = ns.get(name).await.map_err(|error| error.to_string())?;
                    if snapshot.phase() == "Succeeded" {
                        ns.exactly(&snapshot, rounds).map_err(|error| format!("{name}: {error}"))?;
                    } else {
                        going.push(name.clone());
                    }
                }
                let what =
                    format!("{} go on, such as {}", going.len(), going.first().cloned().unwrap_or_default());
                left = going;
                if left.is_empty() { Ok(()) } else { Err(what) }
            })
            .await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await
}
