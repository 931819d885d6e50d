"""Where an answer begins in the prompts of one chat template, and the tokens of labels there."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import product
from typing import Any

from container.api.decisions.label_tree import LabelTree, Path
from container.api.decisions.question import Kind
from container.api.decisions.question_text import closing
from container.api.openai.reasoning_effort import SWITCHES
from container.api.openai.request_template import template_for
from container.api.openai.template_traits import traits_of
from container.errors import InvalidRequest, TemplateFailed
from container.serving.served_model import ServedModel
from container.text.chat_template import ChatTemplate, RenderedPrompt, TemplateEnded, TemplateError
from container.text.offload import encode_prompt, offload
from container.text.tokenizer import Tokenizer

_PROBE = "Probe7f3a"
# Tokens by which the ends of two prompts are known to be alike.
_TAIL = 8
_SINGLE: dict[Kind, tuple[str, ...]] = {
    "predicate": ("Yes", "No"),
    "choice": tuple(string.ascii_uppercase),
    "score": tuple(string.digits),
}
_PAIRS = tuple(map("".join, product(string.ascii_uppercase, repeat=2)))


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a question. Their tokens come in place of the prompt's last `num_replaced`; it ends with `tail`."""

    texts: tuple[str, ...]
    tree: LabelTree
    num_replaced: int
    tail: list[int]


class AnswerPlace:
    """Prompts without thoughts, up to the first token of the answer."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._traits = traits_of(template, tokenizer)
        self._labels: dict[tuple[Kind, int], Labels] = {}

    def prompt(self, content: str) -> RenderedPrompt:
        """The prompt that asks `content`. Raises TemplateFailed.

        A thought that the template has opened is closed; else comes what it writes before an answer: white space in
        some, the marks of the answer's channel in harmony.
        """
        rendered = self._render([{"role": "user", "content": content}], begins_answer=True)
        thought = self._traits.thoughts.opened_by(rendered.text)
        return _extended(rendered, self._lead if thought is None else thought.form.ending)

    def labels(self, kind: Kind, count: int) -> Labels:
        """Labels for so many options, of one token each where the tokenizer has them. Raises InvalidRequest."""
        if (kind, count) not in self._labels:
            self._labels[kind, count] = self._found(kind, count)
        return self._labels[kind, count]

    def as_in(self, prompt: RenderedPrompt, token_ids: list[int], labels: Labels) -> Labels:
        """`labels` in a prompt of its own: the same ones, unless its end has other tokens than all others have."""
        if token_ids[-len(labels.tail) :] == labels.tail:
            return labels
        return self._at(prompt, token_ids, labels.texts)

    def _found(self, kind: Kind, count: int) -> Labels:
        pairs = kind == "choice" and count > len(_SINGLE["choice"])
        probe = self.prompt(closing(kind, pairs=pairs))
        token_ids = encode_prompt(self._tokenizer, probe)
        texts = self._pairs(probe, token_ids) if pairs else _SINGLE[kind]
        return self._at(probe, token_ids, texts[:count])

    def _pairs(self, prompt: RenderedPrompt, token_ids: list[int]) -> tuple[str, ...]:
        """Pairs of letters, those of one token first. All are as long, so none begins another."""
        _, paths = self._paths(prompt, token_ids, _PAIRS)
        lengths = dict(zip(_PAIRS, map(len, paths), strict=True))
        return tuple(sorted(_PAIRS, key=lambda pair: lengths[pair] > 1))

    def _at(self, prompt: RenderedPrompt, token_ids: list[int], texts: tuple[str, ...]) -> Labels:
        num_replaced, paths = self._paths(prompt, token_ids, texts)
        try:
            tree = LabelTree(paths)
        except ValueError as exc:
            named = f"{texts[0]} to {texts[-1]}"
            raise InvalidRequest(f"this model's tokenizer does not tell the answers {named} apart") from exc
        return Labels(texts, tree, num_replaced, token_ids[-num_replaced - _TAIL :])

    def _paths(self, prompt: RenderedPrompt, token_ids: list[int], texts: Sequence[str]) -> tuple[int, list[Path]]:
        """The tokens of each text after the prompt, in place of so many of its last: a text may merge with its end."""
        chars = sum(len(prompt.marked) + len(text) for text in texts)
        encoded = offload(chars, partial(self._encoded, prompt, texts))
        kept = 0
        for tokens in zip(token_ids, *encoded, strict=False):
            if len(set(tokens)) > 1:
                break
            kept += 1
        return len(token_ids) - kept, [tuple(each[kept:]) for each in encoded]

    def _encoded(self, prompt: RenderedPrompt, texts: Sequence[str]) -> list[list[int]]:
        return [_extended(prompt, text).encode(self._tokenizer) for text in texts]

    @cached_property
    def _variables(self) -> dict[str, Any]:
        """What turns thinking off, where the template reads it. Some refuse efforts that they do not know.

        Raises TemplateFailed if the template did not answer.
        """
        switches: dict[str, Any] = dict.fromkeys(SWITCHES, False)
        if not self._traits.mentions("reasoning_effort") or self._traits.harmony is not None:
            return switches
        effort = switches | {"reasoning_effort": "none"}
        try:
            self._template.render([{"role": "user", "content": "a"}], template_kwargs=effort)
        except TemplateEnded as exc:
            raise TemplateFailed(str(exc)) from exc
        except TemplateError:
            return switches
        return effort

    @cached_property
    def _lead(self) -> str:
        """What stands between the prompt and an answer that the template renders itself, "" if it refuses.

        Raises TemplateFailed if the template did not answer.
        """
        asked = {"role": "user", "content": "a"}
        try:
            before = self._render([asked], begins_answer=True).text
            after = self._render([asked, {"role": "assistant", "content": _PROBE}], begins_answer=False).text
        except TemplateFailed as exc:
            if isinstance(exc.__cause__, TemplateEnded):
                raise
            return ""
        lead, found, _ = after.removeprefix(before).partition(_PROBE)
        return lead if found and after.startswith(before) else ""

    def _render(self, messages: list[dict[str, Any]], *, begins_answer: bool) -> RenderedPrompt:
        try:
            return self._template.render(messages, add_generation_prompt=begins_answer, template_kwargs=self._variables)
        except TemplateError as exc:
            raise TemplateFailed(str(exc)) from exc


def place_in(served: ServedModel) -> AnswerPlace:
    """The place in prompts of the served model. Raises TemplateFailed if it has no chat template."""
    return _place(template_for(None, served), served.tokenizer)


@lru_cache(maxsize=16)
def _place(template: ChatTemplate, tokenizer: Tokenizer) -> AnswerPlace:
    return AnswerPlace(template, tokenizer)


def _extended(prompt: RenderedPrompt, text: str) -> RenderedPrompt:
    return RenderedPrompt(prompt.marked + text, prompt.mark)
