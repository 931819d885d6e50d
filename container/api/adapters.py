"""Which adapter a request names, in any of the places that clients know.

The first of these decides: SageMaker's header (adapter inference components), LMI's `adapter=` in the custom
attributes, LMI's `adapters` or TGI's `adapter_id` in the body, on TGI's routes SGLang's `lora_path` too, `model`. As in
AWS's model-hosting-container-standards all others overwrite `model`. A name that is unknown is refused: no answer comes
from the base model unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import request

from container.api.custom_attributes import ATTRIBUTES, adapter_of
from container.api.validation import check, show
from container.errors import AdapterUnknown, InvalidRequest, ModelUnknown
from container.hooks.client import HookClient
from container.monitoring.request_record import RequestRecord, current_record
from container.serving.service import service
from handler.seam.adapter_name import MODEL_ALIASES

ADAPTER = "X-Amzn-SageMaker-Adapter-Identifier"
_LMI, _TGI, _SGLANG = "adapters", "adapter_id", "lora_path"
# The dialect whose types have none of these fields but TGI's own.
_TGI_DIALECT = "tgi"


@dataclass(frozen=True, slots=True)
class _Named:
    """The names in one place: one, or one for each prompt, "" for the base model."""

    place: str
    names: tuple[str, ...]
    param: str | None = None


def with_adapter(body: dict[str, Any], *, several: bool = False) -> dict[str, Any]:
    """`body` without what this module reads of it; the current record has the adapter that it names.

    `several`: the route takes a list of prompts as `prompt`, each with an adapter of its own.
    Raises AdapterUnknown, and InvalidRequest if two fields contradict each other.
    """
    record = current_record()
    is_tgi = record.dialect == _TGI_DIALECT
    named = _in_head() or _in_body(body, is_tgi=is_tgi)
    rest = without_names(body) if is_tgi else {key: value for key, value in body.items() if key != _LMI}
    if named is None:
        record.adapter = _default_adapter(body.get("model"))
        return rest if is_tgi or not record.adapter else rest | {"model": record.adapter}
    _take(named, body, record, several=several)
    return rest if is_tgi else rest | {"model": record.adapter or _base_name(named)}


def choose_hooks_adapter(hook: HookClient) -> None:
    """The current record has the adapter that the head names, for what `hook` asks of the model.

    The body is the hook's own. Raises AdapterUnknown.
    """
    named = _in_head()
    if named is None:
        return
    if hook.owns_model:
        sentence = "this server's own code loads the model, which has no adapters"
        raise AdapterUnknown(f"`{named.place}` names an adapter, and {sentence}. Given: {show(named.names[0])}")
    current_record().adapter = _served(named, named.names[0])


def adapter_of_instance(instance: dict[str, Any]) -> str:
    """The adapter of one of /vertex's instances, "" for the base model; the request's own comes first.

    Raises as `with_adapter`.
    """
    record = current_record()
    if record.adapter is not None:
        return record.adapter
    named = _in_body(instance, is_tgi=True)
    if named is None:
        return _default_adapter(instance.get("model")) or ""
    if len(named.names) > 1:
        raise InvalidRequest(f"`{named.place}` must name one adapter for an instance", param=named.param)
    return _served(named, named.names[0])


def without_names(body: dict[str, Any]) -> dict[str, Any]:
    """A body of TGI's dialect without the fields that its types do not have and this module reads."""
    rest = {key: value for key, value in body.items() if key not in {_LMI, _TGI, _SGLANG, "model"}}
    inner = rest.get("parameters")
    if isinstance(inner, dict):
        rest["parameters"] = {key: value for key, value in inner.items() if key not in {_LMI, _SGLANG}}
    return rest


def _in_head() -> _Named | None:
    name = request.headers.get(ADAPTER, "").strip()
    if name:
        return _Named(ADAPTER, (name,))
    lmis = adapter_of(request.headers.get(ATTRIBUTES, ""))
    return _Named(f"adapter in {ATTRIBUTES}", (lmis,)) if lmis else None


def _in_body(body: dict[str, Any], *, is_tgi: bool) -> _Named | None:
    """What the body and its `parameters` name; several places must agree."""
    found = list(_fields(body, is_tgi=is_tgi))
    for other in found[1:]:
        if other.names != found[0].names:
            raise InvalidRequest(
                f"`{found[0].place}` and `{other.place}` name different adapters; send one of them", param=other.param
            )
    return found[0] if found else None


def _fields(body: dict[str, Any], *, is_tgi: bool) -> Iterator[_Named]:
    for place in (body, body.get("parameters")):
        if not isinstance(place, dict):
            continue
        for field in (_LMI, _TGI, _SGLANG):
            if field != _LMI and place is body and not is_tgi:
                _refuse(field, place.get(field))
            # Of another type, TGI's parameter is refused where the types of parameters are.
            elif field != _TGI or place is body or isinstance(place.get(field), str):
                names = _names(field, place.get(field))
                if names:
                    yield _Named(field, names, field)


def _refuse(field: str, value: Any) -> None:
    """Not all dialects know the fields of other servers, and some take unknown ones."""
    if value:
        raise InvalidRequest(f"`{field}` is not supported: send the adapter's name as `model`", param=field)


def _names(field: str, value: Any) -> tuple[str, ...]:
    """A list has one name for each prompt; an empty one stands for the base model."""
    if value in (None, "", {}):
        return ()
    names = value if isinstance(value, list) else [value]
    fits = all(name is None or isinstance(name, str) for name in names)
    check(field, "an adapter's name, or an array of names with one for each prompt", value, fits)
    found = tuple(name or "" for name in names)
    return found[:1] if len(set(found)) == 1 else found


def _take(named: _Named, body: dict[str, Any], record: RequestRecord, *, several: bool) -> None:
    served = tuple(_served(named, name) for name in named.names)
    if len(set(served)) == 1:
        record.adapter = served[0]
        return
    prompts = body.get("prompt") if several else None
    if not isinstance(prompts, list) or len(prompts) != len(served) or isinstance(prompts[0], int):
        raise InvalidRequest(
            f"`{named.place}` must name one adapter, or on /v1/completions one for each of several prompts. "
            f"Given: {len(served)} names",
            param=named.param,
        )
    record.prompt_adapters = served


def _served(named: _Named, name: str) -> str:
    """`name` if it is an adapter's, "" if it is the base model's. Raises AdapterUnknown."""
    if name in service().adapters.entries:
        return name
    if not name or name in _base_names():
        return ""
    raise AdapterUnknown(
        f"`{named.place}` must be the name of an adapter that is loaded. Given: {show(name)}", param=named.param
    )


def _default_adapter(model: Any) -> str | None:
    """What `model` alone names. A hook's call has the adapter of the request that the hook answers, unless `model` is
    another adapter's name: a hook hands on the `model` of its client, over which the head wins.

    Raises ModelUnknown.
    """
    caller = service().nested_caller
    if caller is None or not caller.adapter or (isinstance(model, str) and model in service().adapters.entries):
        return _model_adapter(model)
    return caller.adapter


def _model_adapter(model: Any) -> str | None:
    """Raises ModelUnknown. Without adapters any name is the model's: clients come with the name of another server's."""
    adapters = service().adapters
    if not isinstance(model, str) or not model:
        return None
    if model in adapters.entries:
        return model
    if not adapters.may_be_one(model) or model in _base_names():
        return None
    base = service().model.card.model_id
    raise ModelUnknown(
        f'`model` must be {show(base)}, "tgi" or the name of an adapter that is loaded. Given: {show(model)}',
        param="model",
    )


def _base_names() -> frozenset[str]:
    return MODEL_ALIASES | {service().model.card.model_id}


def _base_name(named: _Named) -> str:
    """What an answer of the base model calls it: as it was named, else its id."""
    return named.names[0] if len(named.names) == 1 and named.names[0] else service().model.card.model_id
