//! Commands that change tasks.

use agentloop_core::api::AgentTask;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{TestNamespace, stopped};

#[tokio::test]
async fn each_stop_is_lifted_by_one_command() {
    let ns = TestNamespace::new().await;
    ns.task("limit", json!({}), stopped("IterationLimitReached", "IterationLimit", 10, 10)).await;
    ns.task("breaker", json!({}), stopped("CircuitOpen", "NoChange", 3, 10)).await;
    ns.task("failed", json!({}), stopped("Failed", "ExitCode", 3, 10)).await;
    assert_eq!(
        ns.ok(&["resume", "limit", "--max", "+5"]).await,
        "agenttask.agentloop.dev/limit resumed (at most 15 iterations)\n"
    );
    assert_eq!(ns.spec("limit").await["maxIterations"], 15);
    assert_eq!(
        ns.ok(&["resume", "breaker", "failed"]).await,
        "agenttask.agentloop.dev/breaker resumed (streaks at zero)\n\
         agenttask.agentloop.dev/failed resumed (streaks at zero)\n"
    );
    for name in ["breaker", "failed"] {
        assert_eq!(ns.spec(name).await["resetToken"], "after-3");
    }
    ns.end().await;
}

#[tokio::test]
async fn a_task_that_cannot_be_resumed_is_an_error_only_if_it_was_named() {
    let ns = TestNamespace::new().await;
    ns.task("done", json!({}), stopped("Succeeded", "Completed", 3, 10)).await;
    ns.task("stuck", json!({}), stopped("CircuitOpen", "NoChange", 3, 10)).await;
    let error = ns.fails(1, &["resume", "done"]).await;
    assert!(error.contains("done cannot be resumed: it succeeded, which is final"), "{error}");
    let error = ns.fails(1, &["suspend", "done"]).await;
    assert!(error.contains("done cannot be suspended: it succeeded, which is final"), "{error}");
    let ran = ns.run(&["resume", "--all"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out, "agenttask.agentloop.dev/stuck resumed (streaks at zero)\n");
    assert!(ran.err.contains("done cannot be resumed"), "{ran:?}");
    ns.end().await;
}

#[tokio::test]
async fn suspending_and_resuming_sets_one_field() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), Value::Null).await;
    assert_eq!(ns.ok(&["suspend", "x"]).await, "agenttask.agentloop.dev/x suspended\n");
    assert_eq!(ns.spec("x").await["suspend"], true);
    assert_eq!(ns.ok(&["suspend", "x"]).await, "agenttask.agentloop.dev/x is already suspended\n");
    assert_eq!(ns.ok(&["resume", "x"]).await, "agenttask.agentloop.dev/x resumed (not suspended)\n");
    assert_eq!(ns.spec("x").await["suspend"], Value::Null);
    ns.end().await;
}

#[tokio::test]
async fn a_dry_run_and_a_shown_command_change_nothing() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), stopped("CircuitOpen", "NoChange", 3, 10)).await;
    assert_eq!(
        ns.ok(&["resume", "x", "--dry-run"]).await,
        "agenttask.agentloop.dev/x resumed (streaks at zero) (dry run)\n"
    );
    assert!(ns.ok(&["resume", "x", "--dry-run=server"]).await.ends_with("(server dry run)\n"));
    assert_eq!(
        ns.ok(&["resume", "x", "--show-kubectl"]).await,
        "kubectl -n NS patch agt/x --type merge -p '{\"spec\":{\"resetToken\":\"after-3\"}}'\n"
    );
    assert!(ns.ok(&["delete", "x", "--dry-run=server"]).await.ends_with("x deleted (server dry run)\n"));
    assert_eq!(ns.ok(&["delete", "x", "--show-kubectl"]).await, "kubectl -n NS delete agt/x\n");
    assert_eq!(ns.spec("x").await["resetToken"], Value::Null);
    ns.end().await;
}

#[tokio::test]
async fn a_limit_that_the_api_refuses_is_reported_in_its_words() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), stopped("IterationLimitReached", "IterationLimit", 10, 10)).await;
    let error = ns.fails(1, &["resume", "x", "--max", "7"]).await;
    assert!(error.contains("--max 7 would not resume it: 10 iterations are counted"), "{error}");
    let warned = ns.run(&["resume", "x", "--max", "100"]).await;
    assert!(warned.err.contains("warning: x: the hard limit of 50 applies, not 100"), "{warned:?}");
    ns.end().await;
}

#[tokio::test]
async fn a_field_that_another_tool_applies_again_is_a_warning() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), stopped("IterationLimitReached", "IterationLimit", 10, 10)).await;
    let applied = json!({
        "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "metadata": { "name": "x" },
        "spec": { "maxIterations": 10 },
    });
    let params = PatchParams::apply("kustomize-controller").force();
    ns.api::<AgentTask>().patch("x", &params, &Patch::Apply(&applied)).await.expect("it is applied");
    let ran = ns.run(&["resume", "x"]).await;
    assert_eq!((ran.code, ns.spec("x").await["maxIterations"].clone()), (0, json!(20)), "{ran:?}");
    assert!(ran.err.contains("warning: x: spec.maxIterations is managed by Flux"), "{ran:?}");
    ns.end().await;
}

#[tokio::test]
async fn a_deleted_task_leaves_its_workspace_and_says_where() {
    let ns = TestNamespace::new().await;
    let claim = json!({ "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } } });
    ns.task("x", json!({ "workspace": { "volumeClaimTemplate": claim } }), Value::Null).await;
    let ran = ns.run(&["delete", "x"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "agenttask.agentloop.dev/x deleted\n"), "{ran:?}");
    let place = format!("kubectl -n {} delete pvc x-", ns.name);
    assert!(ran.err.contains("The workspace stays in PVC x-") && ran.err.contains(&place), "{ran:?}");
    assert!(ns.api::<AgentTask>().get_opt("x").await.expect("an answer").is_none());
    let error = ns.fails(1, &["delete", "x"]).await;
    assert!(error.contains("not found"), "{error}");
    ns.end().await;
}
