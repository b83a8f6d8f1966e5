"""The chart on a real API server: it accepts the objects, and the roles grant what is needed and no more.

No pods run there. The end-to-end tests cover what the Job before an uninstall does.
"""

import json
import os
import unittest

from chart import CASES, CHART, NAMESPACE, RELEASE, command, every_case, helm, of_kind, pod_template, render

CRD = "agenttasks.agentloop.dev"
PLACES = [NAMESPACE, "team-a", "team-b", "elsewhere"]
HELM_VERSION = int(helm("version", "--template", "{{ .Version }}").stdout.lstrip("v").split(".")[0])
LEVEL = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ["enforce", "warn"]}


def setUpModule():
    if "KUBECTL" not in os.environ:
        raise unittest.SkipTest("offline")
    remove()
    for place in PLACES:
        apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place, "labels": LEVEL}}])
        succeed(kubectl("wait", "--for=create", "serviceaccount/default", "--namespace", place, "--timeout=120s"))


def tearDownModule():
    remove()


def kubectl(*args, given=None):
    return command(os.environ["KUBECTL"], *args, given=given)


def succeed(answer):
    assert answer.returncode == 0, answer.stderr
    return answer


def apply(objects, *args):
    items = {"apiVersion": "v1", "kind": "List", "items": objects}
    return succeed(kubectl("apply", "-f", "-", *args, given=json.dumps(items)))


def upgrade(values=None, *args):
    return helm("upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE, *args, values=values or {})


def uninstall(*args):
    return helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", *args)


def uninstall_without_hook():
    return succeed(uninstall("--no-hooks"))


def remove():
    uninstall_without_hook()
    succeed(kubectl("delete", "crd", CRD, "--ignore-not-found", "--timeout=120s"))


def task(name, namespace):
    return {"apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"template": {"spec": {"containers": [{"name": "agent", "image": "agent", "command": ["run"]}]}}}}


class EveryCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        remove()

    @every_case
    def test_is_accepted_without_a_warning(self, _, objects):
        answer = apply([o for o in objects if o["kind"] != "ServiceMonitor"], "--dry-run=server")
        self.assertEqual(answer.stderr, "")

    @every_case
    def test_has_pods_that_a_restricted_namespace_admits(self, _, objects):
        for owner in of_kind(objects, "Deployment", "Job"):
            # A dry run does not create the ServiceAccount.
            spec = {k: v for k, v in pod_template(owner)["spec"].items() if k != "serviceAccountName"}
            pod = {"apiVersion": "v1", "kind": "Pod", "spec": spec,
                   "metadata": {"name": "pod", "namespace": NAMESPACE}}
            answer = succeed(kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod)))
            self.assertEqual(answer.stderr, "")


class ARelease(unittest.TestCase):
    def tearDown(self):
        uninstall_without_hook()

    def replicas(self):
        return kubectl("get", "deployment", RELEASE, "-n", NAMESPACE, "-o", "jsonpath={.spec.replicas}").stdout

    def setting(self, key):
        return kubectl("get", "configmap", f"{RELEASE}-config", "-n", NAMESPACE, "-o", f"jsonpath={{.data.{key}}}").stdout

    def pause_by_hand(self):
        succeed(kubectl("patch", "configmap", f"{RELEASE}-config", "-n", NAMESPACE, "--type=merge",
                        "--patch", '{"data":{"paused":"true"}}'))

    def test_can_be_upgraded_from_each_case_to_the_next(self):
        for name, values in CASES.items():
            # Other names would change the immutable selector. The CRD of ServiceMonitors is not installed here.
            if name not in {"other names", "ServiceMonitor"}:
                with self.subTest(case=name):
                    succeed(upgrade(values))

    def test_leaves_crd_and_tasks_and_can_be_installed_again(self):
        succeed(upgrade())
        apply([task("kept", "team-a")])
        uninstall_without_hook()
        succeed(kubectl("get", "agt", "kept", "-n", "team-a"))
        succeed(upgrade())

    def test_deletes_the_crd_on_request(self):
        succeed(upgrade(CASES["CRD is deleted too"]))
        uninstall_without_hook()
        succeed(kubectl("wait", "--for=delete", f"crd/{CRD}", "--timeout=120s"))

    def test_leaves_nothing_except_the_crd(self):
        succeed(upgrade(CASES["named namespaces"]))
        uninstall_without_hook()
        left = succeed(kubectl("get", "-A", "-o", "name", "-l", f"app.kubernetes.io/instance={RELEASE}",
                               "deploy,job,sa,cm,svc,pdb,role,rolebinding,clusterrole,clusterrolebinding,crd"))
        self.assertEqual(left.stdout.split(), [f"customresourcedefinition.apiextensions.k8s.io/{CRD}"])

    def test_can_be_uninstalled_after_a_watched_namespace_is_gone(self):
        gone = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "short-lived"}}
        apply([gone])
        succeed(upgrade({"watch": {"namespaces": ["short-lived"]}}))
        succeed(kubectl("delete", "namespace", "short-lived", "--timeout=120s"))
        uninstall_without_hook()

    def test_has_the_job_before_an_uninstall_and_the_annotations_that_the_job_checks(self):
        succeed(upgrade())
        hooks = succeed(helm("get", "hooks", RELEASE, "--namespace", NAMESPACE)).stdout
        self.assertIn(f"--if-helm-release={RELEASE}", hooks)
        annotations = json.loads(kubectl("get", "deployment", RELEASE, "-n", NAMESPACE, "-o", "json").stdout)["metadata"]["annotations"]
        self.assertEqual(annotations["meta.helm.sh/release-name"], RELEASE)
        self.assertEqual(annotations["meta.helm.sh/release-namespace"], NAMESPACE)

    def test_that_is_rendered_and_applied_runs_no_job(self):
        objects = render(has=[])
        apply(objects)
        self.addCleanup(lambda: kubectl("delete", "-f", "-", "--ignore-not-found", given=json.dumps(
            {"apiVersion": "v1", "kind": "List", "items": objects})))
        self.assertEqual(kubectl("get", "jobs", "-n", NAMESPACE, "-o", "name").stdout, "")
        self.assertEqual(self.replicas(), "1")
        self.assertNotIn("meta.helm.sh", kubectl("get", "deployment", RELEASE, "-n", NAMESPACE, "-o", "yaml").stdout)

    def test_whose_uninstall_failed_is_complete_and_can_be_rolled_back(self):
        succeed(upgrade())
        # No pod runs here, so the Job does not finish; the test does what the Job would have done first, as an
        # administrator: kubectl reads before it patches, which the Job does not and is not allowed to do.
        self.addCleanup(kubectl, "delete", "job", f"{RELEASE}-release", "-n", NAMESPACE, "--timeout=120s")
        self.assertRegex(uninstall("--timeout=2s").stderr, "agentloop-release not ready|timed out waiting")
        succeed(kubectl("patch", "deployment", RELEASE, "-n", NAMESPACE, "--subresource=scale", "--type=merge",
                        "--patch", '{"spec":{"replicas":0}}'))
        self.assertEqual(self.replicas(), "0")
        # An upgrade would fail, because nothing is deployed.
        succeed(helm("rollback", RELEASE, "1", "--namespace", NAMESPACE))
        self.assertEqual(self.replicas(), "1")
        succeed(upgrade())

    def test_leaves_a_setting_unchanged_that_was_made_by_hand(self):
        succeed(upgrade({"config": {"hardLimit": 40}}))
        self.pause_by_hand()
        succeed(upgrade({"config": {"hardLimit": 41}}))
        self.assertEqual((self.setting("paused"), self.setting("hardLimit")), ("true", "41"))

    def test_sets_a_setting_made_in_both_ways_with_helm_3(self):
        if HELM_VERSION != 3:
            self.skipTest("Helm 4 stops")
        succeed(upgrade())
        self.pause_by_hand()
        succeed(upgrade({"config": {"paused": False}}))
        self.assertEqual(self.setting("paused"), "false")

    def test_stops_at_a_setting_made_in_both_ways_unless_it_is_forced(self):
        if HELM_VERSION == 3:
            self.skipTest("Helm 3 does not stop")
        succeed(upgrade())
        self.pause_by_hand()
        values = {"config": {"paused": False}}
        self.assertIn("conflict", upgrade(values).stderr)
        self.assertEqual(self.setting("paused"), "true")
        succeed(upgrade(values, "--force-conflicts"))
        self.assertEqual(self.setting("paused"), "false")

    def test_prints_a_task_that_can_be_pasted(self):
        for values, namespace in [({}, "default"), (CASES["named namespaces"], "team-a")]:
            notes = succeed(upgrade(values)).stdout
            pasted = notes.split("<<'TASK'\n", 1)[1].split("\nTASK\n", 1)[0]
            made = succeed(kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", given=pasted))
            self.assertEqual(json.loads(made.stdout)["metadata"]["namespace"], namespace)


class Notes(unittest.TestCase):
    def printed(self, values=None):
        return succeed(upgrade(values, "--dry-run=server")).stdout.split("\nNOTES:\n", 1)[1]

    def test_warn_of_images_that_no_registry_has(self):
        self.assertIn("every node must already have localhost/agentloop:", self.printed())
        values = {"image": {"registry": "mirror.example"}}
        self.assertRegex(self.printed(values), "must already have localhost/agentloop-runner:[0-9.]+[.]\n")
        for values in [CASES["registry of a parent chart"],
                       {"image": {"registry": "localhost.example"}, "runner": {"image": {"registry": ""}}}]:
            self.assertNotIn("WARNING", self.printed(values))


def account(name):
    return f"system:serviceaccount:{NAMESPACE}:{name}"


class Permissions(unittest.TestCase):
    """Answered by the API server's own authorizer."""

    def setUp(self):
        self.addCleanup(uninstall_without_hook)

    def may(self, who, verb, resource, namespace, name=None):
        target = f"{resource}/{name}" if name else resource
        where = ["-n", namespace] if namespace else ["-A"]
        kind, _, subresource = resource.partition(":")
        target = f"{kind}/{name}" if name else kind
        extra = [f"--subresource={subresource}"] if subresource else []
        return kubectl("auth", "can-i", verb, target, *where, *extra, "--as", account(who)).stdout.strip() == "yes"

    def operate(self, namespace):
        needed = {"agenttasks.agentloop.dev": "get list watch delete", "agenttasks.agentloop.dev:status": "patch",
                  "agenttasks.agentloop.dev:finalizers": "update", "pods": "get list watch create patch delete",
                  "persistentvolumeclaims": "get create patch", "events": "list",
                  "events.events.k8s.io": "create patch"}
        return {self.may(RELEASE, verb, resource, namespace) for resource, verbs in needed.items()
                for verb in verbs.split()}

    def test_of_the_operator_suffice_everywhere_if_it_watches_all_namespaces(self):
        succeed(upgrade())
        self.assertEqual(self.operate(None), {True})

    def test_of_the_operator_are_limited_to_the_listed_namespaces(self):
        succeed(upgrade(CASES["named namespaces"]))
        self.assertEqual(self.operate("team-a"), {True})
        self.assertEqual(self.operate("team-b"), {True})
        self.assertEqual(self.operate("elsewhere"), {False})

    def test_of_the_operator_cover_one_config_map_and_no_other(self):
        succeed(upgrade())
        as_operator = ["--as", account(RELEASE), "-n", NAMESPACE]
        one = f"metadata.name={RELEASE}-config"
        succeed(kubectl("get", "configmaps", "--field-selector", one, *as_operator))
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps?watch=1&timeoutSeconds=1&fieldSelector={one}"
        succeed(kubectl("get", "--raw", path, *as_operator[:2]))
        self.assertIn("forbidden", kubectl("get", "configmaps", *as_operator).stderr)

    def test_of_the_operator_cover_only_its_own_lease(self):
        succeed(upgrade())
        leases = "leases.coordination.k8s.io"
        self.assertTrue(self.may(RELEASE, "create", leases, NAMESPACE))
        self.assertTrue(self.may(RELEASE, "update", leases, NAMESPACE, RELEASE))
        self.assertFalse(self.may(RELEASE, "update", leases, NAMESPACE, "another"))
        self.assertFalse(self.may(RELEASE, "create", leases, "elsewhere"))

    def test_of_the_job_suffice_to_stop_the_operator_and_remove_finalizers(self):
        succeed(upgrade(CASES["named namespaces"]))
        job = f"{RELEASE}-release"
        self.assertTrue(self.may(job, "get", "deployments.apps", NAMESPACE, RELEASE))
        self.assertTrue(self.may(job, "patch", "deployments.apps:scale", NAMESPACE, RELEASE))
        self.assertFalse(self.may(job, "patch", "deployments.apps:scale", NAMESPACE, "another"))
        self.assertTrue(self.may(job, "list", "pods", NAMESPACE))
        for verb in ["get", "update", "delete"]:
            self.assertTrue(self.may(job, verb, "leases.coordination.k8s.io", NAMESPACE, RELEASE), verb)
        for verb, resource in [("list", "agenttasks.agentloop.dev"), ("patch", "agenttasks.agentloop.dev:status"),
                               ("list", "pods"), ("patch", "pods")]:
            self.assertTrue(self.may(job, verb, resource, "team-a"), f"{verb} {resource}")
            self.assertFalse(self.may(job, verb, resource, "elsewhere"), f"{verb} {resource}")

    def test_of_users_come_with_the_clusters_own_roles(self):
        succeed(upgrade())
        for role, verb, allowed in [("view", "list", "yes"), ("view", "create", "no"), ("edit", "create", "yes"),
                                    ("admin", "delete", "yes")]:
            with self.subTest(role=role, verb=verb):
                group = f"{role}ers"
                succeed(kubectl("create", "rolebinding", group, f"--clusterrole={role}", f"--group={group}", "-n", "team-a"))
                self.addCleanup(kubectl, "delete", "rolebinding", group, "-n", "team-a")
                ask = ["auth", "can-i", verb, "agenttasks.agentloop.dev", "-n", "team-a", "--as=someone", f"--as-group={group}"]
                self.assertEqual(kubectl(*ask).stdout.strip(), allowed)
                kubectl("delete", "rolebinding", group, "-n", "team-a")
