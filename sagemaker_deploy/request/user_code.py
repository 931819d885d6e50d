"""A directory of the user's code: which file the container runs, where it has to lie, and what it defines.

Nothing is executed. The files and their order are the container's (docs/bring-your-own-code.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request.hook_signatures import Signatures, read_signatures

# SageMaker puts the files of a prefix here.
CODE_MOUNT = "/opt/ml/model/code"
INFERENCE = "inference.py"
REQUIREMENTS = "requirements.txt"
_MAIN = (INFERENCE, "handler.py", "model.py")
# Below /opt/ml/model, in the order in which they win.
_PLACES = (f"code/{INFERENCE}", *_MAIN)
_SKIPPED_DIRECTORIES = {".git", ".cache", "__pycache__", ".ipynb_checkpoints"}
_SKIPPED_SUFFIXES = {".pyc", ".lock", ".tmp"}


@dataclass(frozen=True)
class UserCode:
    """`main` is the name of the file that runs, `signatures` what it defines."""

    directory: Path
    main: str
    signatures: Signatures

    @property
    def requirements(self) -> Path | None:
        """The requirements.txt, if there is one."""
        path = self.directory / REQUIREMENTS
        return path if path.is_file() else None

    @property
    def owns_model(self) -> bool:
        """True if it loads a model of its own: no engine runs beside it."""
        return self.signatures.owns_model

    @property
    def _place(self) -> str:
        return f"code/{INFERENCE}" if self.main == INFERENCE else self.main

    def files(self) -> dict[str, Path]:
        """Path below /opt/ml/model of each file: inference.py runs from code/, the others from the top."""
        folder = self._place.removesuffix(self.main)
        return {folder + path.relative_to(self.directory).as_posix(): path for path in walk(self.directory)}

    def refuse_hidden(self, model: Path) -> None:
        """Raise `SpecError` if a file of the directory `model` would run in place of `main`.

        None does in place of inference.py: that comes into code/, which wins.
        """
        for name in _PLACES[: _PLACES.index(self._place)]:
            if (model / name).is_file():
                raise SpecError(f"{model / name} would run in place of {self.directory / self.main}; remove it")

    def warnings(self) -> Iterator[str]:
        """Yield what is probably not meant."""
        for name in _MAIN:
            if name != self.main and (self.directory / name).is_file():
                yield f"{self.directory / name} does not run, because {self.main} does"
        for hint in self.signatures.hints:
            yield f"{self.directory / self.main} {hint}"


def read_code(directory: Path) -> UserCode:
    """Read the names and signatures of `directory`. Raises `SpecError` if the container could not run it."""
    if not directory.is_dir():
        raise SpecError(f"--code {str(directory)!r} is no directory here")
    main = next((name for name in _MAIN if (directory / name).is_file()), None)
    if main is None:
        raise SpecError(f"--code {str(directory)!r} has none of {', '.join(_MAIN)}, which the container runs")
    return UserCode(directory, main, read_signatures(directory / main))


def variables(code: UserCode, *, in_image: bool) -> dict[str, str]:
    """Return the variables by which the container runs `code`: it looks beside the model, else into the mount.

    `in_image` is for a model whose directory is in the image, where only a variable can lead to the mount. Raises
    `SpecError` if none can.
    """
    allowed = {"TRUST_CUSTOM_CODE": "true"}
    if not in_image:
        return allowed
    if code.main != INFERENCE:
        raise SpecError(f"{code.main} runs from the model's own directory, and that is in the image")
    return allowed | pointer()


def pointer() -> dict[str, str]:
    """Return the variables that name inference.py in the mount, as the SageMaker SDK sets them."""
    return {"SAGEMAKER_PROGRAM": INFERENCE, "SAGEMAKER_SUBMIT_DIRECTORY": CODE_MOUNT}


def walk(directory: Path) -> Iterator[Path]:
    """Yield the files below `directory` to copy. Follows links, because the Hub's cache consists of them."""
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        if path.is_file() and not _SKIPPED_DIRECTORIES.intersection(parts) and path.suffix not in _SKIPPED_SUFFIXES:
            yield path
