"""TGI's GenerateParameters (`router/src/lib.rs` of TGI v3.3.7): types as serde reads them, TGI's defaults.

The types refuse what TGI's deserializer refuses. Ranges are for the document only (`extra_json_schema`);
`parameter_checks` applies them later, with TGI's order and messages.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

USize = Annotated[int, Meta(ge=0)]
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
I32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


def _shown(**schema: Any) -> Meta:
    return Meta(extra_json_schema=schema)


class JsonGrammar(msgspec.Struct, frozen=True, tag_field="type", tag="json"):
    """The text fits a JSON schema, which is an object or a string that contains one."""

    value: Annotated[Any, _shown(anyOf=[{"type": "object"}, {"type": "string", "pattern": r"^\{\}$"}])]


class JsonObjectGrammar(msgspec.Struct, frozen=True, tag_field="type", tag="json_object"):
    """Another name for `json`."""

    value: Annotated[Any, _shown(anyOf=[{"type": "object"}, {"type": "string", "pattern": r"^\{\}$"}])]


class RegexGrammar(msgspec.Struct, frozen=True, tag_field="type", tag="regex"):
    """The whole text matches a regular expression."""

    value: str


class NamedSchema(msgspec.Struct, frozen=True):
    """A JSON schema and a name, which is ignored."""

    schema: Annotated[Any, _shown(type="object")]
    name: str | None = None


class JsonSchemaGrammar(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """The text fits the schema in `value.schema`."""

    value: NamedSchema


GrammarParameter = JsonGrammar | JsonObjectGrammar | RegexGrammar | JsonSchemaGrammar


class GenerateParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Unknown keys are ignored, as in TGI. `do_sample` is false in an object that leaves it out."""

    best_of: Annotated[USize | None, _shown(minimum=0)] = None
    temperature: Annotated[float | None, _shown(exclusiveMinimum=0)] = None
    repetition_penalty: Annotated[float | None, _shown(exclusiveMinimum=0)] = None
    frequency_penalty: Annotated[float | None, _shown(minimum=-2, maximum=2)] = None
    top_k: Annotated[I32 | None, _shown(minimum=1)] = None
    top_p: Annotated[float | None, _shown(exclusiveMinimum=0, exclusiveMaximum=1)] = None
    typical_p: Annotated[float | None, _shown(exclusiveMinimum=0, exclusiveMaximum=1)] = None
    do_sample: bool = False
    max_new_tokens: Annotated[U32 | None, _shown(minimum=1)] = None
    return_full_text: bool | None = None
    stop: Annotated[list[Annotated[str, _shown(minLength=1)]], _shown(maxItems=4)] = []
    truncate: Annotated[USize | None, _shown(minimum=1)] = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: Annotated[USize | None, _shown(maximum=2**64 - 1)] = None
    top_n_tokens: Annotated[U32 | None, _shown(maximum=5)] = None
    grammar: GrammarParameter | None = None
    adapter_id: str | None = None

    @property
    def samples(self) -> bool:
        """TGI's rule: `do_sample`, or any warper that is active."""
        return (
            self.do_sample
            or self.temperature not in {None, 1.0}
            or self.top_k is not None
            or (self.top_p is not None and self.top_p < 1.0)
            or (self.typical_p is not None and self.typical_p < 1.0)
        )

    @property
    def wants_sampling(self) -> bool:
        """TGI's rule for `best_of`: `do_sample`, or any warper that is set."""
        warpers = (self.temperature, self.top_k, self.top_p, self.typical_p)
        return self.do_sample or any(value is not None for value in warpers)

    @property
    def num_sequences(self) -> int:
        """The number of answers to generate; TGI treats 0 as 1."""
        return max(1, self.best_of or 1)


# TGI samples if a request has no `parameters` at all, and is greedy if it has an empty object.
ABSENT_PARAMETERS = GenerateParameters(do_sample=True)
