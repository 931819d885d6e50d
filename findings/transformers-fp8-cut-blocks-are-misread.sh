#!/usr/bin/env bash
# transformers dequantises an FP8 checkpoint wrongly where a matrix does not fill its last block, or refuses it.
#
# What happens: a weight in blocks of 128 rows has a scale for each block, the last one cut: 192 rows are blocks of 128
#   and 64. Without a GPU for FP8, transformers dequantises at load and takes equal parts, here 96 and 96: rows 96 to 127
#   get the second block's scale. 320 rows, blocks of 128, 128 and 64, end the load, as 3 does not divide 320.
# Expected instead: blocks of `weight_block_size`, which config.json names, as transformers' own layer `FP8Linear`
#   allocates them (its scales are the sizes divided by 128, rounded up) and as DeepSeek's own code reads them.
# Why it matters: DeepSeek-V3's `kv_a_proj_with_mqa` has 576 rows; other models load with a few wrong rows, silently.
# What helps: repeat each scale 128 times and cut at the matrix' size, as below.
# Explained in: transformers 5.23.0, integrations/finegrained_fp8.py, `Fp8Dequantize._dequantize_one`
#   (`block_m = rows // scale_rows`).
# Seen: 2026-11-30, transformers 5.23.0, torch 2.13.0+cpu, Python 3.11, Linux x86-64. Does not depend on the processor.
#
# Output seen. The script compares these lines with what it gets:
#= transformers 5.23.0
#= 256 rows: loaded as stored
#= 192 rows: loaded, 32 rows differ, the first is row 96
#= 320 rows: not loaded
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
	torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0 safetensors==0.8.0

"$work/venv/bin/python" -I - "$work" >"$work/seen" 2>"$work/log" <<'PY'
import json
import math
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

print(f"transformers {transformers.__version__}")
for rows in (256, 192, 320):
    directory = Path(sys.argv[1]) / str(rows)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 32}
    model = LlamaForCausalLM(LlamaConfig(intermediate_size=rows, **sizes)).bfloat16()
    model.save_pretrained(directory)
    tensors = {}
    for name, weight in model.state_dict().items():
        tensors[name] = weight.contiguous()
        if name.endswith("proj.weight"):
            count = [math.ceil(size / 128) for size in weight.shape]
            scale = torch.arange(1.0, 1 + math.prod(count)).view(count) / 1024
            wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: weight.shape[0], : weight.shape[1]]
            tensors[name] = (weight.float() / wide).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale
            if name.endswith("gate_proj.weight"):
                stored = tensors[name].float() * wide
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    form = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    (directory / "config.json").write_text(json.dumps(config | {"quantization_config": form}))
    try:
        loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    except Exception:
        print(f"{rows} rows: not loaded")
        continue
    found = loaded.get_parameter("model.layers.0.mlp.gate_proj.weight").float()
    off = ((found - stored).abs() > 0.01 * stored.abs() + 1e-6).any(1).nonzero().flatten().tolist()
    text = f"loaded, {len(off)} rows differ, the first is row {off[0]}" if off else "loaded as stored"
    print(f"{rows} rows: {text}")
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
