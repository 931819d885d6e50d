"""Installs what the user's code requires, into a directory of its own below the cache directory.

Meaning and defaults of the variables: model-hosting-container-standards 0.1.16 (`STANDARD_AUTO_INSTALL_REQ`,
`STANDARD_PIP_ARGS`, the folder `requirements/`) and sagemaker-inference 1.10.1 (`CA_REPOSITORY_ARN`). What is installed
beside this module stays as it is: its versions are constraints (docs/decisions/0138-requirements-of-the-users-code.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import shutil
import site
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from container.hooks.packages.code_artifact import index_url
from container.hooks.packages.digest import digest
from container.hooks.packages.pip_run import BadRequirements, PipFailed, run_pip

__all__ = ["BadRequirements", "add_to_path", "install"]

logger = logging.getLogger(__name__)

_WHEELS = "requirements"
# Options that say where packages go, and those that only begin like one.
_PLACES = ("--target", "--prefix", "--root", "--user", "--python")
_NO_PLACES = ("--pre", "--root-user-action", "--python-version")


@dataclass(frozen=True)
class _Wanted:
    """pip's arguments, what they are called in a sentence, and where relative names in them begin."""

    arguments: tuple[str, ...]
    title: str
    base: Path
    wheels: Path | None = None


def install(
    requirements: Path | None, target_root: Path, *, pip_args: str = "", environ: Mapping[str, str] = os.environ
) -> Path | None:
    """Install what `requirements` lists below `target_root`; return the directory of packages, None if none are wanted.

    With a folder `requirements/` beside the file only its wheels count, and no index is asked. `pip_args`
    (STANDARD_PIP_ARGS) take the file's place. A finished installation of the same is used again; one that was
    interrupted never is. Blocks; pip's lines go to the log. Raises BadRequirements with one sentence.
    """
    wanted = _wanted(requirements, pip_args)
    if wanted is None:
        return None
    constraints = _constraints()
    try:
        target_root.mkdir(mode=0o700, parents=True, exist_ok=True)
        finished = target_root / digest(wanted.arguments, wanted.base, constraints, environ)
        with _locked(target_root):
            if finished.exists():
                logger.info("%s: the packages of an earlier start are used again", wanted.title)
            else:
                _remove_unfinished(target_root)
                _install(finished, wanted.arguments, constraints, _pip_environ(wanted, environ))
                logger.info("%s: the packages are installed", wanted.title)
    except PipFailed as exc:
        only = f"; no index is asked beside the wheels in {wanted.wheels}" if wanted.wheels else ""
        raise BadRequirements(f"{wanted.title} cannot be installed: {exc}{only}") from exc
    except OSError as exc:
        raise BadRequirements(f"{wanted.title} cannot be installed in {target_root}: {exc.strerror or exc}") from exc
    return _site_packages(finished.resolve())


def add_to_path(packages: Path) -> None:
    """Let this process import from `packages`, after all that it can import already, and find its commands in PATH."""
    site.addsitedir(str(packages))
    commands = packages.parents[2] / "bin"
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(commands)])


def _wanted(requirements: Path | None, pip_args: str) -> _Wanted | None:
    if pip_args:
        try:
            arguments = shlex.split(pip_args)
        except ValueError as exc:
            raise BadRequirements(f"STANDARD_PIP_ARGS cannot be split into words: {exc}") from exc
        _refuse_places(arguments)
        return _Wanted(tuple(arguments), "STANDARD_PIP_ARGS", Path.cwd())
    if requirements is None:
        return None
    title, base, wheels = str(requirements), requirements.parent, requirements.parent / _WHEELS
    if wheels.is_dir():
        return _Wanted(("-r", title, "--no-index", "--find-links", str(wheels)), title, base, wheels)
    return _Wanted(("-r", title), title, base)


def _refuse_places(arguments: Sequence[str]) -> None:
    """Raise BadRequirements for an option, whole or abbreviated, that would install elsewhere."""
    for word in arguments:
        name = word.partition("=")[0]
        is_long = len(name) > len("--x") and any(place.startswith(name) for place in _PLACES)
        if word.startswith("-t") or (is_long and name not in _NO_PLACES):
            raise BadRequirements(f"STANDARD_PIP_ARGS has {name}, and packages go to a directory of this server's own")


def _constraints() -> str:
    """The version of each distribution that this interpreter has, as lines of a constraints file."""
    found = {f"{item.metadata['Name']}=={item.version}" for item in distributions() if item.metadata["Name"]}
    return "\n".join(sorted(found)) + "\n"


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One installation at a time. The lock ends with the process, and pip does not inherit it."""
    with (root / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_unfinished(root: Path) -> None:
    """Remove what no link names: each attempt has a directory of its own, and only a finished one gets a link."""
    finished = {path.resolve() for path in root.iterdir() if path.is_symlink()}
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink() and path.resolve() not in finished:
            shutil.rmtree(path, ignore_errors=True)


def _install(finished: Path, arguments: Sequence[str], constraints: str, environ: Mapping[str, str]) -> None:
    directory = Path(tempfile.mkdtemp(prefix=f"{finished.name}-", dir=finished.parent))
    try:
        venv.EnvBuilder(symlinks=True, with_pip=False).create(directory)
        # pip sees what is installed here, counts it as met, and changes nothing outside of the directory.
        (_site_packages(directory) / "_server.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (directory / "constraints.txt").write_text(constraints)
        run_pip(directory, [*arguments, "--constraint", str(directory / "constraints.txt")], environ)
        link = directory / "link"
        link.symlink_to(directory.name)
        link.replace(finished)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _pip_environ(wanted: _Wanted, environ: Mapping[str, str]) -> dict[str, str]:
    """pip's environment: that of this process, and AWS CodeArtifact's index if CA_REPOSITORY_ARN names one."""
    for place in _PLACES:
        variable = f"PIP_{place.strip('-').upper()}"
        if environ.get(variable):
            raise BadRequirements(f"{variable} is set, and packages go to a directory of this server's own")
    found = dict(environ)
    if environ.get("CA_REPOSITORY_ARN") and wanted.wheels is None:
        found["PIP_INDEX_URL"] = index_url(environ["CA_REPOSITORY_ARN"])
    return found


def _site_packages(directory: Path) -> Path:
    return directory / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
