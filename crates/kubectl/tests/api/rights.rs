//! What people with the usual roles can do.

use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::PostParams;
use serde_json::json;

use crate::cluster::{TestNamespace, object, stopped};

impl TestNamespace {
    /// Gives a user what the chart adds to a role of the cluster, and what that role has for pods.
    async fn grant(&self, user: &str, tasks: &[&str]) {
        let role = json!({ "metadata": { "name": user }, "rules": [
            { "apiGroups": ["agentloop.dev"], "resources": ["agenttasks"], "verbs": tasks },
            { "apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list", "watch"] },
        ] });
        let binding = json!({
            "metadata": { "name": user },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user },
            "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user }],
        });
        let params = PostParams::default();
        self.api::<Role>().create(&params, &object(role)).await.expect("a role");
        self.api::<RoleBinding>().create(&params, &object(binding)).await.expect("a binding");
    }
}

#[tokio::test]
async fn a_user_who_may_only_view_reads_everything_and_is_told_which_right_is_missing() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), stopped("CircuitOpen", "NoChange", 3, 10)).await;
    ns.grant("viewer", &["get", "list", "watch"]).await;
    for args in
        [&["list"][..], &["get", "x"], &["why", "x"], &["resume", "x", "--show-kubectl"], &["version"]]
    {
        ns.ok(&[args, &["--as", "viewer"]].concat()).await;
    }
    for args in [&["resume", "x"][..], &["suspend", "x"], &["delete", "x"]] {
        let error = ns.fails(1, &[args, &["--as", "viewer"]].concat()).await;
        assert!(error.contains("you have no right to") && error.contains("on agenttasks"), "{error}");
    }
    ns.end().await;
}

#[tokio::test]
async fn a_user_who_may_edit_can_run_every_command() {
    let ns = TestNamespace::new().await;
    ns.task("x", json!({}), stopped("CircuitOpen", "NoChange", 3, 10)).await;
    ns.grant("editor", &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"])
        .await;
    for args in
        [&["list"][..], &["get", "x"], &["why", "x"], &["suspend", "x"], &["resume", "x"], &["delete", "x"]]
    {
        ns.ok(&[args, &["--as", "editor"]].concat()).await;
    }
    ns.end().await;
}
