"""Runs every operation on pretended tensors: CUDA's rules first, then the numbers on CPU, then the books."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from tests.support.pretend_cuda.gpus import Gpu, Gpus, source
from tests.support.pretend_cuda.graphs import Recorded, graph
from tests.support.pretend_cuda.products import PRODUCTS
from tests.support.pretend_cuda.tensor import PretendTensor
from tests.support.pretend_cuda.varlen import flash_attention_forward, varlen_attn

# Operations whose result, or its shape, the host must know.
_WAITING = frozenset(
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "bincount"),
        *("_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
    )
)
_INDEXING = frozenset(["aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"])
_COPYING = frozenset(["aten::copy_", "aten::_to_copy"])
# Allocations and metadata: no kernel runs.
_NO_KERNEL = frozenset(
    f"aten::{name}"
    for name in (
        "_local_scalar_dense",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "detach",
        "alias",
        "lift_fresh",
    )
)
_COMPOSITE = "CompositeImplicitAutograd"
# Composite operations that are one kernel on a GPU, or whose parts CPU chooses otherwise.
_WHOLE = frozenset(f"aten::{name}" for name in ("linear", "matmul", "scaled_dot_product_attention", "to"))
_PRODUCTS = frozenset(f"aten::{name}" for name in ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul"))
# Checked before the host's memory is asked for: a GPU may have more than this machine, and a test may ask for too much.
_ALLOCATING = frozenset(
    f"aten::{name}" for name in ("empty", "empty_strided", "zeros", "ones", "full", "rand", "randn")
)


class Dispatcher(TorchDispatchMode):
    """The one place that knows tensors' real memory. Active as a mode, it also sees factories (`torch.zeros(...)`)."""

    def __init__(self, gpus: Gpus) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gpus = gpus
        self._storages: Counter[tuple[int, int]] = Counter()
        self._sizes: dict[tuple[int, int], int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`func` by CUDA's rules. Raises RuntimeError as a GPU would."""
        if func is torch.ops.prim.device.default:
            return args[0].place
        if func._schema.name not in _WHOLE and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            # Under inference mode composite operations arrive whole; the device runs what they consist of.
            with self:
                return func.decompose(*args, **kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        home = self._home(func._schema.name, leaves)
        asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        if home is None and (asked is None or asked.type != "cuda"):
            return func(*args, **kwargs)
        target = home if asked is None else self.gpus.device(asked)
        self._check(func._schema.name, args, kwargs, target)
        if func._schema.name == "aten::_grouped_mm" and not _has_grouped_kernel(self.gpus.gpu(home), args[0].dtype):
            self.gpus.wait("aten::_grouped_mm reads the row counts")
        plain = [leaf.numbers if isinstance(leaf, PretendTensor) else leaf for leaf in leaves]
        plain_args, plain_kwargs = tree_unflatten(plain, spec)
        if "device" in plain_kwargs:
            plain_kwargs["device"] = "cpu"
        plain_kwargs.pop("pin_memory", None)
        capability = self.gpus.gpu(home or target).capability
        if func._schema.name in _ALLOCATING and target is not None and target.type == "cuda":
            self.gpus.gpu(target).check(func(*plain_args, **plain_kwargs | {"device": "meta"}).nbytes)
        if func._schema.name == "aten::scaled_dot_product_attention" and home is not None:
            self.gpus.gpu(home).touch(_score_bytes(func, args, kwargs))
        out = _compute(func, plain_args, plain_kwargs, capability)
        self._count(func, plain_args, plain_kwargs, plain, out, capability)
        return tree_map(lambda each: self._wrap(each, leaves, plain, target), out)

    def _home(self, name: str, leaves: list[Any]) -> torch.device | None:
        """The device of the pretended tensors. Raises RuntimeError where devices mix."""
        places = {leaf.place for leaf in leaves if isinstance(leaf, PretendTensor)}
        hosts = [
            leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, PretendTensor) and leaf.dim()
        ]
        mixed = len(places) > 1 and name not in _COPYING
        if mixed or (places and hosts and name not in _COPYING | _INDEXING):
            found = sorted({*map(str, places), *(str(host.device) for host in hosts)})
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {' and '.join(found)}! ({name}, {source()})"
            )
        return next(iter(places)) if places else None

    def _check(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], target: torch.device | None) -> None:
        """Count and, during capture, forbid what makes the host wait."""
        if name in _WAITING and not kwargs.get("output_size"):
            self.gpus.wait(name)
        if name in _INDEXING:
            indices = [index for index in args[1] if isinstance(index, Tensor)]
            if any(index.dtype in {torch.bool, torch.uint8} for index in indices):
                self.gpus.wait(f"{name} with a mask")
            if any(not isinstance(index, PretendTensor) for index in indices):
                self.gpus.upload(f"{name} with indices on the host")
        if name in _COPYING:
            self._check_copy(name, args, kwargs, target)

    def _check_copy(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], target: torch.device | None
    ) -> None:
        into, origin = (args[0], args[1]) if name == "aten::copy_" else (None, args[0])
        to_gpu = isinstance(into, PretendTensor) if into is not None else (target is not None and target.type == "cuda")
        from_gpu = isinstance(origin, PretendTensor)
        if from_gpu and not to_gpu:
            self.gpus.wait(f"{name} to the host")
        if not from_gpu and to_gpu and isinstance(origin, Tensor) and origin.numel():
            blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            pinned = getattr(origin, "pretended_pin", False)
            if blocking or not pinned:
                self.gpus.upload(f"{name} from pageable memory")

    def _count(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        plain: list[Any],
        out: Any,
        capability: tuple[int, int],
    ) -> None:
        made = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        known = {each.untyped_storage().data_ptr() for each in plain if isinstance(each, Tensor)}
        is_view = not func._schema.is_mutable and made and all(t.untyped_storage().data_ptr() in known for t in made)
        if is_view:
            return
        if func._schema.name not in _NO_KERNEL:
            self.gpus.kernels[func._schema.name] += 1
        if graph.active is not None:
            graph.active.operations.append(
                Recorded(lambda *a, **k: _compute(func, a, k, capability), args, kwargs, made)
            )

    def _wrap(self, each: Any, leaves: list[Any], plain: list[Any], target: torch.device | None) -> Any:
        if not isinstance(each, Tensor) or isinstance(each, PretendTensor):
            return each
        for leaf, numbers in zip(leaves, plain, strict=True):
            if numbers is each:
                return leaf
        if target is None or target.type != "cuda":
            return each
        return self.place(each, target)

    def place(self, numbers: Tensor, device: torch.device) -> PretendTensor:
        """`numbers` on `device`; its memory counts there until the last tensor of its storage is gone."""
        storage = numbers.untyped_storage()
        key = (device.index, storage.data_ptr())
        if storage.nbytes():
            if not self._storages[key]:
                self.gpus.entered(device).take(storage.nbytes())
            self._storages[key] += 1
            self._sizes[key] = storage.nbytes()
            weakref.finalize(numbers, self._freed, key, storage.nbytes())
        return PretendTensor(numbers, device)

    def _freed(self, key: tuple[int, int], num_bytes: int) -> None:
        self._storages[key] -= 1
        if not self._storages[key]:
            del self._storages[key], self._sizes[key]
            self.gpus.all[key[0]].give(num_bytes)

    def holds(self, address: int, num_bytes: int) -> bool:
        """Whether these bytes belong to a living tensor of the current GPU."""
        own = ((start, size) for (gpu, start), size in self._sizes.items() if gpu == self.gpus.current)
        return any(start <= address and address + num_bytes <= start + size for start, size in own)

    def get_item(self, tensor: PretendTensor, index: tuple[Any, ...]) -> PretendTensor:
        """`tensor[index]`: a view, or one gathering kernel."""
        plain = self._plain_index(index)
        out = tensor.numbers[plain]
        if not _is_basic(index):
            self.gpus.kernels["aten::index"] += 1
            if graph.active is not None:
                graph.active.operations.append(Recorded(lambda t: t[plain], (tensor.numbers,), {}, [out]))
        return self.place(out, tensor.place)

    def set_item(self, tensor: PretendTensor, index: tuple[Any, ...], value: Any) -> None:
        """`tensor[index] = value`: one kernel."""
        if isinstance(value, Tensor) and not isinstance(value, PretendTensor) and value.dim():
            self.gpus.upload("index_put_ of a host tensor")
        plain = self._plain_index(index)
        numbers = value.numbers if isinstance(value, PretendTensor) else value

        def put(into: Tensor, values: Any) -> None:
            into[plain] = values

        put(tensor.numbers, numbers)
        self.gpus.kernels["aten::index_put_"] += 1
        if graph.active is not None:
            graph.active.operations.append(Recorded(put, (tensor.numbers, numbers), {}, []))

    def _plain_index(self, index: tuple[Any, ...]) -> tuple[Any, ...]:
        found = []
        for part in index:
            if isinstance(part, PretendTensor):
                if part.dtype in {torch.bool, torch.uint8}:
                    self.gpus.wait("index with a mask")
                found.append(part.numbers)
            elif isinstance(part, Tensor | list | range):
                self.gpus.upload("index with numbers of the host")
                found.append(part if isinstance(part, Tensor) else torch.tensor(list(part)))
            else:
                found.append(part)
        return tuple(found)


def _has_grouped_kernel(gpu: Gpu, dtype: torch.dtype) -> bool:
    """Whether torch's grouped product is one kernel; elsewhere it is a loop over experts with sizes on the host."""
    return gpu.capability[0] in {9, 10} and dtype is torch.bfloat16


def _score_bytes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Scores that torch's plain attention stores. It is taken where no kernel fits: masks over shared key heads."""
    bound = dict(zip((arg.name for arg in func._schema.arguments), args, strict=False)) | kwargs
    query, key = bound["query"], bound["key"]
    if bound.get("attn_mask") is None or not bound.get("enable_gqa"):
        return 0
    return query.shape[:-1].numel() * key.shape[-2] * 4


def _is_basic(index: tuple[Any, ...]) -> bool:
    return all(
        part is None or part is Ellipsis or (isinstance(part, int | slice) and not isinstance(part, bool))
        for part in index
    )


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], capability: tuple[int, int]) -> Any:
    """`func` on CPU tensors. What CPU does not have is computed in its stead."""
    name = func._schema.name
    if name == "torch_attn::_varlen_attn":
        bound = dict(zip((arg.name for arg in func._schema.arguments), args, strict=False)) | kwargs
        found = varlen_attn(
            *(bound[key] for key in ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")),
            capability=capability,
            scale=bound.get("scale"),
            window=bound.get("window_size"),
            used=bound.get("seqused_k"),
            table=bound.get("block_table"),
            num_splits=bound.get("num_splits"),
        )
        return (*found, torch.zeros(2, dtype=torch.uint64))
    if name in PRODUCTS:
        return PRODUCTS[name](capability, *args, **kwargs)
    if name in _PRODUCTS and args[0].dtype in {torch.float16, torch.bfloat16}:
        # A GPU sums products in float32; CPU's kernels for vectors do not.
        return func(*(arg.float() if isinstance(arg, Tensor) else arg for arg in args), **kwargs).to(args[0].dtype)
    if name in {"aten::_softmax", "aten::_log_softmax"} and args[2]:
        return func(args[0].float(), args[1], False)
    if name == "aten::_flash_attention_forward":
        bound = dict(zip((arg.name for arg in func._schema.arguments), args, strict=False)) | kwargs
        return flash_attention_forward(bound, capability)
    if name == "aten::histc" and not args[0].is_floating_point():
        return func(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
    return func(*args, **kwargs)
