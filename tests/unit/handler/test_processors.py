"""The processors that may be used, over trees of /proc and control groups as systems show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handler.model.machine_memory import available_memory_bytes
from handler.seam.processors import groups, usable_cpus, usable_threads

V2 = "31 23 0:28 {top} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "33 31 0:30 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
OTHER = "23 1 0:21 / /proc rw,nosuid - proc proc rw"
AT_V2, AT_V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


@pytest.fixture(autouse=True)
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def tree(root: Path, mounts: list[str], membership: str, **quotas: str) -> Path:
    """Write /proc/self and the groups; `quotas` maps their directories to a quota and a period."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("\n".join(mounts) + "\n")
    (root / "proc/self/cgroup").write_text(membership)
    for directory, text in quotas.items():
        group = root / directory
        group.mkdir(parents=True, exist_ok=True)
        if AT_V1 in directory:
            quota, period = text.split()
            (group / "cpu.cfs_quota_us").write_text(quota + "\n")
            (group / "cpu.cfs_period_us").write_text(period + "\n")
        else:
            (group / "cpu.max").write_text(text + "\n")
    return root


CASES = {
    "nothing is limited": ([OTHER, V2.format(top="/")], "0::/\n", {AT_V2: "max 100000"}, 8.0, 8),
    "docker, version 2, own namespace": ([V2.format(top="/")], "0::/\n", {AT_V2: "400000 100000"}, 4.0, 4),
    "the least of all ancestors": (
        [V2.format(top="/")],
        "0::/kube/pod/box\n",
        {AT_V2 + "/kube/pod/box": "max 100000", AT_V2 + "/kube/pod": "150000 100000", AT_V2 + "/kube": "6 1"},
        *(1.5, 2),
    ),
    "a middle group without a file": (
        [V2.format(top="/")],
        "0::/a/b/c\n",
        {AT_V2 + "/a/b/c": "300000 100000", AT_V2 + "/a": "20000 100000"},
        *(0.2, 1),
    ),
    "a group outside of the namespace": ([V2.format(top="/")], "0::/../other\n", {AT_V2: "50000 100000"}, 0.5, 1),
    "version 1, the host's names": (
        [MEMORY.format(top="/docker/x"), V1.format(top="/docker/x")],
        "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n",
        {AT_V1: "250000 100000"},
        *(2.5, 3),
    ),
    "version 1, from the host": (
        [V1.format(top="/")],
        "4:cpu,cpuacct:/a/b\n",
        {AT_V1 + "/a/b": "-1 100000", AT_V1 + "/a": "100000 50000", AT_V1: "-1 100000"},
        *(2.0, 2),
    ),
    "version 1 beside version 2": (
        [V1.format(top="/"), UNIFIED],
        "4:cpu,cpuacct:/a\n0::/\n",
        {AT_V1 + "/a": "100000 100000", "sys/fs/cgroup/unified": "max 100000"},
        *(1.0, 1),
    ),
    "another group's quota": (
        [V1.format(top="/"), MEMORY.format(top="/")],
        "5:memory:/m\n4:cpu,cpuacct:/a\n",
        {AT_V1 + "/m": "100000 100000", AT_V1 + "/a": "-1 100000"},
        *(8.0, 8),
    ),
    "more than there are": ([V2.format(top="/")], "0::/\n", {AT_V2: "6400000 100000"}, 8.0, 8),
    "damaged": ([V2.format(top="/")], "0::/\n", {AT_V2: "much"}, 8.0, 8),
    "no quota is mounted": ([OTHER], "0::/\n", {}, 8.0, 8),
}


@pytest.mark.parametrize("case", CASES)
def test_the_least_limit_counts(case: str, tmp_path: Path) -> None:
    mounts, membership, quotas, cpus, threads = CASES[case]
    root = tree(tmp_path, mounts, membership, **quotas)
    assert usable_cpus(root) == pytest.approx(cpus)
    assert usable_threads(root) == threads


def test_engines_share(tmp_path: Path) -> None:
    root = tree(tmp_path, [V2.format(top="/")], "0::/\n", **{AT_V2: "350000 100000"})
    assert [usable_threads(root, engines) for engines in (1, 2, 3, 5)] == [4, 2, 1, 1]


def test_nothing_to_read_is_no_limit(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == 8.0
    assert list(groups("cpu", tmp_path)) == []


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    mount = "31 23 0:28 / /sys/my\\040groups rw - cgroup2 cgroup2 rw"
    assert usable_cpus(tree(tmp_path, [mount], "0::/\n", **{"sys/my groups": "100000 100000"})) == 1.0


@pytest.mark.parametrize(
    ("mounts", "membership", "files", "left"),
    [
        ([V2.format(top="/")], "0::/\n", {}, 1 << 40),
        (
            [V2.format(top="/")],
            "0::/a\n",
            {
                AT_V2 + "/a": {"memory.max": "max", "memory.current": "7", "memory.stat": ""},
                AT_V2: {"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 9\nactive_file 100\n"},
            },
            400,
        ),
        (
            [MEMORY.format(top="/docker/x")],
            "5:memory:/docker/x\n",
            {
                "sys/fs/cgroup/memory": {
                    "memory.limit_in_bytes": "5000",
                    "memory.usage_in_bytes": "6000",
                    "memory.stat": "total_active_file 500\ntotal_inactive_file 600\n",
                }
            },
            100,
        ),
    ],
)
def test_memory_is_limited_by_the_same_groups(
    mounts: list[str], membership: str, files: dict[str, dict[str, str]], left: int, tmp_path: Path
) -> None:
    root = tree(tmp_path, mounts, membership)
    (root / "proc/meminfo").write_text(f"MemAvailable: {(1 << 40) // 1024} kB\n")
    for directory, contents in files.items():
        (root / directory).mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (root / directory / name).write_text(text)
    assert available_memory_bytes(root) == left
