"""Directories of adapters: what is read, what is refused and in which words, and where tensors land."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from handler.adapters.adapter import Adapter, BadAdapter
from handler.adapters.adapter_config import AdapterConfig, parse_config
from handler.adapters.model_shape import ModelShape
from handler.adapters.reading import read_adapter
from tests.support import tiny_models

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
HEAD = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"


def read_config(changes: dict[str, Any]) -> AdapterConfig:
    return parse_config(json.dumps(CONFIG | changes).encode())


def pair(path: str, inputs: int = 64, outputs: int = 64, rank: int = 2) -> dict[str, Tensor]:
    """A and B of a product."""
    down, up = torch.full((rank, inputs), 0.5), torch.arange(1.0, outputs * rank + 1).view(outputs, rank)
    return {f"{HEAD}{path}.lora_A.weight": down, f"{HEAD}{path}.lora_B.weight": up}


def write(directory: Path, tensors: dict[str, Tensor], **changes: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


_SHAPES: dict[str, ModelShape] = {}


def shape_of(family: str = "llama", **changes: Any) -> ModelShape:
    key = f"{family} {changes}"
    if key not in _SHAPES:
        _SHAPES[key] = ModelShape.of(tiny_models.build(family, num_hidden_layers=2, **changes))
    return _SHAPES[key]


def read(directory: Path, tensors: dict[str, Tensor], family: str = "llama", **changes: Any) -> Adapter:
    return read_adapter(write(directory, tensors, **changes), shape_of(family))


NOT_SERVED: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ({"peft_type": None}, "peft_type is None"),
    ({"use_dora": True}, "use_dora"),
    ({"use_qalora": True}, "use_qalora"),
    ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
    ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    ({"arrow_config": {"top_k": 1}}, "arrow_config"),
    ({"kasa_config": {"beta": 1}}, "kasa_config"),
    ({"monteclora_config": {"num_samples": 2}}, "monteclora_config"),
    ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ({"megatron_config": {"a": 1}}, "megatron_config"),
    ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
    ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
    ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
    ({"a_field_of_tomorrow": 3}, "'a_field_of_tomorrow'"),
    ({"bias": "some"}, "bias is 'some'"),
    ({"r": 0}, "r must be a positive integer"),
    ({"r": True}, "r must be a positive integer"),
    ({"r": 3}, "has the rank 2, and the configuration says 3"),
    ({"lora_alpha": "16"}, "lora_alpha must be a finite number"),
    ({"lora_alpha": 10**400}, "lora_alpha must be a finite number"),
    ({"r": 10**400}, "r must be a positive integer"),
    ({"rank_pattern": {f"{i}": 2 for i in range(5_001)}}, "rank_pattern has more than 5000 patterns"),
    ({"rank_pattern": {"q_proj": "x"}}, "rank_pattern must be a positive integer"),
    ({"rank_pattern": {"(q_proj": 2}}, "rank_pattern has a pattern that is not a regular expression"),
    ({"alpha_pattern": [1]}, "alpha_pattern must be an object"),
    ({"target_modules": {"a": 1}}, "target_modules must be a list of names"),
    ({"target_modules": "(a+)+$x" + "|" * 11_000}, "target_modules has a pattern of more than"),
    ({"layers_to_transform": "all"}, "layers_to_transform must be a list of numbers"),
    ({"trainable_token_indices": ["a"]}, "trainable_token_indices must hold lists of token ids"),
]


@pytest.mark.parametrize(("changes", "words"), NOT_SERVED, ids=str)
def test_what_is_not_served_is_refused_by_its_name(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadAdapter) as refused:
        read(tmp_path / "a", pair(Q), **changes)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


HARMLESS: list[dict[str, Any]] = (
    [{"init_lora_weights": each} for each in (True, False, "gaussian", "eva", "orthogonal", None)]
    + [{"a_field_of_tomorrow": each} for each in (None, False, [], {}, "")]
    + [{"lora_dropout": 0.1, "fan_in_fan_out": True, "velora_config": {"scale": 2.0}, "task_type": "SEQ_CLS"}]
)


@pytest.mark.parametrize("changes", HARMLESS, ids=str)
def test_what_changes_no_answer_is_taken(changes: dict[str, Any], tmp_path: Path) -> None:
    found = read(tmp_path / "a", pair(Q), **changes)
    assert (found.products.keys(), found.products[Q].scaling, found.max_rank) == ({Q}, 2.0, 2)
    assert found.num_bytes == (2 * 64 + 64 * 2) * 4


BAD_TENSORS: list[tuple[dict[str, Tensor], str]] = [
    ({}, "none of the adapter's 0 tensors"),
    (pair("model.layers.7.self_attn.q_proj"), "none of the adapter's 2 tensors belongs to this llama; the first is"),
    (pair("model.vision.blocks.0.q_proj"), "none of the adapter's 2 tensors"),
    (pair(Q, inputs=32), "lora_A.weight has the shape (2, 32); the model's model.layers.0.self_attn.q_proj needs"),
    (pair(Q, outputs=32), "lora_B.weight has the shape (32, 2)"),
    (dict([next(iter(pair(Q).items()))]), "lora_A.weight without the other matrix"),
    ({f"{HEAD}{Q}.lora_A.weight": torch.ones(2), f"{HEAD}{Q}.lora_B.weight": torch.ones(64, 2)}, "matrix is expected"),
    (pair(Q) | {f"{HEAD}{Q}.lora_A.weight": torch.full((2, 64), float("nan"))}, "holds NaN or infinity"),
    (pair(Q) | {f"{HEAD}{Q}.lora_B.weight": torch.full((64, 2), float("inf"))}, "holds NaN or infinity"),
    (pair(Q) | {f"{HEAD}{Q}.lora_A.weight": torch.ones(2, 64, dtype=torch.int8)}, "of the type int8"),
    (pair(Q) | {f"{HEAD}{Q}.lora_magnitude_vector": torch.ones(64)}, "DoRA"),
    (pair(Q) | {f"{HEAD}model.norm.weight": torch.ones(64)}, "only embeddings and output layer may be replaced"),
    (pair(Q) | {f"{HEAD}lm_head.weight": torch.ones(3, 64)}, "lm_head.weight has the shape (3, 64)"),
    (pair(Q) | pair("language_model.layers.0.self_attn.q_proj"), "are additions to the same weight"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "words"), BAD_TENSORS, ids=[words[:40] for _, words in BAD_TENSORS])
def test_tensors_that_do_not_fit_are_refused_by_name(tensors: dict[str, Tensor], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadAdapter) as refused:
        read(tmp_path / "a", tensors)
    assert words in str(refused.value)


def _without_config(directory: Path, outside: Path) -> None:
    (directory / "adapter_config.json").unlink()


def _bad_json(directory: Path, outside: Path) -> None:
    (directory / "adapter_config.json").write_text("[" * 100_000)


def _list_for_object(directory: Path, outside: Path) -> None:
    (directory / "adapter_config.json").write_text("[]")


def _pickled(directory: Path, outside: Path) -> None:
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")


def _linked_out(directory: Path, outside: Path) -> None:
    (directory / "adapter_model.safetensors").rename(outside)
    (directory / "adapter_model.safetensors").symlink_to(outside)


def _a_directory(directory: Path, outside: Path) -> None:
    (directory / "adapter_model.safetensors").unlink()
    (directory / "adapter_model.safetensors").mkdir()


def _truncated(directory: Path, outside: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def _no_safetensors(directory: Path, outside: Path) -> None:
    (directory / "adapter_model.safetensors").write_bytes(b"\xff" * 100)


BAD_FILES: list[tuple[Callable[[Path, Path], None], str]] = [
    (_without_config, "has no adapter_config.json"),
    (_bad_json, "adapter_config.json is not valid JSON"),
    (_list_for_object, "must hold a JSON object"),
    (_pickled, "holds pickled weights; only adapter_model.safetensors is read"),
    (_linked_out, "is a link that leads out of"),
    (_a_directory, "is not a file"),
    (_truncated, "cannot be read"),
    (_no_safetensors, "cannot be read"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_FILES)
def test_files_that_are_unsafe_or_broken_are_refused(
    spoil: Callable[[Path, Path], None], words: str, tmp_path: Path
) -> None:
    directory = write(tmp_path / "a", pair(Q))
    spoil(directory, tmp_path / "outside.safetensors")
    with pytest.raises(BadAdapter) as refused:
        read_adapter(directory, shape_of())
    assert words in str(refused.value)


def test_a_link_inside_the_directory_is_followed(tmp_path: Path) -> None:
    directory = write(tmp_path / "a", pair(Q))
    (directory / "adapter_model.safetensors").rename(directory / "blob")
    (directory / "adapter_model.safetensors").symlink_to("blob")
    assert read_adapter(directory, shape_of()).products.keys() == {Q}
    with pytest.raises(BadAdapter, match="is not a directory"):
        read_adapter(tmp_path / "none", shape_of())


def test_an_expression_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stranger: `re` would take years for it."""
    monkeypatch.setattr("handler.adapters.name_match._LIMIT_S", 0.5)
    endless = r"([a-z._0-9]|.){1,99}?([a-z._0-9]|.){1,99}?([a-z._0-9]|.){1,99}(?!.).$"
    with pytest.raises(BadAdapter, match="target_modules has a pattern that takes too long"):
        read(tmp_path / "a", pair(Q), target_modules=endless)


def test_all_expressions_of_an_adapter_share_one_limit_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alone is within the limit; compiling them counts."""
    monkeypatch.setattr("handler.adapters.name_match._LIMIT_S", 0.2)
    slow = {f"{'(a|b)' * 1_500}{i}": 2 for i in range(200)}
    with pytest.raises(BadAdapter, match="rank_pattern has patterns that take too long"):
        read(tmp_path / "a", pair(Q), rank_pattern=slow)


def test_a_pattern_for_each_module_is_read_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As peft writes them for a model of 126 layers; each is tried for each module."""
    monkeypatch.setattr("handler.adapters.name_match._LIMIT_S", 2.0)
    names = [f"layers.{layer}.{part}_proj" for layer in range(1, 127) for part in "qkvogud"]
    config = read_config({"rank_pattern": dict.fromkeys(names, 3)})
    assert {config.rank(f"model.{name}") for name in names} == {3}
    assert config.rank("model.layers.127.q_proj") == 2
    assert read_config({"rank_pattern": {"q.proj": 3}}).rank("a.q_proj") == 3


HEADS = ["model.", "model.language_model.", "language_model.model.", "language_model.", ""]


@pytest.mark.parametrize("head", HEADS)
def test_names_of_a_whole_image_text_model_land_on_its_language_part(
    head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = pair(f"{head}layers.0.self_attn.q_proj") | pair(f"{head}vision_tower.layers.0.self_attn.q_proj")
    found = read(tmp_path / "a", tensors)
    assert found.products.keys() == {Q}
    assert len(found.unused) == 2
    assert all("vision_tower" in name and name in caplog.text for name in found.unused)


def delta(adapter: Adapter, path: str) -> Tensor:
    one = adapter.products[path]
    return one.scaling * one.up @ one.down


def test_parts_land_in_a_fused_module_and_the_reverse(tmp_path: Path) -> None:
    """`q_proj` on `qkv_proj` of 64 + 32 + 32 outputs, two ranks, two factors; `qkv_proj` on a model that has parts."""
    at, whole = "model.layers.0.self_attn", "model.layers.0.self_attn.qkv_proj"
    tensors = pair(f"{at}.q_proj") | pair(f"{at}.v_proj", outputs=32, rank=3)
    patterns = {"rank_pattern": {"v_proj": 3}, "target_modules": ["q_proj", "v_proj"]}
    found = read(tmp_path / "a", tensors, "phi3", **patterns)
    alone = read(tmp_path / "b", tensors, **patterns)
    q, v = delta(alone, f"{at}.q_proj"), delta(alone, f"{at}.v_proj")
    torch.testing.assert_close(delta(found, whole), torch.cat([q, torch.zeros(32, 64), v]))
    assert (found.products.keys(), found.max_rank, found.products[whole].rank) == ({whole}, 3, 5)
    fused = pair(whole, outputs=128)
    split = read(tmp_path / "c", fused, target_modules=["qkv_proj"])
    parts = torch.cat([delta(split, f"{at}.{name}_proj") for name in "qkv"])
    expected = read(tmp_path / "d", fused, "phi3", target_modules=["qkv_proj"])
    torch.testing.assert_close(parts, delta(expected, whole))


def test_parts_of_gate_and_up_are_halves(tmp_path: Path) -> None:
    path = "model.layers.1.mlp"
    found = read(tmp_path / "a", pair(f"{path}.up_proj", outputs=96), "phi3", target_modules=["up_proj"])
    change = delta(found, f"{path}.gate_up_proj")
    assert not change[:96].any()
    assert change[96:].all()


@pytest.mark.parametrize(
    ("family", "first", "names"),
    [
        ("mixtral", "model.layers.0.block_sparse_moe.experts.{}", ("w1", "w3", "w2")),
        ("qwen3_moe", "model.layers.0.mlp.experts.{}", ("gate_proj", "up_proj", "down_proj")),
    ],
)
def test_adapters_of_single_experts_land_in_the_fused_ones(
    family: str, first: str, names: tuple[str, str, str], tmp_path: Path
) -> None:
    """As they were written before transformers kept all experts in one parameter."""
    shape, at = shape_of(family), "model.layers.0.mlp.experts"
    size = shape.experts[f"{at}.down_proj"]
    inner = size.num_inputs
    tensors: dict[str, Tensor] = {}
    for expert in (0, 2):
        tensors |= pair(f"{first.format(expert)}.{names[0]}", 64, inner)
        tensors |= pair(f"{first.format(expert)}.{names[1]}", 64, inner)
        tensors |= pair(f"{first.format(expert)}.{names[2]}", inner, 64)
    found = read(tmp_path / "a", tensors, family, target_modules=list(names), use_rslora=True)
    assert (found.unused, found.max_rank) == ((), 2)
    both, last = found.experts[f"{at}.gate_up_proj"], found.experts[f"{at}.down_proj"]
    change = both.scaling * both.up @ both.down
    half = 4 / 2**0.5 * torch.arange(1.0, inner * 2 + 1).view(inner, 2) @ torch.full((2, 64), 0.5)
    assert change.shape == (4, 2 * inner, 64)
    torch.testing.assert_close(change[2], torch.cat([half, half]))
    assert not change[1].any()
    assert last.down.shape == (4, 2, inner)
    assert not (last.up[3] @ last.down[3]).any()
    assert (last.up[2] @ last.down[2]).all()


TARGETS: list[tuple[dict[str, Any], bool]] = [
    ({"target_modules": ["q_proj"]}, True),
    ({"target_modules": ["proj"]}, False),
    ({"target_modules": [Q]}, True),
    ({"target_modules": "all-linear"}, True),
    ({"target_modules": r".*layers\.0\..*q_proj"}, True),
    ({"target_modules": r"layers\.0\..*q_proj"}, False),
    ({"layers_to_transform": [0]}, True),
    ({"layers_to_transform": 1}, False),
    ({"layers_to_transform": [0], "layers_pattern": "layers"}, True),
    ({"layers_to_transform": [0], "layers_pattern": ["h"]}, False),
    ({"exclude_modules": ["q_proj"]}, False),
    ({"exclude_modules": r".*\.1\..*"}, True),
    ({"exclude_modules": ["q_proj"], "target_modules": "all-linear"}, False),
    ({"exclude_modules": ["q_proj"], "target_modules": r".*\.(q|down)_proj.*"}, False),
    ({"exclude_modules": ["q_proj"], "target_parameters": ["q_proj.weight"]}, True),
]


@pytest.mark.parametrize(("changes", "lands"), TARGETS, ids=str)
def test_only_what_the_configuration_targets_lands(changes: dict[str, Any], lands: bool, tmp_path: Path) -> None:
    """peft leaves other tensors aside; here they are said."""
    other = "model.layers.1.mlp.down_proj"
    targets = changes.get("target_modules", ["q_proj"])
    changes = changes | ({"target_modules": [*targets, "mlp.down_proj"]} if isinstance(targets, list) else {})
    tensors = pair(Q) | pair(other, inputs=96)
    if not lands and (
        ("exclude_modules" not in changes and isinstance(targets, str)) or changes.get("layers_pattern") == ["h"]
    ):
        with pytest.raises(BadAdapter, match="none of the adapter's 4 tensors"):
            read(tmp_path / "a", tensors, **changes)
        return
    found = read(tmp_path / "a", tensors, **changes)
    assert (Q in found.products) is lands
    assert all(name in found.unused for name in pair(Q)) is not lands


def test_rows_of_tokens_reach_a_tied_output_layer(tmp_path: Path) -> None:
    tensors = {f"{HEAD}model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 64)}
    directory = write(tmp_path / "a", tensors | pair(Q), trainable_token_indices=[3, 5])
    assert read_adapter(directory, shape_of()).token_rows.keys() == {"model.embed_tokens"}
    tied = read_adapter(directory, shape_of(tie_word_embeddings=True))
    assert tied.token_rows.keys() == {"model.embed_tokens", "lm_head"}
    with pytest.raises(BadAdapter, match="trainable_token_indices has 900, and the model 320 tokens"):
        read_adapter(write(tmp_path / "a", tensors | pair(Q), trainable_token_indices=[3, 900]), shape_of())


def test_an_addition_that_peft_ties_reaches_the_output_layer(tmp_path: Path) -> None:
    """peft 0.21 targets the embedding alone then, and computes the factor of the output layer by its own names."""
    embedding, head = torch.ones(2, 320), torch.full((64, 2), 0.5)
    tensors = {
        f"{HEAD}model.embed_tokens.lora_embedding_A": embedding,
        f"{HEAD}lm_head.lora_A.weight": head.T.contiguous(),
    }
    tensors |= {
        f"{HEAD}model.embed_tokens.lora_embedding_B": head,
        f"{HEAD}lm_head.lora_B.weight": embedding.T.contiguous(),
    }
    changes: dict[str, Any] = {"target_modules": ["model.embed_tokens"], "rank_pattern": {"embed_tokens": 2}, "r": 8}
    tied = read(tmp_path / "a", tensors, **changes, ensure_weight_tying=True)
    assert (tied.unused, tied.products.keys(), tied.embeddings.keys()) == ((), {"lm_head"}, {"model.embed_tokens"})
    assert (tied.products["lm_head"].scaling, tied.embeddings["model.embed_tokens"].scaling) == (0.5, 2.0)
    assert not read(tmp_path / "b", tensors, **changes).products


def test_a_copy_of_the_bases_weight_changes_nothing(tmp_path: Path) -> None:
    """The base's weight may be gone by then."""
    model = tiny_models.build("llama", num_hidden_layers=2)
    shape, weight = ModelShape.of(model), weakref.ref(model.get_input_embeddings().weight)
    base = model.get_input_embeddings().weight.detach().clone()
    del model
    gc.collect()
    assert weight() is None
    names = {f"{HEAD}model.embed_tokens.lora_embedding_A": torch.ones(2, 320)}
    names |= {f"{HEAD}model.embed_tokens.lora_embedding_B": torch.ones(64, 2)}
    name = f"{HEAD}model.embed_tokens.base_layer.weight"
    for number, (copy, replaced) in enumerate([(base.clone(), False), (base.bfloat16(), False), (base + 1, True)]):
        written = write(tmp_path / str(number), names | {name: copy}, target_modules=["embed_tokens"])
        found = read_adapter(written, shape)
        assert found.embeddings.keys() == {"model.embed_tokens"}
        assert bool(found.weights) is replaced


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, [Q.replace("0", "1")]),
        (
            {"target_modules": r".*\.(0\.self_attn\.q|1\.self_attn\.[qk])_proj"},
            ["1.self_attn.q", "1.self_attn.k"],
        ),
        ({"layers_to_transform": [0]}, []),
        ({"exclude_modules": r".*\.1\..*"}, []),
        ({"target_modules": ["q_proj", "lm_head"], "layers_to_transform": 0, "modules_to_save": ["lm_head"]}, []),
        ({"target_modules": ["q_proj", "of_another_model"], "layers_to_transform": 0}, []),
    ],
)
def test_modules_that_are_targeted_and_have_no_tensors_are_named(
    changes: dict[str, Any], missing: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read(tmp_path / "a", pair(Q), **changes)
    lines = [record.getMessage() for record in caplog.records if "has no tensors for them" in record.getMessage()]
    assert len(lines) == bool(missing)
    for name in missing:
        assert name in lines[0]
    assert not any(f"{Q}" in line for line in lines)
