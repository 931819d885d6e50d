"""Which adapter a request names, in any of the places that clients know.

The first of these decides: SageMaker's header (adapter inference components), LMI's `adapter=` in the custom
attributes, LMI's `adapters` or TGI's `adapter_id` in the body, `model` on routes that have it. As in AWS's
model-hosting-container-standards the first three overwrite `model`. A name that is unknown is refused: no answer comes
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

ADAPTER = "X-Amzn-SageMaker-Adapter-Identifier"
_LMI, _TGI = "adapters", "adapter_id"
# TGI's name of whatever model it serves.
_BASE = "tgi"
# The dialect whose bodies have no `model`, or ignore it.
_WITHOUT_MODEL = "tgi"


@dataclass(frozen=True, slots=True)
class _Named:
    """The names in one place: one, or one for each prompt, "" for the base model."""

    place: str
    names: tuple[str, ...]
    param: str | None = None


def with_adapter(body: dict[str, Any]) -> dict[str, Any]:
    """`body` without `adapters`; the current record has the adapter that it names.

    Raises AdapterUnknown, and InvalidRequest if two fields contradict each other.
    """
    record = current_record()
    has_model = record.dialect != _WITHOUT_MODEL
    named = _in_head() or _in_body(body)
    rest = {key: value for key, value in body.items() if key != _LMI}
    if named is None:
        record.adapter = _default_adapter(rest.get("model") if has_model else None)
    else:
        _take(named, body, record)
    return rest | {"model": record.adapter} if has_model and record.adapter else rest


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
    named = None if current_record().adapter else _in_body(instance)
    if named is None:
        chat = "inputs" not in instance
        return current_record().adapter or (_model_adapter(instance.get("model")) if chat else None) or ""
    if len(named.names) > 1:
        raise InvalidRequest(f"`{named.place}` must name one adapter for an instance", param=named.param)
    return _served(named, named.names[0]) or ""


def _in_head() -> _Named | None:
    name = request.headers.get(ADAPTER, "").strip()
    if name:
        return _Named(ADAPTER, (name,))
    lmis = adapter_of(request.headers.get(ATTRIBUTES, ""))
    return _Named(f"adapter in {ATTRIBUTES}", (lmis,)) if lmis else None


def _in_body(body: dict[str, Any]) -> _Named | None:
    """What the body and its `parameters` name; several places must agree."""
    found = list(_fields(body))
    for other in found[1:]:
        if other.names != found[0].names:
            raise InvalidRequest(
                f"`{found[0].place}` and `{other.place}` name different adapters; send one of them", param=other.param
            )
    return found[0] if found else None


def _fields(body: dict[str, Any]) -> Iterator[_Named]:
    for place in (body, body.get("parameters")):
        if not isinstance(place, dict):
            continue
        names = _names(place.get(_LMI))
        if any(names):
            yield _Named(_LMI, names, _LMI)
        # Of another type it is refused where the body's types are.
        if isinstance(place.get(_TGI), str) and place[_TGI] and place is not body:
            yield _Named(_TGI, (place[_TGI],), _TGI)


def _names(value: Any) -> tuple[str, ...]:
    """LMI's list has one name for each prompt; an empty one stands for the base model."""
    if value in (None, "", {}):
        return ()
    names = value if isinstance(value, list) else [value]
    fits = all(name is None or isinstance(name, str) for name in names)
    check(_LMI, "an adapter's name, or an array of names with one for each prompt", value, fits)
    found = tuple(name or "" for name in names)
    return found[:1] if len(set(found)) == 1 else found


def _take(named: _Named, body: dict[str, Any], record: RequestRecord) -> None:
    served = tuple(_served(named, name) or "" for name in named.names)
    if len(served) == 1:
        record.adapter = served[0] or None
        return
    prompts = body.get("prompt")
    if not isinstance(prompts, list) or len(prompts) != len(served) or isinstance(prompts[0], int):
        raise InvalidRequest(
            f"`{named.place}` must name one adapter, or one for each of several prompts. Given: {len(served)} names",
            param=named.param,
        )
    record.prompt_adapters = served


def _served(named: _Named, name: str) -> str | None:
    """`name` if it is an adapter's, None if it is the base model's. Raises AdapterUnknown."""
    if name in service().adapters.entries:
        return name
    if not name or name in _base_names():
        return None
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
    if not isinstance(model, str) or not model or not adapters.any_ever or model in _base_names():
        return None
    if model in adapters.entries:
        return model
    base = service().model.card.model_id
    raise ModelUnknown(
        f"`model` must be {show(base)}, {show(_BASE)} or the name of an adapter that is loaded. Given: {show(model)}",
        param="model",
    )


def _base_names() -> tuple[str, str]:
    return service().model.card.model_id, _BASE
