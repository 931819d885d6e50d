"""What `quantization_config` says of a checkpoint's weights: their codes, and why some forms cannot run.

Sources of names and defaults: transformers 5.23 (its configuration classes), compressed-tensors 0.20, gptqmodel
7.7, autoawq 0.2, auto-round 0.16, ModelOpt 0.40, torchao 0.18. Readers (`handler/formats`) check the tensors
themselves; here is what config.json alone tells, before a download.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]
UNKNOWN = "unknown"
# ModelOpt's own file. Its older versions wrote nothing to config.json.
MODELOPT_FILE = "hf_quant_config.json"
# `quant_method` of AutoRound: its first name, and the present one.
AUTO_ROUND = ("intel/auto-round", "auto-round")
# Its packings (`auto_round_packing`): as GPTQ has its tensors with zero points as they are, or minus one; as AWQ.
AUTO_ROUND_PLAIN = ("auto_round", "auto_round:gptqmodel")
AUTO_ROUND_GPTQ = ("auto", "auto_round:auto_gptq", "auto_round:gptq", "auto_gptq", "gptq")
AUTO_ROUND_AWQ = ("auto_round:auto_awq", "auto_round:awq", "auto_awq")

_WAY_OUT = "take the model in 16 bits, with HF_MODEL_QUANTIZE=int4 if it must be small"


class Values(enum.Enum):
    """What a code stands for: itself, one of 16 multiples of a number (e2m1), any number (nf4), an 8-bit float."""

    INTEGERS = "integers"
    MULTIPLES = "table of multiples"
    TABLE = "table"
    FLOAT8 = "fp8"


@dataclass(frozen=True, slots=True)
class Codes:
    """Weights of `bits` with a scale for each `group` inputs, 0 for all inputs.

    `is_ordered` says that the inputs of a group do not lie side by side (act-order).
    """

    bits: int
    group: int = 0
    values: Values = Values.INTEGERS
    is_ordered: bool = False

    @property
    def file_bytes(self) -> float:
        """Bytes of a weight in its file, about: its codes, and four bytes of scale and zero point a group."""
        return self.bits / 8 + (4 / self.group if self.group else 0.0)

    def __str__(self) -> str:
        kind = "" if self.values is Values.INTEGERS else f" ({self.values.value})"
        scale = f"groups of {self.group}" if self.group else "a scale an output"
        return f"{self.bits} bits{kind}, {scale}{', act-order' if self.is_ordered else ''}"


def quantization_of(config: Settings) -> Settings | None:
    """The `quantization_config` of a parsed config.json, of its text part too; None if its weights are dense."""
    for values in (config, _object(config, "text_config")):
        if found := _object(values, "quantization_config"):
            return found
        if found := _object(values, "compression_config"):  # compressed-tensors before 0.9
            return {"quant_method": "compressed-tensors", **_flat(found)}
    return None


def of_modelopt(values: Settings) -> Settings:
    """What MODELOPT_FILE says, as a `quantization_config`."""
    return {"quant_method": "modelopt", **values}


def method_of(values: Settings) -> str:
    """`quant_method`, also of files that leave it out; UNKNOWN if nothing tells it."""
    method = str(getattr(found := values.get("quant_method"), "value", found) or "").lower()
    if values.get("load_in_4bit") or values.get("load_in_8bit") or method.startswith("bitsandbytes"):
        return "bitsandbytes"
    if method:
        return method
    return "compressed-tensors" if "config_groups" in values else UNKNOWN


def stored_name(values: Settings) -> str:
    """The stored form, as an HF_MODEL_QUANTIZE name if there is one."""
    method = method_of(values)
    if method != "bitsandbytes":
        return method
    if values.get("load_in_4bit") or values.get("quant_method") == "bitsandbytes_4bit":
        return f"bitsandbytes-{values.get('bnb_4bit_quant_type', 'fp4')}"
    return "bitsandbytes"


def stored_codes(values: Settings) -> tuple[Codes, ...]:
    """The codes of the quantised weights, one for each kind that config.json names.

    () if the form is refused, and if its weights are read as dense ones.
    """
    found = _METHODS.get(method_of(values))
    return () if found is None or refusal(values) else tuple(dict.fromkeys(found(values)))


def refusal(values: Settings) -> str:
    """Why no device runs this form, and what to do instead; "" if it runs."""
    method = method_of(values)
    why = _REFUSED.get(method) or next((why for why in _refused_values(method, values)), "")
    if not why and method not in _METHODS:
        why = "is not known here"
    if method == UNKNOWN:
        return f"its quantization_config names no quant_method, as MLX writes it, and is not read here; {_WAY_OUT}"
    return f"a checkpoint stored as {method[:60]} {why}; {_WAY_OUT}" if why else ""


def refused_methods() -> tuple[str, ...]:
    """The values of `quant_method` that are known not to run."""
    return tuple(sorted(_REFUSED))


def _integer(values: Settings, names: Iterable[str], usual: int) -> int:
    """The first of these values that is an integer."""
    return next((found for name in names if type(found := values.get(name)) is int), usual)


def _group(values: Settings, names: Iterable[str], usual: int) -> int:
    """A group size; -1, of all inputs, is 0."""
    return max(0, _integer(values, names, usual))


def _object(values: Settings, name: str) -> Settings:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}


def _gptq(values: Settings) -> Iterable[Codes]:
    group = _group(values, ("group_size",), -1)
    yield Codes(_integer(values, ("bits",), 4), group, is_ordered=bool(values.get("desc_act") and group))


def _awq(values: Settings) -> Iterable[Codes]:
    yield Codes(4, _group(values, ("group_size", "q_group_size"), 128))


def _auto_round(values: Settings) -> Iterable[Codes]:
    yield Codes(_integer(values, ("bits",), 4), _group(values, ("group_size",), 128))


def _hqq(values: Settings) -> Iterable[Codes]:
    nested = _object(_object(values, "quant_config"), "weight_quant_params") or _object(values, "quant_config")
    if nested.get("axis") != 0:  # groups across the outputs, which are read as dense weights
        yield Codes(_integer(nested, ("nbits",), 4), _group(nested, ("group_size",), 64))


def _compressed(values: Settings) -> Iterable[Codes]:
    for group in _config_groups(values):
        weights = _object(group, "weights")
        if weights:
            yield _of_scheme(weights)


def _config_groups(values: Settings) -> list[Settings]:
    return [group for group in _object(_flat(values), "config_groups").values() if isinstance(group, Mapping)]


def _flat(values: Settings) -> Settings:
    """The older `compression_config` has the values beside `sparsity_config` in an object of their own."""
    return {**values, **_object(values, "quantization_config")}


def _of_scheme(weights: Settings) -> Codes:
    bits, is_float = _integer(weights, ("num_bits",), 8), str(weights.get("type")).lower() == "float"
    group = _group(weights, ("group_size",), 0)
    if weights.get("strategy") == "block":
        block = weights.get("block_structure")
        group = block[1] if isinstance(block, list) and len(block) == 2 and type(block[1]) is int else 128
    is_ordered = str(weights.get("actorder")).lower() == "group"
    if not is_float:
        return Codes(bits, group, is_ordered=is_ordered)
    return Codes(bits, group, {4: Values.MULTIPLES, 8: Values.FLOAT8}.get(bits, Values.TABLE))


def _fp8(values: Settings) -> Iterable[Codes]:
    # transformers' default where config.json names no block; null is one scale for each tensor.
    block = values.get("weight_block_size", (128, 128))
    usual = 0 if block is None else 128
    is_pair = isinstance(block, list) and len(block) == 2 and type(block[1]) is int
    yield Codes(8, block[1] if is_pair else usual, Values.FLOAT8)


def _mxfp8(values: Settings) -> Iterable[Codes]:
    yield Codes(8, 32, Values.FLOAT8)


def _fbgemm(values: Settings) -> Iterable[Codes]:
    yield Codes(8, 0, Values.FLOAT8)


def _modelopt(values: Settings) -> Iterable[Codes]:
    for name in _algorithms(values):
        if name in MODELOPT:
            yield MODELOPT[name]


def _algorithms(values: Settings) -> list[str]:
    """`quant_algo` of the checkpoint, or of each of its layers if they differ."""
    nested = _object(values, "quantization") or values
    layers = [each for each in _object(nested, "quantized_layers").values() if isinstance(each, Mapping)]
    named = [each.get("quant_algo") for each in (nested, *layers)]
    return [str(name).upper() for name in named if name and str(name).upper() != "MIXED_PRECISION"]


def _mxfp4(values: Settings) -> Iterable[Codes]:
    yield Codes(4, 32, Values.MULTIPLES)


def _bitsandbytes(values: Settings) -> Iterable[Codes]:
    in_4_bits = stored_name(values) != "bitsandbytes"
    yield Codes(4, 64, Values.TABLE) if in_4_bits else Codes(8)


def _torchao(values: Settings) -> Iterable[Codes]:
    for kind, settings in torchao_kinds(values):
        if "Int4Weight" in kind:
            yield Codes(4, _group(settings, ("group_size",), 128))
        elif kind.startswith("Float8"):
            yield Codes(8, 0, Values.FLOAT8)
        else:
            bits = str(_object(settings, "weight_dtype").get("_data", "int8")).removeprefix("int")
            group = _group(_object(_object(settings, "granularity"), "_data"), ("group_size",), 0)
            yield Codes(int(bits) if bits in tuple("12345678") else 8, group or _group(settings, ("group_size",), 0))


def torchao_kinds(values: Settings) -> list[tuple[str, Settings]]:
    """torchao's class and its values, for each kind of module that `quant_type` names."""
    return [kind for part in _object(values, "quant_type").values() for kind in _torchao_kinds(part)]


def _torchao_kinds(part: object) -> Iterator[tuple[str, Settings]]:
    """Of one class, or of those that it applies by a module's name or after a calibration."""
    if not isinstance(part, Mapping):
        return
    settings = _object(part, "_data")
    by_name = (_object(settings, "fqn_to_config") or _object(settings, "module_fqn_to_config")).values()
    inner = [*by_name, settings.get("base_config")]
    if any(isinstance(each, Mapping) for each in inner):
        for each in inner:
            yield from _torchao_kinds(each)
    else:
        yield str(part.get("_type")), settings


def _gguf(values: Settings) -> Iterable[Codes]:
    kinds = values.get("types")
    return [GGUF[kind] for kind in kinds if kind in GGUF] if isinstance(kinds, list | tuple) else []


# `quant_algo` of ModelOpt.
MODELOPT = {
    **dict.fromkeys(("FP8", "FP8_PER_CHANNEL_PER_TOKEN"), Codes(8, 0, Values.FLOAT8)),
    **dict.fromkeys(("FP8_PB_WO", "FP8_PB_REAL"), Codes(8, 128, Values.FLOAT8)),
    "MXFP8": Codes(8, 32, Values.FLOAT8),
    **dict.fromkeys(("NVFP4", "NVFP4_AWQ", "W4A16_NVFP4", "W4A8_NVFP4_FP8"), Codes(4, 16, Values.MULTIPLES)),
    **dict.fromkeys(("MXFP4", "W4A8_MXFP4_FP8"), Codes(4, 32, Values.MULTIPLES)),
}

# ggml's block types that are quantised (ggml-common.h): a super-block's scales are those of its groups.
GGUF = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K"), Codes(4, 32)),
    **dict.fromkeys(("Q5_0", "Q5_1", "Q5_K"), Codes(5, 32)),
    **dict.fromkeys(("Q8_0", "Q8_1"), Codes(8, 32)),
    "Q8_K": Codes(8, 256),
    "Q2_K": Codes(2, 16),
    "Q3_K": Codes(3, 16),
    "Q6_K": Codes(6, 16),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), Codes(4, 32, Values.MULTIPLES)),
    "MXFP4": Codes(4, 32, Values.MULTIPLES),
    "TQ2_0": Codes(2, 256),
}

_METHODS: dict[str, Callable[[Settings], Iterable[Codes]]] = {
    "gptq": _gptq,
    "awq": _awq,
    **dict.fromkeys(AUTO_ROUND, _auto_round),
    "hqq": _hqq,
    "compressed-tensors": _compressed,
    "fp8": _fp8,
    "mxfp8": _mxfp8,
    "fbgemm_fp8": _fbgemm,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "mxfp4": _mxfp4,
    "bitsandbytes": _bitsandbytes,
    "torchao": _torchao,
    "gguf": _gguf,
}
METHODS = frozenset(_METHODS)

_VECTORS = "has a codebook of vectors, which no layer here multiplies"
_REFUSED = {
    "exl2": "has the layout of one CUDA library (exllamav2), which is not read here",
    "exl3": "has the layout of one CUDA library (exllamav3), which is not read here",
    **dict.fromkeys(("aqlm", "quip", "quip#", "quip_sharp", "vptq", "higgs"), _VECTORS),
    "spqr": "keeps outliers apart from its codes, which no layer here multiplies",
    "eetq": "has the layout of one CUDA library (eetq), which is not read here; int8 makes the same of a dense model",
    "quanto": "is not read here, as quanto writes its tensors in several layouts",
    "bitnet": "has three levels and rounds activations in its own layers, which are not built",
    "fp_quant": "rotates weights and activations, which no layer here does",
    "sinq": "has scales along both sides of a matrix, which no layer here multiplies",
    "quark": "is not read here",
    "metal": "has the layout of Apple's GPUs",
}

_AUTO_ROUND_KERNELS = ("exllama", "exllamav1", "exllamav2", "triton", "tritonv2", "marlin", "cuda", "qigen")
# torchao's layouts that are read, by the value that names them.
_TORCHAO_PLAIN = {"int4_packing_format": "plain", "intx_packing_format": "unpacked_to_int8", "packing_format": "plain"}
_COMPRESSED_FORMATS = (
    *("dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "fakequant"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized"),
)


def _refused_values(method: str, values: Settings) -> Iterable[str]:
    """What of this form's values cannot run."""
    checks = {
        "gptq": _refused_gptq,
        "awq": _refused_awq,
        **dict.fromkeys(AUTO_ROUND, _refused_auto_round),
        "compressed-tensors": _refused_compressed,
        **dict.fromkeys(("modelopt", "modelopt_fp4"), _refused_modelopt),
        "torchao": _refused_torchao,
    }
    return checks[method](values) if method in checks else ()


def _refused_gptq(values: Settings) -> Iterable[str]:
    form = str(values.get("checkpoint_format") or values.get("format") or "gptq").lower()
    if form not in ("gptq", "gptq_v2", "gptq_p", "marlin"):
        yield f"in the checkpoint_format {form} is not read here"
    if values.get("rotation"):
        yield "has rotated weights (rotation), and no layer here rotates activations"


def _refused_awq(values: Settings) -> Iterable[str]:
    bits = values.get("bits", values.get("w_bit", 4))
    if bits != 4:
        yield f"in {bits} bits is not read here, only in 4"
    version = str(values.get("version") or values.get("format") or values.get("checkpoint_format") or "gemm").lower()
    if version not in ("gemm", "gemv", "gemv_fast", "llm-awq") and values.get("backend") != "llm-awq":
        yield f"in the version {version} has the layout of one CUDA kernel, which is not read here"


def auto_round_packing(values: Settings) -> str:
    """AutoRound's `packing_format`, which older files call `backend`, without the kernel that it was packed for."""
    packing = str(values.get("packing_format") or values.get("backend") or "auto_round:auto_gptq").lower()
    packing = packing.replace("auto-round", "auto_round").replace("autoround", "auto_round")
    form, _, kernel = packing.rpartition(":")
    return form if form and kernel in _AUTO_ROUND_KERNELS else packing


def _refused_auto_round(values: Settings) -> Iterable[str]:
    packing, bits = auto_round_packing(values), _integer(values, ("bits",), 4)
    is_known = packing in (*AUTO_ROUND_PLAIN, *AUTO_ROUND_GPTQ, *AUTO_ROUND_AWQ)
    if not is_known or not str(values.get("data_type") or "int").startswith("int"):
        yield f"in the packing_format {packing} of {values.get('data_type') or 'int'} is not read here"
    if packing in AUTO_ROUND_AWQ and bits != 4:
        yield f"in the packing_format {packing} of {bits} bits is not read here, only of 4"
    if _integer(values, ("act_bits",), 16) < 16:
        yield f"with activations in {values['act_bits']} bits is not computed here"
    if values.get("rotation_config") or values.get("spinquant_config"):
        yield "has rotated weights, and no layer here rotates activations"


def _refused_compressed(values: Settings) -> Iterable[str]:
    groups = _config_groups(values)
    for name in (_flat(values).get("format"), *(group.get("format") for group in groups)):
        if name and name not in _COMPRESSED_FORMATS:
            yield f"in the format {name} is not read here"
    sparsity = _object(values, "sparsity_config")
    if sparsity and sparsity.get("format") != "dense":
        yield f"with sparse weights ({sparsity.get('format')}) is not read here"
    if any(map(_is_rotated_at_run_time, _object(_object(values, "transform_config"), "config_groups").values())):
        yield "needs activations rotated (transform_config), which no layer here does"


def _is_rotated_at_run_time(scheme: object) -> bool:
    """True unless a scheme of `transform_config` rotates weights only: those are stored rotated.

    So SpinQuant's R1 and R2 need nothing at run time. Rotations that are trained (`requires_grad`) are stored beside
    the weights. Source: compressed-tensors 0.20, `TransformFactory._apply_to_module`.
    """
    applied = scheme.get("apply", []) if isinstance(scheme, Mapping) and not scheme.get("requires_grad") else None
    if not isinstance(applied, list):
        return True
    places = [each.get("location") if isinstance(each, Mapping) else None for each in applied]
    return any(place not in ("weight_input", "weight_output") for place in places)


def _refused_modelopt(values: Settings) -> Iterable[str]:
    for name in _algorithms(values):
        if name not in MODELOPT:
            yield f"with the quant_algo {name} is not read here"


def _refused_torchao(values: Settings) -> Iterable[str]:
    for kind, settings in torchao_kinds(values):
        if kind.startswith(("MX", "NVFP4")):
            yield f"in torchao's {kind} is not read here"
        # int4 beside activations in 8-bit floats lies in the order of one kernel unless another is named.
        usual = "preshuffled" if kind == "Float8DynamicActivationInt4WeightConfig" else "plain"
        for name, plain in _TORCHAO_PLAIN.items():
            given = settings.get(name) or (usual if name == "int4_packing_format" else plain)
            packing = str(given.get("_data") if isinstance(given, Mapping) else given).lower()
            if packing != plain:
                yield f"in torchao's {name} {packing} has the layout of one kind of device, which is not read here"
