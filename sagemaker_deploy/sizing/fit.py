"""Whether a model fits an instance.

    need for each GPU = weights + KV cache + overhead   must stay below 90 % of the GPU's memory

Weights take 2 bytes for each parameter, 1.05 for int8 or 0.6 for 4 bits with scales; embeddings always take 2. The
cache is sized for `concurrency` requests that all use the whole context. That is an upper bound: with less memory the
engine queues and preempts but does not fail. Overhead is CUDA's context and activations.

`_spread` follows the container's rule for several GPUs (handler/model/placement.py). Weights that take at most
`WEIGHTS_SHARE` of one GPU are copied to each, and every copy serves a share of the requests. Larger ones are split by
layers over the fewest GPUs that hold them, with one engine for each such group. GPUs beyond the last group stay idle,
and the plan says so. Layers are not divided, so the fullest GPU of a group holds a little more than its share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sagemaker_deploy.request.instances import Instance
from sagemaker_deploy.request.spec import STORED_QUANTIZATIONS
from sagemaker_deploy.sizing.model_shape import ModelShape

MIB = 2**20
USABLE_SHARE = 0.90
WEIGHTS_SHARE = 0.80  # handler/model/placement.py
OVERHEAD_MIB = 1536
# On CUDA, where eetq is served as bitsandbytes (docs/quantisation.md).
BYTES_PER_PARAM = {"none": 2.0, "bitsandbytes": 1.05, "eetq": 1.05, "bitsandbytes-nf4": 0.6, "bitsandbytes-fp4": 0.6}
AUTO_ORDER = ("none", "bitsandbytes-nf4")


@dataclass(frozen=True)
class Load:
    """The intended load: `context` tokens of prompt plus answer, and concurrent requests."""

    context: int
    concurrency: int


def default_load(
    shape: ModelShape, max_total_tokens: int | None = None, max_concurrent_requests: int | None = None
) -> Load:
    """Return the load that the container's limits allow; by default 8 requests of at most 4096 tokens."""
    context = max_total_tokens or min(shape.max_context or 4096, 4096)
    return Load(context, min(max_concurrent_requests or 8, 128))


@dataclass(frozen=True)
class Fit:
    """The verdict for one instance. MiB are for the fullest GPU; `quantize` is resolved if `auto` was given.

    `copies` engines hold the model, each on `span` GPUs.
    """

    instance: Instance
    quantize: str
    weights_mib: int
    kv_mib: int
    copies: int
    span: int

    @property
    def gpus(self) -> int:
        """Number of the instance's GPUs that are used."""
        return self.copies * self.span

    @property
    def needed_mib(self) -> int:
        return self.weights_mib + self.kv_mib + OVERHEAD_MIB

    @property
    def usable_mib(self) -> int:
        return int(self.instance.gpu_mib * USABLE_SHARE)

    @property
    def fits(self) -> bool:
        return self.needed_mib <= self.usable_mib

    def sentence(self) -> str:
        """Return the verdict with its numbers as text."""
        verdict = "fits" if self.fits else "does not fit"
        split = f", split over {self.span}" if self.span > 1 else ""
        copies = f"{self.copies} copies{split}" if self.copies > 1 else f"one copy{split}"
        return (
            f"{verdict} {self.instance.name} ({copies}, {self.gpus} of {self.instance.num_gpus} x "
            f"{self.instance.gpu}): a GPU needs {self.weights_mib} MiB weights ({self.quantize}) + {self.kv_mib} MiB "
            f"cache + {OVERHEAD_MIB} MiB overhead = {self.needed_mib} of {self.usable_mib} usable MiB"
        )


def check_fit(
    shape: ModelShape, load: Load, instance: Instance, quantize: str = "auto", max_gpus: int | None = None
) -> Fit:
    """Return the verdict. With `auto`: the least lossy quantisation that fits, or the smallest if none fits.

    `max_gpus` is the limit from SM_NUM_GPUS or an inference component; None or 0 means all GPUs.
    """
    fits = [_fit(shape, load, instance, choice, max_gpus) for choice in quantizations(shape, quantize)]
    return next((fit for fit in fits if fit.fits), fits[-1])


def fit_warnings(shape: ModelShape, load: Load, fit: Fit) -> Iterator[str]:
    """Yield warnings about what the verdict does not cover."""
    idle = fit.instance.num_gpus - fit.gpus
    if idle > 0:
        of = f"the {fit.instance.num_gpus} GPUs of {fit.instance.name}"
        yield f"{idle} of {of} stay idle: the container uses {fit.gpus}, {fit.span} for each copy of the model"
    if fit.span > 1:
        yield (
            f"the model is split by layers over {fit.span} GPUs, and only one works at a time: it is no faster than "
            "on one GPU; quantise it or use a GPU that holds all of it"
        )
    if shape.packed_bytes is not None and fit.quantize not in ("auto", *STORED_QUANTIZATIONS):
        yield f"the checkpoint keeps its stored form: quantize {fit.quantize!r} does nothing"
    problem = stored_form_problem(shape, fit.quantize)
    if problem:
        yield problem
    if shape.max_context and load.context > shape.max_context:
        yield f"the model's context is {shape.max_context} tokens, {load.context} are requested"
    if not fit.instance.has_bfloat16 and shape.dtype == "bfloat16":
        yield f"{fit.instance.gpu} has no bfloat16: the model runs in another type, slower or less exact"
    if shape.checkpoint_gb * 1e9 > fit.instance.ram_gib * 2**30:
        yield (
            f"the checkpoint ({shape.checkpoint_gb:.0f} GB) is larger than the host's memory "
            f"({fit.instance.ram_gib} GiB); loading is slow and may be killed"
        )
    if shape.checkpoint_gb > 0.8 * fit.instance.nvme_gb:
        yield f"the checkpoint takes more than 80 % of the local disk ({fit.instance.nvme_gb} GB)"


def auto_warning(shape: ModelShape, fit: Fit, max_gpus: int | None = None) -> str:
    """Return what `auto` does otherwise than weighed, "" if nothing.

    The container takes the first form that leaves room for one request of up to 4,096 tokens (docs/quantisation.md).
    """
    one = default_load(shape, max_concurrent_requests=1)
    taken = check_fit(shape, one, fit.instance, "auto", max_gpus).quantize
    if taken == fit.quantize or not fit.fits:
        return ""
    return (
        f"by itself the container takes {taken!r} here, with room for fewer requests at once; give --quantize "
        f"{fit.quantize} for what was weighed"
    )


def stored_form_problem(shape: ModelShape, quantize: str) -> str:
    """Return why the container would refuse `quantize` for this checkpoint, "" if it would not."""
    if quantize not in STORED_QUANTIZATIONS or shape.packed_bytes is not None:
        return ""
    return (
        f"quantize {quantize!r} is for checkpoints stored that way, but this config.json has no "
        "quantization_config: the container will refuse it"
    )


def quantizations(shape: ModelShape, quantize: str) -> tuple[str, ...]:
    """Return what `quantize` may become, the least lossy first."""
    return AUTO_ORDER if quantize == "auto" and shape.packed_bytes is None else (quantize,)


def _fit(shape: ModelShape, load: Load, instance: Instance, quantize: str, max_gpus: int | None) -> Fit:
    weights = weights_bytes(shape, quantize)
    copies, span = _spread(weights, instance, max_gpus)
    requests = math.ceil(load.concurrency / copies)
    part = _fullest_part(shape.num_layers, span)
    kv_bytes = shape.kv_bytes_per_token * load.context * requests
    return Fit(instance, quantize, _mib(weights * part), _mib(kv_bytes * part), copies, span)


def _spread(weights: float, instance: Instance, max_gpus: int | None) -> tuple[int, int]:
    """(copies of the model, GPUs for each), by the rule of the container's first engine."""
    gpus = min(instance.num_gpus, max_gpus or instance.num_gpus)
    room = instance.gpu_mib * MIB * WEIGHTS_SHARE
    span = min(gpus, max(1, math.ceil(weights / room)))
    return gpus // span, span


def _fullest_part(num_layers: int, span: int) -> float:
    """Share of the model on the fullest of `span` GPUs."""
    if num_layers < span:
        return 1 / span
    return math.ceil(num_layers / span) / num_layers


def weights_bytes(shape: ModelShape, quantize: str) -> float:
    """Bytes of the weights in GPU memory."""
    if shape.packed_bytes is not None:
        return shape.packed_bytes
    inner = shape.num_params - shape.embedding_params
    return inner * BYTES_PER_PARAM.get(quantize, 2.0) + shape.embedding_params * 2


def _mib(size: float) -> int:
    return math.ceil(size / MIB)
