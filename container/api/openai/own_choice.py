"""One choice of a chat that the checkpoint's own `response_template` reads."""

from __future__ import annotations

from container.api.openai.chat_prompt import ChatPrompt
from container.api.openai.chat_request import Chat
from container.api.openai.choice import Choice
from container.api.openai.reasoning_options import ReasoningView
from container.api.openai.response_template import ResponseTemplate, TemplateReader
from container.api.openai.template_traits import TemplateTraits


def own_template(chat: Chat, traits: TemplateTraits) -> ResponseTemplate | None:
    """The checkpoint's own template if it reads the answer. One that holds only what is asked for needs no reader."""
    if chat.tools is None and chat.constrained and traits.harmony is None:
        return None
    strict = chat.tools is not None and chat.tools.strict and not traits.own.lacks_grammar
    by_grammar = chat.constrained or strict
    return traits.own.reader_of(calls=chat.tools is not None, by_grammar=by_grammar)


def own_choice(chat: Chat, rendered: ChatPrompt, view: ReasoningView, max_calls: int | None) -> Choice | None:
    """What reads one answer by that template; None if it does not."""
    traits, tools = rendered.traits, chat.tools
    template = own_template(chat, traits)
    if template is None:
        return None
    thought = rendered.thought if chat.constrained else None
    reader = TemplateReader(
        template,
        {} if tools is None else tools.schemas,
        rendered.marked + ("" if thought is None else thought.form.ending),
        mark=rendered.rendered.mark,
        separates=chat.separates,
        shows_tokens=chat.request.shows_special,
        # A grammar writes the answer alone, without the marks of a field.
        keeps_rest=chat.constrained and traits.harmony is None,
    )
    marks = traits.form.begins if template.calls is None else (*traits.form.begins, *template.calls.openings)
    return Choice(
        None,
        reader,
        view=view,
        max_calls=max_calls,
        call_ids=(traits.known_form or traits.form).call_ids,
        past_ids=rendered.past_ids,
        forced=tools is not None and bool(tools.forced),
        marks=() if tools is None else marks,
    )
