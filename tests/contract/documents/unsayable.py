"""Rules of a request that JSON Schema cannot say, for schemathesis: a body that breaks one is no valid example.

Loaded by SCHEMATHESIS_HOOKS. Each rule has tests of its own under tests/contract; what breaks the schema is sent as it
is.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import schemathesis
from schemathesis.core import NotSet

CONTEXT = 100_000
VOCABULARY = 260
# Text costs at most a token a byte, six bytes an escaped character, and a few around it.
ROOM = CONTEXT // 2

# They read hardly anything of a request.
NUMBERS = itertools.count()
UNRULED = {"/chat_tokenize", "/vertex"}


@schemathesis.hook
def filter_case(_context: object, case: Any) -> bool:
    positive = case.meta is None or case.meta.generation.mode.is_positive
    if not positive or not isinstance(case.body, dict) or case.operation.path in UNRULED:
        return True
    return all(rule(case.body) for rule in RULES)


@schemathesis.hook
def map_case(_context: object, case: Any) -> Any:
    """Token ids as keys have no upper end in JSON Schema; a valid example gets known ones. Adapters are those that are
    loaded, which is none of a valid example's; one that is to be loaded gets a name of its own."""
    # One that is not there is not to be set: schemathesis would hold it to be wrong.
    if (case.meta is None or case.meta.generation.mode.is_positive) and not isinstance(case.body, NotSet):
        case.body = without_adapters(case.body)
    if case.operation.path.startswith("/adapters") and case.method == "POST":
        place_parameters(case)
    bias = case.body.get("logit_bias") if isinstance(case.body, dict) else None
    positive = case.meta is None or case.meta.generation.mode.is_positive
    if positive and isinstance(bias, dict) and case.operation.path not in UNRULED:
        case.body["logit_bias"] = {str(int(key) % VOCABULARY): value for key, value in bias.items()}
    return case


def place_parameters(case: Any) -> None:
    """Parameters of an adapter stand in the body or in the query: what lacks in one may be in the other."""
    in_body = isinstance(case.body, dict)
    if not is_wrong(case, "query"):
        for name in ("name", "src") if in_body or case.operation.path != "/adapters" else ():
            (case.query or {}).pop(name, None)
    if is_wrong(case, "body") or is_wrong(case, "query"):
        return
    if case.operation.path == "/adapters":
        given = {"name": f"adapter-{next(NUMBERS)}"}
        if in_body:
            case.body |= given
        else:
            case.query = {**(case.query or {}), **given, "src": "/x"}
    elif in_body:
        case.body.pop("src", None)  # it cannot change


def is_wrong(case: Any, component: str) -> bool:
    """Whether schemathesis has made this part of a request break the schema."""
    modes = {} if case.meta is None else {place.value: info.mode for place, info in case.meta.components.items()}
    return component in modes and modes[component].is_negative


def without_adapters(value: Any) -> Any:
    """`value` without what may name an adapter, at any depth."""
    if isinstance(value, list):
        return [without_adapters(each) for each in value]
    if isinstance(value, dict):
        return {key: without_adapters(each) for key, each in value.items() if key not in {"adapter_id", "model"}}
    return value


def answers_fit_the_context(body: dict[str, Any]) -> bool:
    wanted = [body.get(name) for name in ("max_tokens", "max_completion_tokens")]
    return all(value is None or value <= ROOM for value in wanted) and len(str(body)) < ROOM // 8


def tools_have_different_names(body: dict[str, Any]) -> bool:
    names = tool_names(body)
    return len(set(names)) == len(names)


def the_choice_is_among_the_tools(body: dict[str, Any]) -> bool:
    choice, names = body.get("tool_choice"), tool_names(body)
    if choice in (None, "none", "auto"):
        return True
    if isinstance(choice, str):
        return choice in names or (choice == "required" and bool(names))
    kind = choice.get("type", "function")
    if kind in {"any", "auto", "none"}:
        return kind != "any" or tools_are_offered(body)
    chosen = choice.get("allowed_tools", choice)["tools"] if kind == "allowed_tools" else [choice]
    return all((each.get("function") or each).get("name") in names for each in chosen)


def tool_names(body: dict[str, Any]) -> list[str]:
    """The functions of a chat, of Responses or of Messages."""
    if not {"messages", "input"} & body.keys():
        return []
    tools = [each for tool in body.get("tools") or () for each in tool.get("tools") or [tool]]
    kinds = {"function"} if "input" in body else {"function", "custom", None}
    callable_ones = (
        tool.get("function") or tool for tool in tools if tool.get("type") in kinds or "input_schema" in tool
    )
    return [tool["name"] for tool in callable_ones if "name" in tool]


def tools_are_offered(body: dict[str, Any]) -> bool:
    """Whether Messages offer a tool from the start to the end."""
    at_once = [tool for tool in body.get("tools") or () if not tool.get("defer_loading")]
    return bool(tool_names({**body, "tools": at_once})) and not changes(body, "tool_removal")


def added_tools_are_among_the_tools(body: dict[str, Any]) -> bool:
    added = [tool for tool in changes(body, "tool_addition") if tool.get("type") == "tool_reference"]
    return all(tool.get("name") in tool_names(body) for tool in added)


def changes(body: dict[str, Any], kind: str) -> list[Any]:
    """The tools of all such blocks in system turns of Messages."""
    turns = body.get("messages") or ()
    blocks = [block for turn in turns if isinstance(turn.get("content"), list) for block in turn["content"]]
    return [block["tool"] for block in blocks if block.get("type") == kind and isinstance(block.get("tool"), dict)]


def an_answer_has_one_form(body: dict[str, Any]) -> bool:
    return body.get("output_format") is None or (body.get("output_config") or {}).get("format") is None


def a_final_message_that_is_continued_has_text(body: dict[str, Any]) -> bool:
    if not body.get("continue_final_message"):
        return True
    content = body["messages"][-1].get("content")
    return (bool(content) and not isinstance(content, str)) or isinstance(content, str)


def only_a_schema_goes_with_tools(body: dict[str, Any]) -> bool:
    if "messages" not in body or not body.get("tools") or body.get("tool_choice") == "none":
        return True
    kind = (body.get("response_format") or {}).get("type")
    return kind != "regex" and not constraints(body)


def a_constraint_is_alone(body: dict[str, Any]) -> bool:
    kind = (body.get("response_format") or {}).get("type", "text")
    return len(constraints(body)) + (kind != "text") < 2


def constraints(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """Kind and value of each of vLLM's and SGLang's constraints."""
    if not {"messages", "prompt"} & body.keys():
        return []
    nested = body.get("structured_outputs") or {}
    given = [(kind, nested.get(kind)) for kind in ("json", "json_object", "regex", "choice", "grammar")]
    given += [(name.removeprefix("guided_"), value) for name, value in body.items() if name.startswith("guided_")]
    given += [
        (kind, body.get(name)) for name, kind in (("json_schema", "json"), ("regex", "regex"), ("ebnf", "grammar"))
    ]
    kinds = {"json", "json_object", "regex", "choice", "grammar"}
    return [(kind, value) for kind, value in given if kind in kinds and value not in (None, False)]


def constraints_can_be_read(body: dict[str, Any]) -> bool:
    """Schemas in text are JSON, and rules of a grammar are found by the engine."""
    for kind, value in constraints(body):
        if kind == "json" and isinstance(value, str) and not is_schema(value):
            return False
        if kind == "grammar" and ("::=" in value or not value.strip()):
            return False
    return True


def an_object_has_one_schema(body: dict[str, Any]) -> bool:
    found = body.get("response_format") or {}
    names = [name for name in ("schema", "json_schema") if found.get(name) is not None]
    return found.get("type") not in {"json", "json_object"} or len(names) + ("value" in found) < 2


def schemas_in_strings_are_json(body: dict[str, Any]) -> bool:
    found = body.get("response_format") or {}
    parameters = body.get("parameters")
    grammar = (parameters.get("grammar") or {}) if isinstance(parameters, dict) else {}
    values = [found.get("value"), found.get("schema"), (found.get("json_schema") or {}).get("schema")]
    values += [grammar.get("value")]
    values += [value["schema"] for value in values if isinstance(value, dict) and "schema" in value]
    kinds = {found.get("type"), grammar.get("type")}
    return "regex" in kinds or all(is_schema(value) for value in values if isinstance(value, str))


def is_schema(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | bool)
    except ValueError:
        return False


def a_prompt_has_a_token(body: dict[str, Any]) -> bool:
    prompt = body.get("prompt", "x")
    return prompt != "" and (not isinstance(prompt, list) or "" not in prompt)


def a_model_that_does_not_think_has_no_budget(body: dict[str, Any]) -> bool:
    return body.get("thinking_token_budget") in (None, -1)


def no_template_reads_documents(body: dict[str, Any]) -> bool:
    return not body.get("documents") and body.get("chat_template") is None


def a_prompt_is_cut_to_what_fits(body: dict[str, Any]) -> bool:
    return (body.get("truncate_prompt_tokens") or 1) <= ROOM


def best_of_is_at_least_n(body: dict[str, Any]) -> bool:
    best_of, n = body.get("best_of"), body.get("n") or 1
    return best_of is None or (best_of >= n and (best_of == n or not body.get("stream")))


def bad_words_have_few_tokens(body: dict[str, Any]) -> bool:
    return all(len(word.encode()) < 64 for word in body.get("bad_words") or ())


def reasoning_is_spelt_once(body: dict[str, Any]) -> bool:
    """And says nothing that needs another field of the request."""
    names = ("reasoning", "thinking", "enable_thinking", "think", "reasoning_effort")
    given = [body[name] for name in names if body.get(name) is not None]
    apart = given[0] if given and isinstance(given[0], dict) else {}
    others = any(apart.get(name) is not None for name in ("exclude", "max_tokens", "budget_tokens"))
    return len(given) < 2 and not others and ("effort" not in apart or "enabled" not in apart)


def choices_differ(body: dict[str, Any]) -> bool:
    questions = body.get("questions")
    for question in questions if isinstance(questions, list) else ():
        values = [(isinstance(each["value"], bool), each["value"]) for each in question.get("choices") or ()]
        if len(set(values)) < len(values):
            return False
    return True


def results_have_calls(body: dict[str, Any]) -> bool:
    if "questions" not in body or not isinstance(body.get("input"), list):
        return True
    called: set[tuple[str, str]] = set()
    for item in body["input"]:
        kind = item.get("type") or ""
        if kind.endswith("_output") and (kind.removesuffix("_output"), item["call_id"]) not in called:
            return False
        called.add((kind, item.get("call_id", "")))
    return True


RULES = (
    choices_differ,
    results_have_calls,
    an_answer_has_one_form,
    reasoning_is_spelt_once,
    answers_fit_the_context,
    tools_have_different_names,
    the_choice_is_among_the_tools,
    added_tools_are_among_the_tools,
    a_final_message_that_is_continued_has_text,
    only_a_schema_goes_with_tools,
    a_constraint_is_alone,
    constraints_can_be_read,
    an_object_has_one_schema,
    schemas_in_strings_are_json,
    a_prompt_has_a_token,
    a_prompt_is_cut_to_what_fits,
    a_model_that_does_not_think_has_no_budget,
    no_template_reads_documents,
    best_of_is_at_least_n,
    bad_words_have_few_tokens,
)
