"""The language part of a model that also takes images or sound: how it is loaded alone, and as what it is served.

The class of the whole model is built without memory and loses what no text reaches, so names and conversions of weights
are transformers' own, and weights that are not named any more are not read. The language part then runs as the stock
causal language model, where transformers has one that says the same (docs/decisions/0112).
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
)

from handler.seam.errors import one_line

logger = logging.getLogger(__name__)

# Tokens of the text on which the causal language model is compared with the whole one.
_NUM_COMPARED = 8
# Largest difference of the logits, relative to the largest: both run the same layers.
_TOLERANCE = 1e-3
# What a forward pass has been seen to raise that lacks a part it wants.
_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def whole_class(config: Any) -> type[PreTrainedModel] | None:
    """transformers' class for texts with images or sound of a model with this configuration, None if it has none."""
    for table in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING):
        if type(config) in table:
            return cast("type[PreTrainedModel]", table[type(config)])
    return None


def loading_class(config: Any) -> Any:
    """The class whose `from_pretrained` loads what serves text: of the whole model, no more than its language part."""
    whole = whole_class(config)
    return AutoModelForCausalLM if whole is None else _without_towers(whole)


def text_skeleton(config: Any, *, trust_remote_code: bool) -> PreTrainedModel:
    """What `loading_class` loads, without memory for its weights."""
    found = loading_class(config)
    with torch.device("meta"):
        model: PreTrainedModel
        if found is AutoModelForCausalLM:
            model = found.from_config(config, trust_remote_code=trust_remote_code)
        else:
            model = found._from_config(copy.deepcopy(config))
    return model


def served_model(model: PreTrainedModel) -> PreTrainedModel:
    """`model` as it serves text: the causal language model over its language part, if that gives the same logits.

    Both share all modules. A model that has no other part comes back as it is.
    """
    if not hasattr(model, "is_text_part"):
        return model
    logger.info("%s: only the language part is loaded, images and sound are not served", model.config.model_type)
    causal = _causal(model)
    if causal is None or len(set(map(str, getattr(model, "hf_device_map", {}).values()))) > 1:
        return model
    try:
        expected = _logits(model)
    except _ERRORS as exc:
        logger.info("%s alone answers texts: without its other parts the whole does not run: %s", *_named(causal, exc))
        return causal
    try:
        gap = float((_logits(causal) - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    except _ERRORS as exc:
        logger.info("%s does not run over this language part: %s", *_named(causal, exc))
        return model
    return causal if gap <= _TOLERANCE else model


def _named(model: nn.Module, exc: Exception) -> tuple[str, str]:
    return type(model).__name__, one_line(exc)


def _without_towers(whole: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A class like `whole`, by the same name, whose models have the language part alone."""

    def __init__(self: Any, config: Any, *args: Any, **options: Any) -> None:
        try:
            whole.__init__(self, config, *args, **options)
        except ImportError:  # a tower needs a package that is not in the image, as timm
            with _empty_towers(config):
                whole.__init__(self, config, *args, **options)
        self.is_text_part = _drop_towers(self)

    same = {name: getattr(whole, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(whole.__name__, (whole,), {"__init__": __init__, **same})


class _EmptyTower(nn.Module):
    """Stands where an encoder of images or sound would."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


@contextmanager
def _empty_towers(config: Any) -> Iterator[None]:
    """Meanwhile `AutoModel` builds nothing for the parts of `config` that are not its text."""
    text = _text_config(config)
    others = [part for part in _parts(config) if type(part) is not type(text)]
    own, from_config = vars(AutoModel)["from_config"], AutoModel.from_config

    def build(config: Any, **options: Any) -> Any:
        if any(config is part for part in others):
            return _EmptyTower(config)
        return from_config(config, **options)  # type: ignore[no-untyped-call]

    AutoModel.from_config = build  # type: ignore[method-assign]
    try:
        yield
    finally:
        AutoModel.from_config = own  # type: ignore[method-assign]


def _parts(config: Any) -> list[Any]:
    """The configurations in `config`, at any depth."""
    direct = [part for name in config.sub_configs if (part := getattr(config, name, None)) is not None]
    return direct + [inner for part in direct for inner in _parts(part)]


def _text_config(config: Any) -> Any:
    return config.get_text_config(decoder=True)


def _drop_towers(model: PreTrainedModel) -> bool:
    """Delete what stands beside the language part and the output layer; True if anything was deleted."""
    before = sum(1 for _ in model.modules())
    text = type(_text_config(model.config))
    kept = _language_part(model)
    _drop_beside(model, kept, model.get_output_embeddings())
    foreign = {type(part) for part in _parts(model.config)} - {text}
    for module in list(kept.modules()):
        for name, child in list(module.named_children()):
            if type(getattr(child, "config", None)) in foreign:
                delattr(module, name)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied: Mapping[str, str] = model.all_tied_weights_keys
    model.all_tied_weights_keys = {target: source for target, source in tied.items() if {target, source} <= names}
    return sum(1 for _ in model.modules()) < before


def _language_part(model: PreTrainedModel) -> PreTrainedModel:
    """The outermost module with the text's configuration that holds the input embeddings, else `model` itself."""
    text, embeddings = type(_text_config(model.config)), model.get_input_embeddings()
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and type(module.config) is text and _holds(module, embeddings):
            return module
    return model


def _holds(module: nn.Module, part: nn.Module | None) -> bool:
    return any(each is part for each in module.modules())


def _drop_beside(module: nn.Module, kept: nn.Module, head: nn.Module | None) -> None:
    """Delete the children of `module` that hold neither `kept` nor `head`, down to `kept`."""
    for name, child in list(module.named_children()) if module is not kept else ():
        if _holds(child, kept):
            _drop_beside(child, kept, head)
        elif head is None or not _holds(child, head):
            delattr(module, name)


def _causal(model: PreTrainedModel) -> PreTrainedModel | None:
    """transformers' causal language model of the text's configuration, over the modules of `model`; None without."""
    kept, head = _language_part(model), model.get_output_embeddings()
    config = kept.config
    if kept is model or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    found = cast("type[PreTrainedModel]", MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    if isinstance(kept, found):
        return kept
    with torch.device("meta"):
        causal = cast("PreTrainedModel", found._from_config(config))
    if type(causal.base_model) is not type(kept):
        return None
    setattr(causal, causal.base_model_prefix, kept)
    causal.set_output_embeddings(head)
    if any(weight.is_meta for weight in (*causal.parameters(), *causal.buffers())):
        return None
    causal.config.tie_word_embeddings = _is_tied(causal)
    causal.eval()
    return causal


def _is_tied(model: PreTrainedModel) -> bool:
    weights = [getattr(each, "weight", None) for each in (model.get_input_embeddings(), model.get_output_embeddings())]
    return weights[0] is not None and weights[0] is weights[1]


@torch.inference_mode()
def _logits(model: PreTrainedModel) -> Tensor:
    """Float32 logits `[1, T, vocab]` of a short text without control tokens."""
    vocab = int(_text_config(model.config).vocab_size)
    tokens = torch.tensor([[(7 * i + 3) % vocab for i in range(_NUM_COMPARED)]], device=model.device)
    takes_cache = "use_cache" in inspect.signature(model.forward).parameters
    logits: Tensor = model(input_ids=tokens, **({"use_cache": False} if takes_cache else {})).logits
    return logits.float()
