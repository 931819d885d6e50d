"""The cheapest instance type that a model fits, and what could be taken instead.

The order is by a rough price: so much for each GPU of a family and for each CPU. The figures follow EC2's list prices
(on demand, us-east-1, 2025); g7's is interpolated. They only order and are never shown: prices vary by region and
change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model_memory.forms import AUTO_FORMS
from sagemaker_deploy.request.instances import INSTANCES, Instance
from sagemaker_deploy.sizing.fit import Fit, Load, auto_share, check_fit, quantizations
from sagemaker_deploy.sizing.model_shape import ModelShape

_CPU_RATE = 0.04
_GPU_RATES = {
    "g4dn": 0.37,
    "g6": 0.65,
    "g5": 0.85,
    "g7": 1.2,
    "g6e": 1.7,
    "g7e": 3.0,
    "p4d": 2.3,
    "p4de": 3.0,
    "p5": 6.2,
    "p5e": 7.2,
    "p5en": 7.4,
    "p6-b200": 13.3,
    "p6-b300": 17.0,
}
MAX_ALTERNATIVES = 4
# How much dearer the instance for 16 bits may be than the one for 4: as much as its weights are larger.
_WORTH_16_BITS = 4


@dataclass(frozen=True)
class Recommendation:
    """The fit on the cheapest type, and fits on others."""

    best: Fit
    alternatives: tuple[Fit, ...] = ()

    def reason(self) -> str:
        """Return why this type, in one line."""
        fit = self.best
        where = "its GPU" if fit.instance.num_gpus == 1 else f"{fit.gpus} of its {fit.instance.num_gpus} GPUs"
        return f"cheapest type with room for the weights {form_of(fit)} and the cache on {where}"


def form_of(fit: Fit) -> str:
    """Return how the weights are held, in words."""
    return fit.stored or ("unquantised" if fit.quantize == "none" else f"in {fit.quantize}")


def recommend(
    shape: ModelShape,
    load: Load,
    quantize: str = "auto",
    instances: Sequence[Instance] = INSTANCES,
    max_gpus: int | None = None,
) -> Recommendation | None:
    """Return the cheapest type that fits with alternatives, or None if nothing fits.

    `auto` prefers an instance on which the container does not quantise, up to `_WORTH_16_BITS` times the price; but it
    quantises before it recommends GPUs that `max_gpus` would leave idle. Left out are instances with fewer GPUs than
    `max_gpus`, on which the container would not start, and those without bfloat16 for models trained in it, because
    float16 overflows in some of them.
    """
    able = [it for it in instances if it.has_bfloat16 or shape.dtype == "float16"]
    able = [it for it in able if it.num_gpus >= (max_gpus or 1)]
    ordered = sorted(able, key=price_rank)
    busy = [it for it in ordered if it.num_gpus <= (max_gpus or it.num_gpus)]
    fitting = _fitting_by_auto if quantize == "auto" and not shape.is_packed else _fitting
    for group in (busy, ordered):
        fits = [list(fitting(shape, load, choice, group, max_gpus)) for choice in quantizations(shape, quantize)]
        best = _best([of_choice[0] for of_choice in fits if of_choice])
        if best is not None:
            return Recommendation(best, tuple(_alternatives(best, fits)))
    return None


def _best(cheapest: Sequence[Fit]) -> Fit | None:
    """The first of the cheapest fits of each form that is worth its price."""
    limit = min((price_rank(fit.instance) for fit in cheapest), default=0) * _WORTH_16_BITS
    return next((fit for fit in cheapest if price_rank(fit.instance) <= limit), None)


def family(instance: Instance) -> str:
    """Return "g6" for ml.g6.2xlarge."""
    return instance.name.split(".")[1]


def price_rank(instance: Instance) -> float:
    """Return a figure that orders instances by price; it is none."""
    return instance.num_gpus * _GPU_RATES[family(instance)] + instance.vcpus * _CPU_RATE


def _fitting(
    shape: ModelShape, load: Load, quantize: str, instances: Sequence[Instance], max_gpus: int | None
) -> Iterator[Fit]:
    """The fits in one form."""
    for instance in instances:
        fit = check_fit(shape, load, instance, quantize, max_gpus)
        if fit.fits:
            yield fit


def _fitting_by_auto(
    shape: ModelShape, load: Load, quantize: str, instances: Sequence[Instance], max_gpus: int | None
) -> Iterator[Fit]:
    """The fits in one form, but none in 16 bits where the container itself would quantise."""
    for fit in _fitting(shape, load, quantize, instances, max_gpus):
        if quantize != AUTO_FORMS[0] or auto_share(shape, load, fit.instance, max_gpus).weights.form == quantize:
            yield fit


def _alternatives(best: Fit, fits: Sequence[Sequence[Fit]]) -> list[Fit]:
    """What is cheaper because it quantises, then the cheapest of other families with the best one's quantisation."""
    rank = price_rank(best.instance)
    found: dict[str, Fit] = {}
    for of_choice in fits:
        if of_choice and price_rank(of_choice[0].instance) < rank:
            found.setdefault(of_choice[0].instance.name, of_choice[0])
    families = {family(best.instance)}
    for fit in next(of_choice for of_choice in fits if of_choice and of_choice[0] == best):
        if family(fit.instance) not in families:
            families.add(family(fit.instance))
            found.setdefault(fit.instance.name, fit)
    return list(found.values())[:MAX_ALTERNATIVES]
