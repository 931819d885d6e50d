"""Which form of the table a model has."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from container.api.openai.tool_parsers.form import Form
from container.api.openai.tool_parsers.forms import FORMS

_SUFFIXED = re.compile(r"<(/?(?:tool_calls|tool_call|tool_sep|arg_key|arg_value))(:[^<>\s/]+)>")
_SUFFIXABLE = re.compile(r"<(/?(?:tool_calls|tool_call|tool_sep|arg_key|arg_value))>")


def form_of(shown: str, vocabulary: Collection[str] = ()) -> Form | None:
    """The form that the template shows, else the one whose marks are in the vocabulary; None if there is none.

    Hunyuan 3 writes one suffix into all its marks, `<tool_call:opensource>`.
    """
    suffixed = _SUFFIXED.search(shown) or next(filter(None, map(_SUFFIXED.fullmatch, vocabulary)), None)
    if suffixed is not None:
        shown = _SUFFIXED.sub(r"<\1>", shown)
        vocabulary = {_SUFFIXED.sub(r"<\1>", token) for token in vocabulary}
    by_text = (form for form in FORMS if any(all(text in shown for text in group) for group in form.shows))
    by_token = (form for form in FORMS if form.tokens and all(token in vocabulary for token in form.tokens))
    found = next(by_text, None) or next(by_token, None)
    return found if found is None or suffixed is None else _with_suffix(found, suffixed[2])


def _with_suffix(form: Form, suffix: str) -> Form:
    def marked(text: str) -> str:
        return _SUFFIXABLE.sub(rf"<\1{suffix}>", text)

    tags = form.tags
    if tags is not None:
        tags = replace(
            tags,
            key_open=marked(tags.key_open),
            value_open=marked(tags.value_open),
            value_close=marked(tags.value_close),
            key_close=marked(tags.key_close),
        )
    return replace(
        form,
        opening=marked(form.opening), closing=marked(form.closing), begin=marked(form.begin), end=marked(form.end),
        lead=marked(form.lead), between=marked(form.between), head=marked(form.head), tags=tags,
        drops=tuple(map(marked, form.drops)),
    )  # fmt: skip
