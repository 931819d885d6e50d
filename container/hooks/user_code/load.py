"""A user's file, imported and resolved by its convention."""

from __future__ import annotations

from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code.hook import Hook, HookFiles


def load(files: HookFiles, engine: EngineModel | None) -> Hook:
    """Import the code and run what loads its model. Raises HookLoadError. `engine` is None if none runs."""
    raise NotImplementedError
