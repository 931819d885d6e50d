"""Makefile, CI, workflows and the files around them: they parse, and call what there is."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.image_check.dockerfile import read

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
# The words after `make` that are targets: neither an option nor a variable.
MAKE = re.compile(r"\bmake((?: +(?:--?[a-z-]+|[A-Z_]+=(?:\"[^\"]*\"|\$\{\{.*?\}\}|\S)+|[a-z][a-z-]*))+)")


def made(text: str) -> set[str]:
    """The targets that shell text makes."""
    calls = [found.group(1) for line in text.splitlines() for found in MAKE.finditer(line.partition("#")[0])]
    return {word for call in calls for word in call.split() if re.fullmatch(r"[a-z][a-z-]*", word)}


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path).values() for step in job["steps"]]


def runs(path: Path) -> str:
    return "\n".join(step["run"] for step in steps(path) if "run" in step)


def test_targets_are_told_from_options_and_variables() -> None:
    text = (
        'make image TORCH=${{ matrix.torch }} X="a b"\n"$(make --silent version)-cpu" y\nmake wheel sbom # make nothing'
    )
    assert made(text) == {"image", "version", "wheel", "sbom"}


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_every_target_that_ci_makes_exists(path: Path) -> None:
    targets = made(runs(path) if path.suffix == ".yml" else path.read_text())
    assert targets
    assert targets <= TARGETS


def test_the_workflows_make_what_a_developer_makes() -> None:
    by_name = {path.stem: made(runs(path)) for path in WORKFLOWS}
    assert by_name["check"] >= {"check", "test-deploy", "test-clients", "faults", "wheel", "sbom"}
    assert by_name["image"] >= {"image", "image-check"}
    assert by_name["release"] >= {"ci", "wheel", "sbom", "image", "version"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_and_jobs_are_bounded(path: Path) -> None:
    used = [line.strip().removeprefix("- ") for line in path.read_text().splitlines() if "uses:" in line]
    assert len(used) == len([step for step in steps(path) if "uses" in step])
    assert not [line for line in used if not re.fullmatch(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)]
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 180 for job in jobs(path).values())


def test_faults_run_weekly() -> None:
    path = ROOT / ".github" / "workflows" / "check.yml"
    # YAML 1.1 reads the key `on` as true.
    (schedule,) = yaml.safe_load(path.read_text())[True]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* \d", schedule["cron"])
    assert "schedule" in jobs(path)["faults"]["if"]


def test_the_matrix_is_what_the_wheel_claims() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    claimed = [f"3.{name.removeprefix(prefix)}" for name in project["classifiers"] if name.startswith(prefix)]
    matrix = jobs(ROOT / ".github" / "workflows" / "check.yml")["check"]["strategy"]["matrix"]["python"]
    assert matrix == claimed
    assert project["requires-python"] == f">={claimed[0]}"


def test_ci_checks_format_lint_and_types_before_the_tests() -> None:
    plan = subprocess.run(["make", "--dry-run", "ci"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = ("ruff format --check .", "ruff check .", "/mypy", "-m pytest")
    found = [plan.index(command) for command in commands]
    assert found == sorted(found)
    assert plan.count("-m pytest") == 1
    assert "ci: export CI := true" in MAKEFILE


def test_make_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", MAKEFILE, re.MULTILINE)
    assert phony
    named = set(phony.group(1).replace("\\", " ").split())
    # `make test` runs this too, and a make inside a make announces its directory.
    command = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == named == TARGETS


def test_compose_serves_on_cpu_and_on_demand_on_gpus() -> None:
    services = COMPOSE["services"]
    assert [name for name, service in services.items() if "profiles" not in service] == ["cpu"]
    assert services["gpu"]["profiles"] == ["gpu"]
    for name, service in services.items():
        assert "/health'" in service["healthcheck"]["test"][-1], name
        assert service["stop_grace_period"] == "30s"
    (port,) = services["cpu"]["ports"]
    exposed = read(ROOT / "Dockerfile")[-1].last("EXPOSE")
    assert exposed is not None
    assert port.endswith(f":{exposed.text}")
    targets = {service["build"]["args"]["TORCH"] for service in services.values()}
    assert all((ROOT / "requirements" / f"image-{target}.txt").is_file() for target in targets)


def test_hooks_run_what_is_installed_here() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (local,) = [repository for repository in repositories if repository["repo"] == "local"]
    entries = [hook["entry"] for hook in local["hooks"]]
    assert {"ruff-check", "ruff-format", "types"} <= {hook["id"] for hook in local["hooks"]}
    assert all(entry.startswith(".venv/bin/") or made(entry) & TARGETS for entry in entries)
    files = [word for entry in entries for word in entry.split() if word.startswith("tests/")]
    assert files
    assert all((ROOT / file).is_file() for file in files)
    others = [repository for repository in repositories if repository["repo"] != "local"]
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", repository["rev"]) for repository in others)


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms_ask_for_something(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_updates_cover_actions_the_image_and_the_locks() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {one["package-ecosystem"] for one in updates} == {"github-actions", "docker", "pip"}
    for one in updates:
        assert (ROOT / one["directory"].strip("/")).is_dir()


@pytest.mark.parametrize("name", [".editorconfig", ".github/PULL_REQUEST_TEMPLATE.md"])
def test_files_that_tools_look_for_are_there(name: str) -> None:
    assert (ROOT / name).read_text().strip()
