"""Adapters made by peft: greedy tokens equal peft's own, alone and in a batch where each row has another."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from handler.adapters.adapter import BadAdapter
from handler.adapters.model_shape import ModelShape
from handler.adapters.rows import BASE
from handler.runners.dynamic_cache.runner import DynamicCacheRunner
from tests.support import adapters, adapters_table, stock, tiny_models
from tests.support.adapters import FAMILIES, KINDS
from tests.support.local_engine import limits, loaded

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [[i, *[7, 40, 3, 11, 200, 7, 99][: 3 + i % 5]] for i in range(len(KINDS))]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_peft(family: str, tmp_path: Path) -> None:
    names = FAMILIES[family]
    model = tiny_models.build(family, **names.changes)
    runner = DynamicCacheRunner(loaded(copy.deepcopy(model)), 64)
    shape, bounds = ModelShape.of(model), limits(max_num_seqs=16, max_model_len=64)
    expected = stock.greedy(model, PROMPTS[0], 4)
    alone, differs = [], 0
    for slot, kind in enumerate(KINDS):
        directory = adapters.write(model, tmp_path / str(slot), seed=slot, **adapters.options(kind, names))
        found = adapters.load(runner, shape, directory, slot)
        assert found.unused == (), kind
        (answer,), _ = adapters.generate(runner, bounds, [(PROMPTS[slot], slot)], 4)
        assert adapters.choices(adapters.peft_model(model, directory), PROMPTS[slot], answer) == answer, kind
        differs += adapters.choices(model, PROMPTS[slot], answer) != answer
        alone.append(answer)
    assert differs > len(KINDS) // 2, "adapters must change answers for this test to mean anything"
    rows = [(PROMPTS[0], BASE), *((prompt, slot) for slot, prompt in enumerate(PROMPTS))]
    together, _ = adapters.generate(runner, bounds, rows, 4)
    assert together == [expected, *alone]


@pytest.mark.parametrize("family", ["deepseek_v3", "gemma4_text", "gpt_oss", "bloom", "jamba"])
def test_all_linear_layers_of_other_families(family: str, tmp_path: Path) -> None:
    """Latent keys that are multiplied anew in each step, heads of two sizes, experts with biases, states."""
    model = tiny_models.build(family, **tiny_models.every_expert(family))
    runner = DynamicCacheRunner(loaded(copy.deepcopy(model)), 64)
    runner.prove()
    bounds, shape = limits(max_model_len=64), ModelShape.of(model)
    alone = []
    for slot, prompt in enumerate(PROMPTS[:2]):
        made = adapters.write(model, tmp_path / str(slot), seed=slot, target_modules="all-linear")
        assert adapters.load(runner, shape, made, slot).unused == ()
        (answer,), _ = adapters.generate(runner, bounds, [(prompt, slot)], 4)
        assert adapters.choices(adapters.peft_model(model, made), prompt, answer) == answer
        alone.append(answer)
    base = stock.greedy(model, PROMPTS[2], 4)
    rows = [(PROMPTS[2], BASE), *((prompt, slot) for slot, prompt in enumerate(PROMPTS[:2]))]
    together, _ = adapters.generate(runner, bounds, rows, 4)
    assert together == [base, *alone]


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head", "q_proj"], ".*(embed_tokens|q_proj)"], ids=str)
def test_an_addition_that_peft_ties_to_the_output_layer(targets: list[str] | str, tmp_path: Path) -> None:
    """`ensure_weight_tying` lets the embedding's addition count in a tied output layer too, whichever is targeted."""
    model = tiny_models.build("llama", tie_word_embeddings=True)
    runner = DynamicCacheRunner(loaded(copy.deepcopy(model)), 64)
    made = adapters.write(model, tmp_path, target_modules=targets, ensure_weight_tying=True)
    assert adapters.load(runner, ModelShape.of(model), made, 0).unused == ()
    (answer,), _ = adapters.generate(runner, limits(max_model_len=64), [(PROMPTS[1], 0)], 8)
    assert adapters.choices(adapters.peft_model(model, made), PROMPTS[1], answer) == answer
    assert adapters.choices(model, PROMPTS[1], answer) != answer


def test_biases_of_routers_and_of_convolutions(tmp_path: Path) -> None:
    """A router gives a tuple, and a convolution no rows: what cannot be done is refused before a request uses it."""
    model = tiny_models.build("gpt_oss", **tiny_models.every_expert("gpt_oss"))
    runner = DynamicCacheRunner(loaded(copy.deepcopy(model)), 64)
    made = adapters.write(model, tmp_path / "a", target_modules=["q_proj"], bias="all")
    assert adapters.load(runner, ModelShape.of(model), made, 0).router_biases.keys()
    (answer,), _ = adapters.generate(runner, limits(max_model_len=64), [(PROMPTS[1], 0)], 4)
    assert adapters.choices(adapters.peft_model(model, made), PROMPTS[1], answer) == answer
    mixed = tiny_models.build("jamba")
    shape = ModelShape.of(mixed)
    adapters.read_adapter(adapters.write(mixed, tmp_path / "b", 0, 0.0, target_modules=["q_proj"], bias="all"), shape)
    changed = adapters.write(mixed, tmp_path / "c", target_modules=["q_proj"], bias="all")
    with pytest.raises(BadAdapter, match=r"conv1d\.bias changes the bias of a convolution"):
        adapters.read_adapter(changed, shape)


def test_the_page_of_files_is_up_to_date() -> None:
    """`python -m tests.support.adapters_table` writes it anew."""
    assert adapters_table.PATH.read_text() == adapters_table.render()
