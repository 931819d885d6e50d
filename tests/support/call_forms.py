"""A call of `weather` with a city and one of `now` with a number, as each family's own template writes them."""

# ruff: noqa: E501, RUF001 - marks as they are, with their fullwidth bars

from __future__ import annotations

# The models whose templates or published examples write the form.
MODELS = {
    "mistral-v11": "Mistral Small 3.2, with ids of calls",
    "mistral-v13": "Mistral Large 3, Ministral 3, Devstral, Magistral 1.1",
    "mistral": "Mistral 7B v0.3, Nemo, Large 2, Small 3 and 3.1",
    "deepseek-v3": "DeepSeek V3, R1",
    "deepseek-v3.1": "DeepSeek V3.1",
    "deepseek-v3.2": "DeepSeek V3.2",
    "deepseek-v4": "DeepSeek V4",
    "gigachat-3.5": "GigaChat 3.5",
    "step-3": "Step 3",
    "minimax-m2": "MiniMax M2",
    "minimax-m3": "MiniMax M3",
    "dots": "dots",
    "muse": "Muse Glimmer",
    "minicpm-5": "MiniCPM 5",
    "kimi-k3": "Kimi K3",
    "kimi-k2": "Kimi K2",
    "gemma-4": "Gemma 4",
    "functiongemma": "FunctionGemma",
    "cohere": "Command R7B, Command A",
    "command-r": "Command R, R+",
    "nemotron": "Nemotron Nano 2, Llama Nemotron Super 1.5",
    "apertus": "Apertus",
    "internlm": "InternLM 2 and 3, Intern-S1",
    "gigachat-3.1": "GigaChat 3.1",
    "gigachat-3": "GigaChat 3",
    "hyperclova-x": "HyperCLOVA X SEED Think",
    "openpangu": "openPangu",
    "inkling": "Inkling",
    "plamo-3": "PLaMo 3",
    "solar-open": "Solar Open",
    "solar-open-2": "Solar Open 2",
    "longcat": "LongCat Flash",
    "k2-horizon": "K2 Horizon",
    "hunyuan-3": "Hunyuan 3 and 4",
    "hunyuan": "Hunyuan 4B, 7B",
    "glm-4.7": "GLM 4.7 and 5, Spark 2.5, Laguna S 2.1",
    "glm-4.5": "GLM 4.5 and 4.6, Ling 3, Laguna XS",
    "seed-oss": "Seed-OSS",
    "qwen3-coder": "Qwen3-Coder, Qwen3.5, Step 3.5, MiMo V2, Nemotron 3 Nano",
    "functionary-v3.1": "Functionary v3.1",
    "functionary-v3.2": "Functionary v3.2",
    "firefunction": "FireFunction v2",
    "minimax-m1": "MiniMax M1",
    "tool-calls list": "Jamba 1.5 and 1.6, Hunyuan A13B, Apriel 1.5",
    "granite-20b": "Granite 20B function calling",
    "olmo-3": "OLMo 3",
    "phi-4-mini": "Phi-4-mini",
    "granite-3": "Granite 3",
    "hermes": "Hermes 2 Pro and 3, Qwen2.5, Qwen3, QwQ, Granite 4, EXAONE 4, ERNIE 4.5, SmolLM3, Trinity, MiMo 7B, Bielik",
    "lfm-2": "LFM2, LFM2.5, MiniCPM 3",
    "llama-4": "Llama 4",
    "pythonic": "Llama 3.2 and 4 and Gemma 3 with prompts for it, ToolACE",
    "llama-3": "Llama 3.1, 3.2, 3.3",
    "xlam": "xLAM 2",
    "glm-4": "GLM 4 of 2024 and 0414",
    "plain JSON": "all others",
}

W, N = '{"city": "Paris"}', '{"n": 3}'
WIRES = {
    "mistral-v11": f"[TOOL_CALLS]weather[CALL_ID]a1b2c3d4e[ARGS]{W}[TOOL_CALLS]now[CALL_ID]a1b2c3d4f[ARGS]{N}",
    "mistral-v13": f"[TOOL_CALLS]weather[ARGS]{W}[TOOL_CALLS]now[ARGS]{N}",
    "mistral": f'[TOOL_CALLS][{{"name": "weather", "arguments": {W}}}, {{"name": "now", "arguments": {N}}}]',
    "deepseek-v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n" + W
    + "\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n" + N
    + "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek-v3.1": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{W}<｜tool▁call▁end｜>"
    f"<｜tool▁call▁begin｜>now<｜tool▁sep｜>{N}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek-v3.2": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" '
    'string="true">Paris</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name="now">\n<｜DSML｜parameter name="n" '
    'string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    "deepseek-v4": '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Paris'
    '</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name="now">\n<｜DSML｜parameter name="n" string="false">3'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
    "gigachat-3.5": '<｜GCML｜tool_calls>\n<｜GCML｜invoke name="weather">\n<｜GCML｜parameter name="city" string="true">Paris'
    '</｜GCML｜parameter>\n</｜GCML｜invoke>\n<｜GCML｜invoke name="now">\n<｜GCML｜parameter name="n" string="false">3'
    "</｜GCML｜parameter>\n</｜GCML｜invoke>\n</｜GCML｜tool_calls>",
    "step-3": '<｜tool_calls_begin｜>\n<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="weather">\n'
    '<steptml:parameter name="city">Paris</steptml:parameter>\n</steptml:invoke><｜tool_call_end｜>\n'
    '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="now">\n<steptml:parameter name="n">3'
    "</steptml:parameter>\n</steptml:invoke><｜tool_call_end｜>\n<｜tool_calls_end｜>",
    "minimax-m2": '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Paris</parameter>\n</invoke>\n'
    '<invoke name="now">\n<parameter name="n">3</parameter>\n</invoke>\n</minimax:tool_call>',
    "minimax-m3": "]<]minimax[>[<tool_call>\n" + "\n".join(
        f']<]minimax[>[<invoke name="{name}">]<]minimax[>[<{key}>{value}]<]minimax[>[</{key}>]<]minimax[>[</invoke>'
        for name, key, value in (("weather", "city", "Paris"), ("now", "n", "3"))
    ) + "\n]<]minimax[>[</tool_call>",
    "dots": '<dots_function_call>\n<invoke name="weather">\n<parameter name="city">Paris</parameter>\n</invoke>\n'
    '<invoke name="now">\n<parameter name="n">3</parameter>\n</invoke>\n</dots_function_call>',
    "muse": '<atem:function_calls>\n<atem:invoke name="weather">\n<atem:parameter name="city">Paris</atem:parameter>\n'
    '</atem:invoke>\n<atem:invoke name="now">\n<atem:parameter name="n">3</atem:parameter>\n</atem:invoke>\n'
    "</atem:function_calls>",
    "minicpm-5": '<function name="weather"><param name="city"><![CDATA[Paris]]></param></function>'
    '<function name="now"><param name="n">3</param></function>',
    "kimi-k3": '<|open|>tools<|sep|><|open|>call tool="weather" index="1"<|sep|><|open|>argument key="city" type="string"'
    '<|sep|>Paris<|close|>argument<|sep|><|close|>call<|sep|><|open|>call tool="now" index="2"<|sep|><|open|>argument '
    'key="n" type="number"<|sep|>3<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
    "kimi-k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>" + W
    + "<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>" + N
    + "<|tool_call_end|><|tool_calls_section_end|>",
    "gemma-4": '<|tool_call>call:weather{city:<|"|>Paris<|"|>}<tool_call|><|tool_call>call:now{n:3}<tool_call|>',
    "functiongemma": "<start_function_call>call:weather{city:<escape>Paris<escape>}<end_function_call>"
    "<start_function_call>call:now{n:3}<end_function_call>",
    "cohere": '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "weather", "parameters": ' + W
    + '},\n    {"tool_call_id": "1", "tool_name": "now", "parameters": ' + N + "}\n]<|END_ACTION|>",
    "command-r": 'Action: ```json\n[\n    {\n        "tool_name": "weather",\n        "parameters": ' + W
    + '\n    },\n    {\n        "tool_name": "now",\n        "parameters": ' + N + "\n    }\n]```",
    "nemotron": f'<TOOLCALL>[{{"name": "weather", "arguments": {W}}}, {{"name": "now", "arguments": {N}}}]</TOOLCALL>',
    "apertus": f'<|tools_prefix|>[{{"weather": {W}}}, {{"now": {N}}}]<|tools_suffix|>',
    "internlm": f'<|action_start|><|plugin|>\n{{"name": "weather", "parameters": {W}}}<|action_end|>\n'
    f'<|action_start|><|plugin|>\n{{"name": "now", "parameters": {N}}}<|action_end|>',
    "gigachat-3.1": f'<|function_call|>{{"name": "weather", "arguments": {W}}}'
    f'\n<|function_call|>{{"name": "now", "arguments": {N}}}',
    "gigachat-3": f'function call<|role_sep|>\n{{"name": "weather", "arguments": {W}}}'
    f'\nfunction call<|role_sep|>\n{{"name": "now", "arguments": {N}}}',
    "hyperclova-x": f' -> tool/function_call\n[{{"name": "weather", "arguments": {W}}},'
    f' {{"name": "now", "arguments": {N}}}]',
    "openpangu": f'[unused11][{{"name": "weather", "arguments": {W}}}, {{"name": "now", "arguments": {N}}}][unused12]',
    "inkling": f'<|message_model|>weather<|content_invoke_tool_json|>{{"name":"weather","args":{W}}}<|end_message|>'
    f'<|message_model|>now<|content_invoke_tool_json|>{{"name":"now","args":{N}}}<|end_message|>',
    "plamo-3": "<|plamo:begin_tool_requests:plamo|>" + "".join(
        f"<|plamo:begin_tool_request:plamo|><|plamo:begin_tool_name:plamo|>{name}<|plamo:end_tool_name:plamo|>"
        f"<|plamo:begin_tool_arguments:plamo|>{arguments}<|plamo:end_tool_arguments:plamo|><|plamo:end_tool_request:plamo|>"
        for name, arguments in (("weather", W), ("now", N))
    ) + "<|plamo:end_tool_requests:plamo|>",
    "solar-open": f"<|tool_calls|><|tool_call:begin|>0<|tool_call:name|>weather<|tool_call:args|>{W}"
    f"<|tool_call:end|><|tool_call:begin|>1<|tool_call:name|>now<|tool_call:args|>{N}<|tool_call:end|>",
    "solar-open-2": "<|tool_call:start|>weather\n<|tool_arg:start|>city<|tool_arg:value|>Paris<|tool_arg:end|>\n"
    "<|tool_call:end|>\n<|tool_call:start|>now\n<|tool_arg:start|>n<|tool_arg:value|>3<|tool_arg:end|>\n"
    "<|tool_call:end|>",
    "longcat": "<longcat_tool_call>weather\n<longcat_arg_key>city</longcat_arg_key>\n<longcat_arg_value>Paris"
    "</longcat_arg_value>\n</longcat_tool_call>\n<longcat_tool_call>now\n<longcat_arg_key>n</longcat_arg_key>\n"
    "<longcat_arg_value>3</longcat_arg_value>\n</longcat_tool_call>",
    "k2-horizon": "<ifm|tool_calls>\n<ifm|tool_call>weather\n<ifm|arg_key>city</ifm|arg_key><ifm|arg_type>string"
    "</ifm|arg_type><ifm|arg_value>Paris</ifm|arg_value>\n</ifm|tool_call>\n<ifm|tool_call>now\n<ifm|arg_key>n"
    "</ifm|arg_key><ifm|arg_type>number</ifm|arg_type><ifm|arg_value>3</ifm|arg_value>\n</ifm|tool_call>\n</ifm|tool_calls>",
    "hunyuan-3": "<tool_calls>\n<tool_call>weather<tool_sep>\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
    "</tool_call>\n<tool_call>now<tool_sep>\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n</tool_calls>",
    "hunyuan": "<tool_calls><tool_call>function<tool_sep>weather\n```json\n" + W + "\n```</tool_call>\n<tool_call>"
    "function<tool_sep>now\n```json\n" + N + "\n```</tool_call></tool_calls>",
    "glm-4.7": "<tool_call>weather<arg_key>city</arg_key><arg_value>Paris</arg_value></tool_call>"
    "<tool_call>now<arg_key>n</arg_key><arg_value>3</arg_value></tool_call>",
    "glm-4.5": "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>\n<tool_call>now"
    "\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
    "seed-oss": "<seed:tool_call>\n<function=weather>\n<parameter=city>Paris</parameter>\n</function>\n</seed:tool_call>"
    "\n<seed:tool_call>\n<function=now>\n<parameter=n>3</parameter>\n</function>\n</seed:tool_call>",
    "qwen3-coder": "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>\n"
    "<tool_call>\n<function=now>\n<parameter=n>\n3\n</parameter>\n</function>\n</tool_call>",
    "functionary-v3.1": f"<function=weather>{W}</function><function=now>{N}</function>",
    "functionary-v3.2": f"weather\n{W}>>>now\n{N}",
    "firefunction": f' functools[{{"name": "weather", "arguments": {W}}}, {{"name": "now", "arguments": {N}}}]',
    "minimax-m1": f'<tool_calls>\n{{"name": "weather", "arguments": {W}}}\n{{"name": "now", "arguments": {N}}}\n'
    "</tool_calls>",
    "tool-calls list": f'<tool_calls>[{{"name": "weather", "arguments": {W}}}, {{"name": "now", "arguments": {N}}}'
    "]</tool_calls>",
    "granite-20b": f'<function_call> {{"name": "weather", "arguments": {W}}} <function_call> {{"name": "now", '
    f'"arguments": {N}}}',
    "olmo-3": '<function_calls>\nweather(city="Paris")\nnow(n=3)\n</function_calls>',
    "phi-4-mini": f'<|tool_call|>{{"name": "weather", "arguments": {W}}}<|/tool_call|>\n<|tool_call|>{{"name": "now", '
    f'"arguments": {N}}}<|/tool_call|>',
    "granite-3": f'<|tool_call|>[{{"name": "weather", "arguments": {W}}}, {{"name": "now", "arguments": {N}}}]',
    "hermes": f'<tool_call>\n{{"name": "weather", "arguments": {W}}}\n</tool_call>\n<tool_call>\n{{"name": "now", '
    f'"arguments": {N}}}\n</tool_call>',
    "lfm-2": '<|tool_call_start|>[weather(city="Paris"), now(n=3)]<|tool_call_end|>',
    "llama-4": f'<|python_start|><|python_end|>{{"name": "weather", "parameters": {W}}}{{"name": "now", "parameters": {N}}}',
    "pythonic": '<|python_start|>[weather(city="Paris"), now(n=3)]<|python_end|>',
    "llama-3": f'<|python_tag|>{{"name": "weather", "parameters": {W}}}; {{"name": "now", "parameters": {N}}}',
    "xlam": f'[{{"name": "weather", "arguments": {W}}}, {{"name": "now", "arguments": {N}}}]',
    "glm-4": f"weather\n{W}\nnow\n{N}",
    "plain JSON": f'{{"name": "weather", "arguments": {W}}}\n{{"name": "now", "arguments": {N}}}',
}  # fmt: skip
