"""Which file of a user's code runs, by whose rules. Reads names and the text of `model.py`; imports nothing of it."""

from __future__ import annotations

from pathlib import Path

from container.hooks.user_code.hook import Convention, HookFiles, HookLoadError, HookSources
from handler.seam.code_names import CODE_FOLDER, HANDLER, INFERENCE, REQUIREMENTS

# In the order in which they win.
_PLACES = (
    (Convention.HUGGING_FACE, f"{CODE_FOLDER}/{INFERENCE}"),
    (Convention.HUGGING_FACE, INFERENCE),
    (Convention.ENDPOINTS, HANDLER),
)
# Where a variable's file is sought if the model has no directory. Absolute files and installed modules need none.
_MOUNT = Path("/opt/ml/model")
# A file of this name may hold anything, also a model of another server; these names make it a hook.
_STANDARDS_MARKS = (b"custom_sagemaker_", b"model_hosting_container_standards")


def find(directory: Path | None, sources: HookSources, *, trusted: bool) -> HookFiles | None:
    """Find the file that runs, or None.

    `directory` is the model's; None: there is none yet. `trusted` is TRUST_CUSTOM_CODE. Without it only what a variable
    names runs. Raises HookLoadError if a variable names what is not there or cannot be honoured.
    """
    _refuse(sources)
    if sources.program:
        return _program(directory, sources)
    if directory is None and _names_functions(sources):
        directory = _MOUNT
    if directory is None or not (trusted or _names_functions(sources)):
        return None
    found = [(convention, path) for convention, name in _PLACES if (path := directory / name).is_file()]
    script = directory / sources.script
    if _names_functions(sources) or _is_standards(script):
        found.append((Convention.STANDARDS, script))
    if not found:
        return None
    convention, path = found[-1] if _names_functions(sources) else found[0]
    return _files(convention, path, directory, sources, tuple(other for _, other in found if other != path))


def _program(directory: Path | None, sources: HookSources) -> HookFiles:
    """The file that SAGEMAKER_PROGRAM names; a name without `.py` is a module's, as in sagemaker-inference."""
    name = sources.program if sources.program.endswith(".py") else sources.program.replace(".", "/") + ".py"
    submitted = sources.submit_directory.removeprefix("file://")
    is_none = "://" in submitted or Path(submitted).is_file()
    places = [Path(submitted)] if submitted and not is_none else []
    places += [directory / CODE_FOLDER, directory] if directory is not None else []
    for place in places:
        path = place / name
        if path.is_file():
            model = directory if directory is not None else place
            convention = Convention.HUGGING_FACE if (model / "config.json").is_file() else Convention.SAGEMAKER
            return _files(convention, path, model, sources, ())
    where = ", ".join(str(place) for place in places) or "any directory"
    unread = f"; of SAGEMAKER_SUBMIT_DIRECTORY only a directory is read, not {submitted}" if is_none else ""
    raise HookLoadError(f"SAGEMAKER_PROGRAM is {sources.program!r}, and there is no such file in {where}{unread}")


def _files(
    convention: Convention, path: Path, directory: Path, sources: HookSources, unused: tuple[Path, ...]
) -> HookFiles:
    places = (path.parent / REQUIREMENTS, directory / CODE_FOLDER / REQUIREMENTS, directory / REQUIREMENTS)
    return HookFiles(
        convention=convention,
        path=path if path.is_file() else None,
        directory=path.parent,
        model_directory=directory,
        sources=sources,
        requirements=next((place for place in places if place.is_file()), None),
        unused=unused,
    )


def _names_functions(sources: HookSources) -> bool:
    return any((sources.pre_process, sources.post_process, sources.ping_handler, sources.invocation_handler))


def _refuse(sources: HookSources) -> None:
    """Variables that cannot be honoured."""
    if sources.bound_to_fastapi:
        names = ", ".join(sources.bound_to_fastapi)
        raise HookLoadError(f"{names}: a middleware of a FastAPI application, and this server is none")
    if sources.program and _names_functions(sources):
        raise HookLoadError("SAGEMAKER_PROGRAM names one hook, and the CUSTOM_ variables name another; unset either")


def _is_standards(path: Path) -> bool:
    return path.is_file() and any(mark in path.read_bytes() for mark in _STANDARDS_MARKS)
