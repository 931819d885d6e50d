"""The page to read first: one chat request from its body to its answer."""

from __future__ import annotations

import secrets
from typing import Any

from flask import Response, current_app, g, request

from container import sse
from container.api.openai.chat_request import Chat, parse_chat
from container.api.openai.chat_response import ChatAnswer
from container.api.openai.choice import Choice
from container.api.openai.reasoning import CLOSE, OPEN, ReasoningSplitter
from container.api.openai.sampling import of_choice, sampling_params
from container.api.openai.tool_parsers import parser_for
from container.api.openai.tool_parsers.choose import reads_tools, shows_marker_as_special
from container.api.openai.tools import described_in_text
from container.errors import ServiceError, TemplateFailed
from container.generation import Prompt
from container.responses import json_response
from container.served_model import ServedModel
from container.service import service
from container.text.chat_template import ChatTemplate, RenderedPrompt, TemplateError


def answer_chat(body: dict[str, Any]) -> Response:
    """Parse, render, submit; then stream or collect. Raises ServiceError."""
    g.dialect = "openai"
    served = service().admit()
    chat = parse_chat(body, service().settings)
    template, rendered = _render(chat, served)
    token_ids = rendered.encode(served.tokenizer)
    prompt = _prompt(chat, served, template, token_ids)
    generations = []
    for index in range(chat.request.num_choices):
        params = of_choice(prompt.sampling, index)
        generations.append(service().generate(prompt.with_sampling(params), request))
    choices = [_choice(chat, template, rendered) for _ in generations]
    answer = ChatAnswer(chat.request, served, generations, choices, f"chatcmpl-{secrets.token_hex(12)}")
    if not chat.request.stream:
        return json_response(answer.whole())
    log = current_app.logger
    return sse.stream(answer.frames(), ServiceError.openai_body, lambda: log.exception("a chat stream failed"))


def _render(chat: Chat, served: ServedModel) -> tuple[ChatTemplate, RenderedPrompt]:
    """The prompt by the model's template; tools go into a system message where the template has no place for them."""
    template = served.chat_template
    if template is None:
        raise TemplateFailed("template not found: this model has no chat template; use /generate or /v1/completions")
    messages = chat.messages
    tools = None if chat.tools is None else chat.tools.for_template
    if chat.tools is not None and not reads_tools(template.source):
        tools = None
        messages = _with_system(messages, described_in_text(chat.tools))
    continues = bool(chat.request.continue_final_message)
    try:
        rendered = template.render(
            messages,
            tools=tools,
            add_generation_prompt=not continues and chat.request.add_generation_prompt is not False,
            continue_final_message=continues,
            template_kwargs=chat.request.chat_template_kwargs,
        )
    except TemplateError as exc:
        raise TemplateFailed(str(exc)) from exc
    return template, rendered


def _with_system(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    first = messages[0]
    if first["role"] == "system" and isinstance(first.get("content"), str):
        return [first | {"content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _prompt(chat: Chat, served: ServedModel, template: ChatTemplate, token_ids: list[int]) -> Prompt:
    max_tokens = served.check_length(len(token_ids), chat.request.limit)
    return Prompt(
        token_ids=token_ids,
        sampling=sampling_params(
            chat.request, max_tokens, num_logprobs=chat.request.num_logprobs, grammar=chat.grammar
        ),
        stop=chat.request.stop_strings,
        show_special=chat.tools is not None and shows_marker_as_special(template.source),
        timeout_s=service().timeout_s(bool(chat.request.stream)),
    )


def _choice(chat: Chat, template: ChatTemplate, rendered: RenderedPrompt) -> Choice:
    """Readers for one answer: reasoning if the model thinks aloud, tool calls if it may call."""
    splitter = None
    constrained = chat.grammar is not None
    if OPEN in template.source or CLOSE in template.source:
        opened = rendered.text.rstrip().endswith(OPEN)
        # A grammar leaves no room for thoughts, unless the prompt has opened them.
        splitter = None if constrained and not opened else ReasoningSplitter(opened=opened and not constrained)
    if chat.tools is None:
        return Choice(splitter, None, None)
    parser = parser_for(template.source, forced=bool(chat.tools.forced))
    return Choice(splitter, parser, None if chat.tools.parallel else 1)
