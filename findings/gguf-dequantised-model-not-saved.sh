#!/usr/bin/env bash
# A GGUF model that transformers has dequantised by itself cannot be saved; one that was asked to can.
#
# What happens: without the package `kernels`, `from_pretrained(gguf_file=...)` makes a plain dense model: every layer is
#   `torch.nn.Linear` with float weights. Yet `save_pretrained` raises "The model is quantized with gguf and is not
#   serializable". With `GgufConfig(dequantize=True)` the very same model, weight for weight, is saved.
# Expected instead: what was loaded dense is saved, as where it was asked for. It is the usual way from a GGUF file to
#   safetensors.
# Why it matters: the conversion fails after the weights have been read, and the message points to a warning about
#   serialisation that was never logged.
# What helps: pass `quantization_config=GgufConfig(dequantize=True)`.
# Explained in: transformers 5.23.0 and 5.24.0, quantizers/quantizer_gguf.py: the fallback in `validate_environment` sets
#   `dequantize` after `get_hf_quantizer` (quantizers/auto.py) has decided whether the model keeps its quantiser, and
#   `is_serializable` is always False.
# Seen: 2026-11-30, transformers 5.24.0, accelerate 1.15.0, gguf 0.19.0, torch 2.13.0, Python 3.11, Linux x86-64. Does not depend on the
#   processor.
#
# Output seen. The script compares these lines with what it gets:
#= transformers 5.24.0, gguf 0.19.0, kernels installed: False
#= by default: a layer is torch.nn.modules.linear.Linear of torch.float32
#= asked to dequantise: a layer is torch.nn.modules.linear.Linear of torch.float32
#= weights are equal: True
#= by default, save_pretrained: ValueError: The model is quantized with gguf and is not serializable
#= asked to dequantise, save_pretrained: done
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 accelerate==1.15.0 gguf==0.19.0 safetensors==0.8.0 numpy==2.4.6

HF_HUB_OFFLINE=1 "$work/venv/bin/python" -I - "$work" >"$work/seen" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import sys

import gguf
import numpy as np
import torch
import transformers
from importlib.metadata import version
from importlib.util import find_spec
from transformers import AutoModelForCausalLM, GgufConfig

FOLDER = sys.argv[1]
WIDTH, WORDS, HEADS = 64, 32, 4


def write() -> None:
    """A Llama of one layer, its matrices in Q8_0."""
    writer = gguf.GGUFWriter(f"{FOLDER}/tiny.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"<{number}>" for number in range(WORDS)])
    numbers = np.random.default_rng(0)
    matrices = {"token_embd": WORDS, "output": WORDS}
    matrices |= {f"blk.0.{name}": WIDTH for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    matrices |= {f"blk.0.{name}": WIDTH for name in ("ffn_gate", "ffn_up", "ffn_down")}
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, rows in matrices.items():
        dense = numbers.standard_normal((rows, WIDTH), np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(dense, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def outcome(act) -> str:
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).split(' - ')[0]}"
    return "done"


write()
print(f"transformers {transformers.__version__}, gguf {version('gguf')}, kernels installed: {find_spec('kernels') is not None}")
models = {
    "by default": AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file="tiny.gguf"),
    "asked to dequantise": AutoModelForCausalLM.from_pretrained(
        FOLDER, gguf_file="tiny.gguf", quantization_config=GgufConfig(dequantize=True)
    ),
}
for name, model in models.items():
    layer = model.model.layers[0].mlp.up_proj
    print(f"{name}: a layer is {type(layer).__module__}.{type(layer).__name__} of {layer.weight.dtype}")
first, second = (model.state_dict() for model in models.values())
print("weights are equal:", all(torch.equal(first[key], second[key]) for key in first | second))
for name, model in models.items():
    print(f"{name}, save_pretrained: {outcome(lambda: model.save_pretrained(f'{FOLDER}/saved'))}")
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
