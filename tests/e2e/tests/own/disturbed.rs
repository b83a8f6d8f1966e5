//! The operator itself is disturbed: killed, duplicated, upgraded, uninstalled, reconfigured. Each test has an operator
//! of its own, and the shared one is scaled to zero.

use std::time::Duration;

use agentloop_e2e::{DONE, LIMIT, PATIENCE, TaskManifest, TestNamespace, eventually, iterations};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

/// Checks which iterations ran according to the agents' own journal in the PVC, independently of the pods.
async fn journal(ns: &TestNamespace, name: &str, runs: i32) -> Result<()> {
    let pvc = ns.pvc_of(&ns.get(name).await?).await?;
    let journal = ns.run_in_pvc(&pvc, "cut -d ' ' -f 1 /workspace/.agentloop/journal").await?;
    let ran: Vec<i32> = journal.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let expected: Vec<i32> = (1..=runs).collect();
    ensure!(ran == expected, "the agents that ran are {ran:?}");
    Ok(())
}

#[tokio::test]
async fn an_operator_killed_ten_times_runs_twenty_iterations_in_twenty_pods() -> Result<()> {
    TestNamespace::own("killed", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("steady", &["change", "sleep=0.5", "new-blocker"]).pvc().max(20))
                .await?;
            for round in 1..=10u32 {
                // The kills are spread over the loop and over the moments of an iteration: the delay varies with the
                // time that the operator takes to come back.
                let from = i64::from(round * 3 / 2);
                ns.until("steady", iterations(20), "moves on", |now| {
                    now.iterations() >= from || now.phase() == "IterationLimitReached"
                })
                .await?;
                tokio::time::sleep(Duration::from_millis(u64::from(round * 137 % 700))).await;
                ns.operator.kill().await?;
            }
            let snapshot = ns.until_state("steady", iterations(20), LIMIT).await?;
            ensure!(snapshot.iterations() == 20, "{snapshot}");
            ns.exactly(&snapshot, 20)?;
            journal(ns, "steady", 20).await
        })
        .await
}

#[tokio::test]
async fn an_operator_that_repeatedly_loses_its_lease_counts_each_iteration_once() -> Result<()> {
    TestNamespace::own("lease", &["--set", "replicas=2"])
        .await?
        .run(async |ns| {
            let task = TaskManifest::new("fought-over", &["change", "sleep=0.5", "new-blocker"]);
            ns.create(&task.pvc().max(8)).await?;
            let leases: Api<Lease> = Api::namespaced(ns.cluster.client.clone(), &ns.operator.namespace);
            for done in 1..=6 {
                ns.until("fought-over", iterations(8), "moves on", |now| now.iterations() >= done).await?;
                let spec = json!({ "holderIdentity": format!("thief-{done}"), "leaseDurationSeconds": 1 });
                let taken = Patch::Merge(json!({ "spec": spec }));
                leases.patch(&ns.operator.release, &PatchParams::default(), &taken).await?;
            }
            let snapshot = ns.until_state("fought-over", iterations(8), LIMIT).await?;
            ns.exactly(&snapshot, 8)?;
            journal(ns, "fought-over", 8).await
        })
        .await
}

#[tokio::test]
async fn of_two_releases_in_one_namespace_only_one_serves_each_task_and_counts_it_correctly() -> Result<()> {
    TestNamespace::own("two", &[])
        .await?
        .run(async |ns| {
            let rival = ns.rival().await?;
            ns.create(&TaskManifest::new("shared", &["change", "new-blocker"]).pvc().max(8)).await?;
            ns.create(&TaskManifest::new("watched", &["change", "idle-until=2", "ready"]).pvc().max(8))
                .await?;
            let served_by = ns.until_running("watched", 1).await?.served_by().to_owned();
            let known = [&ns.operator, &rival].map(|of| format!("{}/{}", of.namespace, of.release));
            ensure!(known.contains(&served_by), "{served_by} serves it, which is none of {known:?}");
            eventually(PATIENCE, "the other release reports which one serves the task", async || {
                let of_task = "involvedObject.name=watched,reason=ServedByAnother";
                let get =
                    ["get", "events", "--field-selector", of_task, "-o", "jsonpath={.items[*].message}"];
                let messages = ns.kubectl(&get).await.map_err(|error| error.to_string())?.text;
                if messages.contains(&format!("takeOver=[{served_by}]")) { Ok(()) } else { Err(messages) }
            })
            .await?;
            ns.patch("watched", json!({ "suspend": true })).await?;
            ns.until_state("watched", PATIENCE, "Suspended").await?;
            ns.patch("watched", json!({ "suspend": false })).await?;
            let snapshot = ns.until_state("watched", iterations(2), DONE).await?;
            ns.exactly(&snapshot, 2)?;
            ensure!(snapshot.served_by() == served_by, "{} serves it now", snapshot.served_by());
            let snapshot = ns.until_state("shared", iterations(8), LIMIT).await?;
            ns.exactly(&snapshot, 8)?;
            journal(ns, "shared", 8).await?;
            rival.remove().await
        })
        .await
}

#[tokio::test]
async fn an_operator_that_is_away_neither_ends_an_iteration_nor_runs_it_again() -> Result<()> {
    TestNamespace::own("away", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("alone", &["change", "wait", "ready-at=2"]).pvc()).await?;
            let snapshot = ns.until_running("alone", 1).await?;
            ns.operator.scale(0).await?;
            ns.operator.is_at_rest().await?;
            ns.signal_agent(&snapshot).await?;
            eventually(PATIENCE, "the agent ends without the operator", async || {
                let pods = ns.history.of(snapshot.uid());
                let phases: Vec<_> =
                    pods.iter().filter_map(|p| p.pod.status.as_ref()?.phase.clone()).collect();
                if phases == ["Succeeded"] { Ok(()) } else { Err(format!("{phases:?}")) }
            })
            .await?;
            ns.operator.scale(1).await?;
            let snapshot = ns.until_running("alone", 2).await?;
            ns.signal_agent(&snapshot).await?;
            let snapshot = ns.until_state("alone", iterations(2), DONE).await?;
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn a_namespace_deleted_while_the_operator_is_away_is_removed_once_it_is_back() -> Result<()> {
    TestNamespace::own("ns-away", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("doomed", &["change", "idle"]).pvc()).await?;
            ns.until_running("doomed", 1).await?;
            ns.operator.scale(0).await?;
            ns.operator.is_at_rest().await?;
            ns.kubectl(&["delete", "namespace", &ns.namespace, "--wait=false"]).await?.success()?;
            eventually(PATIENCE, "the agent is stopped", async || {
                let pods = ns.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.phase}"]).await;
                let phases = pods.map_err(|error| error.to_string())?.text;
                if phases.contains("Running") { Err(phases) } else { Ok(()) }
            })
            .await?;
            ns.operator.scale(1).await
        })
        .await
}

#[tokio::test]
async fn an_upgrade_in_the_middle_of_a_loop_loses_nothing() -> Result<()> {
    TestNamespace::own("upgrade", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("steady", &["change", "new-blocker"]).pvc().max(6)).await?;
            ns.until("steady", iterations(2), "moves on", |now| now.iterations() >= 1).await?;
            ns.operator.install(&["--set", "log.level=debug"]).await?;
            ns.until("steady", iterations(2), "moves on", |now| now.iterations() >= 3).await?;
            ns.operator
                .install(&["--set", "log.level=info", "--set", "runner.injection=init-container"])
                .await?;
            let snapshot = ns.until_state("steady", iterations(6), LIMIT).await?;
            ns.exactly(&snapshot, 6)?;
            journal(ns, "steady", 6).await
        })
        .await
}

#[tokio::test]
async fn an_uninstalled_operator_leaves_a_running_loop_that_the_next_one_continues() -> Result<()> {
    TestNamespace::own("reinstall", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("kept", &["change", "wait", "ready-at=3"]).pvc()).await?;
            let snapshot = ns.until_running("kept", 1).await?;
            ns.operator.uninstall().await?;
            let finalizers = ns
                .kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.finalizers}"])
                .await?
                .success()?;
            ensure!(!finalizers.contains("agentloop.dev"), "pods still have a finalizer: {finalizers}");
            ns.signal_agent(&snapshot).await?;
            ns.operator.install(&[]).await?;
            for iteration in 2..=3 {
                let snapshot = ns.until_running("kept", iteration).await?;
                ns.signal_agent(&snapshot).await?;
            }
            let snapshot = ns.until_state("kept", iterations(3), DONE).await?;
            ns.exactly(&snapshot, 3)?;
            journal(ns, "kept", 3).await
        })
        .await
}

#[tokio::test]
async fn without_an_operator_everything_that_it_created_can_be_deleted() -> Result<()> {
    TestNamespace::own("gone", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("left", &["change", "idle"]).pvc()).await?;
            ns.create(&TaskManifest::new("done", &["change", "ready"]).pvc()).await?;
            let snapshot = ns.until_running("left", 1).await?;
            ns.until_state("done", iterations(1), DONE).await?;
            ns.operator.uninstall().await?;
            ensure!(ns.get_opt("left").await?.is_some(), "uninstalling deleted a task");
            ns.delete("left").await?;
            ns.delete("done").await?;
            ns.exactly(&snapshot, 1)
        })
        .await
}

#[tokio::test]
async fn a_pod_that_was_deleted_before_the_operator_is_reinstalled_counts_and_never_runs_again() -> Result<()>
{
    TestNamespace::own("lost", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("lost", &["change", "idle-until=2", "ready"]).pvc()).await?;
            let pod = ns.until_running("lost", 1).await?.active_pod().context("no pod")?.to_owned();
            ns.operator.uninstall().await?;
            ns.kubectl(&["delete", "pod", &pod]).await?.success()?;
            ns.operator.install(&[]).await?;
            let snapshot = ns.until_state("lost", iterations(2), DONE).await?;
            ensure!(
                snapshot.history("outcome") == ["PodLost", "Exited"],
                "{:?}",
                snapshot.history("outcome")
            );
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn a_lowered_hard_limit_stops_a_running_loop_and_a_raised_one_starts_nothing() -> Result<()> {
    TestNamespace::own("hard-limit", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("bound", &["change", "wait", "new-blocker"]).pvc().max(60)).await?;
            ns.until("bound", PATIENCE, "is limited to 50", |now| now.number("/status/maxIterations") == 50)
                .await?;
            let first = ns.until_running("bound", 1).await?;
            ns.signal_agent(&first).await?;
            let second = ns.until_running("bound", 2).await?;
            ns.operator.set("hardLimit", Some("2")).await?;
            ns.signal_agent(&second).await?;
            let snapshot = ns.until_state("bound", iterations(2), LIMIT).await?;
            ns.exactly(&snapshot, 2)?;
            ensure!(
                snapshot.message().contains("hardLimit"),
                "the message does not name the hard limit: {snapshot}"
            );

            ns.operator.set("hardLimit", Some("4")).await?;
            ns.stays("bound", Duration::from_secs(8), |now| now.0 == snapshot.0).await?;
            ns.patch("bound", json!({ "maxIterations": 3 })).await?;
            let third = ns.until_running("bound", 3).await?;
            ns.signal_agent(&third).await?;
            let snapshot = ns
                .until("bound", iterations(1), "stops after the third", |now| {
                    now.state() == LIMIT && now.iterations() == 3
                })
                .await?;
            ns.exactly(&snapshot, 3)
        })
        .await
}

#[tokio::test]
async fn settings_that_are_refused_change_nothing_and_are_reported() -> Result<()> {
    TestNamespace::own("refused", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("before", &["change", "wait", "ready-at=2"]).pvc().max(5)).await?;
            let first = ns.until_running("before", 1).await?;
            ns.operator.set("hardLimits", Some("1")).await?;
            eventually(PATIENCE, "the log names the key", async || {
                let log = ns.operator.log().await.map_err(|error| error.to_string())?;
                if log.contains("hardLimits") { Ok(()) } else { Err(log) }
            })
            .await?;
            // A task that is already running continues with the old settings; a new one waits.
            ns.create(&TaskManifest::new("after", &["change", "ready"])).await?;
            let snapshot = ns.until_state("after", PATIENCE, "Waiting/ConfigInvalid").await?;
            ensure!(snapshot.message().contains("hardLimits"), "{snapshot}");
            ns.signal_agent(&first).await?;
            let second = ns.until_running("before", 2).await?;
            ns.signal_agent(&second).await?;
            ns.until_state("before", iterations(2), DONE).await?;

            ns.operator.set("hardLimits", None).await?;
            let snapshot = ns.until_state("after", iterations(1), DONE).await?;
            ns.exactly(&snapshot, 1)
        })
        .await
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused_and_the_last_valid_ones_stay_in_effect() -> Result<()>
{
    TestNamespace::own("contradicts", &["--set", "config.defaultMaxIterations=2"])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("small", &["change", "wait", "new-blocker"]).pvc()).await?;
            let first = ns.until_running("small", 1).await?;
            ensure!(first.number("/status/maxIterations") == 2, "{first}");
            ns.operator.set("defaultMaxIterations", Some("60")).await?;
            ns.signal_agent(&first).await?;
            let second = ns.until_running("small", 2).await?;
            ns.signal_agent(&second).await?;
            let snapshot = ns.until_state("small", iterations(2), LIMIT).await?;
            ns.exactly(&snapshot, 2)
        })
        .await
}

#[tokio::test]
async fn paused_prevents_every_next_iteration_until_it_is_removed() -> Result<()> {
    TestNamespace::own("paused", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::new("calm", &["change", "wait", "ready-at=2"]).pvc()).await?;
            let first = ns.until_running("calm", 1).await?;
            ns.operator.set("paused", Some("true")).await?;
            ns.create(&TaskManifest::new("new", &["change", "ready"])).await?;
            ns.until_state("new", PATIENCE, "Waiting/Paused").await?;
            ns.signal_agent(&first).await?;
            let snapshot = ns.until_state("calm", PATIENCE, "Waiting/Paused").await?;
            ns.exactly(&snapshot, 1)?;
            ns.operator.set("paused", None).await?;
            let second = ns.until_running("calm", 2).await?;
            ns.signal_agent(&second).await?;
            ns.until_state("calm", iterations(2), DONE).await?;
            ns.until_state("new", iterations(1), DONE).await?;
            Ok(())
        })
        .await
}
