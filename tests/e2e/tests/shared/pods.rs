//! What can happen to an iteration's pod: stopped, killed, evicted, noisy, never ending.

use std::time::{Duration, Instant};

use agentloop_e2e::{Lab, PATIENCE, Seen, Task, eventually, iterations};
use anyhow::{Context, Result, ensure};
use serde_json::json;

const DONE: &str = "Succeeded/Completed";
const LIMIT: &str = "IterationLimitReached/IterationLimit";

fn outcomes(seen: &Seen) -> String {
    seen.history("outcome").join(" ")
}

/// A task that is disturbed in its first iteration, and done in its second.
fn disturbed(name: &str) -> Task {
    Task::new(name, &["change", "idle-until=2", "ready"]).claim().max(5)
}

/// Waits until the disturbed iteration was charged as interrupted and the second one did the work.
async fn interrupted_once(lab: &Lab, name: &str) -> Result<()> {
    let seen = lab.until_state(name, iterations(2), DONE).await?;
    ensure!(outcomes(&seen) == "Interrupted Exited", "{}", outcomes(&seen));
    lab.exactly(&seen, 2)
}

#[tokio::test]
async fn suspending_mid_iteration_stops_the_pod_promptly_charges_it_and_resuming_goes_on() -> Result<()> {
    Lab::shared("suspend")
        .await?
        .run(async |lab| {
            lab.create(&disturbed("paused")).await?;
            lab.until_running("paused", 1).await?;
            let asked = Instant::now();
            lab.patch("paused", json!({ "suspend": true })).await?;
            let seen = lab
                .until("paused", PATIENCE, "is suspended with nothing in flight", |now| {
                    now.state() == "Suspended" && now.active_pod().is_none()
                })
                .await?;
            let took = asked.elapsed();
            ensure!(took < Duration::from_secs(20), "stopping took {} s", took.as_secs());
            ensure!(seen.iterations() == 1, "it was not charged: {seen}");
            lab.stays("paused", Duration::from_secs(5), |now| {
                now.state() == "Suspended" && now.iterations() == 1
            })
            .await?;
            lab.exactly(&seen, 1)?;
            lab.paste(&seen, "suspend").await?;
            interrupted_once(lab, "paused").await
        })
        .await
}

#[tokio::test]
async fn a_task_that_starts_suspended_runs_nothing_until_it_is_resumed() -> Result<()> {
    Lab::shared("suspended")
        .await?
        .run(async |lab| {
            lab.create(&Task::new("asleep", &["ready"]).with("suspend", json!(true))).await?;
            let seen = lab.until_state("asleep", PATIENCE, "Suspended").await?;
            lab.stays("asleep", Duration::from_secs(3), |now| now.active_pod().is_none()).await?;
            lab.exactly(&seen, 0)?;
            lab.paste(&seen, "suspend").await?;
            let seen = lab.until_state("asleep", iterations(1), DONE).await?;
            lab.exactly(&seen, 1)
        })
        .await
}

#[tokio::test]
async fn an_agent_that_ends_well_when_it_is_stopped_is_not_done() -> Result<()> {
    Lab::shared("term-success")
        .await?
        .run(async |lab| {
            let actions = ["change", "ready", "term-is-success", "idle-until=2"];
            lab.create(
                &Task::new("polite", &actions).claim().with("completion", json!({ "policy": "ExitCode" })),
            )
            .await?;
            let seen = lab.until_running("polite", 1).await?;
            let pod = seen.active_pod().context("no pod")?.to_owned();
            lab.kubectl(&["delete", "pod", &pod, "--wait=false"]).await?.good()?;
            interrupted_once(lab, "polite").await
        })
        .await
}

#[tokio::test]
async fn an_agent_that_ignores_sigterm_is_killed_after_its_grace() -> Result<()> {
    Lab::shared("term-ignored")
        .await?
        .run(async |lab| {
            let actions = ["ignore-term", "change", "idle-until=2", "ready"];
            lab.create(&Task::new("deaf", &actions).claim()).await?;
            lab.until_running("deaf", 1).await?;
            lab.patch("deaf", json!({ "suspend": true })).await?;
            let seen = lab
                .until("deaf", PATIENCE, "is suspended with nothing in flight", |now| {
                    now.state() == "Suspended" && now.active_pod().is_none()
                })
                .await?;
            ensure!(outcomes(&seen) == "Interrupted", "{}", outcomes(&seen));
            lab.paste(&seen, "suspend").await?;
            interrupted_once(lab, "deaf").await
        })
        .await
}

#[tokio::test]
async fn an_iteration_that_takes_too_long_is_stopped_and_counted() -> Result<()> {
    Lab::shared("timeout")
        .await?
        .run(async |lab| {
            let task = Task::new("slow", &["change", "idle"]).claim().max(2);
            lab.create(&task.with("iterationTimeoutSeconds", json!(3))).await?;
            let seen = lab.until_state("slow", iterations(2), LIMIT).await?;
            ensure!(outcomes(&seen) == "TimedOut TimedOut", "{}", outcomes(&seen));
            ensure!(seen.history("changed") == ["Changed"; 2], "{:?}", seen.history("changed"));
            ensure!(seen.number("/status/breaker/consecutiveSameError") == 2, "{seen}");
            lab.exactly(&seen, 2)
        })
        .await
}

#[tokio::test]
async fn an_agent_that_runs_out_of_memory_is_counted_and_its_error_says_so() -> Result<()> {
    Lab::shared("oom")
        .await?
        .run(async |lab| {
            let task = Task::new("hungry", &["change", "eat-memory"]).claim().max(2);
            let limits = json!({ "requests": { "cpu": "5m" }, "limits": { "memory": "48Mi" } });
            lab.create(&task.with("template/spec/containers/0/resources", limits)).await?;
            let seen = lab.until_state("hungry", iterations(2), LIMIT).await?;
            let errors = seen.history("error");
            ensure!(errors.iter().all(|error| error.contains("OOMKilled")), "{errors:?}");
            ensure!(seen.number("/status/breaker/consecutiveSameError") == 2, "{seen}");
            lab.exactly(&seen, 2)
        })
        .await
}

#[tokio::test]
async fn an_agent_that_is_killed_counts_and_the_loop_goes_on() -> Result<()> {
    Lab::shared("killed")
        .await?
        .run(async |lab| {
            lab.create(&Task::new("killed", &["change", "kill-self"]).claim().max(2)).await?;
            let seen = lab.until_state("killed", iterations(2), LIMIT).await?;
            ensure!(seen.history("exitCode") == ["137", "137"], "{:?}", seen.history("exitCode"));
            lab.exactly(&seen, 2)
        })
        .await
}

#[tokio::test]
async fn a_pod_deleted_by_hand_counts_once_and_the_next_iteration_follows() -> Result<()> {
    Lab::shared("deleted")
        .await?
        .run(async |lab| {
            lab.create(&disturbed("deleted")).await?;
            let pod = lab.until_running("deleted", 1).await?.active_pod().context("no pod")?.to_owned();
            lab.kubectl(&["delete", "pod", &pod, "--wait=false"]).await?.good()?;
            interrupted_once(lab, "deleted").await
        })
        .await
}

#[tokio::test]
async fn a_pod_deleted_by_force_counts_once_and_never_runs_beside_the_next() -> Result<()> {
    Lab::shared("forced")
        .await?
        .run(async |lab| {
            lab.create(&disturbed("forced")).await?;
            let pod = lab.until_running("forced", 1).await?.active_pod().context("no pod")?.to_owned();
            lab.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0", "--wait=false"])
                .await?
                .good()?;
            interrupted_once(lab, "forced").await
        })
        .await
}

#[tokio::test]
async fn an_evicted_pod_counts_once_and_does_not_hold_the_eviction_up() -> Result<()> {
    Lab::shared("evicted")
        .await?
        .run(async |lab| {
            lab.create(&disturbed("evicted")).await?;
            let pod = lab.until_running("evicted", 1).await?.active_pod().context("no pod")?.to_owned();
            let eviction = json!({
                "apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": { "name": pod, "namespace": lab.namespace },
            });
            let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", lab.namespace);
            lab.cluster
                .kubectl_with(&["create", "--raw", &path, "-f", "-"], &eviction.to_string())
                .await?
                .good()?;
            interrupted_once(lab, "evicted").await
        })
        .await
}

#[tokio::test]
async fn a_gibibyte_of_output_neither_stops_the_loop_nor_hides_the_gate() -> Result<()> {
    Lab::shared("flood")
        .await?
        .run(async |lab| {
            let task = Task::new("loud", &["change", "flood=1024", "ready"]).claim();
            let limits = json!({ "requests": { "cpu": "5m" }, "limits": { "memory": "64Mi" } });
            lab.create(&task.with("template/spec/containers/0/resources", limits)).await?;
            let seen = lab.until_state("loud", iterations(15), DONE).await?;
            lab.exactly(&seen, 1)?;
            let claim = lab.claim_of(&seen).await?;
            let size = lab.look_into(&claim, "du -sk /workspace | cut -f 1").await?;
            ensure!(size.trim().parse::<u64>()? < 16 * 1024, "the claim holds {size} KiB");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn children_that_outlive_the_agent_do_not_outlive_the_iteration() -> Result<()> {
    Lab::shared("orphans")
        .await?
        .run(async |lab| {
            lab.create(&Task::new("forks", &["change", "orphans", "ready-at=2"]).claim()).await?;
            let seen = lab.until_state("forks", iterations(2), DONE).await?;
            ensure!(outcomes(&seen) == "Exited Exited", "{}", outcomes(&seen));
            lab.exactly(&seen, 2)
        })
        .await
}

#[tokio::test]
async fn a_sidecar_that_never_ends_is_ended_and_the_agent_judged() -> Result<()> {
    Lab::shared("sidecar")
        .await?
        .run(async |lab| {
            let task = Task::new("proxied", &["change", "ready-at=2"]).claim();
            lab.create(&task.beside("proxy", "trap '' TERM; while :; do sleep 1; done")).await?;
            // Each waits for the 30 seconds that other containers have.
            let seen = lab.until_state("proxied", iterations(6), DONE).await?;
            ensure!(outcomes(&seen) == "Exited Exited", "{}", outcomes(&seen));
            lab.exactly(&seen, 2)
        })
        .await
}

#[tokio::test]
async fn an_agent_whose_command_is_not_there_is_counted_and_said_so() -> Result<()> {
    Lab::shared("no-command")
        .await?
        .run(async |lab| {
            let task = Task::new("lost", &[]).claim().max(2);
            lab.create(&task.with("template/spec/containers/0/command", json!(["/no/such/agent"]))).await?;
            let seen = lab.until_state("lost", iterations(2), LIMIT).await?;
            ensure!(outcomes(&seen) == "CommandNotFound CommandNotFound", "{}", outcomes(&seen));
            lab.exactly(&seen, 2)
        })
        .await
}

#[tokio::test]
async fn a_deleted_task_stops_its_pod_and_leaves_nothing_but_a_retained_claim() -> Result<()> {
    Lab::shared("delete")
        .await?
        .run(async |lab| {
            lab.create(&disturbed("short").with("workspace/whenDeleted", json!("Retain"))).await?;
            let seen = lab.until_running("short", 1).await?;
            let claim = lab.claim_of(&seen).await?;
            lab.delete("short").await?;
            let kept = lab.look_into(&claim, "cat /workspace/iteration-1").await?;
            ensure!(kept.trim() == "1", "the claim holds {kept:?}");
            ensure!(lab.history.of(seen.uid()).iter().all(|pod| pod.gone), "a pod is left");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_claim_that_is_to_go_with_its_task_goes() -> Result<()> {
    Lab::shared("delete-claim")
        .await?
        .run(async |lab| {
            lab.create(&Task::new("short", &["change", "ready"]).claim()).await?;
            let seen = lab.until_state("short", iterations(1), DONE).await?;
            lab.claim_of(&seen).await?;
            lab.delete("short").await?;
            eventually(PATIENCE, "the claim is gone", async || {
                match lab.kubectl(&["get", "pvc", "-o", "name"]).await {
                    Ok(output) if output.text.contains("persistentvolumeclaim/") => Err(output.text),
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await
        })
        .await
}

#[tokio::test]
async fn a_task_made_again_under_its_old_name_starts_from_nothing_and_beside_no_pod_of_the_old_one()
-> Result<()> {
    Lab::shared("again").await?.run(async |lab| {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "shared" },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "16Mi" } } },
        });
        lab.apply(&claim).await?.good()?;
        let shared = json!({ "claimName": "shared" });
        let old = Task::new("same", &["ignore-term", "change=old", "idle"]).with("workspace/persistentVolumeClaim", shared.clone());
        let new = Task::new("same", &["change", "ready-at=2"]).with("workspace/persistentVolumeClaim", shared);
        let before = lab.create(&old).await?;
        lab.until_running("same", 1).await?;
        lab.kubectl(&["delete", "agt", "same", "--wait=false"]).await?.good()?;
        eventually(PATIENCE, "the old task is gone", async || match lab.find("same").await {
            Ok(None) => Ok(()),
            Ok(Some(seen)) => Err(seen.to_string()),
            Err(error) => Err(error.to_string()),
        })
        .await?;
        lab.create(&new).await?;
        let seen = lab.until_state("same", iterations(3), DONE).await?;
        ensure!(seen.uid() != before.uid(), "it is the old one");
        lab.exactly(&seen, 2)?;
        lab.nothing_left_of(before.uid()).await?;
        let looked = lab.look_into("shared", "cat /workspace/.agentloop/journal").await?;
        ensure!(looked.lines().count() == 3, "the workspace saw {looked:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_namespace_deleted_mid_iteration_goes() -> Result<()> {
    Lab::shared("namespace")
        .await?
        .run(async |lab| {
            lab.create(&disturbed("doomed")).await?;
            lab.until_running("doomed", 1).await?;
            lab.kubectl(&["delete", "namespace", &lab.namespace, "--wait=false"]).await?.good()?;
            // The lab itself waits for its end.
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_prompt_reaches_the_agent_and_ends_with_where_the_loop_stands() -> Result<()> {
    Lab::shared("prompt")
        .await?
        .run(async |lab| {
            lab.create(&Task::new("told", &["prompt", "change", "ready-at=2"]).claim().max(7)).await?;
            let seen = lab.until_state("told", iterations(2), DONE).await?;
            let pods = lab.history.of(seen.uid());
            let pod = pods.last().map(|pod| pod.name.clone()).unwrap_or_default();
            let said = lab.kubectl(&["logs", &pod, "-c", "agent"]).await?.good()?;
            ensure!(said.contains("Reach the goal.") && said.contains("2 of"), "{said}");
            Ok(())
        })
        .await
}

/// A prompt may have 32 KiB, and a task keeps ten pods.
#[tokio::test]
async fn a_pod_that_has_ended_and_is_kept_bears_neither_its_prompt_nor_its_context() -> Result<()> {
    Lab::shared("kept-pods")
        .await?
        .run(async |lab| {
            let bearing = |seen: &Seen| {
                let pods = lab.history.of(seen.uid());
                let names =
                    pods.iter().filter_map(|pod| Some((&pod.name, pod.pod.metadata.annotations.as_ref()?)));
                let bears =
                    |of: &&str, all: &std::collections::BTreeMap<String, String>| all.contains_key(*of);
                let both = ["agentloop.dev/prompt", "agentloop.dev/context"];
                names
                    .map(|(name, all)| (name.clone(), both.iter().filter(|of| bears(of, all)).count()))
                    .collect::<Vec<_>>()
            };
            lab.create(&Task::new("kept", &["change", "wait", "ready-at=2"]).claim()).await?;
            let seen = lab.until_running("kept", 1).await?;
            ensure!(bearing(&seen).iter().all(|(_, bears)| *bears == 2), "{:?}", bearing(&seen));
            lab.tell(&seen).await?;
            let seen = lab.until_running("kept", 2).await?;
            lab.tell(&seen).await?;
            let seen = lab.until_state("kept", iterations(2), DONE).await?;
            eventually(PATIENCE, "no pod that ended bears prompt or context", async || {
                let bears = bearing(&seen);
                if bears.len() == 2 && bears.iter().all(|(_, bears)| *bears == 0) {
                    Ok(())
                } else {
                    Err(format!("{bears:?}"))
                }
            })
            .await?;
            ensure!(lab.history.of(seen.uid()).iter().all(|pod| !pod.gone), "a pod was not kept");
            lab.exactly(&seen, 2)
        })
        .await
}
