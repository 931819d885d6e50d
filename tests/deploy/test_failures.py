"""Each way to fail that is known: recognised by its own words, explained, and in the document with its test."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from sagemaker_deploy.checking.local_run import LocalOptions, docker_arguments
from sagemaker_deploy.failures import KNOWN_FAILURES, explain
from tests.support.server import PYTHON

ROOT = Path(__file__).resolve().parents[2]
PING = "The primary container for production variant AllTraffic did not pass the ping health check."
SEEN = {
    "manifest-type": "Unsupported manifest media type application/vnd.oci.image.index.v1+json for image x",
    "architecture": "exec /usr/local/bin/serve: exec format error",
    "no-serve": 'OCI runtime create failed: exec: "serve": executable file not found in $PATH',
    "bind-label": "does not contain com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true Docker label",
    "role": "Could not assume role arn:aws:iam::123456789012:role/x. Please ensure that the role exists",
    "pull": "The role does not have permission to access ECR image 123456789012.dkr.ecr.us-east-1.amazonaws.com/x",
    "capacity": "CapacityError: Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity",
    "quota": "ResourceLimitExceeded: The account-level service limit 'ml.g6.2xlarge for endpoint usage' is 0",
    "driver": "CUDA error: forward compatibility was attempted on non supported HW",
    "cuda-memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "cuda-fork": "RuntimeError: Cannot re-initialize CUDA in forked subprocess",
    "shared-memory": "RuntimeError: unable to open shared memory object </torch_1> in read-write mode",
    "read-only": "OSError: [Errno 30] Read-only file system: '/opt/ml/model/.cache'",
    "disk": "OSError: [Errno 28] No space left on device",
    "hub": "huggingface_hub.errors.GatedRepoError: 403 Client Error",
    "worker-timeout": "[CRITICAL] WORKER TIMEOUT (pid:17)",
    "invocation-timeout": "Your invocation timed out while waiting for a response from container primary",
    "payload": "Received client error (413) from primary",
    "killed": "the engine was killed: signal 9",
    "download-timeout": "Failed to download model data for container primary: timed out",
    "ping": PING,
}


def table() -> list[list[str]]:
    section = (ROOT / "docs/deploy.md").read_text().partition("## 8. When it fails")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def test_every_known_failure_is_sampled_here() -> None:
    assert SEEN.keys() == {failure.name for failure in KNOWN_FAILURES}


@pytest.mark.parametrize("name", SEEN)
def test_a_failure_is_known_by_its_words(name: str) -> None:
    found = explain(SEEN[name])
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("name", [name for name in SEEN if name != "ping"])
def test_a_reason_in_the_log_wins_over_the_health_check(name: str) -> None:
    found = explain(PING, ["starting", SEEN[name]])
    assert found is not None
    assert found.name == name


def test_what_is_not_known_is_not_guessed() -> None:
    assert explain("One or more of the flux capacitors is in flux", ["hello"]) is None


def named_tests() -> list[str]:
    return [f"tests/{test}" for row in table() for test in re.findall(r"`([^`]+)`", row[3])]


def test_the_document_has_a_row_for_each_and_tests_for_each_row() -> None:
    rows = table()
    assert {row[0].strip("`") for row in rows if row[0] != "-"} == SEEN.keys()
    for row in rows:
        assert len(row) == 4, row
        assert re.fullmatch(r"(`[\w/]+\.py::test_\w+`(, )?)+", row[3]), row


@pytest.mark.parametrize("faults", [False, True])
def test_pytest_finds_each_test_that_the_document_names(faults: bool) -> None:
    """By the container's interpreter, which has what their modules import; tests/faults is a run of its own."""
    named = {test for test in named_tests() if test.startswith("tests/faults/") == faults}
    assert named
    collect = ["--collect-only", "-q", "--override-ini", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]
    command = [PYTHON, "-m", "pytest", *collect, *sorted(named)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert {line.partition("[")[0] for line in done.stdout.splitlines() if line.startswith("tests/")} == named


def test_the_remedies_name_commands_that_exist() -> None:
    from sagemaker_deploy.cli.main import build_parser

    commands = re.findall(r"\{([^}]*)\}", build_parser().format_usage()) or [build_parser().format_help()]
    for failure in KNOWN_FAILURES:
        for command in re.findall(r"(?:with|see|check it with|that) `(\w+)`", failure.remedy):
            assert command in commands[0], failure.name


def test_at_home_it_runs_as_sagemaker_runs_it(tmp_path: Path) -> None:
    options = LocalOptions(image="image:1", model=tmp_path, environment={"A": "1"}, gpus="all")
    arguments = docker_arguments(options, "name")
    assert arguments[-2:] == ["image:1", "serve"]
    assert f"{tmp_path}:/opt/ml/model:ro" in arguments
    assert arguments[arguments.index("--shm-size") + 1] == "2g"
    assert arguments[arguments.index("--platform") + 1] == "linux/amd64"
