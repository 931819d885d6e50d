"""The tensors of a checkpoint's safetensors files, by name, read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from handler.formats.safetensors_file import SafetensorsFile
from handler.formats.weight_names import INDEX, WHOLE, weight_names


class TensorFiles(Mapping[str, Tensor]):
    """Name -> tensor on CPU, read from the mapped file at each look-up; nothing is held."""

    def __init__(self, files: Mapping[str, SafetensorsFile]) -> None:
        """`files` has the file of each name. See `open_tensors`."""
        self._files = files

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name].tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading it."""
        return self._files[name].shape(name)

    def dtype(self, name: str) -> str:
        """The tensor's type as safetensors names it (`F8_E4M3`), without reading it."""
        return self._files[name].dtype(name)

    def num_bytes(self, name: str) -> int:
        """The tensor's size in its file."""
        return self._files[name].num_bytes(name)

    def metadata(self) -> dict[str, str]:
        """The metadata of all files together."""
        files = {id(file): file for file in self._files.values()}.values()
        return {key: value for file in files for key, value in file.metadata.items()}


@contextmanager
def open_tensors(directory: Path) -> Iterator[TensorFiles]:
    """The tensors of the checkpoint in `directory`, while the block runs. Tensors read inside stay valid after it."""
    files = [SafetensorsFile(path) for path in weight_files(directory)]
    yield TensorFiles({name: file for file in files for name in file.names()})


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of the checkpoint in `directory` (`weight_names`)."""
    names, index = [path.name for path in directory.iterdir()], directory / INDEX
    has_index = WHOLE not in names and index.is_file()
    listed = json.loads(index.read_text("utf-8"))["weight_map"].values() if has_index else None
    return [directory / name for name in weight_names(names, listed)]
