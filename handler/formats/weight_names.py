"""Which files of a repository or directory hold its weights, by their names alone. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterable

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# The same weights once more under the names of Mistral's own code, and weights of adapters over the model.
_OTHERS = ("consolidated", "adapter_")


def weight_names(names: Iterable[str], in_index: Iterable[str] | None) -> list[str]:
    """As transformers chooses: the one file, else those that the index names (`in_index`), else all beside others' own.

    `names` are relative paths; a file in a folder (`original/`, `onnx/`) counts only if the index names it.
    """
    files = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if WHOLE in files:
        return [WHOLE]
    if in_index is not None:
        return sorted(set(in_index))
    return sorted(name for name in files if not name.startswith(_OTHERS))
