"""A chat rendered to a prompt by the model's own template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from container.api.openai.chat_request import Chat, ChatRequest
from container.api.openai.conversation import conversation
from container.api.openai.reasoning import ReasoningSplitter
from container.api.openai.request_template import template_for
from container.api.openai.system_messages import text_of
from container.api.openai.template_traits import TemplateTraits, traits_of
from container.api.openai.thoughts import Thought
from container.errors import InvalidRequest, TemplateFailed
from container.monitoring.request_record import timed
from container.serving.served_model import ServedModel
from container.text.chat_template import RenderedPrompt, TemplateError
from container.text.offload import encode_prompt


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A prompt. `continued` is the text of the last message if the model continues it.

    `past_ids` are of the tool calls of earlier answers, "" for one without.
    """

    token_ids: list[int]
    rendered: RenderedPrompt
    traits: TemplateTraits
    continued: str | None
    past_ids: tuple[str, ...] = ()

    @property
    def marked(self) -> str:
        """The prompt's text. What a message spells is no mark in it."""
        return self.rendered.marked

    @property
    def thought(self) -> Thought | None:
        """The thought that the prompt has opened and not closed."""
        thoughts = self.traits.thoughts
        opened = None if self.continued is None else thoughts.left_open_by(self.continued)
        return opened or thoughts.opened_by(self.rendered.text)

    def splitter(self, *, calls: bool) -> ReasoningSplitter | None:
        """What reads the thoughts of an answer to the prompt, if the model thinks. `calls`: it may call tools."""
        thoughts = self.traits.thoughts
        if not thoughts.forms:
            return None
        closings = thoughts.answer_opened_by(self.rendered.text)
        return ReasoningSplitter(
            thoughts, opened=self.thought, begun=bool(self.continued), closings=closings, calls=calls
        )


def chat_prompt(chat: Chat, served: ServedModel) -> ChatPrompt:
    """Raises TemplateFailed if there is no template, or if it refuses the conversation."""
    template = template_for(chat.request.chat_template, served)
    traits = traits_of(template, served.tokenizer)
    documents = chat.request.documents or None
    if documents is not None and not traits.mentions("documents"):
        raise InvalidRequest("`documents`: this model's chat template does not read documents", param="documents")
    messages, tools = conversation(chat.messages, chat.tools, chat.request.tool_prompt, traits)
    continues = bool(chat.request.continue_final_message)
    try:
        with timed("template"):
            rendered = template.render(
                messages,
                tools=tools,
                documents=documents,
                add_generation_prompt=not continues and chat.request.add_generation_prompt is not False,
                continue_final_message=continues,
                template_kwargs=_template_kwargs(chat.request, traits),
                null_content=traits.wants_null_content,
            )
    except TemplateError as exc:
        raise TemplateFailed(str(exc)) from exc
    continued = text_of(messages[-1]) if continues else None
    past_ids = tuple(call.get("id", "") for message in chat.messages for call in message.get("tool_calls") or ())
    with timed("tokenise"):
        token_ids = encode_prompt(served.tokenizer, rendered)
        if chat.request.add_special_tokens:
            token_ids = served.tokenizer.with_special_tokens(token_ids)
        return ChatPrompt(token_ids, rendered, traits, continued, past_ids)


def _template_kwargs(request: ChatRequest, traits: TemplateTraits) -> dict[str, Any]:
    """OpenAI's `reasoning_effort` under the names templates read, then the request's own variables."""
    effort = request.reasoning_effort
    found: dict[str, Any] = {}
    if effort is not None and traits.mentions("reasoning_effort"):
        found["reasoning_effort"] = effort
    if effort == "none" and traits.mentions("enable_thinking"):
        found["enable_thinking"] = False
    return found | (request.chat_template_kwargs or {})
