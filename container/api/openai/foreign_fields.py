"""A request's fields that its type does not have: taken if neutral or without effect, else refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as mi

from container.api.ignored_fields import note_ignored
from container.api.openai.field_rules import RULES, Ignored, NotDone, Rules
from container.api.spelling import did_you_mean, near
from container.api.validation import convert
from container.api.value_path import steps_of
from container.errors import InvalidRequest

T = TypeVar("T", bound=msgspec.Struct)
_SHOWN_CHARS = 80
# A name is compared with all known ones in a millisecond, in which the worker does nothing else.
_MAX_UNKNOWN = 100


def read(body: dict[str, Any], kind: type[T], allowed: Mapping[str, str], *, takes_unknown: bool = False) -> T:
    """`body` as `kind`, a msgspec struct, without the fields of `RULES`. Raises InvalidRequest.

    A struct of another dialect has its rules as `foreign`.
    `takes_unknown` takes names that are known nowhere and near to none of a field that matters.
    """
    reader = _Reader(takes_unknown)
    body = reader.fields(body, _shape(kind), "", deep=False)
    try:
        return msgspec.convert(body, kind)
    except (msgspec.ValidationError, RecursionError) as exc:
        # Few requests pay for the walk through all messages.
        if "contains unknown field" in str(exc):
            body = reader.fields(body, _shape(kind), "", deep=True)
        return convert(body, kind, allowed)


@dataclass(frozen=True, slots=True)
class _Shape:
    """One struct: the types of its fields, and the rules for fields that it does not have."""

    types: dict[str, mi.Type]
    rules: Rules

    @property
    def names(self) -> list[str]:
        return [*self.types, *(name for name in self.rules if name not in self.types)]

    @property
    def telling(self) -> list[str]:
        """Names of fields that change an answer or are refused: a slip of another one is harmless."""
        return [name for name in self.names if not isinstance(self.rules.get(name), Ignored) or name in self.types]


class _Reader:
    def __init__(self, takes_unknown: bool) -> None:
        self._takes_unknown = takes_unknown
        self._taken: set[tuple[str, int]] = set()

    def value(self, value: Any, kind: mi.Type, path: str) -> Any:
        """`value` without foreign fields, at any depth that `kind` describes."""
        if isinstance(kind, mi.Metadata):
            return self.value(value, kind.type, path)
        if isinstance(value, dict):
            found = _struct_for(value, kind)
            return value if found is None else self.fields(value, _shape(found.cls), path, deep=True)
        if isinstance(value, list):
            item = next((each.item_type for each in _branches(kind) if isinstance(each, mi.ListType)), None)
            return value if item is None else [self.value(each, item, f"{path}[{i}]") for i, each in enumerate(value)]
        return value

    def fields(self, value: dict[str, Any], shape: _Shape, path: str, *, deep: bool) -> dict[str, Any]:
        found = {}
        for name, each in value.items():
            place = f"{path}.{name}" if path else name
            if name in shape.types:
                found[name] = self.value(each, shape.types[name], place) if deep else each
            else:
                self._settle(name, each, shape, path, place)
        return found

    def _settle(self, name: str, value: Any, shape: _Shape, path: str, place: str) -> None:
        """Raises InvalidRequest unless the field may be left out."""
        rule = shape.rules.get(name)
        if rule is None:
            self._unknown(name, shape, path, place)
        elif isinstance(rule, NotDone):
            if not rule.takes(value):
                raise InvalidRequest(f"`{place}` is not supported: {rule.why}", param=place)
        elif isinstance(rule, Ignored) and value is not None:
            note_ignored(place, rule.why)

    def _unknown(self, name: str, shape: _Shape, path: str, place: str) -> None:
        if self._takes_unknown and self._is_far(name, shape):
            return note_ignored(place[:_SHOWN_CHARS], "no server is known to have it")
        where = f"`{path}`: " if path else ""
        hint = did_you_mean(name, shape.names)
        text = f"{where}unknown field `{name[:_SHOWN_CHARS]}`{'.' if hint else ''}{hint}"
        shown = name[:_SHOWN_CHARS]
        raise InvalidRequest(text, param=f"{path}.{shown}" if path else shown, steps=[*steps_of(f".{path}"), shown])

    def _is_far(self, name: str, shape: _Shape) -> bool:
        """Whether the name is near to none of a field that matters. Raises InvalidRequest for too many names."""
        if (name, id(shape)) not in self._taken:
            if near(name, shape.telling):
                return False
            self._taken.add((name, id(shape)))
        if len(self._taken) > _MAX_UNKNOWN:
            raise InvalidRequest(f"more than {_MAX_UNKNOWN} unknown fields, of which one is `{name[:_SHOWN_CHARS]}`")
        return True


@cache
def _shape(struct: type[Any]) -> _Shape:
    kind = mi.type_info(struct)
    if not isinstance(kind, mi.StructType):
        raise TypeError(f"{struct} is no msgspec struct")
    types = {field.encode_name: field.type for field in kind.fields}
    if kind.tag_field is not None:
        types[kind.tag_field] = mi.AnyType()
    return _Shape(types, getattr(struct, "foreign", RULES.get(struct.__name__, {})))


def _branches(kind: mi.Type) -> Iterator[mi.Type]:
    """The types that `kind` is one of; unions may be annotated and stand in unions."""
    if isinstance(kind, mi.Metadata):
        yield from _branches(kind.type)
    elif isinstance(kind, mi.UnionType):
        for each in kind.types:
            yield from _branches(each)
    else:
        yield kind


def _struct_for(value: dict[str, Any], kind: mi.Type) -> mi.StructType | None:
    """The struct that reads `value`: the only one, or the one of its tag; None if there is none."""
    structs = [each for each in _branches(kind) if isinstance(each, mi.StructType)]
    if len(structs) == 1:
        return structs[0]
    return next((each for each in structs if value.get(each.tag_field or "") == each.tag), None)
