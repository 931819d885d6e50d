"""Adapters that peft itself makes, by kind and family; what peft says with them; a batch where each row has another."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from handler.adapters.adapter import Adapter
from handler.adapters.model_shape import ModelShape
from handler.adapters.reading import read_adapter
from handler.runners.limits import Limits
from handler.runners.runner import Runner
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.config import Quantize
from handler.seam.protocol import GenerateRequest, SamplingParams

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from peft import LoraConfig, PeftModel, get_peft_model


@dataclass(frozen=True)
class Names:
    """What a family calls its modules."""

    attention: str
    feed: str
    embedding: str = "embed_tokens"
    output: str = "lm_head"
    layers: str = "layers"
    parameters: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)


_EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
_SHORT = {"num_hidden_layers": 3}
FAMILIES = {
    "llama": Names("q_proj", "gate_proj", changes=_SHORT),
    "qwen2": Names("v_proj", "up_proj", changes=_SHORT),
    "phi3": Names("qkv_proj", "gate_up_proj", changes=_SHORT),
    "gpt2": Names("c_attn", "c_fc", "wte", layers="h"),
    "mixtral": Names("q_proj", "o_proj", parameters=_EXPERTS, changes={"num_local_experts": 2, "num_hidden_layers": 3}),
    "qwen3_next": Names("q_proj", "out_proj", parameters=_EXPERTS, changes={"num_experts": 2}),
}
# Bases under which two kinds are compared: fixtures of tests/data/formats, and values of HF_MODEL_QUANTIZE.
STORED = ("gptq", "gptq-conv1d", "gptq-experts", "awq-gemm", "bitsandbytes-nf4", "bitsandbytes-int8")
AT_LOAD = (Quantize.INT8_BLOCKS, Quantize.INT4_BLOCKS, Quantize.NF4, Quantize.INT8)
KINDS = (
    "a list of modules",
    "all-linear",
    "a regular expression",
    "some layers",
    "modules left out",
    "rank-stabilised",
    "rank and alpha by pattern",
    "embedding and output layer",
    "modules_to_save",
    "trainable tokens",
    "biases",
    "lora_bias",
    "experts or PiSSA's converted form",
)


def options(kind: str, names: Names) -> dict[str, Any]:
    """Arguments of peft's LoraConfig."""
    both = [names.attention, names.feed]
    pattern = rf".*\.{names.layers}\.[02]\..*({names.attention}|{names.feed.replace('.', '[.]')})"
    return {
        "a list of modules": {"target_modules": both},
        "all-linear": {"target_modules": "all-linear"},
        "a regular expression": {"target_modules": pattern},
        "some layers": {"target_modules": both, "layers_to_transform": [0, 2], "layers_pattern": names.layers},
        "modules left out": {"target_modules": "all-linear", "exclude_modules": [names.feed]},
        "rank-stabilised": {"target_modules": both, "use_rslora": True, "lora_alpha": 5},
        "rank and alpha by pattern": {
            "target_modules": both,
            "rank_pattern": {names.attention: 6},
            "alpha_pattern": {rf"{names.layers}\.1\..*{names.feed}": 3, names.attention: 9},
        },
        "embedding and output layer": {"target_modules": [names.embedding, names.output]},
        "modules_to_save": {"target_modules": both, "modules_to_save": [names.embedding, names.output]},
        "trainable tokens": {"target_modules": both, "trainable_token_indices": {names.embedding: [7, 11, 40]}},
        "biases": {"target_modules": both, "bias": "all"},
        "lora_bias": {"target_modules": both, "lora_bias": True},
        "experts or PiSSA's converted form": {"target_parameters": list(names.parameters), "target_modules": both}
        if names.parameters
        else {"target_modules": both, "init_lora_weights": "pissa"},
    }[kind]


def write(model: Any, directory: Path, seed: int = 0, noise: float = 0.2, **options: Any) -> Path:
    """An adapter over `model`, which stays as it is, trained by a draw of random numbers, as peft saves it."""
    own = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(own, LoraConfig(**({"r": 4, "task_type": "CAUSAL_LM"} | options)))
        kept: dict[str, Any] = {}
        if str(options.get("init_lora_weights", "")).startswith("pissa"):
            made.peft_config["default"].init_lora_weights = True
            made.save_pretrained(directory / "begun")
            made.peft_config["default"].init_lora_weights = "pissa"
            kept["path_initial_model_for_weight_conversion"] = directory / "begun"
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad:
                    parameter += noise * torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
        made.save_pretrained(directory, **kept)
    return directory


def peft_model(model: Any, directory: Path) -> Any:
    """peft's own, over a copy of `model`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(copy.deepcopy(model), directory).eval()


@torch.no_grad()
def choices(model: Any, prompt: list[int], answer: list[int]) -> list[int]:
    """The greedy token at each place of `answer`, given those before it: `answer` itself if the model would say it."""
    logits = model(input_ids=torch.tensor([prompt + answer], device=model.device), use_cache=False).logits[0]
    found: list[int] = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
    return found


@torch.no_grad()
def gap(model: Any, prompt: list[int], answer: list[int]) -> float:
    """How far below the greedy token the worst token of `answer` is, in units of the logits' range."""
    logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
    return float(((logits.amax(-1) - chosen) / (logits.amax(-1) - logits.amin(-1))).max())


def load(runner: Runner, shape: ModelShape, directory: Path, slot: int) -> Adapter:
    """Read the adapter and give it to the runner in `slot`."""
    adapter = read_adapter(directory, shape)
    runner.load_adapter(slot, adapter)
    return adapter


def generate(
    runner: Runner, limits: Limits, rows: Many[tuple[list[int], int]], num_tokens: int
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Greedy tokens and last logits of `rows`, prompts with an adapter's slot (-1: the base), run as one batch."""
    kv = runner.kv_manager(limits)
    seqs = []
    for number, (prompt, slot) in enumerate(rows):
        request = GenerateRequest(str(number), prompt, SamplingParams(max_tokens=num_tokens, seed=0), 60.0)
        seq = Sequence(request, b"", 0.0, 1.0)
        seq.adapter_slot = slot
        assert kv.allocate(seq)
        seqs.append(seq)
    last: dict[str, torch.Tensor] = {}
    for _ in range(num_tokens):
        items = []
        for seq in seqs:
            assert kv.reserve(seq, len(seq.token_ids))
            items.append(ScheduledSequence(seq, seq.num_computed, seq.num_uncomputed))
        found = runner.run(ScheduledBatch(items))
        for item, row in zip(found.samples, found.logits, strict=True):
            last[item.seq.request_id] = row.float().clone()
            item.seq.num_computed = len(item.seq.token_ids)
            item.seq.token_ids.append(int(row.argmax()))
    for seq in seqs:
        kv.release(seq)
    return [seq.token_ids[seq.num_prompt_tokens :] for seq in seqs], [last[seq.request_id] for seq in seqs]
