"""`python -m tools.image_check.enter JSON`: becomes the first process of a container, or of one RUN step.

Has to be started with mount and PID namespaces of its own: all mounts made here end with the process.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

# What a namespace of its own is made with; the child of `unshare` dies when `unshare` does.
UNSHARE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_NUM_CAPABILITIES = 41
# Docker's default set: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
# sys_chroot, mknod, audit_write, setfcap.
_DOCKER_CAPABILITIES = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What to run and where. `binds` maps a place below the root to a place of this machine, always read-only.

    `confined` adds what Docker does to a running container: its capabilities, no new privileges, tmpfs on /tmp.
    """

    root: str
    argv: list[str]
    environment: dict[str, str]
    workdir: str = "/"
    uid: int = 0
    gid: int = 0
    binds: dict[str, str] = field(default_factory=dict)
    confined: bool = False

    def command(self) -> list[str]:
        """The command line that runs this entry in namespaces of its own."""
        return [*UNSHARE, sys.executable, "-m", "tools.image_check.enter", json.dumps(asdict(self))]


def mount(*arguments: str) -> None:
    """mount(8). Raises CalledProcessError; its own words are on stderr."""
    subprocess.run(["mount", *arguments], check=True)


def mount_points(entry: Entry, layer: Path) -> Path:
    """Make, in an empty layer, the places that `enter` mounts on, as Docker does; returns the layer."""
    for name in ("proc", "sys", "dev"):
        (layer / name).mkdir(parents=True, exist_ok=True)
    for place, source in entry.binds.items():
        point = layer / place.lstrip("/")
        if Path(source).is_dir():
            point.mkdir(parents=True, exist_ok=True)
        else:
            point.parent.mkdir(parents=True, exist_ok=True)
            point.touch()
    return layer


def enter(entry: Entry) -> None:
    """Mount, chroot, give up privileges, exec. Does not return."""
    root = Path(entry.root)
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("-t", "sysfs", "-o", "ro", "sysfs", str(root / "sys"))
    _mount_devices(root / "dev")
    for place, source in entry.binds.items():
        point = str(root / place.lstrip("/"))
        mount("--bind", source, point)
        mount("-o", "remount,bind,ro", point)
    if entry.confined:
        mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(root / "tmp"))
    os.chroot(root)
    os.chdir(entry.workdir)
    _give_up(entry)
    os.execvpe(entry.argv[0], entry.argv, entry.environment)  # noqa: S606 - the point of this module


def _mount_devices(dev: Path) -> None:
    mount("-t", "tmpfs", "-o", "mode=755,size=64k", "tmpfs", str(dev))
    for name in _DEVICES:
        (dev / name).touch()
        mount("--bind", f"/dev/{name}", str(dev / name))
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (dev / name).symlink_to(target)
    (dev / "shm").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777,size=64m", "tmpfs", str(dev / "shm"))


def _give_up(entry: Entry) -> None:
    os.umask(0o022)
    libc = ctypes.CDLL(None, use_errno=True)
    if entry.confined:
        for number in set(range(_NUM_CAPABILITIES)) - _DOCKER_CAPABILITIES:
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    os.setgroups([])
    os.setgid(entry.gid)
    os.setuid(entry.uid)
    if entry.confined and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")


if __name__ == "__main__":
    enter(Entry(**json.loads(sys.argv[1])))
