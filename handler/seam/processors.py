"""How much processor time this process may use: its affinity, and the CPU quotas of its control groups.

`docker run --cpus=4` and Kubernetes' limits are quotas. They hide no processor: affinity alone would start a thread for
each of 64. Weights (`cpu.shares`, `cpu.weight`) limit nothing while a processor is free, so they do not count.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_ROOT = Path("/")


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups: the group at the top of it, and where that is."""

    top: PurePosixPath
    path: Path
    version: int
    options: frozenset[str]


def usable_cpus(root: Path = _ROOT) -> float:
    """Processors' worth of time, at most the number in the affinity mask. `root` holds /proc and the mounts."""
    cpus = float(len(os.sched_getaffinity(0)))
    return min((cpus, *(_quotas(root))))


def usable_threads(root: Path = _ROOT, engines: int = 1) -> int:
    """Threads for each of several engines: `usable_cpus` rounded up, so that 1.5 of 2 processors are used in full."""
    return max(1, math.ceil(usable_cpus(root)) // engines)


def groups(controller: str, root: Path = _ROOT) -> Iterator[tuple[int, Path]]:
    """This process's control group and its ancestors, as far as they are mounted, for each hierarchy of `controller`.

    Yields the hierarchy's version, 1 or 2, and the group's directory; nothing where /proc cannot be read.
    """
    memberships = list(_memberships(root))
    for mount in _mounts(root):
        for controllers, group in memberships:
            wanted = controller in controllers & mount.options if mount.version == 1 else not controllers
            if wanted:
                yield from ((mount.version, each) for each in _upwards(mount, group, root))


def _upwards(mount: _Mount, group: PurePosixPath, root: Path) -> Iterator[Path]:
    """A container may see the host's name of its group, but only its own part of the tree, or none but the top."""
    below = group.relative_to(mount.top) if group.is_relative_to(mount.top) else PurePosixPath()
    if ".." in below.parts:  # outside of this process's namespace
        below = PurePosixPath()
    for part in (below, *below.parents):
        directory = root / mount.path.relative_to("/") / part
        if directory.is_dir():
            yield directory
        if part == PurePosixPath():
            return


def _quotas(root: Path) -> Iterator[float]:
    """Quotas in processors."""
    for version, group in groups("cpu", root):
        try:
            if version == 2:
                quota, period = (group / "cpu.max").read_text().split()
            else:
                quota = (group / "cpu.cfs_quota_us").read_text().strip()
                period = (group / "cpu.cfs_period_us").read_text()
            # Without a limit the quota is "max" or -1.
            if quota != "max" and int(quota) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue


def _memberships(root: Path) -> Iterator[tuple[frozenset[str], PurePosixPath]]:
    """Controllers of each hierarchy, none for version 2, and this process's group (cgroups(7))."""
    for line in _lines(root / "proc/self/cgroup"):
        _, names, group = line.split(":", 2)
        yield frozenset(names.split(",")) - {""}, PurePosixPath(group)


def _mounts(root: Path) -> Iterator[_Mount]:
    """Hierarchies in /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            top, path = (_unescaped(each) for each in before.split(" ")[3:5])
            yield _Mount(PurePosixPath(top), Path(path), 2 if kind == "cgroup2" else 1, frozenset(options.split(",")))


def _unescaped(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
