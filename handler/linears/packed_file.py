"""Layers over packed weights, kept on disk in the layout of this machine's kernels, so that later starts map them."""

from __future__ import annotations

import fcntl
import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import handler
from handler.kernels.compiler import multiplies_matrices
from handler.linears.choice import computes_blocks
from handler.linears.kernel_linear import KernelLinear
from handler.linears.packed_linear import PackedLinear
from handler.seam.atomic_file import atomic_write
from handler.seam.source_digest import source_digest

logger = logging.getLogger(__name__)

# What decides the content of the file, beside the weights.
_SOURCES = (
    *("linears/block_packing.py", "linears/packed_linear.py", "linears/weight_blocks.py", "linears/packed_file.py"),
    *("kernels/product/block_layout.py", "kernels/product/block_form.py", "kernels/product/tile_layout.py"),
    "kernels/product/code_packing.py",
)
_TORCH, _KERNEL = "torch", "kernel"
# The safetensors library's names of the types that packed weights have.
_TYPES = {torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32"}
_TYPES |= {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
_DTYPES = {word: dtype for dtype, word in _TYPES.items()}
# Seconds that an engine waits for another that writes the same file: a disk takes a few for a gigabyte.
_WAIT_S, _POLL_S = 60.0, 0.05
# Seconds that a file by other code is kept: an engine that runs may have mapped it, perhaps over a network.
_KEPT_S = 86400.0


class PackedFile:
    """The packed layers of one model by the names of their weights.

    Layers of the file are views of the mapped file. A damaged file is made anew.
    """

    def __init__(self, model: str, readers: str, directories: Sequence[Path], dtype: torch.dtype) -> None:
        """`model` stands for the model's weights, `readers` for the code that reads them.

        The file is looked for in all `directories`, written in the last. `dtype` is that of activations.
        """
        file = f"{model}-{readers}-{file_name(dtype)}"
        self._same_but_code = re.compile(rf"{re.escape(model)}-[^-]+-{re.escape(_machine(dtype))}-[^-]+\.safetensors")
        paths = [directory / "packed" / file for directory in directories]
        self._target = paths[-1]
        _remove_abandoned(self._target.parent)
        self._file = next((found for path in paths if path.is_file() and (found := _opened(path)) is not None), None)
        # What kind of layer each weight has, as `_kind` says.
        self._kinds: dict[str, str] = {} if self._file is None else dict(self._file.metadata)
        self._made: dict[str, PackedLinear | KernelLinear] = {}
        self._writing: threading.Thread | None = None

    def __deepcopy__(self, memo: object) -> PackedFile:
        """Itself: transformers copies the configuration that holds it."""
        return self

    def __contains__(self, name: str) -> bool:
        return name in self._kinds

    def layer(self, name: str, bias: Tensor | None, dense: Tensor | None) -> PackedLinear | KernelLinear:
        """The layer over the weight `name` of the file, with `bias` `[N]`.

        `dense` `[N, K]` is kept where the layer has use for it.
        """
        return _made_of(self._kinds[name], self._tensors(name), bias, dense)

    def keep(self, name: str, layer: nn.Module) -> None:
        """Note a layer for `save`, unless the file has it or it is of a kind that is not kept."""
        if name not in self and isinstance(layer, PackedLinear | KernelLinear) and _kind(layer) is not None:
            self._made[name] = layer

    def save(self, order: Sequence[str] = ()) -> dict[str, PackedLinear | KernelLinear]:
        """Write the file if layers were noted; one that cannot be written costs the next start time only.

        Engines that start together pack the same weights. One of them writes; the others wait, and map its file.
        Weights of one module are beside each other, those of `order` in its order, so that layers joined from them are
        views too. Returns the noted layers over the file, whose pages the system may drop, in place of memory; none if
        it was not written. The disk has the file after `wait`.
        """
        made, self._made = self._made, {}
        if not made:
            return {}
        kinds = self._kinds | {name: str(_kind(layer)) for name, layer in made.items()}
        with ExitStack() as stack:
            stack.enter_context(_turn(self._target))
            file = self._of_another(kinds)
            if file is None:
                file = self._written(made, kinds, order, stack)
            else:
                kinds = dict(file.metadata)
        if file is None:
            return {}
        self._file, self._kinds = file, kinds
        return {name: self.layer(name, layer.bias, getattr(layer, "dense", None)) for name, layer in made.items()}

    def wait(self) -> None:
        """Until the file that `save` has written is on the disk under its name."""
        if self._writing is not None:
            self._writing.join()

    def _of_another(self, kinds: Mapping[str, str]) -> _Mapped | None:
        """The file if another engine has written all of `kinds` meanwhile."""
        found = _opened(self._target) if self._target.is_file() else None
        return found if found is not None and kinds.items() <= found.metadata.items() else None

    def _written(
        self,
        made: Mapping[str, PackedLinear | KernelLinear],
        kinds: Mapping[str, str],
        order: Sequence[str],
        turn: ExitStack,
    ) -> _Mapped | None:
        """The file with `made`, which has its name once `turn` is closed by another thread; None if it failed."""
        tensors = {name: _parts(made[name]) if name in made else self._tensors(name) for name in kinds}
        with ExitStack() as stack:
            stack.enter_context(turn.pop_all())
            try:
                # Freed last: the lock says that there is a writer, until the file has its name.
                lock = stack.enter_context(ExitStack())
                scratch = stack.enter_context(atomic_write(self._target))
                with suppress(OSError):  # no locks there, so nobody removes it either
                    lock.enter_context(_locked(scratch))
                _write(scratch, _beside_each_other(tensors, order), kinds)
                # Any uid may serve it.
                scratch.chmod(0o644)
                file = _opened(scratch)
            except OSError as exc:
                self._report(exc)
                return None
            self._finish(stack.pop_all())
        return file

    def _finish(self, written: ExitStack) -> None:
        """A disk takes seconds for what memory holds, so the start goes on. The process does not end meanwhile."""

        def finish() -> None:
            try:
                written.close()
            except OSError as exc:
                self._report(exc)
            else:
                self._remove_older()

        self._writing = threading.Thread(target=finish, name="packed-file")
        self._writing.start()

    def _remove_older(self) -> None:
        """Files of the same model and machine by other code, but new ones: an engine of that code may read them."""
        for path in self._target.parent.glob("*.safetensors"):
            if self._same_but_code.fullmatch(path.name) and path != self._target:
                with suppress(OSError):  # another engine removes it
                    if path.stat().st_mtime < time.time() - _KEPT_S:
                        path.unlink()

    def _report(self, exc: OSError) -> None:
        reason = exc.strerror or exc
        logger.warning("packed weights are not kept: %s cannot be written: %s", self._target.parent, reason)

    def _tensors(self, name: str) -> list[Tensor]:
        assert self._file is not None
        return [self._file.tensor(f"{name}|{number}") for number in range(int(self._kinds[name].split()[1]))]


def file_name(dtype: torch.dtype) -> str:
    """What decides the layout: the machine, and the code that packs."""
    return f"{_machine(dtype)}-{source_digest(Path(handler.__path__[0], name) for name in _SOURCES)}.safetensors"


def _machine(dtype: torch.dtype) -> str:
    """The layout depends on the processor, and perhaps on torch; scales are of the activations' `dtype`."""
    if computes_blocks(dtype):
        return "tiles" if multiplies_matrices() else "blocks"
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return f"{capability}-{torch.__version__}-{str(dtype).removeprefix('torch.')}"


def _kind(layer: nn.Module) -> str | None:
    """Kind, number of tensors, and what else makes the layer of them, in words; None for layers that are not kept."""
    if isinstance(layer, PackedLinear):
        return f"{_TORCH} 2 {layer.bits}"
    if isinstance(layer, KernelLinear) and layer.packed is not None:
        packed = layer.packed
        return f"{_KERNEL} {len(packed.tensors)} {packed.form.number} {packed.factor.hex()}"
    return None


def _parts(layer: nn.Module) -> Sequence[Tensor]:
    if isinstance(layer, PackedLinear):
        return layer.packed, layer.scales_and_zeros
    assert isinstance(layer, KernelLinear)
    return () if layer.packed is None else layer.packed.tensors


def _made_of(
    kind: str, tensors: Sequence[Tensor], bias: Tensor | None, dense: Tensor | None
) -> PackedLinear | KernelLinear:
    """The layer of `_kind` and `_parts`."""
    name, _, number, *rest = kind.split()
    if name == _TORCH:
        return PackedLinear(int(number), tensors[0], tensors[1], bias, dense)
    from handler.kernels.product.block_form import BlockForm
    from handler.kernels.product.block_layout import PackedBlocks

    codes, scales, *table = tensors
    form, factor = BlockForm.of_number(int(number)), float.fromhex(rest[0])
    return KernelLinear.of_blocks(PackedBlocks(form, codes, scales, table[0] if table else None, factor), bias)


def _beside_each_other(tensors: Mapping[str, Sequence[Tensor]], order: Sequence[str]) -> dict[str, Tensor]:
    """By their names in the file, of one module after the other: first what is number 0 of each of its weights."""
    places = {name: place for place, name in enumerate(order)}
    names = sorted(tensors, key=lambda name: (places.get(name, len(places)), name))
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(name.removesuffix(".weight").rpartition(".")[0], []).append(name)
    return {
        f"{name}|{number}": tensors[name][number]
        for members in modules.values()
        for number in range(max(len(tensors[name]) for name in members))
        for name in members
        if number < len(tensors[name])
    }


class _Mapped:
    """A mapped file of safetensors. All its tensors lie in one storage; the library's have one each."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Raises OSError. The library has found the header to be sound, and `metadata` in it."""
        self.metadata = metadata
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self._header: dict[str, Any] = json.loads(file.read(size))
        self._first = 8 + size
        self._bytes = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)

    def tensor(self, name: str) -> Tensor:
        """A view."""
        head = self._header[name]
        start, end = (self._first + offset for offset in head["data_offsets"])
        return self._bytes[start:end].view(_DTYPES[head["dtype"]]).view(head["shape"])


def _opened(path: Path) -> _Mapped | None:
    """The mapped file; None if its header cannot be read or does not fit its length, and the log says so."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return _Mapped(path, metadata)
    except (OSError, SafetensorError) as exc:
        logger.warning("%s is damaged or cut short, and is made anew: %s", path, exc)
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock on the file. Raises OSError if another process has it, or the file system has no locks."""
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextmanager
def _turn(target: Path) -> Iterator[None]:
    """Be the only one that writes `target`, as far as there are locks, and for so long as anybody waits.

    The lock ends with its process.
    """
    path = target.with_suffix(".lock")
    with ExitStack() as stack:
        until_s = time.monotonic() + _WAIT_S
        while time.monotonic() < until_s:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                stack.enter_context(_locked(path))
            except BlockingIOError:
                time.sleep(_POLL_S)
            except OSError:  # no locks there, or nothing can be written
                break
            else:
                # Whoever waits makes another lock, and finds the file that has been written.
                stack.callback(path.unlink, missing_ok=True)
                break
        yield


def _remove_abandoned(directory: Path) -> None:
    """Remove scratch files whose writer was killed. The lock ends with its process."""
    for path in directory.glob("*.new"):
        with suppress(OSError), _locked(path):
            path.unlink()


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """As safetensors writes, but one tensor after the other: the library copies them all into memory first."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors.values():
            file.write(tensor.contiguous().view(torch.uint8).numpy().data)
