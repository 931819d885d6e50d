"""Tiny random checkpoints of every image-text type that transformers knows, saved by transformers itself.

`python -m tests.support.tiny_image_text [TYPE ...]` starts each and prints what became of it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from handler.model.checks.model_config import read_config
from handler.model.loader import load
from handler.model.loading import text_part
from handler.runners.choice import choose_runner
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import StartupError
from handler.seam.status import StatusBoard
from tests.support.local_engine import LocalEngine
from tests.support.tiny_models import EOS_ID, VOCAB_SIZE, write_tokenizer

TYPES = tuple(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
PROMPT = [5, 9, 17, 33, 41, 50, 7, 100, 101, 102]
NUM_TOKENS = 6
SMALL = {"max_model_len": 64, "max_num_seqs": 4, "max_num_batched_tokens": 16, "page_size": 16}
_LAYERS, _TOWER_LAYERS = 4, 2

# The most that a size may be, by its names in the configurations.
_AT_MOST = {
    VOCAB_SIZE: "vocab_size text_vocab_size vocab_size_per_layer_input unpadded_vocab_size",
    96: "intermediate_size intermediate_size_mlp mlp_dim dense_intermediate_size n_inner",
    64: "hidden_size d_model embed_dim n_embd dim width hidden_dim projection_dim output_dim encoder_hidden_size "
    "decoder_hidden_size out_hidden_size word_embed_proj_dim ffn_dim encoder_ffn_dim decoder_ffn_dim "
    "mm_hidden_size text_hidden_size projection_hidden_dim projector_hidden_size",
    32: "moe_intermediate_size shared_expert_intermediate_size share_expert_dim qformer_hidden_size base_channels",
    16: "head_dim global_head_dim swa_head_dim index_head_dim linear_head_dim hidden_size_per_layer_input",
    8: "linear_key_head_dim linear_value_head_dim attention_chunk_size sliding_window sliding_window_size",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads "
    "num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads linear_num_heads "
    "swa_num_attention_heads num_sliding_attention_heads",
    2: "num_key_value_heads num_kv_heads n_kv_heads num_experts_per_tok top_k moe_k moe_topk linear_num_key_heads "
    "swa_num_key_value_heads num_global_key_value_heads n_shared_experts moe_num_shared_experts",
    512: "max_position_embeddings n_positions ngram_vocab_size_base",
    128: "codebook_size num_embeddings",
    28: "image_size",
    14: "patch_size",
}
_SIZES = {name: size for size, names in _AT_MOST.items() for name in names.split()}
_DEPTHS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers", "depth")
# Latent attention: its heads have parts of their own sizes.
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 12}
_LATENT |= {"n_group": 1, "topk_group": 1}
_IDS = {"pad_token_id": 0, "bos_token_id": 256, "eos_token_id": EOS_ID, "decoder_start_token_id": 256}
_LEFT_OUT = frozenset({"id2label", "label2id", "transformers_version", "architectures", "per_layer_config"})
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MROPE = {"text_config.rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}}
# What a type's default configuration lacks, or what must fit something else in it. Keys are paths.
_SAID: dict[str, dict[str, Any]] = {
    "chameleon": {"vocabulary_map": {"<image>": 319}},
    "emu3": {"vocabulary_map": {"<image>": 319}},
    "cohere_compass": {"text_config.rope_parameters": {"full_attention": _ROPE}},
    "deepseek_ocr2": {
        "text_config.mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "text_config.num_experts_per_tok": 2,
    },
    "diffusion_gemma": {
        "text_config.num_experts": 4,
        "text_config.top_k_experts": 2,
        "text_config.moe_intermediate_size": 32,
    },
    "dots3_note": {
        "vision_config.adapter_in_dim": 64,
        "vision_config.adapter_out_dim": 64,
        "audio_config.adapter_input_size": 64,
        "audio_config.adapter_out_dim": 64,
    },
    "ernie4_5_vl_moe": {
        "text_config.moe_intermediate_size": [32, 32],
        "text_config.rope_parameters": _ROPE | {"mrope_section": [3, 3, 2]},
    },
    "gemma3n": {
        "text_config.layer_types": ["sliding_attention", "full_attention"] * 2,
        "text_config.num_kv_shared_layers": 2,
    },
    "glm46v": _MROPE,
    "glm4v": _MROPE,
    "glm4v_moe": {
        "text_config.rope_parameters": _ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]},
    },
    "glm5_next": {"text_config.qk_rope_head_dim": 0, "text_config.head_dim": 0},
    "glm_ocr": _MROPE,
    "glmga": _MROPE,
    "granite4_vision": {"downsample_rate": "1/2", "deepstack_layer_map": [[0, 0]], "spatial_target_layers": [1]},
    "hunyuan_vl": {
        "text_config.head_dim": 16,
        "text_config.rope_parameters": _ROPE | {"mrope_section": [2, 2, 2, 2]},
    },
    "mistral4": {"head_dim": 16},
    "molmo2": {"adapter_config.vision_feature_layer": [1, 0]},
    "paddleocr_vl": _MROPE,
    "perception_lm": {"vision_config.model_args": {"embed_dim": 64}},
    "qwen2_5_omni_thinker": _MROPE,
    "qwen2_5_vl": _MROPE,
    "qwen2_vl": _MROPE,
    "qwen4_exp": {
        "text_config.indexer_n_heads": 2,
        "text_config.indexer_kv_heads": 1,
        "text_config.indexer_head_dim": 16,
        "text_config.indexer_budget": 8,
        "text_config.indexer_compress_ratio": 4,
    },
    "step3p7": {"text_config.sliding_window": 8},
}


def tiny_config(model_type: str) -> Any:
    """The default configuration of `model_type` with small sizes, and a vocabulary of `VOCAB_SIZE`."""
    values = _small(CONFIG_MAPPING[model_type]().to_dict(), is_tower=False)
    for path, value in _SAID.get(model_type, {}).items():
        *parts, name = path.split(".")
        held = values
        for part in parts:
            held = held[part]
        held[name] = value
    values.pop("model_type")
    return AutoConfig.for_model(model_type, **values)


def _small(values: Mapping[Any, Any], *, is_tower: bool) -> dict[Any, Any]:
    depth = _TOWER_LAYERS if is_tower else _LAYERS
    made: dict[Any, Any] = {}
    for name, value in values.items():
        if name in _LEFT_OUT:
            continue
        made[name] = value
        if isinstance(value, dict):
            inside = str(name).endswith("config") and not str(name).startswith(("text", "decoder"))
            made[name] = _small(value, is_tower=is_tower or inside)
        elif isinstance(value, int) and not isinstance(value, bool):
            made[name] = _small_number(str(name), value, depth)
        elif isinstance(value, list) and len(value) > depth and len(value) in _depths(values):
            made[name] = value[:depth]
    if "kv_lora_rank" in made:
        made |= {name: size for name, size in _LATENT.items() if name in made}
        made |= {"head_dim": 8, "num_key_value_heads": made["num_attention_heads"]}
    _settle_sections(made)
    return made


def _depths(values: Mapping[Any, Any]) -> set[int]:
    return {values[name] for name in _DEPTHS if isinstance(values.get(name), int)}


def _small_number(name: str, value: int, depth: int) -> int:
    if name in _IDS:
        return _IDS[name]
    if name in _DEPTHS:
        return min(value, depth)
    if name.endswith(("_token_id", "_token_index", "_id")) and value >= VOCAB_SIZE:
        return VOCAB_SIZE - 1 - value % 50  # text of the tests has none of these
    return min(value, _SIZES.get(name, value))


def _settle_sections(values: dict[Any, Any]) -> None:
    """Make the parts of M-RoPE fill half of the rotated width."""
    rope = values.get("rope_parameters")
    if not isinstance(rope, dict) or "mrope_section" not in rope:
        return
    width = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    half = int(width * rope.get("partial_rotary_factor", 1.0)) // 2
    third = half // 3
    rope["mrope_section"] = [half - 2 * third, third, third]


def build(model_type: str) -> PreTrainedModel:
    """The whole model in float32 with random weights; its language part if a tower needs a package that is not here."""
    torch.manual_seed(0)
    config = tiny_config(model_type)
    try:
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    except ImportError:
        model = text_part.loading_class(config)._from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "norm" not in name:
                parameter.normal_(0.0, 0.15)
    return model.eval()


def save(model_type: str, directory: Path) -> PreTrainedModel:
    """Write a checkpoint of the whole model with a tokenizer; returns the model."""
    model = build(model_type)
    model.generation_config = GenerationConfig(eos_token_id=EOS_ID, pad_token_id=0)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return model


@torch.no_grad()
def greedy(model: Any, prompt: list[int], num_tokens: int) -> list[int]:
    """Greedy tokens of the whole model for a text, each from a pass over all tokens before it.

    Where the whole model takes no text alone, those of the causal language model of transformers inside it.
    """
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(_logits(model, torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def _logits(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    try:
        logits: torch.Tensor = model(input_ids=input_ids).logits
    except (AttributeError, TypeError):
        inner = model.language_model if hasattr(model, "language_model") else model.model.language_model
        logits = (
            inner(input_ids=input_ids).logits if hasattr(inner, "lm_head") else _soft_capped(model, inner, input_ids)
        )
    return logits


def _soft_capped(model: Any, inner: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Gemma 3n's: its whole model asks its towers, which need timm, for each token."""
    logits = model.lm_head(inner(input_ids=input_ids).last_hidden_state)
    cap = model.config.get_text_config().final_logit_softcapping
    return torch.tanh(logits / cap) * cap


def started(model_type: str, directory: Path) -> tuple[LocalEngine, PreTrainedModel]:
    """An engine over a new checkpoint in `directory`, and the whole model. Raises StartupError."""
    (directory / "model").mkdir()
    tiny_config(model_type).save_pretrained(directory / "model")
    read_config(directory / "model", trust_remote_code=False)  # what it refuses need not be made
    model = save(model_type, directory / "model")
    config = EngineConfig(
        model=str(directory / "model"),
        cache_dir=str(directory),
        device="cpu",
        dtype="float32",
        quantize=Quantize.NONE,
        **SMALL,
    )
    loaded = load(config, directory / "model", lambda *_: None)
    runner, limits = choose_runner(config, loaded, StatusBoard(directory / "board", create=True))
    return LocalEngine(runner, limits, directory), model


def row(model_type: str) -> str:
    """What became of one type: its runner, class and whether the tokens are equal, or the sentence of the refusal."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            engine, model = started(model_type, Path(scratch))
        except StartupError as exc:
            return f"refused: {exc}".replace(scratch, "")
        outcome = engine.submit(PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True)
        engine.run()
        engine.close()
        same = "equal" if outcome.token_ids == greedy(model, PROMPT, NUM_TOKENS) else "DIFFERENT"
        return f"{engine.core.runner.name}, {type(engine.core.runner.loaded.model).__name__}, {same}"


def main(asked: list[str]) -> None:
    """Print a row for each type, and how many start."""
    torch.set_num_threads(1)
    rows = []
    for model_type in asked or TYPES:
        rows.append(row(model_type))
        sys.stdout.write(f"| `{model_type}` | {rows[-1]} |\n")
        sys.stdout.flush()
    equal = sum(each.endswith(", equal") for each in rows)
    sys.stdout.write(f"{equal} of {len(rows)} start with the tokens of the whole model\n")


if __name__ == "__main__":
    main(sys.argv[1:])
