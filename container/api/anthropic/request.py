"""The bodies of POST /v1/messages and /v1/messages/count_tokens, valid by construction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from container.api.anthropic import blocks, tools
from container.api.anthropic.blocks import SystemTurn, TextBlock, Turn
from container.api.anthropic.history import continues, messages_of
from container.api.anthropic.tool_changes import offered, with_types_in_turns
from container.api.anthropic.tools import Choice, Tools
from container.api.bounds import check_bounds, shown, within
from container.api.ignored_fields import note_ignored
from container.api.openai.chat_request import Chat, ChatRequest, TemplateKwargs, check_template_kwargs
from container.api.openai.field_rules import Ignored, NotDone, Rules
from container.api.openai.foreign_fields import read
from container.api.openai.reasoning_effort import SWITCHES, Effort
from container.api.openai.response_format import schema_grammar
from container.api.openai.sampling import check_sampling, check_token_ids
from container.api.openai.structured_outputs import Constraint
from container.api.openai.template_traits import traits_of
from container.api.openai.thinking_budget import thinking_limit
from container.api.openai.token_fields import TokenFields
from container.api.validation import check
from container.errors import InvalidRequest
from container.serving.served_model import ServedModel
from container.settings import Settings

_MAX_BUDGET = 2**63 - 1
_BUDGET = "thinking.budget_tokens"
_ALLOWED: Mapping[str, str] = {
    **blocks.ALLOWED,
    **tools.ALLOWED,
    "thinking": "an object with `type`",
    "thinking.type": "one of enabled, disabled, adaptive",
    "output_config.format.type": '"json_schema"',
}
_NO_STOPS = {"anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}]}
# Rules between fields, which types cannot express; for the OpenAPI document.
RULE: dict[str, Any] = {"anyOf": [{"properties": {name: _NO_STOPS}} for name in ("stop", "stop_sequences")]}
_LABELS = Ignored("it labels the request")
_ELSEWHERE = Ignored("it is meant for Anthropic's servers")
_FOREIGN: Rules = {
    **dict.fromkeys(("metadata", "user_profile_id", "workspace_id"), _LABELS),
    **dict.fromkeys(
        ("anthropic_version", "anthropic_beta", "betas", "inference_geo", "speed", "service_tier", "diagnostics"),
        _ELSEWHERE,
    ),
    "cache_control": Ignored("prefixes are cached anyway"),
    "context_management": Ignored("nothing is taken out of a conversation here"),
    "container": NotDone("no code is run here"),
    "mcp_servers": NotDone("no tool is run here", ([],)),
    **dict.fromkeys(("max_completion_tokens", "max_output_tokens"), NotDone("send `max_tokens`")),
    "response_format": NotDone("send `output_config.format`"),
    "reasoning_effort": NotDone("send `output_config.effort`"),
    "n": NotDone("an answer is one message", (1,)),
}


class ThinkingOn(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="enabled"
):
    """Think, for at most `budget_tokens` if the model's thoughts have an end that can be forced."""

    budget_tokens: Annotated[int | None, shown(minimum=0, maximum=_MAX_BUDGET)] = None
    display: Literal["summarized", "omitted"] | None = None


class ThinkingAdaptive(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="adaptive"
):
    """Think as the model sees fit. `omitted` leaves the text of thoughts out of the answer."""

    foreign: ClassVar[Rules] = {"budget_tokens": Ignored("only `enabled` has a budget")}
    display: Literal["summarized", "omitted"] | None = None


class ThinkingOff(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="disabled"
):
    """Do not think, if the model's template can say so."""

    foreign: ClassVar[Rules] = dict.fromkeys(("budget_tokens", "display"), Ignored("there are no thoughts"))


class AnswerSchema(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"
):
    """JSON that fits `schema`."""

    foreign: ClassVar[Rules] = dict.fromkeys(("name", "strict", "description"), Ignored("the schema is enforced"))
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much to think, and the form of the answer."""

    foreign: ClassVar[Rules] = {"task_budget": Ignored("`max_tokens` is the budget")}
    effort: Effort | None = None
    format: AnswerSchema | None = None


class CountRequest(TokenFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides about the prompt. None counts as absent; any model's name is answered."""

    foreign: ClassVar[Rules] = _FOREIGN
    messages: Annotated[list[Turn], Meta(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int | None, within(1)] = None
    system: str | list[TextBlock] | None = None
    tools: Tools | None = None
    tool_choice: Choice | None = None
    thinking: ThinkingOn | ThinkingAdaptive | ThinkingOff | None = None
    output_config: OutputConfig | None = None
    output_format: AnswerSchema | None = None
    stop_sequences: Annotated[list[Annotated[str, shown(minLength=1)]] | None, shown(maxItems=4)] = None
    stream: bool | None = None
    chat_template_kwargs: TemplateKwargs | None = None

    @property
    def effort(self) -> Effort | None:
        """How much to think: as the last turn that says so, else as the request does."""
        turns = (turn.output_config for turn in self.messages if isinstance(turn, SystemTurn))
        said = [config.effort for config in (self.output_config, *turns) if config is not None and config.effort]
        return said[-1] if said else None

    @property
    def omits_thoughts(self) -> bool:
        """Whether thoughts come without their text."""
        return isinstance(self.thinking, ThinkingOn | ThinkingAdaptive) and self.thinking.display == "omitted"


class MessagesRequest(CountRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question. `max_tokens` is required, as Anthropic's clients know it."""

    foreign: ClassVar[Rules] = _FOREIGN
    max_tokens: Annotated[int, within(1)]


class Asked(msgspec.Struct, frozen=True):
    """A checked request and the chat that it asks for."""

    request: CountRequest
    chat: Chat


def parse_messages(body: dict[str, Any], kind: type[CountRequest], settings: Settings, served: ServedModel) -> Asked:
    """Raises InvalidRequest naming field, limit and value."""
    known = {**body}
    for name, change in (("tools", tools.with_types), ("messages", with_types_in_turns)):
        if name in known:
            known[name] = change(known[name])
    # Clients send fields of Anthropic's newest betas; one that is near to a known name is a slip all the same.
    request = read(known, kind, _ALLOWED, takes_unknown=True)
    check_bounds(request)
    if isinstance(request.thinking, ThinkingOn) and request.thinking.budget_tokens is not None:
        budget = request.thinking.budget_tokens
        check(_BUDGET, f"from 0 to {_MAX_BUDGET}", budget, 0 <= budget <= _MAX_BUDGET)
    if request.stop and request.stop_sequences:
        raise InvalidRequest("`stop` and `stop_sequences` exclude each other", param="stop")
    stops = request.stop_sequences or []
    limit = settings.max_stop_sequences
    check("stop_sequences", f"at most {limit} strings", len(stops), len(stops) <= limit)
    check("stop_sequences", "made of non-empty strings", "", all(stops))
    use = tools.tool_use(offered(request.tools or (), request.messages, request.tool_choice), request.tool_choice)
    messages = messages_of(request.system, request.messages)
    chat_request = _chat_request(request, messages, served)
    check_sampling(chat_request, settings)
    check_token_ids(chat_request, served.card.vocab_size)
    check_template_kwargs(chat_request)
    return Asked(request, Chat(chat_request, messages, use, _constraint(request), _BUDGET, cuts_limit=True))


def _chat_request(request: CountRequest, messages: list[dict[str, Any]], served: ServedModel) -> ChatRequest:
    fields = {name: getattr(request, name) for name in TokenFields.__struct_fields__}
    thinking, effort = request.thinking, request.effort
    switches = {} if thinking is None else dict.fromkeys(SWITCHES, not isinstance(thinking, ThinkingOff))
    if isinstance(thinking, ThinkingOff) and effort is None:
        effort = "none"
    return ChatRequest(
        messages=[],
        **fields | ({"stop": request.stop_sequences} if request.stop_sequences else {}),
        stream=request.stream,
        max_completion_tokens=request.max_tokens,
        reasoning_effort=effort,
        thinking_token_budget=_budget(thinking, served),
        chat_template_kwargs=switches | (request.chat_template_kwargs or {}) or None,
        continue_final_message=continues(messages) or None,
    )


def _budget(thinking: Any, served: ServedModel) -> int | None:
    """The tokens of thought where their end can be forced: Claude Code sends a budget to any model."""
    budget = thinking.budget_tokens if isinstance(thinking, ThinkingOn) else None
    if budget is None or served.chat_template is None:
        return None
    forms = traits_of(served.chat_template, served.tokenizer).thoughts.forms
    try:
        thinking_limit(budget, [], served.tokenizer, forms=forms)
    except InvalidRequest:
        note_ignored(_BUDGET, "the model does not think, or its thoughts have no end that can be forced")
        return None
    return budget


def _constraint(request: CountRequest) -> Constraint | None:
    config = request.output_config
    nested = None if config is None else config.format
    if nested is not None and request.output_format is not None:
        raise InvalidRequest("`output_format` and `output_config.format` exclude each other", param="output_format")
    wanted = nested or request.output_format
    if wanted is None:
        return None
    field = "output_config.format" if nested is not None else "output_format"
    return Constraint(field, schema_grammar(wanted.schema, f"{field}.schema"))
