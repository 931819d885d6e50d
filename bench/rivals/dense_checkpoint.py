"""The bundled model for rivals that read no .gguf file: dense bfloat16 weights, and the tokenizer that we serve."""

from __future__ import annotations

import shutil
from pathlib import Path

from handler.model.gguf_model import bundled_gguf, converted


def dense_checkpoint(cache_dir: Path) -> Path:
    """A directory with config.json, model.safetensors and the tokenizer's files, made once below `cache_dir`."""
    target = cache_dir / "dense" / "bundled"
    if (target / "model.safetensors").is_file():
        return target
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    gguf = bundled_gguf()
    ours = converted(gguf, cache_dir, lambda _permille, _text: None)
    # Without this, transformers does not save the model (findings/gguf-dequantised-model-not-saved.sh).
    dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=dense
    )
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        if (ours / name).is_file():
            shutil.copy(ours / name, target / name)
    return target
