"""`PretendTensor`: says `cuda:N`, keeps its numbers in a CPU tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.support.pretend_cuda.dispatch import Dispatcher

aten = torch.ops.aten


class PretendTensor(Tensor):
    """`numbers` holds the values on CPU; `place` is the device it claims. Every operation goes to the dispatcher.

    Methods that torch implements in C++ with a device check of its own, or that read values past the dispatcher, are
    overridden.
    """

    dispatcher: ClassVar[Dispatcher]
    numbers: Tensor
    place: torch.device
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, numbers: Tensor, place: torch.device) -> PretendTensor:
        # Never an inference tensor: torch sets a version counter on views of parameters, which those refuse.
        with torch.inference_mode(False):
            shape = torch.empty_strided(numbers.shape, numbers.stride(), dtype=numbers.dtype, device="meta")
            self: PretendTensor = torch.Tensor._make_subclass(  # type: ignore[attr-defined]
                cls, shape, False, dispatch_device=True, device_for_backend_keys=place
            )
        self.numbers, self.place = numbers, place
        return self

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return cls.dispatcher.run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def is_cuda(self) -> bool:
        return True

    def __getitem__(self, index: Any) -> Any:
        return self.dispatcher.get_item(self, index if isinstance(index, tuple) else (index,))

    def __setitem__(self, index: Any, value: Any) -> None:
        self.dispatcher.set_item(self, index if isinstance(index, tuple) else (index,), value)

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        return self if self.is_contiguous() else aten.clone(self, memory_format=memory_format)

    def __invert__(self) -> Tensor:
        return aten.bitwise_not(self)

    def nonzero(self, *, as_tuple: bool = False) -> Any:
        found = aten.nonzero(self)
        return found.unbind(1) if as_tuple else found

    def item(self) -> Any:
        return aten._local_scalar_dense(self)

    def tolist(self) -> Any:
        self.dispatcher.gpus.wait("tolist")
        return self.numbers.tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self.numbers.clone(), self.place)  # type: ignore[return-value]

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({self.numbers!r}, {self.place})"
