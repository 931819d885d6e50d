"""The tensors of a checkpoint's safetensors files, by name, read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from handler.formats.weight_names import INDEX, weight_names


class TensorFiles(Mapping[str, Tensor]):
    """Name -> tensor on CPU, read from the mapped file at each look-up; nothing is held."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        """`files` has the open safetensors file of each name. See `open_tensors`."""
        self._files = files

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def slice(self, name: str) -> Any:
        """The safetensors library's own handle of the tensor, which reads it when it is indexed."""
        return self._files[name].get_slice(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading it."""
        return tuple(self.slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The tensor's type as safetensors names it (`F8_E4M3`), without reading it."""
        return str(self._files[name].get_slice(name).get_dtype())

    def metadata(self) -> dict[str, str]:
        """The metadata of all files together."""
        files = {id(file): file for file in self._files.values()}.values()
        return {key: value for file in files for key, value in (file.metadata() or {}).items()}


@contextmanager
def open_tensors(directory: Path) -> Iterator[TensorFiles]:
    """The tensors of the checkpoint in `directory`, while the block runs. Tensors read inside stay valid after it."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        for path in weight_files(directory):
            file: Any = stack.enter_context(safe_open(path, "pt"))
            found |= dict.fromkeys(file.keys(), file)
        yield TensorFiles(found)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of the checkpoint in `directory` (`weight_names`)."""
    index = directory / INDEX
    listed = json.loads(index.read_text("utf-8"))["weight_map"].values() if index.is_file() else None
    return [directory / name for name in weight_names((path.name for path in directory.iterdir()), listed)]
