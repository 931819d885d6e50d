"""Which files of a repository or directory hold its weights, by their names alone. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterable

from handler.seam.errors import BadModel

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# The same weights once more under the names of Mistral's own code, and weights of adapters over the model.
_OTHERS = ("consolidated", "adapter_")


def weight_names(names: Iterable[str], in_index: Iterable[str] | None) -> list[str]:
    """As transformers chooses: the one file, else those that the index names (`in_index`), else all beside others' own.

    `names` are relative paths; a file in a folder (`original/`, `onnx/`) counts only if the index names it. Raises
    BadModel for a path in the index that leads out of the checkpoint.
    """
    files = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if WHOLE in files:
        return [WHOLE]
    if in_index is not None:
        found = sorted(set(in_index))
        outside = [name for name in found if name.startswith("/") or ".." in name.split("/")]
        if outside:
            raise BadModel(f"{INDEX} names the file {outside[0][:200]!r}, which is not in the checkpoint")
        return found
    return sorted(name for name in files if not name.startswith(_OTHERS))
