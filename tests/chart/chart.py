"""Renders the chart for its tests: values in, objects or a refusal out."""

import functools
import json
import os
import pathlib
import subprocess
import tempfile

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "charts" / "agentloop"
RELEASE = "agentloop"
NAMESPACE = "agentloop-system"
# The oldest version that is supported. Without it, Helm 3.17 would render for an older one.
KUBERNETES = "1.33.0"
DIGEST = "sha256:" + "0123456789abcdef" * 4

# Typical sets of values. Tests that apply to all of them use @every_case.
CASES = {
    "defaults": {},
    "named namespaces": {"watch": {"namespaces": ["team-a", "team-b"]}},
    "taking over": {"takeOver": ["old-system/agentloop", "older/loops-agentloop"]},
    "uninstalled by another tool": {"uninstallJob": "always"},
    "two replicas": {"replicas": 2, "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}]},
    "settings": {"config": {"hardLimit": 10000, "defaultMaxIterations": 20, "noChangeThreshold": 4,
                            "iterationTimeoutSeconds": 604800, "paused": True}},
    "own ConfigMap": {"config": {"existingConfigMap": "our-settings"}},
    "digests": {"image": {"digest": DIGEST}, "runner": {"image": {"digest": DIGEST}}},
    "private images": {"image": {"registry": "", "repository": "mirror/agentloop", "tag": "1.2.3"},
                       "runner": {"injection": "init-container"}, "imagePullSecrets": [{"name": "mirror"}]},
    "no CRD": {"crds": {"install": False}},
    "CRD is deleted too": {"crds": {"keep": False}},
    "no metrics": {"metrics": {"service": {"enabled": False}}},
    "ServiceMonitor": {"metrics": {"serviceMonitor": {"enabled": True, "interval": "30s", "labels": {"team": "a"}}}},
    "RBAC by hand": {"rbac": {"create": False, "aggregate": False},
                       "serviceAccount": {"create": False, "name": "ours"}},
    "placed": {"priorityClassName": "system-cluster-critical", "strategy": {"type": "Recreate"},
               "tolerations": [{"key": "infra", "operator": "Exists"}],
               "affinity": {"nodeAffinity": {}}, "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"},
               "podSecurityContext": {"runAsUser": None, "runAsGroup": None},
               "serviceAccount": {"annotations": {"e": "f"}}},
    "other names": {"nameOverride": "loops", "fullnameOverride": "f" * 46},
    "as a subchart": {"global": {"anything": 1}, "enabled": True},
    "registry of a parent chart": {"global": {"imageRegistry": "mirror.example/team", "imagePullSecrets": ["mirror"]},
                                   "image": {"digest": DIGEST}, "runner": {"image": {"registry": "elsewhere"}}},
}


class Refused(Exception):
    """Helm's message when it refused to render."""


def command(*args, given=None):
    return subprocess.run([str(a) for a in args], input=given, capture_output=True, text=True, check=False)


def helm(*args, values=None):
    """Helm with these values, or without any if the command takes none."""
    if values is None:
        return command(os.environ["HELM"], *args)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        return command(os.environ["HELM"], *args, "--values", file.name)


def render(values=None, has=("apiregistration.k8s.io/v1",)):
    """The objects that Helm renders if the cluster has these APIs, including hooks; each call returns new ones."""
    return json.loads(_render(json.dumps(values or {}), tuple(has)))


@functools.cache
def _render(values, has):
    apis = [word for api in has for word in ("--api-versions", api)]
    answer = helm("template", RELEASE, CHART, "--namespace", NAMESPACE, "--kube-version", KUBERNETES, *apis,
                  values=json.loads(values))
    if answer.returncode:
        raise Refused(answer.stderr)
    return json.dumps([o for o in yaml.safe_load_all(answer.stdout) if o])


def of_kind(objects, *kinds):
    return [o for o in objects if o["kind"] in kinds]


def one(objects, kind, name=None):
    found = [o for o in of_kind(objects, kind) if name in (None, o["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} objects are a {kind} {name or ''}"
    return found[0]


def pod_template(owner):
    return owner["spec"]["template"]


def pod_specs(objects):
    return [pod_template(o)["spec"] for o in of_kind(objects, "Deployment", "Job")]


def argument(container, flag):
    """The value of --flag=value; None if it is not given."""
    return next((a.split("=", 1)[1] for a in container["args"] if a.startswith(f"--{flag}=")), None)


def controller(values=None):
    return pod_template(one(render(values), "Deployment"))["spec"]["containers"][0]


def every_case(test):
    """Runs a test once for every case, which it gets by name with the objects rendered from it."""

    @functools.wraps(test)
    def run(self):
        for name, values in CASES.items():
            with self.subTest(case=name):
                test(self, name, render(values))

    return run
