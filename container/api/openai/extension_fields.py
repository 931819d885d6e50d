"""Fields of vLLM's and SGLang's clients on both of OpenAI's generating routes: their types, ranges and checks."""

from __future__ import annotations

from container.api.openai.structured_outputs import ConstraintFields


class ExtensionFields(ConstraintFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What vLLM and SGLang add to OpenAI's fields. None counts as absent."""
