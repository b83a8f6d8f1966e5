"""Invalid values are refused before anything is installed, with a message that names the key."""

import unittest

from chart import CASES, Refused, every_case, render


class AValue(unittest.TestCase):
    def refused(self, values, *words):
        with self.assertRaises(Refused) as refusal:
            render(values)
        message = str(refusal.exception)
        for word in words:
            # A path such as /image/tag; Helm 3 writes it with dots.
            path = word.lstrip("/").replace("/", ".") if word.startswith("/") else word
            self.assertTrue(word in message or path in message, f"{word} is not in: {message}")

    @every_case
    def test_of_a_typical_case_is_accepted(self, name, objects):
        self.assertTrue(objects, name)

    def test_that_is_unknown_is_refused_at_every_depth(self):
        self.refused({"replica": 2}, "replica", "not allowed")
        self.refused({"config": {"maxIterations": 5}}, "config", "maxIterations", "not allowed")
        self.refused({"runner": {"image": {"name": "x"}}}, "/runner/image", "name", "not allowed")
        self.refused({"metrics": {"serviceMonitor": {"enable": True}}}, "/metrics/serviceMonitor", "enable")

    def test_of_a_wrong_type_is_refused(self):
        self.refused({"replicas": "2"}, "/replicas", "integer")
        self.refused({"watch": {"namespaces": "team-a"}}, "/watch/namespaces", "array")
        self.refused({"config": {"paused": "no"}}, "/config/paused", "boolean")
        self.refused({"config": {"hardLimit": "50"}}, "/config/hardLimit", "integer")
        self.refused({"config": {"logLevel": "loud"}}, "/config/logLevel")
        self.refused({"podLabels": {"a": 1}}, "/podLabels/a", "string")
        self.refused({"imagePullSecrets": ["mirror"]}, "/imagePullSecrets/0", "object")
        self.refused({"global": {"imagePullSecrets": [{"secret": "a"}]}}, "/global/imagePullSecrets/0")
        self.refused({"global": {"imageRegistry": "https://mirror.example"}}, "/global/imageRegistry")

    def test_that_would_remove_a_bound_of_the_loop_is_refused(self):
        for limit in [0, -1, 10001, 20000, 1.5]:
            with self.subTest(limit=limit):
                self.refused({"config": {"hardLimit": limit}}, "/config/hardLimit")
                self.refused({"config": {"defaultMaxIterations": limit}}, "/config/defaultMaxIterations")
        self.refused({"config": {"noChangeThreshold": 0}}, "/config/noChangeThreshold")
        self.refused({"config": {"iterationTimeoutSeconds": 0}}, "/config/iterationTimeoutSeconds")

    def test_above_its_limit_is_refused_as_by_the_operator(self):
        self.refused({"config": {"defaultMaxIterations": 51}}, "defaultMaxIterations (51)", "hardLimit (50)")
        self.refused({"config": {"hardLimit": 9, "defaultMaxIterations": 10}}, "(10)", "hardLimit (9)")
        self.refused({"config": {"rateLimitMinSeconds": 2000}}, "rateLimitMinSeconds (2000)")

    def test_that_lowers_the_operators_own_default_is_accepted(self):
        self.assertTrue(render({"config": {"hardLimit": 9}}))

    def test_beside_an_existing_config_map_is_refused_rather_than_ignored(self):
        self.refused({"config": {"existingConfigMap": "ours", "hardLimit": 20}}, "config.hardLimit")

    def test_that_no_object_can_have_is_refused(self):
        self.refused({"fullnameOverride": "n" * 47}, "/fullnameOverride")
        self.refused({"watch": {"namespaces": ["Team_A"]}}, "/watch/namespaces/0")
        self.refused({"watch": {"namespaces": ["a", "a"]}}, "/watch/namespaces")
        self.refused({"image": {"digest": "sha256:short"}}, "/image/digest")
        for name in ["agentloop", "a/b/c", "A/b", "a/", "a,b/c"]:
            self.refused({"takeOver": [name]}, "/takeOver/0")
        self.refused({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy")
        self.refused({"runner": {"injection": "sidecar"}}, "/runner/injection")

    def test_that_requires_another_is_refused_without_it(self):
        self.refused({"serviceAccount": {"create": False}}, "/serviceAccount/name")
        monitor = dict(CASES["ServiceMonitor"]["metrics"], service={"enabled": False})
        self.refused({"metrics": monitor}, "metrics.service.enabled")
