"""The body of POST /v1/responses as an `Asked`, valid by construction."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec

from container.api.bounds import check_bounds, shown, within
from container.api.ignored_fields import note_ignored
from container.api.openai.chat_request import Chat, ChatRequest, TemplateKwargs, check_template_kwargs
from container.api.openai.field_rules import Ignored, NotDone, Rules
from container.api.openai.foreign_fields import read
from container.api.openai.reasoning_effort import Effort
from container.api.openai.response_format import read_schema, schema_grammar
from container.api.openai.sampling import STREAM_RULE, check_sampling, check_token_ids
from container.api.openai.structured_outputs import Constraint
from container.api.openai.token_fields import TokenFields
from container.api.responses import items, tools
from container.api.responses.history import messages_of
from container.api.responses.items import InputItem
from container.api.responses.tools import Offer, ToolChoice, Tools
from container.api.validation import check
from container.errors import InvalidRequest
from container.settings import Settings

_MAX_TOP_LOGPROBS = 20
_MAX_PAIRS, _MAX_KEY_CHARS, _MAX_VALUE_CHARS = 16, 64, 512
_Key = Annotated[str, shown(maxLength=_MAX_KEY_CHARS)]
_Value = Annotated[str, shown(maxLength=_MAX_VALUE_CHARS)]
_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"
_INCLUDABLE = (
    *(_LOGPROBS, _ENCRYPTED, "file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
    *("message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs"),
)
_KWARG = "a string, number, boolean or array of these"
_ALLOWED = {
    "chat_template_kwargs[...]": _KWARG,
    "chat_template_kwargs[...][]": _KWARG,
    **items.ALLOWED,
    **tools.ALLOWED,
    "text.format.type": "one of text, json_object, json_schema",
    "truncation": '"disabled" or "auto"',
}
# Rules between fields, which types cannot express; for the OpenAPI document.
RULE: dict[str, Any] = STREAM_RULE
_SEND_ALL = NotDone("nothing is stored; send the conversation itself in `input`")
_LABELS = Ignored("it labels the request")
_CACHE_HINT = Ignored("prefixes are cached anyway")


class PlainFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any text."""


class ObjectFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"
):
    """JSON that fits `schema`. It is always enforced, whether `strict` is set or not."""

    schema: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of the text. No model follows `verbosity` reliably: it is logged and changes nothing."""

    format: PlainFormat | ObjectFormat | SchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much to think. Thoughts are shown as they are, without a `summary`."""

    foreign: ClassVar[Rules] = {
        "context": NotDone("the items of `input` say what is kept", ("auto",)),
        "mode": NotDone("there is one mode", ("standard",)),
    }
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamChoices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream holds beside text: nothing is added to hide the sizes of its events."""

    foreign: ClassVar[Rules] = {
        "include_usage": Ignored("usage is in the last event"),
        "continuous_usage_stats": Ignored("usage is in the last event"),
    }
    include_obfuscation: bool | None = None


class ResponseRequest(TokenFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields, after those that say how tokens are chosen. None counts as absent."""

    foreign: ClassVar[Rules] = {
        **dict.fromkeys(("previous_response_id", "conversation"), _SEND_ALL),
        "prompt": NotDone("prompt templates are OpenAI's; send `instructions` and `input`"),
        "background": NotDone("answers are not made in the background", (False,)),
        "background_options": NotDone("answers are not made in the background", ({},)),
        "context_management": NotDone("nothing is compacted here", ([],)),
        "moderation": NotDone("there is no moderation on this server", ({},)),
        "image": NotDone("this model reads text only", ({},)),
        **dict.fromkeys(("messages", "inputs"), NotDone("send `input`")),
        **dict.fromkeys(("max_tokens", "max_completion_tokens"), NotDone("send `max_output_tokens`")),
        "response_format": NotDone("send `text.format`"),
        "reasoning_effort": NotDone("send `reasoning.effort`"),
        "n": NotDone("a response is one answer", (1,)),
        "logprobs": NotDone(f"send `include` with {_LOGPROBS}", (False,)),
        **dict.fromkeys(("client_metadata", "access_programs", "extra_headers", "litellm_metadata"), _LABELS),
        **dict.fromkeys(("prompt_cache_options", "prompt_cache_retention", "cache_control"), _CACHE_HINT),
        "max_tool_calls": Ignored("no tool runs here"),
        "custom_llm_provider": Ignored("this server is the only provider"),
    }
    input: str | list[InputItem]
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamChoices | None = None
    max_output_tokens: Annotated[int | None, within(1)] = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[Annotated[str, shown(enum=list(_INCLUDABLE))]] | None = None
    top_logprobs: Annotated[int | None, within(0, _MAX_TOP_LOGPROBS)] = None
    truncation: Literal["disabled", "auto"] | None = None
    metadata: Annotated[dict[_Key, _Value] | None, shown(maxProperties=_MAX_PAIRS)] = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    chat_template_kwargs: TemplateKwargs | None = None

    @property
    def wants_encrypted(self) -> bool:
        """Whether thoughts come as `encrypted_content` too."""
        return _ENCRYPTED in (self.include or ())

    @property
    def num_logprobs(self) -> int | None:
        """The value of `SamplingParams.num_logprobs`."""
        return self.top_logprobs or 0 if self.top_logprobs or _LOGPROBS in (self.include or ()) else None


class Asked(msgspec.Struct, frozen=True):
    """A checked request and the chat that it asks for. `body` has what the answer repeats."""

    request: ResponseRequest
    chat: Chat
    offered: Offer
    body: dict[str, Any]


def parse_response(body: dict[str, Any], settings: Settings, vocab_size: int) -> Asked:
    """Raises InvalidRequest naming field, limit and value."""
    known = {**body}
    for name, change in (("input", items.with_types), ("tools", tools.without_foreign)):
        if name in known:
            known[name] = change(known[name])
    request = read(known, ResponseRequest, _ALLOWED, takes_unknown=settings.unknown_fields == "ignore")
    check_bounds(request)
    _check_own_fields(request)
    offered = tools.offer(request.tools or ())
    use = tools.tool_use(offered, request.tool_choice, request.parallel_tool_calls)
    messages = messages_of(request.instructions, request.input, offered)
    chat_request = _chat_request(request, settings, vocab_size)
    chat = Chat(chat_request, messages, use, _constraint(request), cuts_limit=True)
    return Asked(request, chat, offered, body)


def _chat_request(request: ResponseRequest, settings: Settings, vocab_size: int) -> ChatRequest:
    found = ChatRequest(
        messages=[],
        **{name: getattr(request, name) for name in TokenFields.__struct_fields__},
        stream=request.stream,
        max_completion_tokens=request.max_output_tokens,
        logprobs=request.num_logprobs is not None,
        top_logprobs=request.num_logprobs,
        reasoning_effort=None if request.reasoning is None else request.reasoning.effort,
        chat_template_kwargs=request.chat_template_kwargs,
    )
    check_sampling(found, settings)
    check_token_ids(found, vocab_size)
    check_template_kwargs(found)
    return found


def _check_own_fields(request: ResponseRequest) -> None:
    for i, name in enumerate(request.include or ()):
        check(f"include[{i}]", f"one of {', '.join(_INCLUDABLE)}", name, name in _INCLUDABLE)
    check("metadata", f"at most {_MAX_PAIRS} pairs", request.metadata, len(request.metadata or ()) <= _MAX_PAIRS)
    for key, value in (request.metadata or {}).items():
        allowed = f"keys of at most {_MAX_KEY_CHARS} and values of at most {_MAX_VALUE_CHARS} characters"
        check("metadata", allowed, key, len(key) <= _MAX_KEY_CHARS and len(value) <= _MAX_VALUE_CHARS)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("`stream_options` is only allowed when `stream` is true", param="stream_options")
    _note_ignored(request)


def _note_ignored(request: ResponseRequest) -> None:
    """Fields that change nothing."""
    if request.truncation == "auto":
        note_ignored("truncation", "a prompt that is too long is refused")
    if request.text is not None and request.text.verbosity is not None:
        note_ignored("text.verbosity", "no model follows it reliably; say it in the prompt")
    if request.reasoning is not None and (request.reasoning.summary or request.reasoning.generate_summary):
        note_ignored("reasoning.summary", "thoughts are shown as they are")


def _constraint(request: ResponseRequest) -> Constraint | None:
    wanted = None if request.text is None else request.text.format
    if wanted is None or isinstance(wanted, PlainFormat):
        return None
    if isinstance(wanted, ObjectFormat):
        return Constraint("text.format", schema_grammar({"type": "object"}, "text.format"))
    schema = read_schema(wanted.schema, "text.format.schema")
    return Constraint("text.format", schema_grammar(schema, "text.format.schema"))
