#!/usr/bin/env bash
# transformers' parser of answers loses what a model says before a tool call, if anything at all follows the call.
#
# What happens: a response template may have one field without marks, `content`, which "captures leftover text". Each
#   stretch of leftover text replaces the one before it in the message. A line break after a call is such a stretch: it
#   is stripped to nothing, and the whole text before the call is gone. The streaming parser has announced that text in
#   events; its final message lacks it.
# Expected instead: what the events said, "Let me look.", or the stretches joined.
# Why it matters: models say a sentence before they call a tool, and some write a line break after the call. The text is
#   missing from the message that goes into the history, and from answers that are not streamed.
# What helps: nothing in the template: `repeats` makes `content` a list, which chat templates do not take. Join the values
#   of the `region_close` events of `content` instead of taking the message's.
# Explained in: transformers 5.24.0, utils/chat_parsing/response_parser.py, where the value of a field that closes again
#   is stored anew unless the field repeats.
# Seen: 2026-11-30, transformers 5.24.0 (5.23.0 the same), Python 3.11, Linux x86-64. Does not depend on the processor.
#   The template is the one for SmolLM3 in transformers' documentation of response parsing.
#
# Output seen. The script compares these lines with what it gets:
#= transformers 5.24.0
#= 'Let me look.\nCALL': whole 'Let me look.'; events 'Let me look.\n', then the message 'Let me look.'
#= 'Let me look.\nCALL\n': whole None; events 'Let me look.\n\n', then the message None
#= 'Let me look.\nCALL\nOne moment.': whole 'One moment.'; events 'Let me look.\n\nOne moment.', then the message 'One moment.'
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.24.0

HF_HUB_OFFLINE=1 "$work/venv/bin/python" -I - >"$work/seen" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import transformers
from transformers.utils.chat_parsing import ResponseParser, parse_response

TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close": "<|im_end|>", "content": "text"},
    },
}
PROMPT = "<|im_start|>user\nHow warm is it?<|im_end|>\n<|im_start|>assistant\n"
CALL = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
ANSWERS = (
    f"Let me look.\n{CALL}<|im_end|>",
    f"Let me look.\n{CALL}\n<|im_end|>",
    f"Let me look.\n{CALL}\nOne moment.<|im_end|>",
)


def streamed(answer: str) -> tuple[str, str | None]:
    """The text that the events carry, and the content of the last message."""
    parser = ResponseParser(TEMPLATE, prefix=PROMPT)
    events = [*parser.initial_events, *parser.feed(answer)]
    message, last = parser.finalize()
    chunks = [event for event in [*events, *last] if event["type"] == "region_chunk" and event["field"] == "content"]
    return "".join(event["text"] for event in chunks), message.get("content")


print(f"transformers {transformers.__version__}")
for answer in ANSWERS:
    shown = repr(answer.removesuffix("<|im_end|>").replace(CALL, "CALL"))
    said, kept = streamed(answer)
    whole = parse_response(answer, TEMPLATE, prefix=PROMPT).get("content")
    print(f"{shown}: whole {whole!r}; events {said!r}, then the message {kept!r}")
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
