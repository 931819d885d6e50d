"""What a template may do, does as in transformers; what it may not, is one sentence."""

from __future__ import annotations

import pytest

from container.text.template_sandbox import CompiledTemplate, TemplateError

MESSAGES = [{"role": "user", "content": "Hi <b>&amp;</b> 'x' é\n"}, {"role": "assistant", "content": " 2 "}]

FEATURES = {
    "blocks are trimmed": "  {% for m in messages %}\n    {% if true %}\n  x\n  {% endif %}\n{% endfor %}\n",
    "loop controls": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "generation keeps its names": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "tojson": "{{ messages | tojson }}",
    "tojson, indented": "{{ messages | tojson(indent=2) }}",
    "tojson, ascii": "{{ messages | tojson(ensure_ascii=True) }}",
    "tojson, compact and sorted": "{{ messages | tojson(separators=(',', ':'), sort_keys=True) }}",
    "year": "{{ strftime_now('%Y') }}",
    "namespace": "{% set ns = namespace(a=1, self=2) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ ns.self }}",
    "namespace of a mapping": "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}",
    "dict": "{{ dict(a=1, b=[2]) }}{{ dict.fromkeys(['a', 'b'], 0) }}",
    "undefined": "[{{ nothing }}][{{ messages[0].nothing }}][{{ messages[7] }}]",
    "arithmetic": "{{ 2 ** 10 }} {{ 7 % 3 }} {{ 2 * 3 + 1 }} {{ 2 ** 0.5 }} {{ 2 ** -1 }} {{ 1.5 * 2 }}",
    "strings": "{{ 'ab' * 3 }}{{ 3 * 'ab' }}{{ 'a' + 'b' }}{{ '%s-%05d' % ('x', 7) }}{{ [1] + [2] }}{{ [0] * 3 }}",
    "methods": "{{ messages[0].content.split('<')[0].strip().upper() }}{{ messages[0]['content'] | trim | length }}",
    "slices": "{{ messages[::-1][0].role }}{{ messages[0].content[1:3] }}",
    "tests": "{{ messages[0].content is string }}{{ messages is iterable }}{{ messages[0] is mapping }}",
    "range": "{% for i in range(3) %}{{ i }}{% endfor %}{{ range(2, 8, 3) | list }}{{ range(5)[1:] }}",
    "macros": "{% macro f(m, up=false) %}{{ m.role | upper if up else m.role }}{% endmacro %}{{ f(messages[0], up=true) }}",
    "items": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "no autoescape": "{{ messages[0].content }}{{ '<&>' }}",
    "filters": "{{ messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "raises": "{{ raise_exception('no') }}",
    "raises later": "text {% for m in messages %}{{ m.role }}{{ raise_exception('no: ' ~ m.content) }}{% endfor %}",
    "undefined attribute": "{{ messages[0].nothing.more }}",
    "undefined call": "{{ nothing() }}",
    "unknown filter": "{{ messages | no_such_filter }}",
    "type error": "{{ 'a' + 1 }}",
    "division by zero": "{{ 1 / 0 }}",
    "not JSON": "{{ nothing | tojson }}",
    "append": "{% set x = [] %}{{ x.append(1) }}",
    "change a message": "{{ messages[0].update({'role': 'system'}) }}",
    "dunder": "{{ ''.__class__ }}",
    "dunder of a function": "{{ raise_exception.__globals__ }}",
    "dunder by item": "{{ messages['__class__'] }}{{ ()|attr('__class__') }}",
    "private namespace": "{% set ns = namespace(_a=1) %}",
    "private namespace, later": "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "format string": "{{ '{0.__class__}'.format(1) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}  # fmt: skip


@pytest.mark.parametrize("title", FEATURES)
def test_features_equal_transformers(inline, title):
    model_error = None
    source = FEATURES[title]
    try:
        reference = inline("x").reference
        expected = reference.apply_chat_template(MESSAGES, chat_template=source, tokenize=False)
    except Exception as exc:
        expected, model_error = None, exc
    try:
        rendered = CompiledTemplate(source).render(
            {"messages": MESSAGES, "tools": None, "documents": None, "add_generation_prompt": False},
            max_chars=1 << 20,
        )
    except TemplateError as exc:
        assert model_error is not None, exc
        assert "\n" not in str(exc)
        assert "0x" not in str(exc)
    else:
        assert model_error is None, model_error
        assert rendered == expected


BOMBS = {
    "repeated string": "{{ 'a' * 500000000 }}",
    "repeated from the right": "{{ 500000000 * 'a' }}",
    "repeated list": "{{ ([0] * 500000000) | length }}",
    "repeated tuple": "{{ ((0,) * 500000000) | length }}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "negative base": "{{ (-10) ** 100000000 }}",
    "padded format": "{{ '%500000000d' % 1 }}",
    "doubled string": "{% set ns = namespace(x='ab') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
    "doubled list": "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
    "flood": "{% for i in range(100000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
    "nested loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "endless range": "{% for i in range(10000000000) %}{% endfor %}",
    "wide range": "{{ range(100000000) | list | length }}",
}  # fmt: skip


@pytest.mark.parametrize("title", BOMBS)
def test_bombs_are_errors(title):
    template = CompiledTemplate(BOMBS[title])
    with pytest.raises(TemplateError) as caught:
        template.render({}, max_chars=1 << 20)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_range_budget_is_for_each_render():
    template = CompiledTemplate("{% for i in range(600000) %}{% endfor %}done")
    assert [template.render({}, max_chars=100) for _ in range(2)] == ["done", "done"]


def test_output_up_to_the_cap_is_allowed():
    template = CompiledTemplate("{{ x }}{{ x }}")
    assert template.render({"x": "ab"}, max_chars=4) == "abab"
    with pytest.raises(TemplateError, match="more than 3 characters"):
        template.render({"x": "ab"}, max_chars=3)


def test_a_long_conversation_has_room(model):
    """The cap grows with the input: four times its size and a mebibyte."""
    long = "x" * 3_000_000
    prompt = model("smollm2").template.render([{"role": "user", "content": long}])
    assert long in prompt.text


def test_a_template_that_multiplies_its_input_is_stopped(inline):
    template = inline("{% for i in range(50) %}{{ messages[0].content }}{% endfor %}").template
    assert len(template.render([{"role": "user", "content": "short"}]).text) == 250
    with pytest.raises(TemplateError, match="writes more than"):
        template.render([{"role": "user", "content": "x" * 1_000_000}])


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "{% no_such_tag %}", "{% generation %}"])
def test_a_template_that_does_not_compile_says_where(source):
    with pytest.raises(TemplateError, match=r"^The chat template does not compile: .* \(line 1\)\.$"):
        CompiledTemplate(source)


def test_a_template_nested_too_deeply_does_not_compile():
    with pytest.raises(TemplateError, match="does not compile"):
        CompiledTemplate("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}")
