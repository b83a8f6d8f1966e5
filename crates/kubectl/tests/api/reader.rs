//! Commands that read a workspace, as far as they can without a kubelet: tests/e2e has the rest.

use agentloop_test_support::eventually::eventually;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{PATIENCE, TestNamespace, object, stopped};

fn claim(mode: &str) -> Value {
    json!({ "accessModes": [mode], "resources": { "requests": { "storage": "1Mi" } } })
}

#[tokio::test]
async fn a_workspace_without_a_volume_cannot_be_read_and_says_why() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), stopped("CircuitOpen", "NoChange", 2, 10)).await;
    for args in [&["diff", "x"][..], &["cp", "x:a", "/nonexistent/b"], &["files", "x"]] {
        let error = ns.fails(1, args).await;
        assert!(error.contains("x cannot be read: its workspace is an emptyDir, which is gone"), "{error}");
    }
    ns.end().await;
}

#[tokio::test]
async fn a_volume_that_only_one_pod_can_use_is_not_waited_for() {
    let ns = TestNamespace::new().await;
    let volume = json!({ "persistentVolumeClaim": { "claimName": "mine" } });
    let wanted = json!({ "metadata": { "name": "mine" }, "spec": claim("ReadWriteOncePod") });
    ns.api::<PersistentVolumeClaim>().create(&PostParams::default(), &object(wanted)).await.expect("a PVC");
    let pod = json!({
        "metadata": { "name": "user" },
        "spec": {
            "nodeName": "some-node",
            "containers": [{ "name": "a", "image": "i" }],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "mine" } }],
        },
    });
    ns.api::<Pod>().create(&PostParams::default(), &object(pod)).await.expect("a pod");
    ns.task("x", json!({ "workspace": volume }), Value::Null).await;
    let error = ns.fails(1, &["diff", "x"]).await;
    assert!(error.contains("PVC mine is ReadWriteOncePod and pod user uses it"), "{error}");
    assert_eq!(pods(&ns).await, ["user"], "no reader is left");
    ns.end().await;
}

#[tokio::test]
async fn a_reader_is_removed_after_any_signal_to_end() {
    let ns = TestNamespace::new().await;
    let workspace = json!({ "volumeClaimTemplate": { "spec": claim("ReadWriteOnce") } });
    ns.task("x", json!({ "workspace": workspace }), Value::Null).await;
    for signal in ["-INT", "-TERM", "-HUP"] {
        let child = ns.command(&["diff", "x"]).spawn().expect("it starts");
        // No kubelet starts it.
        let found = eventually(PATIENCE, "a reader", || async {
            let found = pods(&ns).await;
            if found.is_empty() { Err("none") } else { Ok(found) }
        });
        let found = found.await.unwrap_or_else(|error| panic!("{error}"));
        assert!(found[0].starts_with("x-reader-"), "{found:?}");
        let id = child.id().expect("it runs").to_string();
        let sent = tokio::process::Command::new("kill").args([signal, &id]).status().await.expect("kill");
        assert!(sent.success());
        let ended = child.wait_with_output().await.expect("it ends");
        assert_eq!(ended.status.code(), Some(1), "{signal}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("interrupted"), "{ended:?}");
        assert_eq!(pods(&ns).await, Vec::<String>::new(), "{signal}");
    }
    ns.end().await;
}

async fn pods(ns: &TestNamespace) -> Vec<String> {
    let all = ns.api::<Pod>().list(&ListParams::default()).await.expect("pods");
    all.iter().map(ResourceExt::name_any).collect()
}
