"""Checks the JSON Schema for editors with all tasks of the examples and the documentation, and with mistakes."""

import copy
import json
import unittest

import jsonschema
import manifests
import yaml

REPOSITORY = manifests.REPOSITORY
SCHEMA = json.loads((REPOSITORY / "crds" / "schema" / "agenttask.schema.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def problems(task):
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(task)]


def tasks_of(text):
    """The tasks of a manifest, including those in its ConfigMaps."""
    for found in yaml.safe_load_all(text):
        if not isinstance(found, dict):
            continue
        if found.get("kind") == "AgentTask":
            yield found
        if found.get("kind") == "ConfigMap":
            for inner in found.get("data", {}).values():
                if "kind: AgentTask" in inner:
                    yield from tasks_of(inner)


def example(name):
    return next(tasks_of((REPOSITORY / "examples" / name).read_text()))


class Schema(unittest.TestCase):
    def test_it_is_a_valid_schema(self):
        jsonschema.Draft7Validator.check_schema(SCHEMA)

    def test_every_example_is_valid(self):
        files = sorted((REPOSITORY / "examples").rglob("*.yaml"))
        found = {str(file.relative_to(REPOSITORY)): list(tasks_of(file.read_text())) for file in files}
        self.assertGreaterEqual(sum(map(len, found.values())), 7, found)
        for name, tasks in found.items():
            for task in tasks:
                with self.subTest(name):
                    self.assertEqual(problems(task), [])

    def test_every_complete_task_in_the_documentation_is_valid(self):
        tasks = [task for _, text in manifests.in_documentation() for task in tasks_of(text)]
        self.assertTrue(tasks)
        for task in tasks:
            with self.subTest(task["metadata"]["name"]):
                self.assertEqual(problems(task), [])

    def test_the_readme_shows_the_example_that_it_names(self):
        text = (REPOSITORY / "examples" / "count.yaml").read_text()
        shown = [manifest for name, manifest in manifests.in_documentation() if name.startswith("README.md")]
        self.assertEqual(shown, [text[text.index("apiVersion:") :]])

    def test_mistakes_are_detected(self):
        for path, value in [
            ("spec/maxIteration", 3),
            ("spec/maxIterations", "3"),
            ("spec/maxIterations", 0),
            ("spec/completion/policy", "gate"),
            ("spec/template/metadata/name", "dropped by the server"),
            ("spec/template/spec/containers", []),
            ("spec/template/spec/containers/0/image", 5),
            ("spec/template/spec/containers/0/env", [{"value": "without a name"}]),
            ("spec/template/spec/terminationGracePeriodSeconds", "30s"),
            ("spec/workspace/volumeClaimTemplate/spec/accessModes", "ReadWriteOnce"),
            ("kind", "AgentTasks"),
        ]:
            task = copy.deepcopy(example("hello.yaml"))
            *parents, last = path.split("/")
            at = task
            for key in parents:
                at = at[int(key)] if key.isdigit() else at.setdefault(key, {})
            at[last] = value
            if "volumeClaimTemplate" in path:
                task["spec"]["workspace"].pop("persistentVolumeClaim", None)
            with self.subTest(path, value=value):
                self.assertTrue(problems(task))

    def test_fields_of_a_newer_kubernetes_are_valid(self):
        task = example("hello.yaml")
        task["spec"]["template"]["spec"]["newerThanTheSchema"] = {"a": 1}
        task["spec"]["template"]["spec"]["containers"][0]["newerThanTheSchema"] = True
        task["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"cpu": 2, "memory": "1Gi"}}
        self.assertEqual(problems(task), [])

    def test_editors_know_the_fields_of_a_pod(self):
        definitions = SCHEMA["definitions"]
        pod = SCHEMA["properties"]["spec"]["properties"]["template"]["properties"]["spec"]
        name = pod["allOf"][0]["$ref"].removeprefix("#/definitions/")
        self.assertIn("affinity", definitions[name]["properties"])


if __name__ == "__main__":
    unittest.main()
