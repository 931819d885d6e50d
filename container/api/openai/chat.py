"""The page to read first: one chat request from its body to its answer."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import msgspec
from flask import Response, request

from container.api.answer_headers import add_compute_time, add_stream_headers, add_whole_headers
from container.api.openai.bad_words import banned_sequences
from container.api.openai.call_grammar import MarkIds, answer_or_calls, forced_calls, text_with_calls
from container.api.openai.chat_prompt import ChatPrompt, chat_prompt
from container.api.openai.chat_request import Chat, parse_chat
from container.api.openai.chat_response import ChatAnswer
from container.api.openai.choice import Choice
from container.api.openai.error_response import error_body
from container.api.openai.extension_fields import truncated
from container.api.openai.harmony import HarmonyReader, harmony_grammar
from container.api.openai.mark_text import SIGN
from container.api.openai.own_choice import own_choice, own_template
from container.api.openai.reasoning_options import ReasoningView
from container.api.openai.sampling import of_choice, sampling_params, text_options
from container.api.openai.template_traits import TemplateTraits
from container.api.openai.thinking_budget import thinking_limit
from container.api.openai.tool_parsers import FormParser
from container.generation.generation import Generation, Prompt
from container.monitoring.request_record import RequestRecord
from container.serving.served_model import ServedModel
from container.serving.service import service
from container.web import sse
from container.web.responses import json_response
from handler.seam.protocol import Grammar, SamplingParams, ThinkingLimit


def answer_chat(body: dict[str, Any], record: RequestRecord) -> Response:
    """Parse, admit, render, submit; then stream or collect. Raises ServiceError."""
    served = service().model
    service().check_room()
    chat = parse_chat(body, service().settings, served.card.vocab_size)
    service().admit(chat.request.num_choices)
    running = begin_chat(chat, served, record)
    generations, choices = running.generations, running.choices
    record.response_id = f"chatcmpl-{chat.request.request_id or secrets.token_hex(12)}"
    answer = ChatAnswer(chat, served, generations, choices, record.response_id)
    streams = bool(chat.request.stream)
    response = sse.stream(answer.frames(), error_body, record) if streams else json_response(answer.whole())
    return running.with_headers(response, served, record, streams=streams)


@dataclass(frozen=True, slots=True)
class RunningChat:
    """A chat whose prompt is made: one generation and its readers for each choice; `num_chars` is of the prompt."""

    generations: list[Generation]
    choices: list[Choice]
    num_chars: int

    def with_headers(
        self, response: Response, served: ServedModel, record: RequestRecord, *, streams: bool
    ) -> Response:
        """`response` with the headers of a stream, or of a whole answer."""
        if not streams:
            add_whole_headers(response, record, self.generations[:1], self.generations)
            add_compute_time(response, record)
        add_stream_headers(response, service().settings, served, self.num_chars)
        return response


def begin_chat(chat: Chat, served: ServedModel, record: RequestRecord) -> RunningChat:
    """Render an admitted chat; its generations are submitted when they are iterated. Raises ServiceError."""
    rendered = chat_prompt(chat, served)
    prompt = _prompt(chat, served, rendered, record)
    indices = range(chat.request.num_choices)
    generations = [
        service().generate(prompt.with_sampling(of_choice(prompt.sampling, index)), request, record)
        for index in indices
    ]
    return RunningChat(generations, [_choice(chat, rendered) for _ in indices], len(rendered.rendered.text))


def _prompt(chat: Chat, served: ServedModel, rendered: ChatPrompt, record: RequestRecord) -> Prompt:
    grammar = _grammar(chat, served, rendered)
    token_ids = rendered.token_ids
    if chat.constrained and (thought := rendered.thought) is not None:
        # Only the answer is constrained, so reasoning that the template has opened ends here.
        token_ids = token_ids + served.tokenizer.encode_continuation(thought.form.ending)
    token_ids = truncated(token_ids, chat.request, served.prompt_room(chat.request.limit))
    max_tokens = _max_tokens(chat, served, len(token_ids))
    return Prompt(
        token_ids=token_ids,
        sampling=_ended(
            sampling_params(
                chat.request,
                max_tokens,
                num_logprobs=chat.request.num_logprobs,
                num_prompt_logprobs=chat.request.prompt_logprobs,
                thinking=_thinking(chat, served, rendered, token_ids),
                grammar=grammar,
                bad_words=banned_sequences(chat.request.bad_words, served.tokenizer),
            ),
            rendered.traits,
        ),
        stop=chat.request.stop_strings,
        **text_options(chat.request),
        marks=_marks(chat, rendered.traits),
        timeout_s=service().timeout_s(record, streaming=bool(chat.request.stream)),
        cache_salt=chat.request.cache_salt or "",
        reuse_prefix=chat.request.cache_prompt is not False,
    )


def _max_tokens(chat: Chat, served: ServedModel, num_input_tokens: int) -> int:
    limit = chat.request.limit
    if not chat.cuts_limit or limit is None:
        return served.check_length(num_input_tokens, limit)
    return min(limit, served.check_length(num_input_tokens, None))


def _thinking(chat: Chat, served: ServedModel, rendered: ChatPrompt, token_ids: list[int]) -> ThinkingLimit | None:
    """The budget of the answer's thoughts; a constrained answer has none."""
    found = thinking_limit(
        chat.request.thinking_token_budget,
        token_ids,
        served.tokenizer,
        forms=rendered.traits.thoughts.forms,
        begun=rendered.thought is not None,
        field=chat.budget_field,
    )
    return None if chat.constrained else found


def _ended(sampling: SamplingParams, traits: TemplateTraits) -> SamplingParams:
    """The marks that end an answer in harmony end it even if the checkpoint does not say so."""
    if traits.harmony is None or sampling.ignore_eos:
        return sampling
    ids = (*sampling.stop_token_ids, *traits.harmony.stop_token_ids)
    return msgspec.structs.replace(sampling, stop_token_ids=tuple(dict.fromkeys(ids)))


def _grammar(chat: Chat, served: ServedModel, rendered: ChatPrompt) -> Grammar | None:
    """The answer's constraint: `response_format`, forced calls, either of both, or the schemas of strict functions."""
    constraint = chat.constraint
    traits, form = rendered.traits, rendered.traits.form
    if traits.own.lacks_grammar and not chat.constrained:
        return None
    if traits.harmony is not None:
        return harmony_grammar(
            None if constraint is None else constraint.grammar,
            chat.tools,
            rendered.marked,
            served.tokenizer.marker_token_id,
        )
    ids = MarkIds(served.tokenizer.marker_token_id, served.tokenizer.control_token_id, traits.thoughts.control_tokens)
    if chat.tools is None:
        return None if constraint is None else constraint.grammar
    if chat.tools.forced:
        return forced_calls(chat.tools, form, ids)
    if constraint is None:
        return text_with_calls(chat.tools, form, ids) if chat.tools.strict else None
    return answer_or_calls(constraint.grammar, chat.tools, form, ids)


def _marks(chat: Chat, traits: TemplateTraits) -> dict[int, str]:
    """The control tokens that the readers look for, which the text leaves out otherwise."""
    if traits.own.shown is not None and own_template(chat, traits) is not None:
        return traits.own.shown
    if traits.harmony is not None:
        return traits.harmony.shown
    calls, thoughts = chat.tools is not None, not chat.constrained
    shown = traits.thoughts.shown.items()
    marks = {token_id: text for token_id, text in shown if (thoughts if text.startswith(SIGN) else calls)}
    # The sign is for the reader of thoughts, which thoughts in the text do without.
    return marks if chat.separates else {token_id: text.removeprefix(SIGN) for token_id, text in marks.items()}


def _choice(chat: Chat, rendered: ChatPrompt) -> Choice:
    """The readers of one answer: for reasoning if the model reasons, for tool calls if it may call."""
    traits = rendered.traits
    view = ReasoningView(
        drops=chat.request.include_reasoning is False,
        holds=chat.request.stream_reasoning is False,
        joins=traits.harmony is not None and not chat.separates and own_template(chat, traits) is None,
    )
    max_calls = None if chat.tools is None or chat.tools.parallel else 1
    own = own_choice(chat, rendered, view, max_calls)
    if own is not None:
        return own
    if traits.harmony is not None:
        names = frozenset(() if chat.tools is None else chat.tools.schemas)
        reader = HarmonyReader(traits.harmony, names, rendered.marked)
        return Choice(
            None, reader, view=view, max_calls=max_calls, forced=chat.tools is not None and bool(chat.tools.forced)
        )
    # A grammar leaves no room for reasoning.
    separates = not chat.constrained and chat.separates
    splitter = rendered.splitter(calls=chat.tools is not None) if separates else None
    if chat.tools is None:
        return Choice(splitter, None, view=view)
    return Choice(
        splitter,
        FormParser(traits.form, chat.tools.schemas),
        view=view,
        max_calls=max_calls,
        call_ids=traits.form.call_ids,
        past_ids=rendered.past_ids,
        forced=bool(chat.tools.forced),
        marks=(*traits.form.begins, *traits.form.ends),
    )
