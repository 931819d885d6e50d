#!/usr/bin/env bash
# transformers: after `disable_adapters()` and `enable_adapters()` the modules that an adapter saved whole stay off.
#
# What happens: an adapter with `modules_to_save` (a trained output layer, a trained embedding) is loaded with
#   `model.load_adapter`. `disable_adapters()` gives the base model, as it should. `enable_adapters()` turns the low-rank
#   products on again, but not the saved modules: the model now answers with a mixture that nobody has trained. Nothing
#   is said. `set_adapter` with the same name does not help either.
# Expected instead: the adapter's own answers, as with peft's `disable_adapter()` on leaving it.
# Why it matters: "answer once with the base model" is a common pattern, for references and comparisons. Every later
#   answer is then wrong, by as much as the whole adapter moves the logits.
# What helps: peft's own `PeftModel`, or `enable_adapters(True)` on each `ModulesToSaveWrapper` of the model by hand.
# Explained in: transformers 5.23.0, integrations/peft.py: `disable_adapters` asks for tuner layers and
#   `ModulesToSaveWrapper`, `enable_adapters` for tuner layers alone.
# Seen: 2026-12-01, transformers 5.23.0, peft 0.21.2, torch 2.13.0 (CPU), Python 3.11, Linux x86-64.
#   The model is tiny, with random weights. Does not depend on the processor. transformers 5.24.0 has the same code, but
#   both methods ask for peft 0.22.0 there, which was not published.
#
# Output seen. The script compares these lines with what it gets:
#= transformers 5.23.0, peft 0.21.2
#= no modules saved: disabled = base True, enabled again = adapter True
#= output layer saved: disabled = base True, enabled again = adapter False, after set_adapter False
#= output layer saved, PeftModel: disabled = base True, enabled again = adapter True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6 peft==0.21.2 accelerate==1.15.0

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


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=ids).logits


def write(name: str, **options: object) -> Path:
    """An adapter whose numbers are all moved from where training starts."""
    chosen = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(copy.deepcopy(base), chosen)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) / 3
    model.save_pretrained(Path(sys.argv[1]) / name)
    return Path(sys.argv[1]) / name


def same(model: torch.nn.Module, expected: torch.Tensor) -> bool:
    return torch.allclose(logits(model), expected, atol=1e-5)


print(f"transformers {transformers.__version__}, peft {peft.__version__}")
without = logits(base)
for title, options in (("no modules saved", {}), ("output layer saved", {"modules_to_save": ["lm_head"]})):
    directory = write(title, **options)
    model = copy.deepcopy(base)
    model.load_adapter(str(directory))
    model.eval()
    adapted = logits(model)
    assert not torch.allclose(adapted, without, atol=1e-2)
    model.disable_adapters()
    said = [f"disabled = base {same(model, without)}"]
    model.enable_adapters()
    said.append(f"enabled again = adapter {same(model, adapted)}")
    if options:
        model.set_adapter("default")
        said.append(f"after set_adapter {same(model, adapted)}")
    print(f"{title}: {', '.join(said)}")
wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(base), directory).eval()
with wrapped.disable_adapter():
    off = same(wrapped, without)
print(f"{title}, PeftModel: disabled = base {off}, enabled again = adapter {same(wrapped, adapted)}")
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
