"""Least privilege: what the rendered roles grant, and to which accounts."""

import unittest

from chart import CASES, NAMESPACE, every_case, of_kind, render

ROLES = ["Role", "ClusterRole"]
BINDINGS = ["RoleBinding", "ClusterRoleBinding"]


def grants(objects, account):
    """All grants of an account as (scope, group/resource, names, verbs). The scope is a namespace or '*'."""
    roles = {(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]): o for o in of_kind(objects, *ROLES)}
    for binding in of_kind(objects, *BINDINGS):
        if account not in [s["name"] for s in binding["subjects"]]:
            continue
        namespace = binding["metadata"].get("namespace")
        role = roles[(binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"])]
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    yield (namespace or "*", f"{group}/{resource}", tuple(rule.get("resourceNames", ())),
                           frozenset(rule["verbs"]))


class EveryRole(unittest.TestCase):
    @every_case
    def test_has_no_wildcards(self, _, objects):
        for role in of_kind(objects, *ROLES):
            for rule in role["rules"]:
                self.assertNotIn("*", rule["verbs"] + rule["resources"] + rule["apiGroups"])

    @every_case
    def test_grants_no_secrets_roles_impersonation_or_access_to_containers(self, _, objects):
        forbidden = {"secrets", "roles", "rolebindings", "clusterroles", "clusterrolebindings", "serviceaccounts",
                     "serviceaccounts/token", "pods/exec", "pods/attach", "pods/ephemeralcontainers", "users"}
        for role in of_kind(objects, *ROLES):
            for rule in role["rules"]:
                self.assertFalse(forbidden & set(rule["resources"]))
                self.assertFalse({"impersonate", "escalate", "bind"} & set(rule["verbs"]))
                if "nodes" in rule["resources"]:
                    self.assertEqual(rule["verbs"], ["list"])

    @every_case
    def test_is_bound_only_to_accounts_of_the_release(self, _, objects):
        for binding in of_kind(objects, *BINDINGS):
            for subject in binding["subjects"]:
                self.assertEqual(subject["namespace"], NAMESPACE)
                self.assertIn(subject["name"], {o["metadata"]["name"] for o in of_kind(objects, "ServiceAccount")})


class NamedNamespaces(unittest.TestCase):
    objects = render(CASES["named namespaces"])

    def test_leave_no_cluster_role_binding(self):
        self.assertEqual(of_kind(self.objects, "ClusterRoleBinding"), [])

    def test_leave_only_the_cluster_roles_for_users_which_grant_only_tasks(self):
        for role in of_kind(self.objects, "ClusterRole"):
            self.assertTrue(any("aggregate-to-" in label for label in role["metadata"]["labels"]))
            self.assertEqual({r for rule in role["rules"] for r in rule["resources"]} - {"agenttasks/status"},
                             {"agenttasks"})

    def test_have_the_same_rules_as_all_namespaces_would_have(self):
        for account in ["agentloop", "agentloop-release"]:
            # Nodes belong to no namespace. If the operator may not list them, auto means an init container.
            everywhere = {g[1:] for g in grants(render(), account) if g[0] == "*" and g[1] != "/nodes"}
            for namespace in ["team-a", "team-b"]:
                self.assertEqual({g[1:] for g in grants(self.objects, account) if g[0] == namespace}, everywhere)

    def test_may_include_the_releases_own(self):
        objects = render({"watch": {"namespaces": [NAMESPACE]}})
        self.assertEqual(len(of_kind(objects, "Role")), 4)


class TheOperator(unittest.TestCase):
    def test_changes_nothing_in_its_own_namespace_except_its_lease(self):
        own = {g[1:] for g in grants(render(), "agentloop") if g[0] == NAMESPACE}
        self.assertEqual(own, {
            ("/configmaps", ("agentloop-config",), frozenset({"get", "list", "watch"})),
            ("coordination.k8s.io/leases", (), frozenset({"create"})),
            ("coordination.k8s.io/leases", ("agentloop",), frozenset({"get", "update"})),
            ("events.k8s.io/events", (), frozenset({"create", "patch"})),
        })

    def test_reads_no_config_map_of_users(self):
        self.assertNotIn("/configmaps", [g[1] for g in grants(render(), "agentloop") if g[0] == "*"])

    @every_case
    def test_cannot_change_deployments(self, _, objects):
        for grant in grants(objects, "agentloop"):
            self.assertNotIn("apps/", grant[1])

    def test_cannot_delete_a_pvc(self):
        verbs = {v for g in grants(render(), "agentloop") if g[1] == "/persistentvolumeclaims" for v in g[3]}
        self.assertNotIn("delete", verbs)


class TheJobBeforeAnUninstall(unittest.TestCase):
    def test_creates_and_deletes_nothing_except_the_lease(self):
        for grant in grants(render(), "agentloop-release"):
            if {"create", "delete", "deletecollection"} & grant[3]:
                self.assertEqual(grant[1], "coordination.k8s.io/leases")
            if "delete" in grant[3]:
                self.assertEqual(grant[2], ("agentloop",))

    def test_scales_only_the_operators_deployment(self):
        named = {g[2] for g in grants(render(), "agentloop-release") if g[1].startswith("apps/")}
        self.assertEqual(named, {("agentloop",)})


class Users(unittest.TestCase):
    def test_get_access_to_tasks_through_the_clusters_own_roles(self):
        labels = {label: role["metadata"]["name"] for role in of_kind(render(), "ClusterRole")
                  for label in role["metadata"]["labels"] if "aggregate-to-" in label}
        prefix = "rbac.authorization.k8s.io/aggregate-to-"
        self.assertEqual(labels, {f"{prefix}view": "agentloop-view", f"{prefix}edit": "agentloop-edit"})

    def test_cannot_write_a_status(self):
        for role in of_kind(render(), "ClusterRole"):
            if role["metadata"]["name"] in {"agentloop-view", "agentloop-edit"}:
                for rule in role["rules"]:
                    if "agenttasks/status" in rule["resources"]:
                        self.assertEqual(rule["verbs"], ["get"])
