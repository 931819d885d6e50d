#!/usr/bin/env bash
# transformers, rope type `longrope` (Phi-3, Phi-4-mini): a long prompt in the batch changes a short prompt's answer.
#
# What happens: the model has two sets of rotary frequencies, for sequences up to and beyond the original context. The
#   set is chosen once per forward pass, by the largest position in the batch, and applied to every row. A short prompt
#   is answered one way alone or beside a prompt within the original context, another way beside a longer one.
# Expected instead: padding and mask keep the rows of a batch apart; a row's greedy answer does not depend on what else
#   is in the batch, up to rounding.
# Why it matters: with batching across users, one user's long prompt changes another user's answer. It is no rounding:
#   the short prompt is computed with frequencies that were not trained for it.
# What helps: one set for all sequences of a server, or a separate pass for each set.
# Explained in: transformers 5.23.0, modeling_rope_utils.py, `longrope_frequency_update`: `seq_len =
#   torch.max(position_ids) + 1` over all rows. The same question for vLLM: vllm-project/vllm issue 6283.
# Seen: 2026-11-30, transformers 5.23.0, torch 2.13.0 (CPU), Python 3.11, Linux x86-64. The model is tiny, with random
#   weights. Does not depend on the processor. Token ids, on stderr, may.
#
# Output seen. The script compares these lines with what it gets:
#= transformers 5.23.0
#= original context 32 tokens, prompt 8, answer 8
#= beside a prompt of 20 tokens: same answer as alone
#= beside a prompt of 40 tokens: another answer
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
from transformers import Phi3Config, Phi3ForCausalLM

ORIGINAL_CONTEXT = 32
NUM_NEW = 8

transformers.logging.set_verbosity_error()
torch.manual_seed(2)
config = Phi3Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=256,
    original_max_position_embeddings=ORIGINAL_CONTEXT,
    rope_parameters={
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": ORIGINAL_CONTEXT,
    },
    initializer_range=0.3,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,
)
model = Phi3ForCausalLM(config).eval()
short = torch.randint(2, 64, (8,))
long = torch.randint(2, 64, (40,))


def answer(*neighbours: torch.Tensor) -> list[int]:
    """Greedy answer to `short`, in one left-padded batch with `neighbours`."""
    prompts = [short, *neighbours]
    width = max(map(len, prompts))
    ids = torch.stack([torch.cat([torch.zeros(width - len(prompt), dtype=torch.long), prompt]) for prompt in prompts])
    mask = torch.stack([(torch.arange(width) >= width - len(prompt)).long() for prompt in prompts])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=NUM_NEW, do_sample=False)
    return out[0, width:].tolist()


alone = answer()
print(f"transformers {transformers.__version__}")
print(f"original context {ORIGINAL_CONTEXT} tokens, prompt {len(short)}, answer {NUM_NEW}")
print("alone:", alone, file=sys.stderr)
for num_tokens in (20, 40):
    found = answer(long[:num_tokens])
    print(f"beside {num_tokens}:", found, file=sys.stderr)
    print(f"beside a prompt of {num_tokens} tokens: {'same answer as alone' if found == alone else 'another answer'}")
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
