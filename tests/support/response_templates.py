"""response_templates of several shapes, as checkpoints have them, each with answers in its form."""

# ruff: noqa: E501 - answers as a model writes them

from __future__ import annotations

from typing import Any

_MADE = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
_WRAPPED = {"type": "function", "function": "{content}"}
_CHATML = {"defaults": {"role": "assistant"}, "start_anchor": "<|im_start|>assistant\n"}

# By name: a thought and calls in JSON (Qwen 3), quoted keys and strings (Gemma 4), channels (gpt-oss), tags (GLM 4.5,
# Qwen 3.5), one list of calls (Command A), Python (LFM 2).
TEMPLATES: dict[str, dict[str, Any]] = {
    "qwen3": {
        **_CHATML,
        "fields": {
            "reasoning_content": {"open": "<think>", "close": "</think>"},
            "tool_calls": {"open_pattern": r"\s*<tool_call>", "close": "</tool_call>", "repeats": True, "content": "json",
                           "transform": _WRAPPED},
            "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)"},
        },
    },
    "gemma4": {
        "version": 1,
        "start_anchor": ["<|turn>model\n", "<tool_response|>"],
        "fields": {
            "thinking": {"open": "<|channel>thought\n", "close": "<channel|>"},
            "tool_calls": {"open_pattern": r"<\|tool_call>call:(?P<name>[\w.-]+)", "close": "<tool_call|>", "repeats": True,
                           "content": "json", "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
                           "transform": _MADE},
            "content": {"close": ["<turn|>", "<|tool_response>"]},
        },
    },
    "gpt-oss": {
        "start_anchor": "<|start|>assistant",
        "fields": {
            "reasoning": {"open": "<|channel|>analysis<|message|>", "close": ["<|end|>", "<|return|>"], "repeats": True, "join": "\n\n"},
            "tool_calls": {"open_pattern": r"<\|channel\|>commentary to=functions\.(?P<name>[\w.-]+).*?<\|message\|>",
                           "close": ["<|call|>", "<|end|>"], "repeats": True, "content": "json", "transform": _MADE},
            "content": {"open": ["<|channel|>final<|message|>", "<|channel|>commentary<|message|>"], "close": ["<|end|>", "<|return|>"]},
        },
    },
    "glm": {
        "start_anchor": "<|assistant|>",
        "fields": {
            "reasoning_content": {"open": "<think>", "close": "</think>"},
            "tool_calls": {"open_pattern": r"<tool_call>(?P<name>[^\n<]+)\n?", "close": "</tool_call>", "repeats": True,
                           "content": "xml-inline",
                           "content_args": {"tag_pattern": r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>"},
                           "transform": _MADE},
            "content": {"close": ["<|user|>", "<|observation|>"]},
        },
    },
    "qwen3.5": {
        **_CHATML,
        "fields": {
            "reasoning_content": {"open": "<think>", "close": "</think>"},
            "tool_calls": {"open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>", "close_pattern": r"</function>\s*</tool_call>",
                           "repeats": True, "content": "xml-inline",
                           "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
                           "transform": _MADE},
            "content": {"close_pattern": r"\s*<\|im_end\|>"},
        },
    },
    "command-a": {
        "start_anchor": "<|CHATBOT|>",
        "fields": {
            "thinking": {"open": "<|START_THINKING|>", "close": "<|END_THINKING|>"},
            "tool_calls": {"open": "<|START_ACTION|>", "close": "<|END_ACTION|>", "content": "json", "transform_each": True,
                           "transform": {"type": "function", "function": {"name": "{tool_name}", "arguments": "{parameters}"}}},
            "content": {"open": "<|START_RESPONSE|>", "close": "<|END_RESPONSE|>"},
        },
    },
    "lfm2": {
        **_CHATML,
        "fields": {
            "tool_calls": {"open": "<|tool_call_start|>", "close": "<|tool_call_end|>", "content": "python-call-list",
                           "transform_each": True,
                           "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}}},
            "content": {"close": "<|im_end|>"},
        },
    },
}  # fmt: skip

# Marks that are control tokens in the vocabularies of such models.
CONTROL: dict[str, tuple[str, ...]] = {
    "qwen3": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "gemma4": ("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", '<|"|>'),
    "gpt-oss": ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>"),
    "glm": ("<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "qwen3.5": ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>"),
    "command-a": ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_ACTION|>", "<|END_ACTION|>", "<|START_RESPONSE|>",
                  "<|END_RESPONSE|>"),
    "lfm2": ("<|tool_call_start|>", "<|tool_call_end|>", "<|im_end|>"),
}  # fmt: skip

SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    "now": {"type": "object", "properties": {}},
}

# Answers to an empty prompt, with the thought, the content and the calls that they hold.
ANSWERS: dict[str, list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]]] = {
    "qwen3": [
        ("<think>\nWhy?\n</think>\n\nBecause.", "Why?", "Because.", []),
        (
            '<think>\nRain\n</think>\n\nI look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "a</tool_call>b", "days": 3}}\n</tool_call>\n'
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>\n',
            "Rain", "I look.", [("weather", {"city": "a</tool_call>b", "days": 3}), ("now", {})],
        ),
        ('<tool_call>{"name": "other", "arguments": {}}</tool_call> x', "", '<tool_call>{"name": "other", "arguments": {}}</tool_call> x', []),
        ("a <tool_call b <|im_end|> <thin", "", "a <tool_call b\n<thin", []),
    ],
    "gemma4": [
        (
            '<|channel>thought\nRain<channel|>I look.<|tool_call>call:weather{city:<|"|>a "<tool_call|>" {b: c<|"|>,days:3}<tool_call|>'
            "<|tool_call>call:now{}<tool_call|><|tool_response>",
            "Rain", "I look.", [("weather", {"city": 'a "<tool_call|>" {b: c', "days": 3}), ("now", {})],
        ),
        ("Hello <turn|>", "", "Hello", []),
    ],
    "gpt-oss": [
        ("<|channel|>analysis<|message|>One<|end|><|start|>assistant<|channel|>analysis<|message|>Two<|end|><|start|>assistant"
         "<|channel|>final<|message|>Hello<|return|>", "One\n\nTwo", "Hello", []),
        ('<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Paris", "days": 1}<|call|>',
         "", "", [("weather", {"city": "Paris", "days": 1})]),
    ],
    "glm": [
        ("<think>Rain</think>\nI look.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>3</arg_value>\n<arg_key>days</arg_key>\n"
         "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now</tool_call>",
         "Rain", "I look.", [("weather", {"city": "3", "days": 3}), ("now", {})]),
    ],
    "qwen3.5": [
        ("<think>\nRain\n</think>\n\n<tool_call>\n<function=weather>\n<parameter=city>\nNew\nYork\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
         "</function>\n</tool_call>", "Rain", "", [("weather", {"city": "New\nYork", "days": 3})]),
    ],
    "command-a": [
        ('<|START_THINKING|>Rain<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "weather", "parameters": {"city": "<|END_ACTION|>"}},\n'
         '    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
         "Rain", "", [("weather", {"city": "<|END_ACTION|>"}), ("now", {})]),
        ("<|START_RESPONSE|>Hello <b><|END_RESPONSE|>", "", "Hello <b>", []),
    ],
    "lfm2": [
        ('I look.<|tool_call_start|>[weather(city="Paris, (x)", days=3), now()]<|tool_call_end|>',
         "", "I look.", [("weather", {"city": "Paris, (x)", "days": 3}), ("now", {})]),
    ],
}  # fmt: skip
