"""What the `response_template` of one model does: which answers it reads, and in which form calls are forced."""

from __future__ import annotations

from dataclasses import dataclass

from container.api.openai.response_template.control_signs import ControlSigns, sign, without_signs
from container.api.openai.response_template.grammar_form import grammar_form, reads_harmony
from container.api.openai.response_template.loading import load
from container.api.openai.response_template.template import ResponseTemplate, UnreadableTemplate
from container.api.openai.thought_forms import ThoughtForm
from container.api.openai.tool_parsers import Form
from container.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ModelTemplate:
    """`template` is None without one that can be read, and `fault` says why. `shown` is as `Prompt.marks` takes it.

    `reads_calls`: tools reach the model in the form that the template reads. `form` is what a grammar writes and the
    template reads; `in_harmony` says the same of a grammar in harmony, for a model that `writes_harmony`.
    """

    template: ResponseTemplate | None = None
    fault: str = ""
    shown: dict[int, str] | None = None
    reads_calls: bool = False
    form: Form | None = None
    writes_harmony: bool = False
    in_harmony: bool = False

    @classmethod
    def of(cls, tokenizer: Tokenizer, known: Form | None, *, takes_tools: bool, harmony: bool) -> ModelTemplate:
        """`known` is the form that the chat template shows; `harmony`: it writes harmony."""
        given = tokenizer.response_template
        if given is None:
            return cls()
        signs = ControlSigns(tokenizer.control_tokens)
        try:
            template = load(given, signs)
        except UnreadableTemplate as exc:
            return cls(fault=str(exc))
        ids = {token: tokenizer.control_token_id(token) for token in tokenizer.control_tokens}
        shown = {token_id: sign(token) for token, token_id in ids.items() if token_id is not None}
        reads_calls = takes_tools and template.calls is not None
        form = grammar_form(template, known) if reads_calls and not harmony else None
        return cls(template, "", shown, reads_calls, form, harmony, harmony and reads_harmony(template))

    @property
    def lacks_grammar(self) -> bool:
        """Whether the model writes calls in a form for which no grammar is known."""
        return self.reads_calls and self.form is None and not self.writes_harmony

    def thoughts(self, known: tuple[ThoughtForm, ...]) -> tuple[ThoughtForm, ...]:
        """The form of thoughts that the template's literals show, unless it is among `known`."""
        field = None if self.template is None else self.template.reasoning
        if field is None or field.open is None or field.close is None:
            return ()
        openings, closings = (tuple(map(without_signs, mark.literals)) for mark in (field.open, field.close))
        if not openings or not closings or any(form.openings[0] in openings[0] for form in known):
            return ()
        return (ThoughtForm(openings, closings, ending=closings[0]),)

    def reader_of(self, *, calls: bool, by_grammar: bool) -> ResponseTemplate | None:
        """The template if it reads such an answer: one with `calls`, or whose calls a grammar writes."""
        if (calls and not self.reads_calls) or (by_grammar and self.form is None and not self.in_harmony):
            return None
        return self.template
