"""Conversations to prompts, through the model's chat template.

`ChatTemplate.render(...).text` equals transformers' `apply_chat_template(tokenize=False)`, and `.encode()` its ids,
with one exception: where a message spells a control token, transformers encodes the control token and we encode text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from container.text.content_forms import ContentForms
from container.text.control_marks import (
    ControlMarks,
    restore_escaped,
    strings_in,
    template_control_tokens,
    unused_noncharacters,
)
from container.text.template_files import read_templates
from container.text.template_renderer import InProcess, Renderer
from container.text.template_sandbox import CompiledTemplate, TemplateEnded, TemplateError
from container.text.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "RenderedPrompt", "TemplateEnded", "TemplateError"]

_OUTPUT_FACTOR = 4
_OUTPUT_BASE = 1 << 20
# Upper estimate for a number, true, false or null with its punctuation in the rendered JSON.
_SCALAR_CHARS = 8
# Names of the reasoning field: templates read the first today, gpt-oss reads the second, some the third.
_REASONING = ("reasoning_content", "thinking", "reasoning")
_RESERVED = frozenset(["messages", "tools", "documents", "add_generation_prompt", "range"])


class RenderedPrompt(msgspec.Struct, frozen=True):
    """A rendered conversation. `marked` is the text with `mark` wherever it must be cut before encoding.

    `mark` is None, the usual case, if nothing in the conversation spells a control token.
    """

    marked: str
    mark: str | None

    @property
    def text(self) -> str:
        """The prompt without marks."""
        return self.marked if self.mark is None else self.marked.replace(self.mark, "")

    def encode(self, tokenizer: Tokenizer) -> list[int]:
        """The prompt's token ids; only the template produces control tokens. Raises `TokenizerError`."""
        pieces = [self.marked] if self.mark is None else self.marked.split(self.mark)
        ids = tokenizer.encode(pieces[0], add_special_tokens=False)
        for piece in pieces[1:]:
            if piece:
                ids += tokenizer.encode_continuation(piece)
        return ids


class ChatTemplate:
    """The chat template of one model, in its variants with and without tools."""

    def __init__(self, sources: Mapping[str, str], tokenizer: Tokenizer, renderer: Renderer | None = None) -> None:
        """`sources` holds "default" and, for models with a separate template for tools, "tool_use".

        `renderer` runs the templates; by default this process does. Raises `TemplateError` if there is no default or a
        template does not compile.
        """
        if "default" not in sources:
            names = ", ".join(sorted(sources))
            raise TemplateError(f"The model has several chat templates ({names}) and none is the default.")
        self.source = sources["default"]
        self.tool_source = sources.get("tool_use", self.source)
        self.added_tokens = tokenizer.added_tokens
        self._special_tokens = dict(tokenizer.special_tokens_map)
        default = CompiledTemplate(self.source)
        tool_use = CompiledTemplate(sources["tool_use"]) if "tool_use" in sources else default
        runs = renderer or InProcess()
        self._default = _Variant(default, self._special_tokens, runs)
        self._tool_use = self._default if tool_use is default else _Variant(tool_use, self._special_tokens, runs)
        written = [template_control_tokens(each.tree, tokenizer.added_tokens) for each in (default, tool_use)]
        self._control = ControlMarks(tokenizer.control_tokens.union(*written))

    @classmethod
    def load(cls, directory: Path, tokenizer: Tokenizer, renderer: Renderer | None = None) -> ChatTemplate | None:
        """The template beside `tokenizer.json`, or None if the model has none. Raises `TemplateError`."""
        sources = read_templates(directory)
        return cls(sources, tokenizer, renderer) if sources else None

    def compile(self) -> None:
        """Compile the templates before the first chat. Raises `TemplateError`."""
        for variant in {self._default, self._tool_use}:
            variant.compile()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        null_content: bool = False,
    ) -> RenderedPrompt:
        """Render a conversation of JSON values. Arguments are not modified.

        `continue_final_message` leaves the last message open, so that the model continues it; it overrides
        `add_generation_prompt`. `template_kwargs` become variables of the template and override special tokens.
        Null values are left out, unless `null_content` gives the template a message's null content.
        Raises `TemplateError`, also if the template itself refuses the conversation.
        """
        if not messages:
            raise TemplateError("A conversation needs at least one message.")
        extra = dict(template_kwargs or {})
        if reserved := _RESERVED & extra.keys():
            raise TemplateError(f"The chat template argument '{min(reserved)}' is reserved.")
        variant = self._default if tools is None else self._tool_use
        generation = add_generation_prompt and not continue_final_message
        try:
            conversation = [variant.forms.adapt(_normalised(message)) for message in messages]
            if null_content:
                pairs = zip(messages, conversation, strict=True)
                conversation = [{"content": None, **shown} if "content" in given else shown for given, shown in pairs]
            inputs = {"messages": conversation, "tools": tools, "documents": documents, **extra}
            marks = self._choose_marks(inputs, continue_final_message)
            variables = {key: self._control.mark(value, marks.control) for key, value in inputs.items()}
            ending = _tag_final_message(variables["messages"], marks.end) if continue_final_message else None
            variables = {**self._special_tokens, **variables, "add_generation_prompt": generation}
            text = variant.render(variables, _OUTPUT_FACTOR * _size(inputs) + _OUTPUT_BASE, marks)
        except RecursionError as exc:
            raise TemplateError("The conversation is nested too deeply.") from exc
        if ending is not None:
            text = _cut_at_tag(text, marks.end, ending)
        return RenderedPrompt(marked=text, mark=marks.control or None)

    def _choose_marks(self, inputs: Mapping[str, Any], continue_final_message: bool) -> _Marks:
        control = self._control.needed(inputs)
        if not control and not continue_final_message:
            return _Marks("", "")
        texts = [self._default.source, self._tool_use.source, *strings_in(inputs)]
        free = unused_noncharacters(texts)
        if len(free) < 2:
            raise TemplateError("The conversation uses up the Unicode noncharacters U+FDD0 to U+FDEF.")
        return _Marks(free[0] if control else "", free[1] if continue_final_message else "")


class _Marks(NamedTuple):
    """Noncharacters that occur nowhere else in one render, "" if not needed.

    `control` goes inside spelt-out control tokens, `end` after the message to continue.
    """

    control: str
    end: str


class _Variant:
    """One compiled template and the content forms it accepts."""

    def __init__(self, template: CompiledTemplate, special_tokens: Mapping[str, str], renderer: Renderer) -> None:
        self.source = template.source
        self.forms = ContentForms(
            lambda messages: renderer.render(
                template,
                {**special_tokens, "messages": messages, "tools": None, "documents": None},
                max_chars=_OUTPUT_BASE,
            )
        )
        self._template = template
        self._renderer = renderer

    def compile(self) -> None:
        """As `Renderer.compile`."""
        self._renderer.compile(self._template)

    def render(self, variables: Mapping[str, Any], max_chars: int, marks: _Marks) -> str:
        """The rendered text with unescaped marks. Marks are removed from error messages. Raises `TemplateError`."""
        try:
            text = self._renderer.render(self._template, variables, max_chars=max_chars)
        except TemplateError as exc:
            message = str(exc)
            for mark in filter(None, marks):
                message = restore_escaped(message, mark).replace(mark, "")
            raise type(exc)(message) from exc
        for mark in filter(None, marks):
            text = restore_escaped(text, mark)
        return text


def _normalised(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message as templates expect it: no null values, reasoning under every name that templates read."""
    present = {key: value for key, value in message.items() if value is not None}
    reasoning = next((present[key] for key in _REASONING if key in present), None)
    if reasoning is None:
        return present
    return {"thinking": reasoning, "reasoning": reasoning, **present, "reasoning_content": reasoning}


def _size(value: Any) -> int:
    """Approximate number of characters of `value` in JSON."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_size(key) + _size(item) + _SCALAR_CHARS for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return sum(_size(item) + _SCALAR_CHARS for item in value)
    return _SCALAR_CHARS


def _tag_final_message(messages: list[dict[str, Any]], tag: str) -> str:
    """Append `tag` and a space to the last message's text; return the text as it was.

    The space shows whether the template trims: it survives only if trailing white space of the message does.
    """
    message = messages[-1]
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = f"{content}{tag} "
        return content
    for part in reversed(content if isinstance(content, list) else []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] = f"{text}{tag} "
            return text
    raise TemplateError("The final message has no text to continue.")


def _cut_at_tag(rendered: str, tag: str, ending: str) -> str:
    """`rendered` up to the tag, which marks the end of the final message."""
    end = rendered.rfind(tag)
    if end < 0 or ending.strip() not in rendered:
        raise TemplateError("The chat template leaves out the final message, so it cannot be continued.")
    text = rendered[:end]
    return text if rendered.startswith(f"{tag} ", end) else text.rstrip()
