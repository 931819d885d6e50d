"""peft's own batch in which each row has another adapter (`adapter_names`), to compare with."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class PeftBatch:
    """A checkpoint under peft with adapters, on CPU in `dtype` (a torch type's name)."""

    def __init__(self, model: Path, adapters: list[Path], dtype: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from peft import PeftModel
        self._names = [path.name for path in adapters]
        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        self._tokenizer.pad_token = self._tokenizer.eos_token
        base = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self._model = PeftModel.from_pretrained(base, adapters[0], adapter_name=self._names[0])
        for path in adapters[1:]:
            self._model.load_adapter(path, adapter_name=path.name)
        self._model.eval()

    @torch.inference_mode()
    def tokens_per_s(self, prompts: list[str], num_tokens: int) -> float:
        """Greedy tokens a second of one batch, prompts included; prompt i goes to adapter i."""
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = self._tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        began = time.perf_counter()
        self._model.generate(
            **inputs,
            adapter_names=self._names[: len(prompts)],
            do_sample=False,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return len(prompts) * num_tokens / (time.perf_counter() - began)
