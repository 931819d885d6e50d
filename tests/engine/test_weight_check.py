"""A model is served with the weights of its files, all of them, or the start ends with a sentence that names one."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from container.text.chat_template import ChatTemplate
from container.text.template_files import read_templates
from container.text.tokenizer import Tokenizer
from handler.linears.cuda.fp8_linear import Fp8Linear
from handler.model.gguf_model import converted
from handler.model.loader import LoadedModel, load, not_finite
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadModel
from tests.support import tiny_gguf, tiny_models

Weights = dict[str, torch.Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def rewrite(directory: Path, change: Callable[[Weights], Weights]) -> None:
    file = directory / "model.safetensors"
    weights = change(load_file(file))
    file.unlink()
    save_file(weights, file, {"format": "pt"})


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def opened(directory: Path, quantize: Quantize = Quantize.NONE) -> LoadedModel:
    config = EngineConfig(quantize=quantize, device="cpu", dtype="float32", cache_dir=str(directory))
    return load(config, directory, lambda *_: None)


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.NF4, Quantize.INT8_BLOCKS])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", DOWN])
def test_an_absent_weight_is_named(model: Path, name: str, quantize: Quantize) -> None:
    rewrite(model, without(name))
    with pytest.raises(BadModel, match=f"lacks 1 of the model's weights, the first is {name}$"):
        opened(model, quantize)


@pytest.mark.parametrize("prefix", ["base_model.model.", "_orig_mod.", "module.", "base_model.model.module."])
def test_a_prefix_of_the_keys_is_named(model: Path, prefix: str) -> None:
    rewrite(model, lambda weights: {prefix + name: value for name, value in weights.items()})
    with pytest.raises(BadModel, match=f"first is model.embed_tokens.weight; it is stored as .* prefix '{prefix}' off"):
        opened(model)


def test_a_key_that_a_shard_lost_is_named(model: Path) -> None:
    in_shards(model, without(DOWN))
    with pytest.raises(BadModel, match=f"the first is {DOWN}$"):
        opened(model)


def in_shards(directory: Path, change: Callable[[Weights], Weights] = dict, **index: object) -> None:
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    shard = "model-00001-of-00001.safetensors"
    save_file(change(weights), directory / shard, {"format": "pt"})
    whole = {"weight_map": dict.fromkeys(weights, shard)} | index
    (directory / "model.safetensors.index.json").write_text(json.dumps(whole))


@pytest.mark.parametrize("index", [{}, {"metadata": None}, {"metadata": {"total_size": 1}}])
def test_an_index_needs_no_metadata(model: Path, index: dict[str, object]) -> None:
    stock = load_file(model / "model.safetensors")
    in_shards(model, **index)
    before = sorted(model.iterdir())
    assert torch.equal(opened(model).model.get_parameter(DOWN), stock[DOWN])
    assert sorted(model.iterdir()) == before


@pytest.mark.parametrize("stated", [True, False])
def test_a_tied_output_layer_may_be_absent_if_the_configuration_ties_it(model: Path, stated: bool) -> None:
    edit(model / "config.json", tie_word_embeddings=stated)
    rewrite(model, without("lm_head.weight"))
    if not stated:
        with pytest.raises(BadModel, match=r"lm_head\.weight"):
            opened(model)
        return
    loaded = opened(model).model
    assert loaded.get_parameter("lm_head.weight") is loaded.get_parameter("model.embed_tokens.weight")


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", DOWN, "model.norm.weight"])
def test_a_weight_of_the_wrong_shape_is_named(model: Path, name: str) -> None:
    rewrite(model, lambda weights: weights | {name: weights[name][:20].clone()})
    with pytest.raises(BadModel, match=rf"the weight {name} has the shape \[20.*\], and config.json makes it"):
        opened(model)


@pytest.mark.parametrize("change", ["absent", "cut"])
def test_an_expert_that_does_not_fit_is_named(tmp_path: Path, change: str) -> None:
    tiny_models.save("mixtral", tmp_path)
    name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    rewrite(tmp_path, without(name) if change == "absent" else lambda w: w | {name: w[name][:10].clone()})
    with pytest.raises(BadModel, match=r"the weight model\.layers\.1\.mlp\.experts\.gate_up_proj"):
        opened(tmp_path)


def test_unused_weights_are_one_line(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(model, lambda w: w | {f"{part}.weight": torch.zeros(2) for part in ("zoo", "vision.a")})
    with caplog.at_level(logging.WARNING):
        opened(model)
    (line,) = [record.getMessage() for record in caplog.records if "not used" in record.getMessage()]
    assert line == f"{model}: 2 weights are not used, the first is vision.a.weight"


def test_computed_buffers_of_older_files_are_no_weights(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(model, lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)})
    with caplog.at_level(logging.WARNING):
        opened(model)
    assert not [record for record in caplog.records if "not used" in record.getMessage()]


def in_gguf(path: Path, quantize: Quantize = Quantize.NONE) -> LoadedModel:
    return opened(converted(path, path.parent / "cache", lambda *_: None), quantize)


def test_a_gguf_file_keeps_all_its_ends(tmp_path: Path) -> None:
    assert in_gguf(tiny_gguf.write(tmp_path / "a.gguf", ids={"eot": 258, "eom": 5})).eos_token_ids == {5, 257, 258}


@pytest.mark.parametrize(
    ("templates", "plain", "with_tools"),
    [
        ({"default": "D", "tool_use": "T", "rag": "R"}, "D", "T"),
        ({"default": "D", "rag": "R"}, "D", "D"),
        ({"default": "D"}, "D", "D"),
    ],
)
def test_a_gguf_file_keeps_its_named_templates(
    tmp_path: Path, templates: dict[str, str], plain: str, with_tools: str
) -> None:
    made = converted(tiny_gguf.write(tmp_path / "a.gguf", templates=templates), tmp_path / "cache", lambda *_: None)
    assert read_templates(made) == templates
    template = ChatTemplate.load(made, Tokenizer.load(made))
    assert template is not None
    hello = [{"role": "user", "content": "hello"}]
    assert (template.render(hello).text, template.render(hello, tools=[{}]).text) == (plain, with_tools)


@pytest.mark.parametrize(
    ("quantize", "is_dense"), [(Quantize.AUTO, True), (Quantize.INT4_BLOCKS, False), (Quantize.INT8_BLOCKS, False)]
)
def test_a_gguf_file_in_float32_is_quantised_if_it_is_asked(tmp_path: Path, quantize: Quantize, is_dense: bool) -> None:
    loaded = in_gguf(tiny_gguf.write(tmp_path / "a.gguf"), quantize)
    assert ("model.layers.1.mlp.up_proj.weight" in dict(loaded.model.named_parameters())) is is_dense
    assert loaded.quantize == ("none" if is_dense else quantize)


def test_a_gguf_file_may_lack_a_tied_output_layer_alone(tmp_path: Path) -> None:
    loaded = in_gguf(tiny_gguf.write(tmp_path / "a.gguf", lambda tensors: tensors.pop("output.weight")))
    assert loaded.model.get_parameter("lm_head.weight") is loaded.model.get_parameter("model.embed_tokens.weight")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("blk.1.ffn_down.weight"), f"a.gguf lacks 1 of the model's weights, the first is {DOWN}"),
        (
            lambda t: t.update({"output_norm.weight": t["output_norm.weight"][:16]}),
            "a.gguf: the weight model.norm.weight",
        ),
    ],
)
def test_a_gguf_file_that_lacks_a_weight(tmp_path: Path, change: Callable[[object], None], sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        in_gguf(tiny_gguf.write(tmp_path / "a.gguf", change))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.99])
def test_a_gguf_file_that_is_cut_short(tmp_path: Path, share: float) -> None:
    path = tiny_gguf.write(tmp_path / "a.gguf")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(BadModel, match=r"a\.gguf could not be converted: "):
        in_gguf(path)


def test_the_scales_of_packed_weights_are_looked_at_too() -> None:
    codes = torch.zeros(16, 16).to(torch.float8_e4m3fn)
    layers = [Fp8Linear(codes, torch.tensor(scale), None) for scale in (1.0, float("nan"))]
    assert not_finite(torch.nn.Sequential(*layers[:1])) is None
    assert not_finite(torch.nn.Sequential(*layers)) == "1.scale"
