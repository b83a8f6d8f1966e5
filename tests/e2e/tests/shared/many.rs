//! Many tasks at the same time. `AGENTLOOP_E2E_TASKS` and `AGENTLOOP_E2E_ITERATIONS` set how many.

use std::{cell::RefCell, env, time::Duration};

use agentloop_e2e::{TaskManifest, TestNamespace, eventually};
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
                let task = TaskManifest::new(name, &["change", &done]).max(rounds + 1);
                ns.create(&task).await?;
            }
            let within = Duration::from_mins(2) + Duration::from_secs(4) * (tasks * rounds).unsigned_abs();
            let left = RefCell::new(names);
            eventually(within, "all tasks are done", async || {
                let mut running = Vec::new();
                let names = left.borrow().clone();
                for name in names {
                    let snapshot = ns.get(&name).await.map_err(|error| error.to_string())?;
                    if snapshot.phase() == "Succeeded" {
                        ns.exactly(&snapshot, rounds).map_err(|error| format!("{name}: {error}"))?;
                    } else {
                        running.push(name);
                    }
                }
                let first = running.first().cloned().unwrap_or_default();
                let what = format!("{} tasks still run, such as {first}", running.len());
                let all_done = running.is_empty();
                left.replace(running);
                if all_done { Ok(()) } else { Err(what) }
            })
            .await?;
            let left = left.into_inner();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await
}
