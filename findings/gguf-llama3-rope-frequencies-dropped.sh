#!/usr/bin/env bash
# transformers: a Llama 3.1 GGUF file loads with plain rotary frequencies; the scaling that the file states is dropped.
#
# What happens: llama.cpp's converter stores the rope scaling of Llama 3.1 and later as the tensor rope_freqs.weight:
#   for each pair of dimensions, what its frequency is divided by. `from_pretrained(..., gguf_file=...)` skips the tensor
#   without a warning, and the model's frequencies are the plain ones. So are those of a file whose metadata say
#   rope.scaling.type and rope.scaling.factor: only rope.freq_base is read.
# Expected instead: the frequencies of the checkpoint that the file was made from, as llama.cpp computes them, or an
#   error.
# Why it matters: the slowest frequencies are off by the factor, 8 in Llama 3.1 and 32 in Llama 3.2, at every position.
#   Short answers look right; the longer the prompt, the worse the answer.
# What helps: set `config.rope_parameters` by hand from the original config.json before the weights are loaded.
# Explained in: transformers 5.24.0, modeling_gguf_pytorch_utils.py: a tensor that the map of names lacks is passed over;
#   integrations/ggml.py: GGUF_CONFIG_MAPPING has no key rope.scaling. llama.cpp, conversion of Llama:
#   `generate_extra_tensors`.
# Seen: 2026-11-30, transformers 5.24.0 and 5.23.0, gguf 0.19.0, torch 2.13.0 (CPU), Python 3.11, Linux x86-64. The model
#   is tiny, with random weights; factors and metadata are those of Llama 3.1. Does not depend on the processor.
#
# Output seen. The script compares these lines with what it gets:
#= transformers 5.24.0; the last four frequencies
#= GGUF with rope_freqs.weight, rope type default:
#=   expected 6.65e-06 2.93e-06 1.29e-06 5.68e-07
#=   found 5.32e-05 2.34e-05 1.03e-05 4.54e-06
#=   as expected: False; plain: True; weights as written: True
#= GGUF with rope.scaling linear 4, rope type default:
#=   expected 1.33e-05 5.85e-06 2.58e-06 1.14e-06
#=   found 5.32e-05 2.34e-05 1.03e-05 4.54e-06
#=   as expected: False; plain: True; weights as written: True
#= safetensors, rope type llama3:
#=   expected 6.65e-06 2.93e-06 1.29e-06 5.68e-07
#=   found 6.65e-06 2.93e-06 1.29e-06 5.68e-07
#=   as expected: True; plain: False; weights as written: True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6 gguf==0.19.0 \
  accelerate==1.15.0

HF_HUB_OFFLINE=1 "$work/venv/bin/python" -I - "$work" >"$work/seen" <<'PY'
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.manual_seed(0)
THETA, HEAD = 500_000.0, 32
LLAMA3 = {"rope_type": "llama3", "rope_theta": THETA, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": HEAD}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 131_072}
config = LlamaConfig(**SIZES, rope_parameters=LLAMA3)
original = LlamaForCausalLM(config)
plain = 1 / THETA ** (torch.arange(0, HEAD, 2).float() / HEAD)
expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
work = Path(sys.argv[1])


def written(name: str, *, factors: Tensor | None = None, linear: float | None = None) -> str:
    """The model as llama.cpp's converter writes it."""
    writer = gguf.GGUFWriter(work / name, "llama")
    writer.add_context_length(131_072)
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(THETA)
    writer.add_vocab_size(64)
    if linear is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(linear)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors.numpy().astype(np.float32))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for key, weight in original.state_dict().items():
        data = weight
        if key.endswith(("q_proj.weight", "k_proj.weight")):  # pairs lie side by side
            data = weight.view(2, 2, HEAD // 2, 64).transpose(1, 2).reshape(64, 64)
        writer.add_tensor(names.get_name(key, (".weight",)), np.ascontiguousarray(data.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return name


def loaded(**given: str) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(work, dtype=torch.float32, **given).eval()


def told(name: str, model: LlamaForCausalLM, right: Tensor) -> None:
    found = model.model.rotary_emb.inv_freq
    print(f"{name}, rope type {model.config.rope_parameters['rope_type']}:")
    for row, values in (("expected", right), ("found", found)):
        print(f"  {row}", " ".join(f"{value:.3g}" for value in values[-4:].tolist()))
    same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), original.state_dict().values()))
    print(f"  as expected: {torch.allclose(found, right)}; plain: {torch.allclose(found, plain)}; weights as written: {same}")


print(f"transformers {transformers.__version__}; the last four frequencies")
told("GGUF with rope_freqs.weight", loaded(gguf_file=written("llama3.gguf", factors=plain / expected)), expected)
told("GGUF with rope.scaling linear 4", loaded(gguf_file=written("linear.gguf", linear=4.0)), plain / 4)
original.save_pretrained(work)
told("safetensors", loaded(), expected)
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
