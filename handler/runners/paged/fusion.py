"""A model's decoder layers and last norm replaced by fused ones, and put back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from handler.kernels.cuda.driver import DriverError
from handler.kernels.cuda.layer_kernels import DEFINES, LayerKernels
from handler.kernels.cuda.nvrtc import CompileError
from handler.linears.linear import has_own_code
from handler.model.loader import LoadedModel
from handler.runners.layer_kinds import decoder_layers, layer_kind
from handler.runners.paged.fused_layers import FusedLayer, FusedNorm
from handler.runners.trial import MODEL_ERRORS, TOLERANCE
from handler.scheduling.block_manager import TRASH_PAGE
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.errors import one_line
from handler.seam.protocol import GenerateRequest, SamplingParams

logger = logging.getLogger(__name__)

# Tokens of the prompt on which fused modules are compared with those that they replace.
_PROMPT_TOKENS = 11
_Make = Callable[[LayerKernels], FusedLayer | FusedNorm]


class Fusion:
    """What of a model is fused: `num_fused` decoder layers, and the last norm if any layer is."""

    def __init__(self, loaded: LoadedModel, max_len: int) -> None:
        """Sequences have at most `max_len` tokens."""
        self._loaded, self._max_len = loaded, max_len
        self._replaced: list[tuple[nn.Module, str, nn.Module]] = []
        self.num_fused = 0

    @torch.inference_mode()
    def apply(self, run: Callable[[ScheduledBatch], object]) -> None:
        """Replace every module whose fused form says the same on a short prompt. `run` calls the model over pages.

        Without a compiler, or with a driver that refuses, nothing is fused and the log says why.
        """
        loaded = self._loaded
        places = list(_places(loaded.model)) if loaded.device.type == "cuda" and loaded.dtype in DEFINES else []
        if not places or loaded.other_devices:
            return
        try:
            kernels = LayerKernels(loaded.dtype)
        except (CompileError, DriverError) as exc:
            logger.warning("layers are not fused, own kernels cannot be used here: %s", one_line(exc))
            return
        comparisons = [_Comparison(*place, kernels, TOLERANCE[loaded.dtype]) for place in places]
        run(_short_prompt(self._max_len))
        for each in comparisons:
            each.handle.remove()
        self._replace([each for each in comparisons if each.fused is not None])
        torch.cuda.empty_cache()
        logger.info("trial: %d decoder layers are fused", self.num_fused)
        refused = [f"{each.name}: {each.difference}" for each in comparisons if each.difference]
        if refused:
            logger.warning("%d modules are not fused; the first is %s", len(refused), refused[0])

    def _replace(self, agreed: list[_Comparison]) -> None:
        for each in agreed:
            assert each.fused is not None
            self._replaced.append((each.parent, each.name, each.stock))
            setattr(each.parent, each.name, each.fused)
        self.num_fused = sum(isinstance(each.fused, FusedLayer) for each in agreed)

    def undo(self) -> None:
        """Put every replaced module back."""
        for parent, name, stock in self._replaced:
            setattr(parent, name, stock)
        self._replaced, self.num_fused = [], 0


class _Comparison:
    """One module and its fused form. They are compared where the model calls the module, with what it passes."""

    def __init__(self, parent: nn.Module, name: str, make: _Make, kernels: LayerKernels, tolerance: float) -> None:
        self.parent, self.name, self.stock = parent, name, getattr(parent, name)
        self.fused: FusedLayer | FusedNorm | None = None
        self.difference: str | None = None
        self._make, self._kernels, self._tolerance = make, kernels, tolerance
        self.handle = self.stock.register_forward_pre_hook(self._compare, with_kwargs=True)

    def _compare(self, _: nn.Module, arguments: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        # The stock module runs inside the comparison; without its hook.
        self.handle.remove()
        given = dict(options)
        hidden = arguments[0] if arguments else given.pop("hidden_states")
        try:
            fused = self._make(self._kernels).eval()
            self.difference = fused.difference(hidden, given, self._tolerance)
        except MODEL_ERRORS as exc:
            self.difference = one_line(exc)
        if self.difference is None:
            self.fused = fused


def _places(model: Any) -> Iterator[tuple[nn.Module, str, _Make]]:
    """Where a module can be replaced: its parent, its name there, and what makes its fused form."""
    layers = decoder_layers(model)
    if layers is None:
        return
    kinds = [layer_kind(layer) for layer in layers]
    for index, (layer, kind) in enumerate(zip(layers, kinds, strict=True)):
        if kind is not None:
            yield layers, str(index), partial(FusedLayer, layer, kind)
    last, kind, norm = layers[-1], kinds[-1], model.model.norm
    alike = type(norm) is type(last.input_layernorm)
    if kind is not None and alike and not has_own_code(norm):
        yield model.model, "norm", partial(FusedNorm, norm, kind)


def _short_prompt(max_len: int) -> ScheduledBatch:
    """In the first page, which no sequence holds yet."""
    sampling = SamplingParams(max_tokens=1, seed=0)
    request = GenerateRequest("", list(range(min(_PROMPT_TOKENS, max_len))), sampling, 1.0)
    seq = Sequence(request, b"", 0.0, 1.0, block_table=[TRASH_PAGE + 1])
    return ScheduledBatch([ScheduledSequence(seq, 0, len(request.prompt_token_ids))])
