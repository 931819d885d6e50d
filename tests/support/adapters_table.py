"""`docs/adapter-files.md`, written from the kinds that tests compare with peft and the fields that the reader knows.

Run it to write the file: `python -m tests.support.adapters_table`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handler.adapters.adapter_config import HARMLESS, KEEPS_BASE, READ, VARIANTS
from tests.support.adapters import AT_LOAD, FAMILIES, KINDS, STORED, options

PATH = Path(__file__).resolve().parents[2] / "docs" / "adapter-files.md"


def render() -> str:
    """The whole page."""
    kinds = "\n".join(_kind(kind) for kind in KINDS)
    refused = "\n".join(f"| `{name}` | {reason} |" for name, reason in sorted(VARIANTS.items()))
    return _PAGE.format(
        families=", ".join(FAMILIES),
        kinds=kinds,
        num_cases=len(KINDS) * len(FAMILIES),
        stored=_quoted(STORED),
        at_load=_quoted(str(value) for value in AT_LOAD),
        read=_quoted(sorted(READ)),
        harmless=_quoted(sorted(HARMLESS)),
        keeps_base=_quoted(KEEPS_BASE),
        refused=refused,
    )


def _quoted(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _kind(kind: str) -> str:
    """A row: the kind, and peft's arguments for Llama, or for Mixtral where they differ."""
    shown = [options(kind, FAMILIES["llama"])]
    experts = options(kind, FAMILIES["mixtral"])
    shown += [experts] if experts.keys() != shown[0].keys() else []
    cells = ["; ".join(f"`{name}={value!r}`" for name, value in each.items()) for each in shown]
    return f"| {kind} | {' or '.join(cells)} |".replace("(q_proj|gate_proj)", "(q_proj\\|gate_proj)")


_PAGE = """\
# Files of adapters

<!-- Written by `python -m tests.support.adapters_table`; tests/engine/test_adapters_of_peft.py holds it. -->

What is read of an adapter's directory, and what it is compared with. An adapter is `adapter_config.json` and
`adapter_model.safetensors`, as `save_pretrained` of peft writes them; both are read at registration. Pickled weights
(`adapter_model.bin`) are never opened, nor is a link that leads out of the directory, but for those of the hub's cache:
a directory `models--*/snapshots/COMMIT` may be named, whose links lead to the `blobs` beside it.

## Compared with peft

Each kind is made by peft 0.21 itself over {families}: {num_cases} adapters over tiny random models in float32. Greedy
tokens equal peft's, alone and in one batch in which each row has another adapter and one has none.

| kind | arguments of `LoraConfig` |
|---|---|
{kinds}

Over quantised bases answers are compared with peft over the same weights, dequantised, up to what the form rounds:
checkpoints {stored} of `tests/data/formats`, and `HF_MODEL_QUANTIZE` {at_load}; also bfloat16.

## Where tensors land

- Names of checkpoints before transformers renamed or fused them (`block_sparse_moe.experts.0.w1`), and heads of whole
  image-text models (`language_model.model.`), are understood.
- `q_proj` lands on a fused `qkv_proj`, `gate_proj` and `up_proj` on `gate_up_proj`, and the reverse. peft does not do
  this; each part keeps its own factor.
- Experts: of one module each, as before transformers 5, or of one parameter (`target_parameters`); routers too.
  With `use_rslora` each expert's `w1` and `w3` keep the factor that they were trained with. peft 0.21 multiplies it by
  the square root of 2 when it fuses them ([finding](../findings/peft-rslora-factor-grows-with-fused-experts.sh)).
- Embeddings and output layer: additions, whole weights (`modules_to_save`) and rows of tokens
  (`trainable_token_indices`, which reach a tied output layer). `ensure_weight_tying` counts as in peft: the embedding's
  addition is the tied output layer's too. The vocabulary must be the base's.
- Biases change the output of their module, norms and routers too; one of a convolution is refused. So is a weight of
  another module in `modules_to_save`.
- A tensor that the configuration does not target, or whose module the model does not have, is named in the log. If none
  lands, the adapter is refused. Modules that are targeted, and for which there are no tensors, are named too.
- Sizes must be the model's, and no number may be NaN or infinite.

## Fields of adapter_config.json

- Read: {read}.
- Without effect on a trained adapter: {harmless}.
- A field that is not known here is taken if it is neutral (`null`, `false`, empty) and refused by its name if not.
- `init_lora_weights` may be a boolean or one of {keeps_base}. PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ change the base's
  weights. All but LoftQ: save with `path_initial_model_for_weight_conversion`, which makes an ordinary adapter.
- `peft_type` must be `LORA`.

Refused if set, by name:

| field | why |
|---|---|
{refused}
"""

if __name__ == "__main__":
    PATH.write_text(render())
