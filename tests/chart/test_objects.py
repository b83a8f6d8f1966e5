"""Rendered objects: valid in every version, allowed in restricted namespaces, with the right names and labels."""

import json
import pathlib
import re
import tarfile
import tempfile
import tomllib
import unittest

import kubernetes_validate
import yaml

from chart import (CASES, CHART, DIGEST, NAMESPACE, RELEASE, REPOSITORY, argument, controller, every_case, helm,
                   of_kind, one, pod_specs, pod_template, render)

VERSIONS = ["1.33", "1.34", "1.35", "1.36", "1.37"]
CRD = "agenttasks.agentloop.dev"
CLUSTER_WIDE = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}


class EveryObject(unittest.TestCase):
    validated = set()

    @every_case
    def test_is_valid_in_every_supported_version_of_kubernetes(self, _, objects):
        for o in objects:
            text = yaml.safe_dump(o)
            if o["kind"] == "ServiceMonitor" or text in self.validated:
                continue
            self.validated.add(text)
            for version in VERSIONS:
                kubernetes_validate.validate(o, version, strict=True)

    @every_case
    def test_has_the_recommended_labels(self, _, objects):
        for o in objects:
            labels = o["metadata"]["labels"]
            for label in ["name", "instance", "version", "managed-by", "part-of"]:
                self.assertIn(f"app.kubernetes.io/{label}", labels, o["metadata"]["name"])
            self.assertTrue(all(len(v) <= 63 for v in labels.values()))

    @every_case
    def test_is_in_the_release_namespace_except_roles_in_watched_namespaces(self, case, objects):
        watched = CASES[case].get("watch", {}).get("namespaces", [])
        for o in objects:
            namespace = o["metadata"].get("namespace")
            if o["kind"] in CLUSTER_WIDE:
                self.assertIsNone(namespace)
            elif namespace != NAMESPACE:
                self.assertIn(o["kind"], {"Role", "RoleBinding"})
                self.assertIn(namespace, watched)

    @every_case
    def test_is_rendered_once_and_has_a_name_that_fits_a_label(self, _, objects):
        keys = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
        self.assertEqual(len(keys), len(set(keys)))
        self.assertTrue(all(len(name) <= 63 for _, _, name in keys))


class EveryPod(unittest.TestCase):
    @every_case
    def test_satisfies_the_restricted_pod_security_standard(self, _, objects):
        specs = pod_specs(objects)
        self.assertEqual(len(specs), 2)
        for spec in specs:
            self.assertTrue(spec["securityContext"]["runAsNonRoot"])
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertFalse({"hostNetwork", "hostPID", "hostIPC", "volumes"} & spec.keys())
            for container in spec["containers"]:
                context = container["securityContext"]
                self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                self.assertFalse(context["allowPrivilegeEscalation"])
                self.assertTrue(context["readOnlyRootFilesystem"])

    def test_requests_resources_and_limits_memory(self):
        for spec in pod_specs(render()):
            resources = spec["containers"][0]["resources"]
            self.assertEqual(resources["requests"].keys(), {"cpu", "memory"})
            self.assertEqual(resources["limits"].keys(), {"memory"})

    def test_runs_the_image_of_the_charts_version_by_default(self):
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        self.assertEqual({s["containers"][0]["image"] for s in pod_specs(render())}, {f"localhost/agentloop:{version}"})
        self.assertEqual(argument(controller(), "runner-image"), f"localhost/agentloop-runner:{version}")

    def test_runs_an_image_by_its_digest(self):
        container = controller(CASES["digests"])
        self.assertEqual(container["image"], f"localhost/agentloop@{DIGEST}")
        self.assertEqual(argument(container, "runner-image"), f"localhost/agentloop-runner@{DIGEST}")

    def test_runs_an_image_without_a_registry_and_with_pull_secrets(self):
        for spec in pod_specs(render(CASES["private images"])):
            self.assertEqual(spec["containers"][0]["image"], "mirror/agentloop:1.2.3")
            self.assertEqual(spec["imagePullSecrets"], [{"name": "mirror"}])

    def test_runs_images_from_the_registry_of_a_parent_chart(self):
        values = CASES["registry of a parent chart"]
        self.assertEqual({s["containers"][0]["image"] for s in pod_specs(render(values))},
                         {f"mirror.example/team/agentloop@{DIGEST}"})
        self.assertTrue(argument(controller(values), "runner-image").startswith("mirror.example/team/agentloop-runner:"))

    def test_uses_the_pull_secrets_of_a_parent_chart_and_its_own_each_once(self):
        shared = {"global": {"imagePullSecrets": ["a", {"name": "b"}]}, "imagePullSecrets": [{"name": "c"}, {"name": "a"}]}
        for values, names in [(shared, ["a", "b", "c"]), ({"global": None, "imagePullSecrets": [{"name": "c"}]}, ["c"])]:
            for spec in pod_specs(render(values)):
                self.assertEqual(spec["imagePullSecrets"], [{"name": n} for n in names])
        self.assertTrue(all("imagePullSecrets" not in s for s in pod_specs(render())))

    def test_is_scheduled_according_to_the_values(self):
        for spec in pod_specs(render(CASES["placed"])):
            self.assertEqual(spec["priorityClassName"], "system-cluster-critical")
            self.assertEqual(spec["tolerations"], [{"key": "infra", "operator": "Exists"}])
            self.assertIn("nodeAffinity", spec["affinity"])
            self.assertNotIn("runAsUser", spec["securityContext"])

    @every_case
    def test_uses_an_existing_service_account_and_asks_for_its_token_itself(self, case, objects):
        accounts = {o["metadata"]["name"]: o for o in of_kind(objects, "ServiceAccount")}
        self.assertTrue(all(a["automountServiceAccountToken"] is False for a in accounts.values()))
        for spec in pod_specs(objects):
            self.assertTrue(spec["automountServiceAccountToken"])
            if case != "RBAC by hand":
                self.assertIn(spec["serviceAccountName"], accounts)


class Operator(unittest.TestCase):
    @every_case
    def test_is_selected_by_its_service_and_budget_which_do_not_select_the_job(self, _, objects):
        labels = pod_template(one(objects, "Deployment"))["metadata"]["labels"]
        others = pod_template(one(objects, "Job"))["metadata"]["labels"]
        selectors = [o["spec"]["selector"] for o in of_kind(objects, "Service")]
        selectors += [o["spec"]["selector"]["matchLabels"]
                      for o in of_kind(objects, "Deployment", "PodDisruptionBudget")]
        for selector in selectors:
            self.assertLessEqual(selector.items(), labels.items())
            self.assertFalse(selector.items() <= others.items())

    def test_watches_all_namespaces_unless_some_are_listed(self):
        self.assertIsNone(argument(controller(), "watch-namespaces"))
        self.assertEqual(argument(controller(CASES["named namespaces"]), "watch-namespaces"), "team-a,team-b")

    def test_uses_the_releases_name_for_its_tasks_whatever_its_objects_are_called(self):
        for case in ["defaults", "other names"]:
            self.assertEqual(argument(controller(CASES[case]), "release"), RELEASE)

    def test_takes_over_only_the_listed_releases(self):
        self.assertIsNone(argument(controller(), "take-over"))
        self.assertEqual(argument(controller(CASES["taking over"]), "take-over"),
                         "old-system/agentloop,older/loops-agentloop")

    def test_has_a_disruption_budget_only_with_two_replicas(self):
        self.assertEqual(of_kind(render(), "PodDisruptionBudget"), [])
        budget = one(render(CASES["two replicas"]), "PodDisruptionBudget")
        self.assertEqual(budget["spec"]["maxUnavailable"], 1)

    def test_is_spread_by_its_own_labels(self):
        deployment = one(render(CASES["two replicas"]), "Deployment")
        constraint = pod_template(deployment)["spec"]["topologySpreadConstraints"][0]
        self.assertEqual(constraint["labelSelector"], deployment["spec"]["selector"])

    def test_keeps_the_labels_of_its_selector_whatever_labels_are_added(self):
        wanted = {"app.kubernetes.io/component": "mine", "team": "a"}
        labels = pod_template(one(render({"podLabels": wanted}), "Deployment"))["metadata"]["labels"]
        self.assertEqual(labels["app.kubernetes.io/component"], "controller")
        self.assertEqual(labels["team"], "a")

    def test_answers_probes_on_a_port_that_no_service_exposes(self):
        objects = render(CASES["ServiceMonitor"])
        container = pod_template(one(objects, "Deployment"))["spec"]["containers"][0]
        ports = [{"name": "http", "containerPort": 8080}, {"name": "probes", "containerPort": 8081}]
        self.assertEqual(container["ports"], ports)
        self.assertTrue(argument(container, "http-address").endswith(":8080"))
        self.assertTrue(argument(container, "probe-address").endswith(":8081"))
        for probe in ["livenessProbe", "readinessProbe"]:
            self.assertEqual(container[probe]["httpGet"]["port"], "probes")
        for port in one(objects, "Service")["spec"]["ports"]:
            self.assertEqual(port["targetPort"], "http")

    def test_is_scraped_through_the_service_that_the_monitor_selects(self):
        objects = render(CASES["ServiceMonitor"])
        monitor = one(objects, "ServiceMonitor")
        service = one(objects, "Service")
        self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(), service["metadata"]["labels"].items())
        self.assertEqual(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"])
        self.assertEqual(monitor["metadata"]["labels"]["team"], "a")
        self.assertEqual(of_kind(render(CASES["no metrics"]), "Service"), [])


class Settings(unittest.TestCase):
    def test_contain_only_the_keys_that_were_set(self):
        self.assertNotIn("data", one(render(), "ConfigMap"))
        data = one(render({"config": {"hardLimit": 30}}), "ConfigMap")["data"]
        self.assertEqual(data, {"hardLimit": "30"})

    def test_are_written_as_plain_numbers_and_words(self):
        data = one(render(CASES["settings"]), "ConfigMap")["data"]
        self.assertEqual(data, {"hardLimit": "10000", "defaultMaxIterations": "20", "noChangeThreshold": "4",
                                "iterationTimeoutSeconds": "604800", "paused": "true"})

    def test_that_are_false_are_written_too(self):
        self.assertEqual(one(render({"config": {"paused": False}}), "ConfigMap")["data"], {"paused": "false"})

    def test_include_the_log_level_as_text(self):
        self.assertEqual(one(render({"config": {"logLevel": "debug"}}), "ConfigMap")["data"], {"logLevel": "debug"})

    @every_case
    def test_come_from_the_config_map_that_the_operator_reads(self, _, objects):
        name = argument(pod_template(one(objects, "Deployment"))["spec"]["containers"][0], "config-map")
        self.assertIn(name, [o["metadata"]["name"] for o in of_kind(objects, "ConfigMap")] + ["our-settings"])

    def test_in_an_existing_config_map_replace_the_charts(self):
        objects = render(CASES["own ConfigMap"])
        self.assertEqual(of_kind(objects, "ConfigMap"), [])
        role = one(objects, "Role", "agentloop-self")
        self.assertIn(["our-settings"], [r.get("resourceNames") for r in role["rules"]])

    def test_are_the_keys_that_the_operator_reads(self):
        source = (REPOSITORY / "crates" / "core" / "src" / "settings.rs").read_text()
        read = set(re.findall(r'name: "(\w+)"', source)) | {"paused", "logLevel"}
        schema = json.loads((CHART / "values.schema.json").read_text())
        self.assertEqual(schema["properties"]["config"]["properties"].keys() - {"existingConfigMap"}, read)

    def test_are_all_documented_in_values(self):
        text = (CHART / "values.yaml").read_text()
        schema = yaml.safe_load((CHART / "values.schema.json").read_text())
        for key in schema["properties"]["config"]["properties"]:
            self.assertRegex(text, rf"(?m)^  (# )?{key}: ")


class CustomResourceDefinition(unittest.TestCase):
    def test_is_rendered_unchanged(self):
        original = yaml.safe_load((REPOSITORY / "crds" / f"{CRD}.yaml").read_text())
        self.assertEqual(one(render(), "CustomResourceDefinition")["spec"], original["spec"])

    def test_outlives_the_release_by_default(self):
        policy = "helm.sh/resource-policy"
        kept = one(render(), "CustomResourceDefinition")["metadata"]
        self.assertEqual(kept["annotations"][policy], "keep")
        deleted = one(render(CASES["CRD is deleted too"]), "CustomResourceDefinition")["metadata"]
        self.assertNotIn(policy, deleted.get("annotations", {}))

    def test_is_left_out_on_request(self):
        self.assertEqual(of_kind(render(CASES["no CRD"]), "CustomResourceDefinition"), [])


class JobBeforeAnUninstall(unittest.TestCase):
    @every_case
    def test_is_the_only_hook_and_keeps_its_log_if_it_fails(self, _, objects):
        hooks = [o for o in objects if "helm.sh/hook" in o["metadata"].get("annotations", {})]
        self.assertEqual([o["kind"] for o in hooks], ["Job"])
        annotations = hooks[0]["metadata"]["annotations"]
        self.assertEqual(annotations["helm.sh/hook"], "pre-delete")
        self.assertEqual(annotations["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded")

    @every_case
    def test_stops_the_operator_of_this_release_and_has_its_arguments(self, _, objects):
        deployment = one(objects, "Deployment")
        operator = pod_template(deployment)["spec"]["containers"][0]
        job = pod_template(one(objects, "Job"))["spec"]["containers"][0]
        self.assertEqual(job["args"][0], "uninstall")
        self.assertEqual(argument(job, "namespace"), NAMESPACE)
        self.assertEqual(argument(job, "deployment"), deployment["metadata"]["name"])
        for flag in ["lease-name", "release", "watch-namespaces", "take-over"]:
            self.assertEqual(argument(job, flag), argument(operator, flag))

    def test_is_left_out_with_its_roles_from_the_output_of_helm_template(self):
        for values in [{}, CASES["named namespaces"], {"uninstallJob": "auto"}]:
            objects = render(values, has=[])
            self.assertEqual(of_kind(objects, "Job"), [])
            self.assertEqual([o for o in objects if "agentloop-release" in o["metadata"]["name"]], [])

    def test_acts_only_if_helm_installed_unless_it_is_requested(self):
        def given(objects):
            return argument(pod_template(one(objects, "Job"))["spec"]["containers"][0], "if-helm-release")

        self.assertEqual(given(render()), RELEASE)
        for apis in [[], ["apiregistration.k8s.io/v1"]]:
            self.assertIsNone(given(render({"uninstallJob": "always"}, has=apis)))
        self.assertEqual(of_kind(render({"uninstallJob": "never"}), "Job"), [])

    def test_gives_up_before_helm_does(self):
        self.assertLess(one(render(), "Job")["spec"]["activeDeadlineSeconds"], 300)


class Chart(unittest.TestCase):
    def test_is_packaged_with_all_its_files(self):
        with tempfile.TemporaryDirectory() as folder:
            helm("package", CHART, "--destination", folder)
            (archive,) = pathlib.Path(folder).iterdir()
            with tarfile.open(archive) as packaged:
                names = {name.split("/", 1)[1] for name in packaged.getnames()}
        self.assertEqual(names, {str(f.relative_to(CHART)) for f in CHART.rglob("*") if f.is_file()} - {".helmignore"})

    def test_has_the_version_of_the_programs(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        version = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))

    def test_documents_every_value_that_the_schema_knows(self):
        schema = yaml.safe_load((CHART / "values.schema.json").read_text())
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        self.assertEqual(schema["properties"].keys() - {"enabled"}, values.keys())

    def test_names_no_registry(self):
        hosts = re.compile(r"\b(?:ghcr|quay|docker|gcr|registry\.k8s|mcr\.microsoft)\.[a-z]+")
        for file in CHART.rglob("*.*"):
            self.assertIsNone(hosts.search(file.read_text()), file.name)
