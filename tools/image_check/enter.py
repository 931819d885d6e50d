"""`python -m tools.image_check.enter JSON`: becomes the first process of a container or of a RUN step.

Start it in its own mount and PID namespaces, so that all mounts made here end with the process.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Creates the namespaces; --kill-child kills the child when `unshare` dies.
UNSHARE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_NUM_CAPABILITIES = 41
# Docker's default set: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
# sys_chroot, mknod, audit_write, setfcap.
_DOCKER_CAPABILITIES = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What to run and where. `binds` maps paths below the root to paths of this machine, mounted read-only.

    `confined` applies Docker's restrictions: its default capabilities, no new privileges, and a tmpfs on /tmp.
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
        """The command line that runs this entry in new namespaces."""
        return [*UNSHARE, sys.executable, "-m", "tools.image_check.enter", json.dumps(asdict(self))]


def mount(*arguments: str) -> None:
    """Run mount(8). Raises CalledProcessError; mount writes the reason to stderr."""
    subprocess.run(["mount", *arguments], check=True)


def mount_points(entry: Entry, layer: Path) -> Path:
    """Create `enter`'s mount points in an empty layer, as Docker does; return the layer."""
    for name in ("proc", "sys", "dev"):
        (layer / name).mkdir(parents=True, exist_ok=True)
    for path, source in entry.binds.items():
        point = layer / path.lstrip("/")
        if Path(source).is_dir():
            point.mkdir(parents=True, exist_ok=True)
        else:
            point.parent.mkdir(parents=True, exist_ok=True)
            point.touch()
    return layer


def enter(entry: Entry) -> None:
    """Mount, chroot, drop privileges, exec. Does not return."""
    root = Path(entry.root)
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("-t", "sysfs", "-o", "ro", "sysfs", str(root / "sys"))
    _mount_devices(root / "dev")
    for path, source in entry.binds.items():
        point = str(root / path.lstrip("/"))
        mount("--bind", source, point)
        mount("-o", "remount,bind,ro", point)
    if entry.confined:
        mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(root / "tmp"))
    os.chroot(root)
    os.chdir(entry.workdir)
    _drop_privileges(entry)
    os.execvpe(entry.argv[0], entry.argv, entry.environment)  # noqa: S606 - this module exists for it


def _mount_devices(dev: Path) -> None:
    mount("-t", "tmpfs", "-o", "mode=755,size=64k", "tmpfs", str(dev))
    for name in _DEVICES:
        (dev / name).touch()
        mount("--bind", f"/dev/{name}", str(dev / name))
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (dev / name).symlink_to(target)
    (dev / "shm").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777,size=64m", "tmpfs", str(dev / "shm"))


def _drop_privileges(entry: Entry) -> None:
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
