#!/usr/bin/env bash
# bitsandbytes on a CPU with AVX-512 bfloat16: after one forward pass, a 4-bit weight dequantises to noise, so that an
# adapter merged by peft, or a model made dense by transformers, is destroyed if it has answered before.
#
# What happens: `Linear4bit.forward`, outside of training, rearranges the weight for the processor's own product, in
#   place, and marks that on `quant_state.packing_format_for_cpu`. `dequantize_4bit` does not look at the mark. It reads
#   the new layout as the old one: every weight is a value that belongs elsewhere, of the right scale. peft's
#   `merge_and_unload` and transformers' `dequantize` call it. Nothing is said.
# Expected instead: the weights, as before the pass. Saving the model undoes the layout, and so does `.cuda()`.
# Why it matters: "ask it something, and if the answer is good, merge" is the usual order. The merged model answers
#   nonsense, with weights that look healthy: no NaN, no error, usual sizes.
# What helps: merge, or dequantise, before the first pass; or save and load the model in between.
# Explained in: bitsandbytes 0.50.2, nn/modules.py, `Linear4bit.forward`; functional.py, `dequantize_4bit`. Moving such a
#   layer by `.to()` was reported for the same reason (bitsandbytes issue 2078), dequantising was not.
# Seen: 2026-12-01, bitsandbytes 0.50.2, peft 0.21.2, transformers 5.24.0, torch 2.13.0 (CPU), Python 3.11, Linux x86-64,
#   AMD EPYC (Zen 4). Depends on the processor: without AVX-512 bfloat16 the layout stays, and the script says so. The
#   model is tiny, with random weights.
#
# Output seen. The script compares these lines with what it gets:
#= bitsandbytes 0.50.2, peft 0.21.2, transformers 5.24.0
#= one layer's weight, dequantised: before a pass right, after it wrong
#= merged, then asked: as the adapter
#= asked, then merged: nonsense
#= dequantised, then asked: as the 4-bit model
#= asked, then dequantised: nonsense
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6 peft==0.21.2 \
  accelerate==1.15.0 bitsandbytes==0.50.2

HF_HUB_OFFLINE=1 "$work/venv/bin/python" -I - "$work" >"$work/seen" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import copy
import sys
from pathlib import Path

import bitsandbytes
import peft
import torch
import transformers
from bitsandbytes.functional import dequantize_4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

# Rounding a second time, when the sum is quantised again, is allowed for; noise has a gap above 0.9.
NEAR = 0.45
here = Path(sys.argv[1])
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
dense = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for parameter in dense.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.1)
dense.save_pretrained(here / "base")
adapted = peft.get_peft_model(copy.deepcopy(dense), peft.LoraConfig(r=4, target_modules="all-linear"))
with torch.no_grad():
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter += torch.randn_like(parameter) / 8
adapted.save_pretrained(here / "adapter")
ids = torch.arange(1, 17)[None]


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits.float()


def load() -> torch.nn.Module:
    form = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    options = {"quantization_config": form, "device_map": "cpu", "dtype": torch.float32}
    return AutoModelForCausalLM.from_pretrained(here / "base", **options).eval()


def with_adapter() -> peft.PeftModel:
    return peft.PeftModel.from_pretrained(load(), here / "adapter").eval()


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def told(name: str, found: torch.Tensor, expected: torch.Tensor, meant: str) -> None:
    distance = gap(found, expected)
    print(f"{name}: gap {distance:.2f}", file=sys.stderr)
    print(f"{name}: {meant if distance < NEAR else 'nonsense' if distance > 0.9 else distance}")


layer = load().model.layers[0].mlp.up_proj
original = dense.model.layers[0].mlp.up_proj.weight
before = gap(dequantize_4bit(layer.weight.data, layer.weight.quant_state), original)
with torch.no_grad():
    layer(torch.randn(4, 64))
if not getattr(layer.weight.quant_state, "packing_format_for_cpu", False):
    print("not applicable: this processor keeps the layout")
    sys.exit()
after = gap(dequantize_4bit(layer.weight.data, layer.weight.quant_state), original)
print(f"bitsandbytes {bitsandbytes.__version__}, peft {peft.__version__}, transformers {transformers.__version__}")
words = ["right" if each < 0.2 else "wrong" if each > 0.9 else str(each) for each in (before, after)]
print(f"one layer's weight, dequantised: before a pass {words[0]}, after it {words[1]}")

expected = logits(with_adapter())
told("merged, then asked", logits(with_adapter().merge_and_unload()), expected, "as the adapter")
asked = with_adapter()
logits(asked)
told("asked, then merged", logits(asked.merge_and_unload()), expected, "as the adapter")
expected = logits(load())
told("dequantised, then asked", logits(load().dequantize()), expected, "as the 4-bit model")
asked = load()
logits(asked)
told("asked, then dequantised", logits(asked.dequantize()), expected, "as the 4-bit model")
PY

cat "$work/seen"
grep -q '^not applicable' "$work/seen" && exit 0
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { grep '^.*: gap' "$work/log" >&2; echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
