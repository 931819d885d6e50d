"""Fields of vLLM's and SGLang's clients on both of OpenAI's generating routes: their types, ranges and checks."""

from __future__ import annotations

from container.api.openai.structured_outputs import ConstraintFields


class ExtensionFields(ConstraintFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What vLLM and SGLang add to OpenAI's fields. None counts as absent. `no_stop_trim` is SGLang's name of
    `include_stop_str_in_output`."""

    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    no_stop_trim: bool | None = None

    @property
    def keeps_stop(self) -> bool:
        """Whether the text ends with what ended it: the stop string or token."""
        return bool(self.include_stop_str_in_output or self.no_stop_trim)

    @property
    def shows_special(self) -> bool:
        """Whether the text has control tokens."""
        return self.skip_special_tokens is False
