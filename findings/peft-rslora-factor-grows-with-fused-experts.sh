#!/usr/bin/env bash
# peft, `use_rslora` on Mixtral's experts: an adapter of transformers 4 gets a factor that is too large by 1.41.
#
# What happens: an adapter for `w1`, `w2`, `w3` of each expert, as transformers 4 had them, is converted to the fused
#   `gate_up_proj` when it is loaded. Rank and alpha are doubled there, so alpha / r stays what it was. With rsLoRA the
#   factor is alpha / sqrt(r), which grows by sqrt(2): w1 and w3 add 1.41 times what was trained. w2 is right.
# Expected instead: the same addition as before the fusion. The code says so itself: "Preserve per-branch LoRA scaling
#   after fusion".
# Why it matters: the answers of an adapter change with the library that loads it, and nothing is said.
# What helps: alpha of the fused matrix times sqrt(2) instead of 2 where `use_rslora` is set.
# Explained in: peft 0.21.0, utils/transformers_weight_conversion.py, `_convert_peft_config_moe`: `alpha_pattern[...] =
#   lora_alpha * len(required_old_targets)`, whatever `use_rslora` is.
# Seen: 2026-12-01, peft 0.21.0, transformers 5.23.0, torch 2.13.0 (CPU), Python 3.11, Linux x86-64. The model is tiny,
#   with random weights. Does not depend on the processor.
#
# Output seen. The script compares these lines with what it gets:
#= peft 0.21.0, transformers 5.23.0
#= use_rslora=False: w1 1.00, w3 1.00, w2 1.00 times what was trained
#= use_rslora=True: w1 1.41, w3 1.41, w2 1.00 times what was trained
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6 peft==0.21.0 accelerate==1.15.0

HF_HUB_OFFLINE=1 "$work/venv/bin/python" -I - "$work" >"$work/seen" <<'PY'
import json
import math
import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import MixtralConfig, MixtralForCausalLM

RANK, ALPHA, HIDDEN, INNER, NUM_EXPERTS = 4, 8, 16, 24, 2
SHAPES = {"w1": (HIDDEN, INNER), "w3": (HIDDEN, INNER), "w2": (INNER, HIDDEN)}

transformers.logging.set_verbosity_error()
warnings.simplefilter("ignore")
torch.manual_seed(0)
config = MixtralConfig(
    vocab_size=32,
    hidden_size=HIDDEN,
    intermediate_size=INNER,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    num_local_experts=NUM_EXPERTS,
)
pairs = {
    (expert, name): (torch.randn(RANK, inputs), torch.randn(outputs, RANK))
    for expert in range(NUM_EXPERTS)
    for name, (inputs, outputs) in SHAPES.items()
}


def write(directory: Path, use_rslora: bool) -> Path:
    """An adapter as peft wrote it over transformers 4."""
    directory.mkdir()
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "use_rslora": use_rslora}
    fields |= {"target_modules": list(SHAPES), "base_model_name_or_path": None}
    (directory / "adapter_config.json").write_text(json.dumps(fields))
    tensors = {}
    for (expert, name), (down, up) in pairs.items():
        path = f"base_model.model.model.layers.0.block_sparse_moe.experts.{expert}.{name}"
        tensors |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def added(model: torch.nn.Module, parameter: str) -> torch.Tensor:
    """What peft adds to a parameter of the experts: [experts, outputs, inputs]."""
    (found,) = [each for each in model.modules() if getattr(each, "parameter_name", None) == parameter]
    with torch.no_grad():
        return found.get_delta_weight("default")


print(f"peft {peft.__version__}, transformers {transformers.__version__}")
for use_rslora in (False, True):
    directory = write(Path(sys.argv[1]) / f"adapter-{use_rslora}", use_rslora)
    model = peft.PeftModel.from_pretrained(MixtralForCausalLM(config), directory)
    both, last = added(model, "gate_up_proj"), added(model, "down_proj")
    parts = {"w1": both[:, :INNER], "w3": both[:, INNER:], "w2": last}
    factor = ALPHA / math.sqrt(RANK) if use_rslora else ALPHA / RANK
    said = []
    for name, part in parts.items():
        trained = torch.stack([factor * up @ down for (_, own), (down, up) in pairs.items() if own == name])
        ratio = (part * trained).sum() / (trained * trained).sum()
        assert torch.allclose(part, ratio * trained, atol=1e-4), "it is no multiple of what was trained"
        said.append(f"{name} {ratio:.2f}")
    print(f"use_rslora={use_rslora}: {', '.join(said)} times what was trained")
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
