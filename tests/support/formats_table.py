"""`docs/quantisation.md`, written from the table of stored forms and the fixtures of tests/data/formats.

Run it to write the file: `python -m tests.support.formats_table`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model_memory.forms import FP8_FROM, INT4_FROM, Product
from model_memory.stored_codes import Codes, method_of, refusal, refused_methods, stored_codes
from model_memory.stored_forms import held_as, stored

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "docs" / "quantisation.md"
FORMATS = ROOT / "tests" / "data" / "formats"
# Kinds that no fixture has, with the test of each.
_OTHERS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"quant_method": "mxfp8"}, "tests/unit/handler/formats/test_scaled_floats.py"),
)
_WORDS = {
    Product.DENSE: "dequantised",
    Product.KERNELS: "our kernels",
    Product.INT4: "int4 product",
    Product.FP8: "fp8 product",
    Product.BITSANDBYTES: "bitsandbytes",
}


def settings_of(directory: Path) -> dict[str, Any]:
    """The `quantization_config` of a fixture; of GGUF files, the types of their tensors."""
    files = sorted(directory.glob("*.gguf"))
    if not files:
        found: dict[str, Any] = json.loads((directory / "config.json").read_text())["quantization_config"]
        return found
    from gguf import GGUFReader

    types = {tensor.tensor_type.name for file in files for tensor in GGUFReader(file).tensors}
    return {"quant_method": "gguf", "types": sorted(types)}


def render() -> str:
    """The whole page."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for values, tested in _tested():
        for row in _rows(values):
            rows.setdefault(row, []).append(tested)
    lines = [f"| {' | '.join(row)} | {', '.join(tested)} |" for row, tested in sorted(rows.items())]
    reasons: dict[str, list[str]] = {}
    for name in refused_methods():
        why = refusal({"quant_method": name}).partition(f"stored as {name} ")[2].rpartition("; ")[0]
        reasons.setdefault(why, []).append(f"`{name}`")
    refused = "\n".join(f"| {', '.join(names)} | {why} |" for why, names in sorted(reasons.items()))
    return _HEAD + "\n".join(lines) + _MIDDLE.format(refused=refused, way_out=_way_out()) + _FOOT


def _way_out() -> str:
    return refusal({"quant_method": "exl2"}).rpartition("; ")[2]


def _tested() -> Iterator[tuple[dict[str, Any], str]]:
    directories = sorted({path.parent for name in ("config.json", "*.gguf") for path in FORMATS.glob(f"*/{name}")})
    for directory in directories:
        settings = settings_of(directory)
        # A file of plain numbers is no form.
        if not set(settings.get("types", [""])) <= {"F32", "F16", "BF16"}:
            yield settings, f"`{directory.name}`"
    for values, test in _OTHERS:
        yield values, f"`{test}`"


def _rows(values: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Form, weights, CPU, CUDA."""
    method = method_of(values)
    for codes in stored_codes(values) or (None,):
        weights = "groups across the outputs" if codes is None else str(codes)
        if method == "mxfp4":
            weights += "; experts"
        on_cpu, *on_cuda = (_cell(values, codes, capability) for capability in (None, INT4_FROM, FP8_FROM))
        cuda = on_cuda[0] if on_cuda[0] == on_cuda[1] else f"{on_cuda[1]} from 8.9, else {on_cuda[0]}"
        yield f"`{method}`", weights, on_cpu, cuda


def _cell(values: dict[str, Any], codes: Codes | None, capability: int | None) -> str:
    form = stored(values, capability)
    held, product = form.linears, form.product or Product.DENSE
    if codes is not None and product is not Product.BITSANDBYTES:
        held, product = held_as(codes, capability)
    return _WORDS[product] + ("" if held is None else f", {round(held, 4):g}")


_HEAD = """\
# Quantisation

<!-- Written by `python -m tests.support.formats_table`; tests/engine/test_stored_forms.py holds it to the engine. -->

`HF_MODEL_QUANTIZE` (or `QUANTIZE`) chooses how dense weights lie in memory. A checkpoint that is stored quantised keeps
its form. The start-up log and `/info` show the result as `quantize`.

## Dense checkpoints

| value | CPU | CUDA | tested |
|---|---|---|---|
| `auto` (default) | `none` | the first of `none`, `int4` and `bitsandbytes-nf4` that leaves room for \
keys and values of one sequence (`MAX_TOTAL_TOKENS`, else up to 4,096 tokens); a model that needs \
several GPUs in 16 bits is weighed against more engines in 4 bits \
([0096](decisions/0096-auto-weighs-engines-against-a-split-model.md)) | CPU; on CUDA the rule only |
| `none` | bfloat16 or float32 | bfloat16 or float16 | CPU |
| `int8` | blocks of 32 weights, 8 bits | as on CPU, activations in bfloat16; refused on T4 and in float16 | \
CPU; pretended GPU |
| `int4` | blocks of 32 weights, 4 bits, the output layer 8 | as on CPU; a tied output layer is dense; refused on T4 \
and in float16 | CPU; pretended GPU |
| `bitsandbytes` | 8 bits, activations too | as on CPU; in float16, which Gemma 3's activations overflow: \
take `int8` | CPU |
| `bitsandbytes-nf4`, `bitsandbytes-fp4` | 4 bits, computed in bfloat16 | as on CPU | CPU |
| `eetq` | `int8` | `int8`; `bitsandbytes` where that is refused | CPU |
| `gptq`, `awq`, `marlin`, `compressed-tensors`, `fp8` | refused: for a checkpoint stored that way | as on CPU | \
refusals |
| `exl2` | refused | refused | refusal |

- Layers that compute more than a product (own `forward`, hooks, parametrizations, weights of another tensor class) are
  never laid out, fused or packed. What is tried and undone is put back as the very module.
- Layers whose shape a kernel does not take stay unquantised, with a line in the log: `int4` and `int8` need multiples
  of 16 outputs (on CUDA 8) and 32 inputs, bitsandbytes 4-bit 32 and 64, bitsandbytes 8-bit 16 and 16.
- `int4` and `int8` take experts as they take linear layers
  ([0114](decisions/0114-experts-as-linear-layers.md)); bitsandbytes leaves experts unquantised.
- Weights are quantised one by one as they are read: beside those that are loaded, one dense weight is in memory.
- On CPU with AVX-512 for bfloat16, 4- and 8-bit weights have one kernel of our own for any number of rows and no
  dense copy ([decision 0013](decisions/0013-one-kernel-for-packed-weights.md)). On a matrix unit (AMX) weights are
  rounded to bfloat16 when they are multiplied ([0019](decisions/0019-weights-looked-up-for-the-matrix-unit.md)).
  Elsewhere dense weights stay beside packed weights if a quarter of available memory holds them, and serve many rows.
  The two round differently; `DETERMINISTIC=true` uses one only ([decision 0010](decisions/0010-packed-linears.md)).
  `make bench-quant` measures perplexity, memory and time.
- `ACTIVATION_DTYPE=int8` rounds activations too where our own kernel multiplies codes (CPU with AVX-512 VNNI, without
  AMX): prompts and batches are computed up to 1.9 times as fast, and greedy tokens may differ from transformers'
  ([decision 0102](decisions/0102-activations-rounded-to-int8.md)). Where it cannot be done, the start says so.
- In float32, which is the default where the processor does not multiply bfloat16, torch's 4-bit kernel takes six
  times as long as dense weights; `int4` and `int8` work there, but only save memory.
- On CUDA `int4` takes 0.625 bytes a weight, `int8` 1.25, scales included. Up to 128 rows torch's int4 product
  multiplies; above, weights are dequantised in the pass ([decision 0104](decisions/0104-int4-on-cuda.md)).
  `sagemaker-deploy` refuses both on g4dn (T4).

## Stored forms

What multiplies the linear layers of a checkpoint that is stored quantised, and how many bytes a weight takes in memory,
scales included. "Dequantised" is the model's dtype: two bytes, or four in float32. The columns are for activations in
bfloat16: on CPU with AVX-512 for bfloat16, at most (symmetric codes take up to 0.06 less, groups of 64 and 128 up to
0.09 less without AMX, where 5 and 6 bits keep their width); on CUDA from compute capability 8.0 on. Elsewhere (float32,
float16, T4) all but bitsandbytes on CUDA is dequantised. Numbers are those of `model_memory/stored_forms.py`, which
placement and `sagemaker-deploy plan` use.
"Tested by" names fixtures of `tests/data/formats`, each written by the form's own library and compared with what that
library makes of it: logits, and greedy tokens alone and in a batch.

| form | weights | CPU | CUDA | tested by |
|---|---|---|---|---|
"""

_MIDDLE = """

- config.json names the form (`quantization_config`). A name in `HF_MODEL_QUANTIZE` that differs from it is not applied,
  and the log says so. None of the forms' own packages is needed, and none is in the image but bitsandbytes.
- Each weight is read, and either put into its layer as it is stored or dequantised, before the next one. One line in
  the log counts the layers that multiply as stored; another names what was dequantised and what that costs in memory.
- Layers whose shape no kernel takes are dequantised: CPU kernels need multiples of 64 outputs and 32 inputs (without
  AVX-512 for bfloat16 16 and 32), the int4 product 8 and 32, the fp8 product 16 and 16.
- In float32 weights are dequantised, so that the model is exactly what its files say.
- Experts are held as linear layers are, but never by the fp8 product: those are dequantised. MXFP4 (gpt-oss) stores
  experts only.
- A .gguf file keeps its types under `auto` and `int4`. Any other value dequantises them first, and so does float32,
  where `int4` then quantises anew. Q4_K_M and its like hold several types, each with a row here. IQ1, IQ2, IQ3
  (points of lattices) and TQ1_0 are dequantised.
- What rounds activations in the writer's own layers (W8A8, FP8 with dynamic or static scales) does not round them here.
  The exception is the fp8 product: each row of activations is rounded with its own scale
  ([decision 0105](decisions/0105-fp8-products.md)). Scales of a quantised KV cache are not used, and the log says so.
- bitsandbytes on CUDA: its own layers multiply what it has stored, in the dtype that it is stored in, and
  `llm_int8_threshold` is 0 ([decision 0012](decisions/0012-bitsandbytes-int8-without-outlier-columns.md)).

CUDA's column has run on the pretended GPU of the tests only, never on a real one.

### Refused forms

By config.json, before the weights are read, in one sentence that ends: {way_out}.

| form | a checkpoint stored that way |
|---|---|
{refused}
| another, or none | is not known here |
| `gptq` | with rotated weights |
| `awq` | in other bits than 4; in the layout of another kernel than gemm and gemv |
| `auto-round` | in the packing of another library than AutoGPTQ and AutoAWQ; with rotated weights |
| `compressed-tensors` | with sparse weights (2:4); with rotated activations; in Marlin's own layout |
| `modelopt` | in int4 (its AWQ) |
| `torchao` | in a layout of one kind of device (tiles, preshuffled, sparse); in MX and NVFP4 |
"""

_FOOT = """
## What four bits cost

`python -m bench.rotated_perplexity` gives the perplexity of the bundled model after a random rotation of its hidden
states, which leaves the model what it is and no weight on the grid of 4-bit blocks that its file has. Linear layers of
the stack are rounded, everything is computed in float32. Mean of two rotations, and each:

| form | perplexity | rotations |
|---|---|---|
| `none` | 25.49 | 25.49 / 25.49 |
| `int8` on CUDA | 25.57 | 25.65 / 25.48 |
| `int4` on CPU | 44.48 | 46.46 / 42.51 |
| `int4` on CUDA | 44.69 | 46.70 / 42.68 |
| `bitsandbytes-nf4` | 50.01 | 48.35 / 51.66 |

So small a model loses much to four bits; larger ones lose less. `auto` on CUDA takes the form with the lower perplexity
first. `int4` on CUDA is `int4` on CPU with scales and zeros in bfloat16. [Benchmarks](benchmarks.md) has the stored
forms.
"""


if __name__ == "__main__":
    PATH.write_text(render())
