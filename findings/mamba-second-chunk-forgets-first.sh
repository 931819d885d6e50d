#!/usr/bin/env bash
# transformers: Mamba and FalconMamba, given a prompt in two chunks with a cache, forget the first chunk.
#
# What happens: `model(first, use_cache=True)`, then `model(second, cache_params=...)` with more than one token. The
#   second call reads the convolution's state from the cache (the last three tokens) and starts the recurrence from
#   zero. Two different first chunks with the same last three tokens give the second chunk the same logits, bit for
#   bit, in a model of one layer. There is no error and no warning. Single tokens after a prompt, as `generate` feeds
#   them, are right. Mamba2, with the same calls, is right.
# Expected instead: prompt chunks with a cache get the logits of the whole prompt, as in models with attention.
# Why it matters: chunked prefill, a reused prefix, and the second turn of a chat over a kept cache give fluent answers
#   to a prompt whose beginning the model has not seen. At 16 bits with a short prompt the difference hides in rounding.
# What helps: run the prompt in one call, or feed the rest token by token.
# Explained in: transformers 5.23.0, models/mamba/modeling_mamba.py: the cached state is used where `seq_len == 1` only;
#   the full-sequence form starts from `torch.zeros`. Jamba has the same code. Mamba2 passes `initial_states`.
# Seen: 2026-11-30, transformers 5.23.0, torch 2.13.0 (CPU), without the packages mamba-ssm and causal-conv1d, Python
#   3.11, Linux x86-64. The models are tiny, with random weights. Does not depend on the processor.
#
# Output seen. The script compares these lines with what it gets:
#= transformers 5.23.0
#= Mamba: one call differs from two: True; one token a call is right: True; the second chunk sees the first: False
#= FalconMamba: one call differs from two: True; one token a call is right: True; the second chunk sees the first: False
#= Mamba2: one call differs from two: False; one token a call is right: True; the second chunk sees the first: True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6

HF_HUB_OFFLINE=1 "$work/venv/bin/python" -I - >"$work/seen" <<'PY'
import sys

import torch
import transformers
from torch import Tensor
from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
SIZES = {"vocab_size": 64, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 1, "conv_kernel": 4}
SIZES |= {"initializer_range": 0.5, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
first, second = torch.randint(2, 64, (2, 1, 8))
other = torch.randint(2, 64, (1, 8))
other[:, -3:] = first[:, -3:]  # what the convolution remembers of the first chunk


def in_one_call(model, chunk: Tensor) -> Tensor:
    """Logits of the second chunk, prompt in one piece."""
    return model(torch.cat([chunk, second], dim=1)).logits[:, chunk.shape[1] :]


def continued(model, chunk: Tensor, size: int) -> Tensor:
    """Logits of the second chunk, `size` tokens a call, after a call with the first."""
    cache = model(chunk, use_cache=True).cache_params
    parts = second.split(size, dim=1)
    return torch.cat([model(part, use_cache=True, cache_params=cache).logits for part in parts], dim=1)


def near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-3, rtol=0)


print(f"transformers {transformers.__version__}")
for name, model in (
    ("Mamba", MambaForCausalLM(MambaConfig(**SIZES))),
    ("FalconMamba", FalconMambaForCausalLM(FalconMambaConfig(**SIZES))),
    ("Mamba2", Mamba2ForCausalLM(Mamba2Config(**SIZES, num_heads=8, head_dim=8, n_groups=1))),
):
    with torch.inference_mode():
        model.eval()
        whole, chunks, single = in_one_call(model, first), continued(model, first, 8), continued(model, first, 1)
        sees = not torch.equal(chunks, continued(model, other, 8))
        print(f"{name}: largest logit {whole.abs().max():.1f}", file=sys.stderr)
        print(f"  two chunks off by {(chunks - whole).abs().max():.2g}", file=sys.stderr)
        print(f"  one token a call off by {(single - whole).abs().max():.2g}", file=sys.stderr)
        print(
            f"{name}: one call differs from two: {not near(chunks, whole)}; "
            f"one token a call is right: {near(single, whole)}; the second chunk sees the first: {sees}"
        )
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
