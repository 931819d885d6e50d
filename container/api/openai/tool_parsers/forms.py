"""The table of forms: how the families write calls, most specific first.

Marks as in the templates of the models and in the parsers of vLLM, SGLang and llama.cpp, November 2026.
"""

# ruff: noqa: RUF001 - marks of DeepSeek, GigaChat and StepFun have fullwidth bars

from __future__ import annotations

from dataclasses import replace
from typing import Any

from container.api.openai.tool_parsers.form import NUMBER, SHORT_ID, Arguments, CallIds, Form, Tags

_NAME = r"(?P<name>[\w.-]+)"
_DEEPSEEK_HEAD = rf"(?:function<｜tool▁sep｜>)?{_NAME}(?:<｜tool▁sep｜>|\s*```json)?"
_HUNYUAN = "<tool_calls>"
# What Llama 3.1 to 4 are told: '{"name": function name, "parameters": dictionary of argument name and its value}'.
_LLAMA = '"parameters": dictionary of argument name'
_PYTHON_MARKS = ("<|python_end|>", "<|python_start|>", "<|python_tag|>")


def _objects(name: str, opening: str, closing: str = "", around: tuple[str, str] = ("[", "]"), **more: Any) -> Form:
    """A list of JSON objects between marks."""
    base = Form(name, opening=opening, closing=closing, around=around, lead='{"name": "', between='", "arguments": ')
    return replace(base, **{"tail": "}", "separator": ", ", **more})


def _each(name: str, begin: str, end: str = "", *, arguments: str = "arguments", line: str = "", **more: Any) -> Form:
    """A JSON object between marks, for each call."""
    base = Form(name, begin=begin, end=end, lead=line + '{"name": "', between=f'", "{arguments}": ', tail="}")
    return replace(base, **more)


def _keys_and_values(name: str, prefix: str = "", opening: str = "", closing: str = "", **more: Any) -> Form:
    """`<tool_call>name`, then `<arg_key>` and `<arg_value>` for each argument."""
    keys, values = (f"<{prefix}arg_key>", f"</{prefix}arg_key>"), (f"<{prefix}arg_value>", f"</{prefix}arg_value>")
    tags = Tags(keys[0], *values, keys[1], "\n", "\n")
    begin, end = f"<{prefix}tool_call>", f"</{prefix}tool_call>"
    around = ("\n", "\n") if opening else ("", "")
    base = Form(name, Arguments.TAGS, opening, around, begin, between="\n", end=end, closing=closing, tags=tags)
    return replace(base, **more)


def _invocations(name: str, opening: str, closing: str, prefix: str = "", **more: Any) -> Form:
    """`<invoke name="...">`, then `<parameter name="...">` for each argument."""
    tags = Tags(f'<{prefix}parameter name="', ">", f"</{prefix}parameter>", '"')
    around, begin, end = ("\n", "\n"), f'<{prefix}invoke name="', f"</{prefix}invoke>"
    base = Form(name, Arguments.TAGS, opening, around, begin, between='">\n', end=end, closing=closing, tags=tags)
    return replace(base, **more)


def _marked_up(name: str, prefix: str, section: str, **more: Any) -> Form:
    """`_invocations` whose parameters say whether they are strings."""
    form = _invocations(name, f"<{prefix}{section}>", f"</{prefix}{section}>", prefix, **more)
    tags = Tags(f'<{prefix}parameter name="', ">", f"</{prefix}parameter>", '"', ' string="true"', ' string="false"')
    return replace(form, tags=tags)


_FUNCTION = Form(
    "qwen3-coder",
    Arguments.TAGS,
    begin="<tool_call>",
    lead="\n<function=",
    between=">\n",
    tail="</function>\n",
    end="</tool_call>",
    also=("<function=",),
    drops=("</function>",),
    head=rf"(?:<function=)?\s*{_NAME}",
    tags=Tags("<parameter=", ">", "</parameter>", framed=True),
    shows=(("<function=", "<parameter="),),
)
_DEEPSEEK = Form(
    "deepseek-v3", Arguments.JSON, "<｜tool▁calls▁begin｜>", begin="<｜tool▁call▁begin｜>",
    lead="function<｜tool▁sep｜>", between="\n```json\n", tail="\n```", end="<｜tool▁call▁end｜>",
    closing="<｜tool▁calls▁end｜>", drops=("```",), head=_DEEPSEEK_HEAD, shows=(("<｜tool▁calls▁begin｜>", "```json"),),
)  # fmt: skip

PLAIN = _each("plain JSON", "", starts=r"\s*[\[,;]?\s*\{\s*\x22(name|arguments)\x22")

FORMS: tuple[Form, ...] = (
    Form(
        "mistral-v11", Arguments.JSON, begin="[TOOL_CALLS]", between=f"[CALL_ID]{SHORT_ID}[ARGS]", separator="",
        call_ids=CallIds.SHORT, head=rf"{_NAME}\s*(?:\[CALL_ID\](?P<id>[^\[]*))?(?:\[ARGS\])?",
        shows=(("[TOOL_CALLS]", "[CALL_ID]"),),
    ),
    Form(
        "mistral-v13", Arguments.JSON, begin="[TOOL_CALLS]", between="[ARGS]", separator="", call_ids=CallIds.SHORT,
        head=rf"{_NAME}\s*(?:\[CALL_ID\](?P<id>[^\[]*))?(?:\[ARGS\])?", inner=("[CALL_ID]",),
        shows=(("[TOOL_CALLS]", "[ARGS]"),),
    ),
    _objects("mistral", "[TOOL_CALLS]", call_ids=CallIds.SHORT, shows=(("[TOOL_CALLS]",),), tokens=("[TOOL_CALLS]",)),
    _DEEPSEEK,
    replace(
        _DEEPSEEK, name="deepseek-v3.1", lead="", between="<｜tool▁sep｜>", tail="", separator="",
        shows=(("<｜tool▁calls▁begin｜>",),), tokens=("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>"),
    ),
    _marked_up("deepseek-v3.2", "｜DSML｜", "function_calls", shows=(("<｜DSML｜function_calls>",),)),
    _marked_up("deepseek-v4", "｜DSML｜", "tool_calls", shows=(("<｜DSML｜tool_calls>",),), tokens=("｜DSML｜",)),
    _marked_up("gigachat-3.5", "｜GCML｜", "tool_calls", shows=(("<｜GCML｜tool_calls>",),), tokens=("｜GCML｜",)),
    _invocations(
        "step-3", "<｜tool_calls_begin｜>", "<｜tool_calls_end｜>", "steptml:",
        begin='<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="', also=('<steptml:invoke name="',),
        end="</steptml:invoke><｜tool_call_end｜>", drops=("</steptml:invoke>", "<｜tool_call_end｜>"),
        shows=(("<｜tool_calls_begin｜>",), ("<steptml:invoke",)), tokens=("<｜tool_calls_begin｜>",),
    ),
    _invocations(
        "minimax-m2", "<minimax:tool_call>", "</minimax:tool_call>",
        shows=(("<minimax:tool_call>",),), tokens=("<minimax:tool_call>",),
    ),
    Form(
        "minimax-m3", Arguments.TAGS, "]<]minimax[>[<tool_call>", ("\n", "\n"), ']<]minimax[>[<invoke name="',
        between='">', end="]<]minimax[>[</invoke>", closing="]<]minimax[>[</tool_call>",
        tags=Tags("]<]minimax[>[<", ">", "]<]minimax[>[</{key}>", gap="", nested=True), shows=(("]<]minimax[>[",),),
        tokens=("]<]minimax[>[",),
    ),
    _invocations("dots", "<dots_function_call>", "</dots_function_call>", shows=(("<dots_function_call>",),)),
    _invocations("muse", "<atem:function_calls>", "</atem:function_calls>", "atem:", shows=(("<atem:invoke",),)),
    Form(
        "minicpm-5", Arguments.TAGS, begin='<function name="', between='">', end="</function>", separator="",
        tags=Tags('<param name="', ">", "</param>", '"', gap="", cdata=True),
        shows=(('<function name="', '<param name="'),),
    ),
    Form(
        "kimi-k3", Arguments.TAGS, "<|open|>tools<|sep|>", begin='<|open|>call tool="',
        between=f'" index="{NUMBER}"<|sep|>',
        end="<|close|>call<|sep|>", separator="", closing="<|close|>tools<|sep|>", head=r'(?P<name>[^"]*)(?:"[^<]*)?',
        drops=("<|close|>message<|sep|>",),
        tags=Tags(
            '<|open|>argument key="', "<|sep|>", "<|close|>argument<|sep|>", '"', ' type="string"', ' type="{type}"', ""
        ),
        shows=(("<|open|>tools<|sep|>",), ("<|open|>", "<|close|>", "argument")),
        tokens=("<|open|>", "<|close|>", "<|sep|>"),
    ),
    Form(
        "kimi-k2", Arguments.JSON, "<|tool_calls_section_begin|>", begin="<|tool_call_begin|>", lead="functions.",
        between=f":{NUMBER}<|tool_call_argument_begin|>", end="<|tool_call_end|>", separator="",
        closing="<|tool_calls_section_end|>", call_ids=CallIds.NUMBERED,
        head=r"(?:functions\.)?(?P<name>[\w.-]+?)\s*(?::\d+)?\s*<\|tool_call_argument_begin\|>",
        shows=(("<|tool_calls_section_begin|>",),), tokens=("<|tool_calls_section_begin|>",),
    ),
    Form(
        "gemma-4", Arguments.QUOTED, begin="<|tool_call>", lead="call:", end="<tool_call|>", separator="",
        quotes='<|"|>', shows=(("<|tool_call>",),), tokens=("<|tool_call>", '<|"|>'),
    ),
    Form(
        "functiongemma", Arguments.QUOTED, begin="<start_function_call>", lead="call:", end="<end_function_call>",
        separator="", quotes="<escape>", shows=(("<start_function_call>",),), tokens=("<start_function_call>",),
    ),
    Form(
        "cohere", opening="<|START_ACTION|>", around=("[\n    ", "\n]"), separator=",\n    ",
        lead=f'{{"tool_call_id": "{NUMBER}", "tool_name": "', between='", "parameters": ', tail="}",
        closing="<|END_ACTION|>", shows=(("<|START_ACTION|>",),), tokens=("<|START_ACTION|>",),
    ),
    Form(
        "command-r", opening="Action:", around=(" ```json\n[\n    ", "\n]```"), separator=",\n    ",
        lead='{\n        "tool_name": "', between='",\n        "parameters": ', tail="\n    }",
        drops=("```json", "```"), shows=(("Action:", "```json", "tool_name"),),
    ),
    _objects("nemotron", "<TOOLCALL>", "</TOOLCALL>", shows=(("<TOOLCALL>",),)),
    Form(
        "apertus", Arguments.KEYED, "<|tools_prefix|>", ("[", "]"), lead='{"', between='": ', tail="}", separator=", ",
        closing="<|tools_suffix|>", shows=(("<|tools_prefix|>",),), tokens=("<|tools_prefix|>",),
    ),
    Form(
        "internlm", begin="<|action_start|><|plugin|>", lead='\n{"name": "', between='", "parameters": ', tail="}",
        end="<|action_end|>", also=("<|action_start|> <|plugin|>",),
        shows=(("<|action_start|>",),), tokens=("<|action_start|>", "<|plugin|>"),
    ),
    _each("gigachat-3.1", "<|function_call|>", shows=(("<|function_call|>",),), tokens=("<|function_call|>",)),
    _each("gigachat-3", "function call<|role_sep|>", line="\n", shows=(("function call<|role_sep|>",),)),
    _objects(
        "hyperclova-x", " -> tool/function_call", around=("\n[", "]"), also=("-> tool/function_call",),
        shows=(("-> tool/function_call",),),
    ),
    _objects("openpangu", "[unused11]", "[unused12]", shows=(("[unused11]", "[unused12]", '"name"'),)),
    Form(
        "inkling", begin="<|content_invoke_tool_json|>", lead='{"name":"', between='","args":', tail="}",
        end="<|end_message|>", separator="", also=("<|message_model|>",), drops=("<|message_model|>",),
        head=rf"{_NAME}<\|content_invoke_tool_json\|>",
        shows=(("<|content_invoke_tool_json|>",),), tokens=("<|content_invoke_tool_json|>",),
    ),
    Form(
        "plamo-3", Arguments.JSON, "<|plamo:begin_tool_requests:plamo|>", begin="<|plamo:begin_tool_request:plamo|>",
        lead="<|plamo:begin_tool_name:plamo|>", tail="<|plamo:end_tool_arguments:plamo|>", separator="",
        between="<|plamo:end_tool_name:plamo|><|plamo:begin_tool_arguments:plamo|>",
        end="<|plamo:end_tool_request:plamo|>", closing="<|plamo:end_tool_requests:plamo|>",
        drops=("<|plamo:end_tool_arguments:plamo|>",), shows=(("<|plamo:begin_tool_request",),),
    ),
    Form(
        "solar-open", Arguments.JSON, "<|tool_calls|>", begin="<|tool_call:begin|>", lead=f"{NUMBER}<|tool_call:name|>",
        between="<|tool_call:args|>", end="<|tool_call:end|>", separator="", also=("<|begin|>assistant<|tool_calls|>",),
        head=rf"(?:<\|tool_call:begin\|>)?[^<]*<\|tool_call:name\|>{_NAME}<\|tool_call:args\|>", drops=("<|calls|>",),
        shows=(("<|tool_call:begin|>",),), tokens=("<|tool_call:begin|>",),
    ),
    Form(
        "solar-open-2", Arguments.TAGS, begin="<|tool_call:start|>", between="\n", end="<|tool_call:end|>",
        tags=Tags("<|tool_arg:start|>", "<|tool_arg:value|>", "<|tool_arg:end|>"),
        shows=(("<|tool_call:start|>",),), tokens=("<|tool_call:start|>",),
    ),
    _keys_and_values("longcat", "longcat_", shows=(("<longcat_tool_call>",),), tokens=("<longcat_tool_call>",)),
    _keys_and_values(
        "k2-horizon", "ifm|", "<ifm|tool_calls>", "</ifm|tool_calls>",
        tags=Tags("<ifm|arg_key>", "<ifm|arg_value>", "</ifm|arg_value>", "</ifm|arg_key>",
                  "<ifm|arg_type>string</ifm|arg_type>", "<ifm|arg_type>{type}</ifm|arg_type>"),
        shows=(("<ifm|tool_call>",),), tokens=("<ifm|tool_call>",),
    ),
    _keys_and_values(
        "hunyuan-3", opening=_HUNYUAN, closing="</tool_calls>", between="<tool_sep>\n", drops=("</tool_call>",),
        head=rf"{_NAME}\s*(?:<tool_sep>)?",
        shows=((_HUNYUAN, "<arg_key>"),), tokens=(_HUNYUAN, "<arg_key>"),
    ),
    Form(
        "hunyuan", Arguments.JSON, _HUNYUAN, begin="<tool_call>", lead="function<tool_sep>", between="\n```json\n",
        tail="\n```", end="</tool_call>", closing="</tool_calls>", drops=("```",),
        head=rf"(?:\w+\s*<tool_sep>)?\s*{_NAME}\s*(?:<tool_sep>)?\s*(?:```json)?", shows=((_HUNYUAN, "<tool_sep>"),),
    ),
    _keys_and_values(
        "glm-4.7", between="", separator="",
        tags=Tags("<arg_key>", "<arg_value>", "</arg_value>", "</arg_key>", gap=""),
        shows=(("<tool_call>", "</arg_key><arg_value>"),),
    ),
    _keys_and_values("glm-4.5", shows=(("<tool_call>", "<arg_key>"),), tokens=("<tool_call>", "<arg_key>")),
    replace(
        _FUNCTION, name="seed-oss", begin="<seed:tool_call>", end="</seed:tool_call>",
        tags=Tags("<parameter=", ">", "</parameter>"), shows=(("<seed:tool_call>",),), tokens=("<seed:tool_call>",),
    ),
    _FUNCTION,
    Form(
        "functionary-v3.1", Arguments.JSON, begin="<function=", between=">", end="</function>", separator="",
        head=rf"{_NAME}>", shows=(("<function=",),),
    ),
    Form(
        "functionary-v3.2", Arguments.JSON, between="\n", separator=">>>", also=(">>>",), begun=True, spoken="all\n",
        starts=r"(NAMES)\n", shows=((">>>", "// Supported function definitions"), (">>>all",)),
    ),
    _objects("firefunction", " functools", also=("functools",), shows=(("functools[",), ("functools",))),
    _objects(
        "minimax-m1", _HUNYUAN, "</tool_calls>", around=("\n", "\n"), separator="\n",
        shows=((_HUNYUAN + '\n{"name"',),),
    ),
    _objects("tool-calls list", _HUNYUAN, "</tool_calls>", shows=((_HUNYUAN,),), tokens=(_HUNYUAN,)),
    _each("granite-20b", "<function_call>", line=" ", separator=" ", shows=(("<function_call>",),)),
    Form(
        "olmo-3", Arguments.PYTHON, "<function_calls>", ("\n", "\n"), between="(", tail=")", separator="\n",
        closing="</function_calls>", shows=(("<function_calls>",),),
    ),
    _each("phi-4-mini", "<|tool_call|>", "<|/tool_call|>", also=("functools",),
          shows=(("<|tool_call|>", "<|/tool_call|>"), ("<|tool|>", "<|/tool|>"))),
    _objects("granite-3", "<|tool_call|>", shows=(("<|tool_call|>",),), also=("<tool_call>",), drops=("</tool_call>",)),
    _each("hermes", "<tool_call>", "</tool_call>", line="\n", tail="}\n", shows=(("<tool_call>",),)),
    Form(
        "lfm-2", Arguments.PYTHON, "<|tool_call_start|>", ("[", "]"), between="(", tail=")", separator=", ",
        closing="<|tool_call_end|>", drops=("```python", "```"),
        shows=(("<|tool_call_start|>",),), tokens=("<|tool_call_start|>",),
    ),
    _each("llama-4", "", arguments="parameters", separator="", also=_PYTHON_MARKS, drops=_PYTHON_MARKS,
          starts=r"\s*\{\s*\x22(name|type|function|parameters)\x22",
          shows=(("<|python_start|>", _LLAMA), ('<|python_end|>{"name"',))),
    Form(
        "pythonic", Arguments.PYTHON, around=("[", "]"), between="(", tail=")", separator=", ",
        also=("<|python_start|>", "<|python_tag|>"), drops=("<|python_end|>", "<|python_tag|>"),
        starts=r"\s*\[\s*[A-Za-z_]",
        shows=(("func_name1(",), ("<|python_start|>",)), tokens=("<|python_start|>",),
    ),
    _each("llama-3", "", arguments="parameters", separator="; ", also=("<|python_tag|>",), drops=("<|python_tag|>",),
          starts=r"\s*\{\s*\x22(name|type|function|parameters)\x22", shows=(("<|python_tag|>",), (_LLAMA,))),
    _objects("xlam", "", starts=r"\s*\[\s*\{", shows=(('"tool_call_name"',),)),
    Form(
        "glm-4", Arguments.JSON, between="\n", begun=True, starts=r"(NAMES)\n",
        shows=(("<|observation|>",),),
    ),
)  # fmt: skip
