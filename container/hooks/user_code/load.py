"""A user's file, imported and resolved by its convention."""

from __future__ import annotations

from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code.endpoint_hook import EndpointHook
from container.hooks.user_code.hook import Convention, Hook, HookFiles
from container.hooks.user_code.inference_hook import InferenceHook
from container.hooks.user_code.module import import_file
from container.hooks.user_code.standards_hook import StandardsHook


def load(files: HookFiles, engine: EngineModel | None) -> Hook:
    """Import the code and run what loads its model.

    `engine` is None if none runs. Raises HookLoadError. Blocks as long as the code does; call it outside an event loop.
    """
    if files.convention is Convention.STANDARDS:
        return StandardsHook(files, engine)
    assert files.path is not None
    module = import_file(files.path, files.directory)
    if files.convention is Convention.ENDPOINTS:
        return EndpointHook(module, files, engine)
    return InferenceHook(module, files, engine)
