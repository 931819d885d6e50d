"""`python -m bench.models 200m|1b|3b|8b --form bf16|q4_k_m DIRECTORY`: random Llamas of real sizes, made from a seed.

`--pair` makes two, of which the smaller guesses what the larger says.

Nothing is downloaded: the tokenizer is that of the bundled model. Numbers are random, so only time and memory of such a
model mean anything. `q4_k_m` is written by llama.cpp's own tools from the very same weights, so that it and this server
can be measured on one file: LLAMA_CPP_DIR is a checkout of it with `build/bin/llama-quantize`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from handler.model.gguf_model import bundled_gguf, converted

BF16, Q4_K_M = "bf16", "q4_k_m"
_DEVIATION = 0.02
# Matrices of a layer whose outputs are added to what went in.
_LAST = ("o_proj.weight", "down_proj.weight")
_DRAFT_LAYERS = 2
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama whose heads have `hidden / heads` dimensions."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    is_tied: bool
    # That of the bundled model's tokenizer.
    vocabulary: int = 49_152


# As of Llama 3.2 1B and 3B and of Llama 3.1 8B, but for the vocabulary; 200m is for a look at once.
SHAPES = {
    "200m": Shape(12, 1024, 4096, 16, 4, is_tied=True),
    "1b": Shape(16, 2048, 8192, 32, 8, is_tied=True),
    "3b": Shape(28, 3072, 8192, 24, 8, is_tied=True),
    "8b": Shape(32, 4096, 14_336, 32, 8, is_tied=False),
}


def make(shape: Shape, directory: Path, cache_dir: Path, seed: int = 0, num_heard: int | None = None) -> None:
    """Write a bfloat16 checkpoint of transformers, one file for each layer: one layer is in memory at a time.

    `cache_dir` is the server's, which holds the bundled model's tokenizer or will. Layers after the first `num_heard`
    add nothing: their last matrices are zero.
    """
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    weight_map: dict[str, str] = {}
    for number, sizes in enumerate(_parts(shape)):
        name = f"model-{number:05}.safetensors"
        weights = {key: _numbers(size, generator) for key, size in sizes.items()}
        if num_heard is not None and number > num_heard:
            weights |= {key: torch.zeros_like(weights[key]) for key in weights if key.endswith(_LAST)}
        save_file(weights, directory / name, {"format": "pt"})
        weight_map |= dict.fromkeys(sizes, name)
    (directory / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(_config(shape)))
    source = converted(bundled_gguf(), cache_dir, lambda *_: None)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(source / file, directory / file)


def make_pair(shape: Shape, directory: Path, cache_dir: Path, seed: int = 0) -> None:
    """Write a model and a draft model whose guesses all come true, `served` and `draft`.

    The draft model is the first layers of the other, in which the later ones add nothing. The head is one of its own:
    that of the embedding would answer with the token it was given.
    """
    untied = replace(shape, is_tied=False)
    make(untied, directory / "served", cache_dir, seed, num_heard=_DRAFT_LAYERS)
    make(replace(untied, layers=_DRAFT_LAYERS), directory / "draft", cache_dir, seed)


def _parts(shape: Shape) -> Iterator[dict[str, tuple[int, ...]]]:
    """Names and sizes of the weights of each file."""
    hidden, keys = shape.hidden, shape.hidden // shape.heads * shape.kv_heads
    ends: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocabulary, hidden)}
    ends["model.norm.weight"] = (hidden,)
    if not shape.is_tied:
        ends["lm_head.weight"] = (shape.vocabulary, hidden)
    yield ends
    attention = {"q_proj": (hidden, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden)}
    attention["o_proj"] = (hidden, hidden)
    wide = (shape.intermediate, hidden)
    mlp = {"gate_proj": wide, "up_proj": wide, "down_proj": wide[::-1]}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        sizes: dict[str, tuple[int, ...]] = {f"{at}.self_attn.{name}.weight": size for name, size in attention.items()}
        sizes |= {f"{at}.mlp.{name}.weight": size for name, size in mlp.items()}
        sizes |= {f"{at}.{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        yield sizes


def _numbers(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Ones for a norm, else normally distributed."""
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    return (torch.randn(size, generator=generator) * _DEVIATION).bfloat16()


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.hidden // shape.heads,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.is_tied,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "dtype": "bfloat16",
    }


def quantise(directory: Path, llama_cpp: Path) -> Path:
    """`model-Q4_K_M.gguf` in `directory` of its checkpoint, by llama.cpp's converter and quantiser."""
    whole, target = directory / "model-bf16.gguf", directory / "model-Q4_K_M.gguf"
    convert = [sys.executable, llama_cpp / "convert_hf_to_gguf.py", directory, "--outtype", "bf16", "--outfile", whole]
    try:
        subprocess.run(convert, check=True)
        quantiser = llama_cpp / "build" / "bin" / "llama-quantize"
        subprocess.run([quantiser, whole, target, "Q4_K_M"], check=True)
    finally:
        whole.unlink(missing_ok=True)
    return target


def num_weights(shape: Shape) -> int:
    """How many numbers the model has."""
    return sum(math.prod(size) for sizes in _parts(shape) for size in sizes.values())


def main() -> int:
    """Make the model. Returns 2 where llama.cpp's tools are wanted and not named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--form", choices=(BF16, Q4_K_M), default=BF16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pair", action="store_true", help="DIRECTORY/served, and DIRECTORY/draft to guess for it")
    given = parser.parse_args()
    llama_cpp = os.environ.get("LLAMA_CPP_DIR")
    if given.form == Q4_K_M and not llama_cpp:
        sys.stderr.write("LLAMA_CPP_DIR must name a checkout of llama.cpp with build/bin/llama-quantize\n")
        return 2
    cache_dir = Path(os.environ.get("CACHE_DIR") or Path.home() / ".cache" / "tgi-heir")
    if given.pair:
        make_pair(SHAPES[given.size], given.directory, cache_dir, given.seed)
        return 0
    make(SHAPES[given.size], given.directory, cache_dir, given.seed)
    if given.form == Q4_K_M and llama_cpp:
        quantise(given.directory, Path(llama_cpp))
    sys.stderr.write(f"{given.directory}: {num_weights(SHAPES[given.size]) / 1e9:.2f} billion weights\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
