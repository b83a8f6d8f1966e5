"""The complete manifests in the documentation. As a program, writes each into a file of the given folder."""

import pathlib
import re
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```yaml\n(apiVersion:.*?)^```", re.MULTILINE | re.DOTALL)


def in_documentation():
    """Pairs of a name, such as "docs/security.md-2", and the manifest."""
    for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]:
        for number, manifest in enumerate(FENCE.findall(page.read_text()), 1):
            yield f"{page.relative_to(REPOSITORY)}-{number}", manifest


if __name__ == "__main__":
    for name, manifest in in_documentation():
        file = pathlib.Path(sys.argv[1], f"{name}.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(manifest)
