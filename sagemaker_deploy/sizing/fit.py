"""Whether a model fits an instance.

    need for each GPU = weights + KV cache + adapters + overhead   must stay below 90 % of the GPU's memory

Weights and their share of the GPUs follow the container's own table and rule (`model_memory`): copies of what one GPU
holds, each serving a share of the requests; layers split over the fewest GPUs that hold larger ones; and what `auto`
takes of the two. GPUs beyond the last group stay idle, and the plan says so. Layers are not divided, so the fullest GPU
of a group holds a little more than its share.

The cache is sized for `concurrency` requests that all use the whole context. That is an upper bound: with less memory
the engine queues and preempts but does not fail. Overhead is CUDA's context and activations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from model_memory import sharing
from model_memory.forms import AUTO_FORMS, Form, Product, auto_forms, quantized
from model_memory.gguf_bytes import dense_types, gguf_bytes
from model_memory.sharing import USUAL_TOKENS, Share, Weights
from model_memory.stored_codes import refusal as refusal_of
from model_memory.stored_forms import is_dequantised, stored
from sagemaker_deploy.request.instances import Instance
from sagemaker_deploy.request.spec import STORED_QUANTIZATIONS
from sagemaker_deploy.sizing.model_shape import ModelShape

MIB = 2**20
USABLE_SHARE = 0.90
OVERHEAD_MIB = 1536
_GGUF = "gguf"
_ITEMSIZE = 2  # every GPU computes in bfloat16 or float16


@dataclass(frozen=True)
class Load:
    """The intended load: `context` tokens of prompt plus answer, and concurrent requests.

    `max_total_tokens` is the container's setting, None if it is unset: `auto` keeps room for one request of it.
    """

    context: int
    concurrency: int
    max_total_tokens: int | None = None


def default_load(
    shape: ModelShape, max_total_tokens: int | None = None, max_concurrent_requests: int | None = None
) -> Load:
    """Return the load that the container's limits allow; by default 8 requests of at most 4096 tokens."""
    context = max_total_tokens or min(shape.max_context or 4096, 4096)
    return Load(context, min(max_concurrent_requests or 8, 128), max_total_tokens)


@dataclass(frozen=True)
class Fit:
    """The verdict for one instance. MiB are for the fullest GPU; `quantize` is resolved if `auto` was given.

    `copies` engines hold the model, each on `span` GPUs. `stored` says how a quantised checkpoint is held, "" for
    others. `refused` says why the container would not load it, "" if it would.
    """

    instance: Instance
    quantize: str
    weights_mib: int
    kv_mib: int
    copies: int
    span: int
    stored: str = ""
    refused: str = ""
    adapters_mib: int = 0

    @property
    def gpus(self) -> int:
        """Number of the instance's GPUs that are used."""
        return self.copies * self.span

    @property
    def needed_mib(self) -> int:
        return self.weights_mib + self.kv_mib + self.adapters_mib + OVERHEAD_MIB

    @property
    def usable_mib(self) -> int:
        return int(self.instance.gpu_mib * USABLE_SHARE)

    @property
    def fits(self) -> bool:
        return not self.refused and self.needed_mib <= self.usable_mib

    def sentence(self) -> str:
        """Return the verdict with its numbers as text."""
        if self.refused:
            return f"does not load on {self.instance.name}: {self.refused}"
        verdict = "fits" if self.fits else "does not fit"
        split = f", split over {self.span}" if self.span > 1 else ""
        copies = f"{self.copies} copies{split}" if self.copies > 1 else f"one copy{split}"
        form = self.stored or self.quantize
        adapters = f"{self.adapters_mib} MiB adapters + " if self.adapters_mib else ""
        return (
            f"{verdict} {self.instance.name} ({copies}, {self.gpus} of {self.instance.num_gpus} x "
            f"{self.instance.gpu}): a GPU needs {self.weights_mib} MiB weights ({form}) + {self.kv_mib} MiB "
            f"cache + {adapters}{OVERHEAD_MIB} MiB overhead = {self.needed_mib} of {self.usable_mib} usable MiB"
        )


def check_fit(
    shape: ModelShape, load: Load, instance: Instance, quantize: str = "auto", max_gpus: int | None = None
) -> Fit:
    """Return the verdict. With `auto`: in the form that the container takes, or in a smaller one if only that fits.

    `max_gpus` is the limit from SM_NUM_GPUS or an inference component; None or 0 means all GPUs.
    """
    if quantize != "auto" or shape.is_packed:
        return _fit(shape, load, instance, quantize, _settled(shape, instance, quantize, max_gpus))
    taken = auto_share(shape, load, instance, max_gpus)
    fit = _fit(shape, load, instance, taken.weights.form, taken)
    for smaller in AUTO_FORMS[AUTO_FORMS.index(taken.weights.form) + 1 :]:
        if not fit.fits:
            fit = _fit(shape, load, instance, smaller, _settled(shape, instance, smaller, max_gpus))
    return fit


def auto_share(shape: ModelShape, load: Load, instance: Instance, max_gpus: int | None = None) -> Share:
    """Return what the container's `auto` takes of a dense checkpoint: form, GPUs for each engine, engines."""
    tokens = load.max_total_tokens or min(shape.max_context or USUAL_TOKENS, USUAL_TOKENS)
    forms = [_weights(shape, form, instance.capability) for form in auto_forms(instance.capability)]
    gpus = _num_gpus(instance, max_gpus)
    memory = instance.gpu_mib * MIB
    beside = tokens * shape.kv_bytes_per_token + shape.adapter_bytes
    return sharing.weigh(sharing.candidates(forms, beside, memory, gpus, gpus))


def fit_warnings(shape: ModelShape, load: Load, fit: Fit) -> Iterator[str]:
    """Yield warnings about what the verdict does not cover."""
    idle = fit.instance.num_gpus - fit.gpus
    if idle > 0:
        of = f"the {fit.instance.num_gpus} GPUs of {fit.instance.name}"
        yield f"{idle} of {of} stay idle: the container uses {fit.gpus}, {fit.span} for each copy of the model"
    if fit.span > 1:
        smaller = "quantise it or " if fit.quantize == "none" and not shape.is_packed else ""
        yield (
            f"the model is split by layers over {fit.span} GPUs, and only one works at a time: it is no faster than "
            f"on one GPU; {smaller}use a GPU that holds all of it"
        )
    yield from _notes_of_form(shape, fit)
    if shape.stored is not None and fit.quantize not in ("auto", *STORED_QUANTIZATIONS):
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


def _notes_of_form(shape: ModelShape, fit: Fit) -> Iterator[str]:
    """What the form leaves dense, against expectation."""
    form, gb = _form(shape, fit.quantize, fit.instance), weights_bytes(shape, fit.quantize, fit.instance) / 1e9
    types = dense_types(shape.tensors.values(), fit.instance.capability) if shape.tensors else ()
    if types and form.name == _GGUF:
        yield (
            f"the container makes the file's weights of {', '.join(types)} dense at load: {shape.checkpoint_gb:.1f} GB "
            f"take {gb:.1f} GB"
        )
    if shape.stored is not None and is_dequantised(form):
        yield (
            f"the container makes weights stored as {form.name} dense at load: {shape.checkpoint_gb:.1f} GB of files "
            f"take {gb:.1f} GB"
        )
    if form.linears and shape.counts.experts and (shape.counts.keeps_experts or not form.experts):
        yield f"{form.name} leaves the experts in 16 bits: the weights take {gb:.1f} GB"


def auto_warning(shape: ModelShape, load: Load, fit: Fit, max_gpus: int | None = None) -> str:
    """Return what `auto` does otherwise than weighed, "" if nothing (docs/quantisation.md)."""
    if shape.is_packed or not fit.fits:
        return ""
    taken = auto_share(shape, load, fit.instance, max_gpus).weights.form
    if taken == fit.quantize:
        return ""
    return (
        f"by itself the container takes {taken!r} here, with room for fewer requests at once; give --quantize "
        f"{fit.quantize} for what was weighed"
    )


def refusal(shape: ModelShape) -> str:
    """Return why the container does not load this stored form, and what to do instead; "" if it does."""
    return "" if shape.stored is None else refusal_of(shape.stored)


def stored_form_problem(shape: ModelShape, quantize: str) -> str:
    """Return why the container would refuse `quantize` for this checkpoint, "" if it would not."""
    if quantize not in STORED_QUANTIZATIONS or shape.stored is not None:
        return ""
    return (
        f"quantize {quantize!r} is for checkpoints stored that way, but this config.json has no "
        "quantization_config: the container will refuse it"
    )


def quantizations(shape: ModelShape, quantize: str) -> tuple[str, ...]:
    """Return what `quantize` may become, the least lossy first."""
    return AUTO_FORMS if quantize == "auto" and not shape.is_packed else (quantize,)


def _fit(shape: ModelShape, load: Load, instance: Instance, quantize: str, share: Share) -> Fit:
    requests = math.ceil(load.concurrency / share.engines)
    part = _fullest_part(shape.num_layers, share.span)
    kv_bytes = shape.kv_bytes_per_token * load.context * requests
    weights_mib, kv_mib = _mib(share.weights.num_bytes * part), _mib(kv_bytes * part)
    adapters_mib = _mib(shape.adapter_bytes * part)
    form = _form(shape, quantize, instance)
    dense = ", dense in memory" if is_dequantised(form) else ""
    is_kept = shape.stored is not None or form.name == _GGUF
    words = f"stored as {form.name}{dense}" if is_kept else ""
    return Fit(instance, quantize, weights_mib, kv_mib, share.engines, share.span, words, form.refused, adapters_mib)


def _settled(shape: ModelShape, instance: Instance, quantize: str, max_gpus: int | None) -> Share:
    weights = _weights(shape, _form(shape, quantize, instance), instance.capability)
    return sharing.share(weights, instance.gpu_mib * MIB, _num_gpus(instance, max_gpus))


def _num_gpus(instance: Instance, max_gpus: int | None) -> int:
    return min(instance.num_gpus, max_gpus or instance.num_gpus)


def _fullest_part(num_layers: int, span: int) -> float:
    """Share of the model on the fullest of `span` GPUs."""
    if num_layers < span:
        return 1 / span
    return math.ceil(num_layers / span) / num_layers


def weights_bytes(shape: ModelShape, quantize: str, instance: Instance) -> int:
    """Bytes of the weights in the memory of this instance's GPUs, all parts together."""
    return _weights(shape, _form(shape, quantize, instance), instance.capability).num_bytes


def _form(shape: ModelShape, quantize: str, instance: Instance) -> Form:
    if shape.stored is not None:
        return stored(shape.stored, instance.capability)
    if shape.tensors is not None and quantize in ("auto", "int4"):  # other values dequantise first
        return Form(_GGUF, product=Product.INT4)
    return quantized(quantize, instance.capability)


def _weights(shape: ModelShape, form: Form, capability: int) -> Weights:
    """Bytes in memory, a draft model's too, and bytes that a step moves."""
    found = _own_weights(shape, form, capability)
    return dataclasses.replace(found, num_bytes=found.num_bytes + shape.draft_bytes)


def _own_weights(shape: ModelShape, form: Form, capability: int) -> Weights:
    size = form.num_bytes(shape.counts, _ITEMSIZE)
    if form.name == _GGUF and shape.tensors is not None:
        size = gguf_bytes(shape.tensors, _ITEMSIZE, capability)
        return Weights(_GGUF, size, size)
    if (form.is_stored or form.refused) and shape.stored_bytes:
        size = shape.stored_bytes
    return Weights(form.name, size, form.moved_bytes(shape.counts, _ITEMSIZE))


def _mib(size: float) -> int:
    return math.ceil(size / MIB)
