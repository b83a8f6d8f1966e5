//! `doctor` and `lint`.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{TestNamespace, object};

impl TestNamespace {
    /// An operator as the chart installs it, with a Lease and a ConfigMap of these names.
    async fn operator(&self, version: &str) {
        let pod = json!({
            "metadata": { "labels": { "app": "x" } },
            "spec": { "containers": [{
                "name": "controller", "image": "none", "args": ["--config-map=settings", "--lease-name=leader"],
            }] },
        });
        let deployment = json!({
            "metadata": { "name": "agentloop", "labels": {
                "app.kubernetes.io/part-of": "agentloop", "app.kubernetes.io/component": "controller",
                "app.kubernetes.io/version": version,
            } },
            "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "x" } }, "template": pod },
        });
        let api = self.api::<Deployment>();
        api.create(&PostParams::default(), &object(deployment)).await.expect("a Deployment");
    }

    async fn settings(&self, data: serde_json::Value) {
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" }, "data": data });
        let params = PatchParams::apply("test").force();
        self.api::<ConfigMap>().patch("settings", &params, &Patch::Apply(&map)).await.expect("settings");
    }

    /// The lines of `doctor` about this namespace's operator and about `what`.
    async fn diagnosis(&self) -> (i32, String) {
        let ran = self.run(&["doctor"]).await;
        assert!(ran.err.is_empty(), "{ran:?}");
        (ran.code, self.named(&ran.out))
    }
}

#[tokio::test]
async fn three_faults_that_were_put_there_on_purpose_are_named() {
    let ns = TestNamespace::new().await;
    ns.operator("0.0.1").await;
    ns.settings(json!({ "hardLimits": "9" })).await;
    let (code, text) = ns.diagnosis().await;
    assert_eq!(code, 1, "{text}");
    for fault in [
        "FAIL operator: NS/agentloop has no ready pod",
        "FAIL leader: no operator holds the lease leader",
        "FAIL settings: ConfigMap NS/settings is invalid (unknown setting \"hardLimits\"",
        "warn versions: the operator is 0.0.1, this plugin is ",
    ] {
        assert!(text.contains(fault), "{fault}: {text}");
    }

    ns.settings(json!({ "hardLimit": "20" })).await;
    let lease = json!({
        "metadata": { "name": "leader" },
        "spec": {
            "holderIdentity": "pod-1", "leaseDurationSeconds": 15,
            "renewTime": format!("{:.6}", jiff::Timestamp::now()),
        },
    });
    ns.api::<Lease>().create(&PostParams::default(), &object(lease)).await.expect("a Lease");
    let (_, text) = ns.diagnosis().await;
    for cure in [
        "ok   leader: pod-1 holds the lease leader",
        "ok   settings: ConfigMap NS/settings is valid",
        "ok   CRD: knows every field of this version",
        "ok   your rights: you can run every command in namespace NS",
    ] {
        assert!(text.contains(cure), "{cure}: {text}");
    }
    ns.end().await;
}

#[tokio::test]
async fn what_a_user_may_not_read_is_unknown_and_missing_rights_are_named() {
    let ns = TestNamespace::new().await;
    let ran = ns.run(&["doctor", "--as", "stranger"]).await;
    assert!(
        ran.out.contains("?    operator: cannot list deployments in all namespaces: you have no right to"),
        "{ran:?}"
    );
    assert!(
        ran.out.contains("you cannot get agenttasks (for get, why), list agenttasks (for list, cost)"),
        "{ran:?}"
    );
    ns.end().await;
}

#[tokio::test]
async fn what_lint_accepts_the_api_server_accepts_too() {
    let ns = TestNamespace::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("task.yaml");
    let file = file.to_str().expect("a path");
    let yaml =
        ns.ok(&["run", "x", "--image", "i", "-p", "Do it.", "--dry-run", "-o", "yaml", "--", "agent"]).await;
    std::fs::write(file, &yaml).expect("a manifest");
    let ran = ns.run(&["lint", "-f", file]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, "1 task checked\n"), "{ran:?}");
    std::fs::write(file, yaml.replace("prompt:", "promt:")).expect("a manifest");
    let ran = ns.run(&["lint", "-f", file]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.ends_with("x: error: spec.promt is not a field: did you mean prompt?\n"), "{ran:?}");
    ns.fails(1, &["lint", "-f", "/nonexistent"]).await;
    ns.end().await;
}
