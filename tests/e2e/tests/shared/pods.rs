//! What can happen to an iteration's pod: it is stopped, killed or evicted, is noisy, or never ends.

use std::time::{Duration, Instant};

use agentloop_e2e::{
    DONE, LIMIT, PATIENCE, TaskManifest, TaskSnapshot, TestNamespace, eventually, iterations, pvc,
};
use anyhow::{Context, Result, ensure};
use serde_json::json;

fn outcomes(snapshot: &TaskSnapshot) -> String {
    snapshot.history("outcome").join(" ")
}

/// A task that is disturbed in its first iteration and done in its second.
fn disturbed(name: &str) -> TaskManifest {
    TaskManifest::new(name, &["change", "idle-until=2", "ready"]).pvc().max(5)
}

/// Waits until the disturbed iteration was charged as interrupted and the second one did the work.
async fn interrupted_once(ns: &TestNamespace, name: &str) -> Result<()> {
    let snapshot = ns.until_state(name, iterations(2), DONE).await?;
    ensure!(outcomes(&snapshot) == "Interrupted Exited", "{}", outcomes(&snapshot));
    ns.exactly(&snapshot, 2)
}

#[tokio::test]
async fn suspending_mid_iteration_stops_the_pod_promptly_charges_it_and_resuming_continues() -> Result<()> {
    TestNamespace::shared("suspend")
        .await?
        .run(async |ns| {
            ns.create(&disturbed("paused")).await?;
            ns.until_running("paused", 1).await?;
            let begun = Instant::now();
            ns.patch("paused", json!({ "suspend": true })).await?;
            let snapshot = ns.until_suspended("paused").await?;
            let took = begun.elapsed();
            ensure!(took < Duration::from_secs(20), "stopping took {} s", took.as_secs());
            ensure!(snapshot.iterations() == 1, "it was not charged: {snapshot}");
            ns.stays("paused", Duration::from_secs(5), |now| {
                now.state() == "Suspended" && now.iterations() == 1
            })
            .await?;
            ns.exactly(&snapshot, 1)?;
            ns.paste(&snapshot, "suspend").await?;
            interrupted_once(ns, "paused").await
        })
        .await
}

#[tokio::test]
async fn a_task_that_starts_suspended_runs_nothing_until_it_is_resumed() -> Result<()> {
    TestNamespace::shared("suspended")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("asleep", &["ready"]).with("suspend", json!(true))).await?;
            let snapshot = ns.until_state("asleep", PATIENCE, "Suspended").await?;
            ns.stays("asleep", Duration::from_secs(3), |now| now.active_pod().is_none()).await?;
            ns.exactly(&snapshot, 0)?;
            ns.paste(&snapshot, "suspend").await?;
            let snapshot = ns.until_state("asleep", iterations(1), DONE).await?;
            ns.exactly(&snapshot, 1)
        })
        .await
}

#[tokio::test]
async fn an_agent_that_exits_with_0_when_it_is_stopped_is_not_done() -> Result<()> {
    TestNamespace::shared("term-success")
        .await?
        .run(async |ns| {
            let actions = ["change", "ready", "term-is-success", "idle-until=2"];
            ns.create(
                &TaskManifest::new("polite", &actions)
                    .pvc()
                    .with("completion", json!({ "policy": "ExitCode" })),
            )
            .await?;
            let snapshot = ns.until_running("polite", 1).await?;
            let pod = snapshot.active_pod().context("no pod")?.to_owned();
            ns.kubectl(&["delete", "pod", &pod, "--wait=false"]).await?.success()?;
            interrupted_once(ns, "polite").await
        })
        .await
}

#[tokio::test]
async fn an_agent_that_ignores_sigterm_is_killed_after_its_grace() -> Result<()> {
    TestNamespace::shared("term-ignored")
        .await?
        .run(async |ns| {
            let actions = ["ignore-term", "change", "idle-until=2", "ready"];
            ns.create(&TaskManifest::new("deaf", &actions).pvc()).await?;
            ns.until_running("deaf", 1).await?;
            ns.patch("deaf", json!({ "suspend": true })).await?;
            let snapshot = ns.until_suspended("deaf").await?;
            ensure!(outcomes(&snapshot) == "Interrupted", "{}", outcomes(&snapshot));
            ns.paste(&snapshot, "suspend").await?;
            interrupted_once(ns, "deaf").await
        })
        .await
}

#[tokio::test]
async fn an_iteration_that_takes_too_long_is_stopped_and_counted() -> Result<()> {
    TestNamespace::shared("timeout")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("slow", &["change", "idle"]).pvc().max(2);
            ns.create(&task.with("iterationTimeoutSeconds", json!(3))).await?;
            let snapshot = ns.until_state("slow", iterations(2), LIMIT).await?;
            ensure!(outcomes(&snapshot) == "TimedOut TimedOut", "{}", outcomes(&snapshot));
            ensure!(snapshot.history("changed") == ["Changed"; 2], "{:?}", snapshot.history("changed"));
            ensure!(snapshot.number("/status/breaker/consecutiveSameError") == 2, "{snapshot}");
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn an_agent_that_runs_out_of_memory_is_counted_with_that_error() -> Result<()> {
    TestNamespace::shared("oom")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("hungry", &["change", "eat-memory"]).pvc().max(2);
            let limits = json!({ "requests": { "cpu": "5m" }, "limits": { "memory": "48Mi" } });
            ns.create(&task.with("template/spec/containers/0/resources", limits)).await?;
            let snapshot = ns.until_state("hungry", iterations(2), LIMIT).await?;
            let errors = snapshot.history("error");
            ensure!(errors.iter().all(|error| error.contains("OOMKilled")), "{errors:?}");
            ensure!(snapshot.number("/status/breaker/consecutiveSameError") == 2, "{snapshot}");
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn an_agent_that_is_killed_counts_and_the_loop_continues() -> Result<()> {
    TestNamespace::shared("killed")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("killed", &["change", "kill-self"]).pvc().max(2)).await?;
            let snapshot = ns.until_state("killed", iterations(2), LIMIT).await?;
            ensure!(snapshot.history("exitCode") == ["137", "137"], "{:?}", snapshot.history("exitCode"));
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn a_pod_deleted_by_hand_counts_once_and_the_next_iteration_follows() -> Result<()> {
    TestNamespace::shared("deleted")
        .await?
        .run(async |ns| {
            ns.create(&disturbed("deleted")).await?;
            let pod = ns.until_running("deleted", 1).await?.active_pod().context("no pod")?.to_owned();
            ns.kubectl(&["delete", "pod", &pod, "--wait=false"]).await?.success()?;
            interrupted_once(ns, "deleted").await
        })
        .await
}

#[tokio::test]
async fn a_pod_deleted_by_force_counts_once_and_never_runs_beside_the_next() -> Result<()> {
    TestNamespace::shared("forced")
        .await?
        .run(async |ns| {
            ns.create(&disturbed("forced")).await?;
            let pod = ns.until_running("forced", 1).await?.active_pod().context("no pod")?.to_owned();
            ns.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0", "--wait=false"])
                .await?
                .success()?;
            interrupted_once(ns, "forced").await
        })
        .await
}

#[tokio::test]
async fn an_evicted_pod_counts_once_and_does_not_delay_the_eviction() -> Result<()> {
    TestNamespace::shared("evicted")
        .await?
        .run(async |ns| {
            ns.create(&disturbed("evicted")).await?;
            let pod = ns.until_running("evicted", 1).await?.active_pod().context("no pod")?.to_owned();
            let eviction = json!({
                "apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": { "name": pod, "namespace": ns.namespace },
            });
            let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", ns.namespace);
            ns.cluster
                .kubectl_with(&["create", "--raw", &path, "-f", "-"], &eviction.to_string())
                .await?
                .success()?;
            interrupted_once(ns, "evicted").await
        })
        .await
}

#[tokio::test]
async fn a_gibibyte_of_output_neither_stops_the_loop_nor_hides_the_gate() -> Result<()> {
    TestNamespace::shared("flood")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("loud", &["change", "flood=1024", "ready"]).pvc();
            let limits = json!({ "requests": { "cpu": "5m" }, "limits": { "memory": "64Mi" } });
            ns.create(&task.with("template/spec/containers/0/resources", limits)).await?;
            let snapshot = ns.until_state("loud", iterations(15), DONE).await?;
            ns.exactly(&snapshot, 1)?;
            let pvc = ns.pvc_of(&snapshot).await?;
            let size = ns.run_in_pvc(&pvc, "du -sk /workspace | cut -f 1").await?;
            ensure!(size.trim().parse::<u64>()? < 16 * 1024, "the PVC contains {size} KiB");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn children_that_outlive_the_agent_do_not_outlive_the_iteration() -> Result<()> {
    TestNamespace::shared("orphans")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("forks", &["change", "orphans", "ready-at=2"]).pvc()).await?;
            let snapshot = ns.until_state("forks", iterations(2), DONE).await?;
            ensure!(outcomes(&snapshot) == "Exited Exited", "{}", outcomes(&snapshot));
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn a_sidecar_that_never_ends_is_stopped_and_the_agent_is_evaluated() -> Result<()> {
    TestNamespace::shared("sidecar")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("proxied", &["change", "ready-at=2"]).pvc();
            ns.create(&task.beside("proxy", "trap '' TERM; while :; do sleep 1; done")).await?;
            // Each iteration waits for the 30 seconds that sidecars have to end.
            let snapshot = ns.until_state("proxied", iterations(6), DONE).await?;
            ensure!(outcomes(&snapshot) == "Exited Exited", "{}", outcomes(&snapshot));
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn an_iteration_whose_command_does_not_exist_is_counted_and_reported() -> Result<()> {
    TestNamespace::shared("no-command")
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("lost", &[]).pvc().max(2);
            ns.create(&task.with("template/spec/containers/0/command", json!(["/no/such/agent"]))).await?;
            let snapshot = ns.until_state("lost", iterations(2), LIMIT).await?;
            ensure!(outcomes(&snapshot) == "CommandNotFound CommandNotFound", "{}", outcomes(&snapshot));
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn a_deleted_task_stops_its_pod_and_leaves_only_a_retained_pvc() -> Result<()> {
    TestNamespace::shared("delete")
        .await?
        .run(async |ns| {
            ns.create(&disturbed("short").with("workspace/whenDeleted", json!("Retain"))).await?;
            let snapshot = ns.until_running("short", 1).await?;
            let pvc = ns.pvc_of(&snapshot).await?;
            ns.delete("short").await?;
            let kept = ns.run_in_pvc(&pvc, "cat /workspace/iteration-1").await?;
            ensure!(kept.trim() == "1", "the PVC contains {kept:?}");
            ensure!(ns.history.of(snapshot.uid()).iter().all(|pod| pod.gone), "a pod is left");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_pvc_with_the_policy_delete_is_deleted_with_its_task() -> Result<()> {
    TestNamespace::shared("delete-pvc")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("short", &["change", "ready"]).pvc()).await?;
            let snapshot = ns.until_state("short", iterations(1), DONE).await?;
            ns.pvc_of(&snapshot).await?;
            ns.delete("short").await?;
            eventually(PATIENCE, "the PVC is deleted", async || {
                match ns.kubectl(&["get", "pvc", "-o", "name"]).await {
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
async fn a_task_that_is_created_again_starts_from_zero_and_never_beside_a_pod_of_the_old_one() -> Result<()> {
    TestNamespace::shared("again")
        .await?
        .run(async |ns| {
            ns.apply(&pvc("shared")).await?.success()?;
            let shared = json!({ "claimName": "shared" });
            let old = TaskManifest::new("same", &["ignore-term", "change=old", "idle"])
                .with("workspace/persistentVolumeClaim", shared.clone());
            let new = TaskManifest::new("same", &["change", "ready-at=2"])
                .with("workspace/persistentVolumeClaim", shared);
            let before = ns.create(&old).await?;
            ns.until_running("same", 1).await?;
            ns.kubectl(&["delete", "agt", "same", "--wait=false"]).await?.success()?;
            eventually(PATIENCE, "the old task is gone", async || match ns.get_opt("same").await {
                Ok(None) => Ok(()),
                Ok(Some(snapshot)) => Err(snapshot.to_string()),
                Err(error) => Err(error.to_string()),
            })
            .await?;
            ns.create(&new).await?;
            let snapshot = ns.until_state("same", iterations(3), DONE).await?;
            ensure!(snapshot.uid() != before.uid(), "it is the old task");
            ns.exactly(&snapshot, 2)?;
            ns.nothing_left_of(before.uid()).await?;
            let journal = ns.run_in_pvc("shared", "cat /workspace/.agentloop/journal").await?;
            ensure!(journal.lines().count() == 3, "the journal contains {journal:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_namespace_that_is_deleted_during_an_iteration_is_removed() -> Result<()> {
    TestNamespace::shared("namespace")
        .await?
        .run(async |ns| {
            ns.create(&disturbed("doomed")).await?;
            ns.until_running("doomed", 1).await?;
            ns.kubectl(&["delete", "namespace", &ns.namespace, "--wait=false"]).await?.success()?;
            // At its end, the test waits until its namespace is gone.
            Ok(())
        })
        .await
}

#[tokio::test]
async fn the_agent_gets_its_prompt_with_the_state_of_the_loop_at_the_end() -> Result<()> {
    TestNamespace::shared("prompt")
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("informed", &["prompt", "change", "ready-at=2"]).pvc().max(7))
                .await?;
            let snapshot = ns.until_state("informed", iterations(2), DONE).await?;
            let pods = ns.history.of(snapshot.uid());
            let pod = pods.last().map(|pod| pod.name.clone()).unwrap_or_default();
            let log = ns.kubectl(&["logs", &pod, "-c", "agent"]).await?.success()?;
            ensure!(log.contains("Reach the goal.") && log.contains("2 of"), "{log}");
            Ok(())
        })
        .await
}

/// A prompt may have 32 KiB, and ten pods of a task are kept.
#[tokio::test]
async fn a_kept_pod_that_has_ended_has_neither_its_prompt_nor_its_context() -> Result<()> {
    TestNamespace::shared("kept-pods")
        .await?
        .run(async |ns| {
            // How many of the two annotations each pod has.
            let annotations = |snapshot: &TaskSnapshot| {
                let count = |all: &std::collections::BTreeMap<String, String>| {
                    ["agentloop.dev/prompt", "agentloop.dev/context"]
                        .into_iter()
                        .filter(|name| all.contains_key(*name))
                        .count()
                };
                ns.history
                    .of(snapshot.uid())
                    .iter()
                    .filter_map(|pod| Some((pod.name.clone(), count(pod.pod.metadata.annotations.as_ref()?))))
                    .collect::<Vec<_>>()
            };
            ns.create(&TaskManifest::new("kept", &["change", "wait", "ready-at=2"]).pvc()).await?;
            let snapshot = ns.until_running("kept", 1).await?;
            let running = annotations(&snapshot);
            ensure!(running.iter().all(|(_, count)| *count == 2), "{running:?}");
            ns.signal_agent(&snapshot).await?;
            let snapshot = ns.until_running("kept", 2).await?;
            ns.signal_agent(&snapshot).await?;
            let snapshot = ns.until_state("kept", iterations(2), DONE).await?;
            eventually(PATIENCE, "no pod that ended has the prompt or the context", async || {
                let ended = annotations(&snapshot);
                if ended.len() == 2 && ended.iter().all(|(_, count)| *count == 0) {
                    Ok(())
                } else {
                    Err(format!("{ended:?}"))
                }
            })
            .await?;
            ensure!(ns.history.of(snapshot.uid()).iter().all(|pod| !pod.gone), "a pod was not kept");
            ns.exactly(&snapshot, 2)
        })
        .await
}
