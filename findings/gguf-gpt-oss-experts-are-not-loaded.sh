#!/usr/bin/env bash
# transformers lists gpt-oss among the GGUF architectures it loads: published files raise TypeError, and without the
# value at which they do, the experts stay random.
#
# What happens: every published gpt-oss file says how far its rotary frequencies are stretched (`rope.scaling.factor`).
#   Reading configuration, tokenizer or model fails there: "only 0-dimensional arrays can be converted to Python
#   scalars". A file without it loads. Its experts' tensors are called `ffn_gate_exps`, `ffn_up_exps` and
#   `ffn_down_exps`, as llama.cpp and the package gguf have it; transformers looks for `ffn_gate_projs` and so on. The
#   experts keep their random initialisation, another one for each load; the load report lists them as MISSING.
# Expected instead: the model of the file, or "GGUF model with architecture gpt-oss is not supported yet".
# Why it matters: the GGUF form is the one in which gpt-oss is mostly passed on.
# What helps: load the original checkpoint, or read the file with llama.cpp.
# Explained in: transformers 5.24.0, modeling_gguf_pytorch_utils.py: `read_gpt_key` takes `parts[0]` of a field, which
#   is the length of its key; `GptOssTensorProcessor` has the other names.
# Seen: 2026-12-01, transformers 5.24.0 (5.23.0 the same), gguf 0.19.0, torch 2.13.0 (CPU), Python 3.11, Linux x86-64.
#   The model is tiny, with random weights. Does not depend on the processor.
#
# Output seen. The script compares these lines with what it gets:
#= transformers 5.24.0, gguf 0.19.0
#= with rope.scaling.factor: TypeError: only 0-dimensional arrays can be converted to Python scalars
#= without it: attention as in the file True, experts as in the file False, two loads agree False
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6 gguf==0.19.0 accelerate==1.15.0

HF_HUB_OFFLINE=1 "$work/venv/bin/python" -I - "$work" >"$work/seen" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import sys
from importlib.metadata import version
from pathlib import Path

import gguf
import torch
import transformers
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM

TOKENS = ["<s>", "</s>", *map(chr, range(33, 126)), "!!"]
torch.manual_seed(0)
config = GptOssConfig(
    vocab_size=len(TOKENS),
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=64,
    num_local_experts=2,
    num_experts_per_tok=1,
    tie_word_embeddings=False,
)
model = GptOssForCausalLM(config).eval()
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT_OSS, 1)


def tensors():
    """As llama.cpp's converter: gate and up projections apart, matrices of experts with the inputs last."""
    for name, weight in model.state_dict().items():
        if ".experts." not in name:
            stem, _, suffix = name.rpartition(".") if not name.endswith("sinks") else (name, "", "weight")
            yield f"{names.get_name(stem)}.{suffix}", weight
            continue
        part = name.rpartition(".")[2]
        suffix = "bias" if part.endswith("_bias") else "weight"
        rows = weight if suffix == "bias" else weight.mT
        if part.startswith("down"):
            yield f"blk.0.ffn_down_exps.{suffix}", rows
        else:
            yield f"blk.0.ffn_gate_exps.{suffix}", rows[:, ::2]
            yield f"blk.0.ffn_up_exps.{suffix}", rows[:, 1::2]


def write(name: str, factor: float | None) -> None:
    writer = gguf.GGUFWriter(Path(sys.argv[1]) / name, "gpt-oss")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(64)
    writer.add_expert_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(64)
    writer.add_value_length(64)
    writer.add_expert_count(2)
    writer.add_expert_used_count(1)
    writer.add_rope_freq_base(150000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(128)
    if factor is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(["! !"])
    for each, tensor in tensors():
        writer.add_tensor(each, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(name: str) -> GptOssForCausalLM:
    return AutoModelForCausalLM.from_pretrained(sys.argv[1], gguf_file=name, dtype=torch.float32)


print(f"transformers {transformers.__version__}, gguf {version('gguf')}")
write("published.gguf", 4.0)
try:
    load("published.gguf")
    print("with rope.scaling.factor: loaded")
except TypeError as error:
    print(f"with rope.scaling.factor: TypeError: {error}")
write("plain.gguf", None)
one, other = load("plain.gguf").model.layers[0], load("plain.gguf").model.layers[0]
own = model.model.layers[0]
attention = torch.equal(one.self_attn.q_proj.weight, own.self_attn.q_proj.weight)
experts = torch.equal(one.mlp.experts.down_proj, own.mlp.experts.down_proj)
agree = torch.equal(one.mlp.experts.down_proj, other.mlp.experts.down_proj)
print(f"without it: attention as in the file {attention}, experts as in the file {experts}, two loads agree {agree}")
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
