#!/usr/bin/env bash
# peft: once an adapter with trained tokens is loaded, no adapter without them can be loaded beside it.
#
# What happens: `load_adapter` of an ordinary LoRA raises KeyError for `...token_adapter.trainable_tokens_delta`, a tensor
#   that its file need not have, if the model already holds an adapter with `trainable_token_indices`. In the other
#   order both load, and each answers as it does alone.
# Expected instead: the order makes no difference. `modules_to_save` of one of two adapters loads in both orders.
# Why it matters: a server that loads adapters as requests ask for them fails or not by who came first, and the error
#   names the adapter that is in order. What is left behind is a registered adapter without its weights: it is listed.
# What helps: load adapters with trained tokens last.
# Explained in: peft 0.21.2, utils/save_and_load.py, `set_peft_model_state_dict`: it goes through all auxiliary modules of
#   the model and looks up the file's tensor for each, without asking whether this adapter has one.
# Seen: 2026-12-01, peft 0.21.2 and 0.21.0, transformers 5.24.0 and 5.23.0, torch 2.13.0 (CPU), Python 3.11, Linux x86-64. The model
#   is tiny, with random weights. Does not depend on the processor.
#
# Output seen. The script compares these lines with what it gets:
#= peft 0.21.2, transformers 5.24.0
#= plain, then trained tokens: loaded, as alone True
#= trained tokens, then trained tokens: loaded, as alone True
#= trained tokens, then plain: KeyError token_adapter.trainable_tokens_delta; listed all the same True
#= saved module, then plain: loaded, as alone True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6 peft==0.21.2 accelerate==1.15.0

HF_HUB_OFFLINE=1 "$work/venv/bin/python" -I - "$work" >"$work/seen" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import copy
import sys
from pathlib import Path

import peft
import torch
import transformers

torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
base = transformers.LlamaForCausalLM(config).eval()
ids = torch.arange(1, 9)[None]
KINDS = {
    "plain": {},
    "trained tokens": {"trainable_token_indices": {"embed_tokens": [3, 5]}},
    "saved module": {"modules_to_save": ["lm_head"]},
}


def write(kind: str, number: int) -> Path:
    """An adapter whose numbers are all moved from where training starts."""
    chosen = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **KINDS[kind])
    model = peft.get_peft_model(copy.deepcopy(base), chosen)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) / 3
    directory = Path(sys.argv[1]) / f"{kind} {number}"
    model.save_pretrained(directory)
    return directory


def loaded(directory: Path) -> peft.PeftModel:
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), directory).eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=ids).logits


print(f"peft {peft.__version__}, transformers {transformers.__version__}")
pairs = (
    ("plain", "trained tokens"),
    ("trained tokens", "trained tokens"),
    ("trained tokens", "plain"),
    ("saved module", "plain"),
)
for number, (first, second) in enumerate(pairs):
    before, after = write(first, 2 * number), write(second, 2 * number + 1)
    model = loaded(before)
    try:
        model.load_adapter(after, adapter_name="second")
    except KeyError as error:
        name = ".".join(str(error.args[0]).split(".")[-2:])
        print(f"{first}, then {second}: KeyError {name}; listed all the same {'second' in model.peft_config}")
        continue
    model.eval()
    model.set_adapter("second")
    alone = torch.allclose(logits(model), logits(loaded(after)), atol=1e-5)
    model.set_adapter("default")
    alone = alone and torch.allclose(logits(model), logits(loaded(before)), atol=1e-5)
    print(f"{first}, then {second}: loaded, as alone {alone}")
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
