"""GPTQ where checkpoints differ from the fixtures: no `g_idx`, groups of unequal size, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from handler.formats.stored_format import reader_of
from handler.formats.tensor_files import open_tensors
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

FORMATS = Path(__file__).resolve().parents[3] / "data" / "formats"
V2 = {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}


def read(directory: Path, tensors: dict[str, Tensor], form: dict[str, Any], name: str = "m.weight") -> Any:
    """The weight `name` of a checkpoint of these tensors."""
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, directory / "model.safetensors")
    with open_tensors(directory) as files:
        reader = reader_of(form["quant_method"], form, files)
        assert reader is not None
        assert reader.sources()[name] == tuple(
            key for part in ("qweight", "qzeros", "scales", "g_idx") if (key := f"m.{part}") in tensors
        )
        return reader.read(name)


def packed(codes: Tensor, bits: int) -> Tensor:
    """int32 words of the last dimension; the last ones are filled with zeros."""
    places = (codes.long()[..., None] >> torch.arange(bits)) & 1
    places = torch.nn.functional.pad(places, (0, 0, 0, -codes.shape[-1] % 32))
    words = (places.flatten(-2).unflatten(-1, (-1, 32)) << torch.arange(32)).sum(-1)
    return (words - ((words >> 31) << 32)).int()


def stored(bits: int, index: Tensor, num_outputs: int = 32) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of a layer `m` with random codes, and its weights `[N, K]`; `index` int `[K]` has the groups."""
    draw = torch.Generator().manual_seed(3)
    num_groups = int(index.max()) + 1
    codes = torch.randint(2**bits, (num_outputs, len(index)), generator=draw)
    zeros = torch.randint(2**bits, (num_groups, num_outputs), generator=draw)
    scales = (torch.rand(num_groups, num_outputs, generator=draw) + 0.1).half()
    tensors = {"m.qweight": packed(codes, bits).t(), "m.qzeros": packed(zeros, bits), "m.scales": scales}
    dense = scales.float().t()[:, index] * (codes - zeros.t()[:, index])
    return tensors | {"m.g_idx": index.int()}, dense


def groups(*sizes: int) -> Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("index", "group"),
    [
        (groups(32, 32, 32), 32),
        (groups(64, 32), 32),  # 96 inputs in groups of 64
        (groups(48, 16), 16),
        (groups(64, 64)[torch.randperm(128)], 64),
        (groups(64, 32)[torch.randperm(96)], 32),
        (torch.arange(128) % 4, 32),
        (groups(24, 24, 16), None),  # nothing in common but 8: dense
    ],
)
def test_groups_of_any_size_and_order_are_read(bits: int, index: Tensor, group: int | None, tmp_path: Path) -> None:
    tensors, dense = stored(bits, index)
    found = read(tmp_path, tensors, V2)
    if group is None:
        torch.testing.assert_close(found, dense)
        return
    assert isinstance(found, QuantisedWeight)
    assert (found.bits, found.group) == (bits, group)
    assert (found.order is None) is bool((index.sort().values == index).all())
    assert torch.equal(found.dequantise(torch.float32), dense)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(36, 40), (100, 36), (12, 44), (1, 64)])
def test_sizes_that_do_not_fill_words_are_read(bits: int, num_outputs: int, num_inputs: int, tmp_path: Path) -> None:
    tensors, dense = stored(bits, torch.zeros(num_inputs, dtype=torch.int64), num_outputs)
    words = -(-num_inputs * bits // 32), -(-num_outputs * bits // 32)
    tensors["m.qweight"], tensors["m.qzeros"] = tensors["m.qweight"][: words[0]], tensors["m.qzeros"][:, : words[1]]
    found = read(tmp_path, tensors, V2 | {"bits": bits})
    assert torch.equal(found.dequantise(torch.float32), dense)


@pytest.mark.parametrize(("sizes", "group"), [((64, 32), 64), ((32, 32, 32), 32), ((96,), -1), ((48, 48), 100)])
def test_without_an_index_groups_follow_each_other(sizes: tuple[int, ...], group: int, tmp_path: Path) -> None:
    tensors, dense = stored(4, groups(*sizes))
    del tensors["m.g_idx"]
    assert torch.equal(read(tmp_path, tensors, V2 | {"group_size": group}).dequantise(torch.float32), dense)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_version_1_stores_zero_points_minus_one(bits: int, tmp_path: Path) -> None:
    tensors, dense = stored(bits, groups(32, 32))
    # gptqmodel subtracts from whole words, where a zero point of 0 borrows from the next; cut codes alone wrap.
    if bits == 3:
        plain = torch.randint(2**bits, (2, 32), generator=torch.Generator().manual_seed(9))
        tensors["m.qzeros"] = packed((plain - 1) % 8, bits)
        dense = read_zeros(tensors, plain, bits)
    else:
        tensors["m.qzeros"] -= torch.tensor(sum(1 << i for i in range(0, 32, bits)), dtype=torch.int32)
    found = read(tmp_path, tensors, {"quant_method": "gptq", "group_size": 32})
    assert torch.equal(found.dequantise(torch.float32), dense)


def read_zeros(tensors: dict[str, Tensor], zeros: Tensor, bits: int) -> Tensor:
    """The weights of a layer with these zero points, `[G, N]`."""
    words = tensors["m.qweight"].t().long() & 0xFFFFFFFF
    places = (words[..., None] >> torch.arange(32)) & 1
    codes = (places.flatten(-2).unflatten(-1, (-1, bits)) << torch.arange(bits)).sum(-1)
    index = tensors["m.g_idx"].long()
    return tensors["m.scales"].float().t()[:, index] * (codes - zeros.t()[:, index])


def test_symmetric_weights_have_one_zero_point_and_no_minima(tmp_path: Path) -> None:
    tensors, _ = stored(4, groups(32, 32))
    tensors["m.qzeros"] = packed(torch.full((2, 32), 8), 4)
    found = read(tmp_path, tensors, V2)
    assert (found.zero, found.minimum) == (8, None)


@pytest.mark.parametrize(
    ("method", "key", "packing", "minus_one"),
    [
        ("auto-round", "packing_format", "auto_round", False),
        ("auto-round", "packing_format", "auto_round:gptqmodel", False),
        ("auto-round", "packing_format", "auto_round:auto_gptq", True),
        ("auto-round", "packing_format", None, True),
        ("intel/auto-round", "backend", "auto_round:exllamav2", False),
        ("intel/auto-round", "backend", "autoround:exllamav2", False),
        ("intel/auto-round", "backend", "auto_round:tritonv2", False),
        ("intel/auto-round", "backend", "auto_round:gptq:exllamav2", True),
        ("intel/auto-round", "backend", "auto_gptq:marlin", True),
        ("intel/auto-round", "backend", "gptq:exllamav2", True),
    ],
)
def test_auto_round_says_in_its_packing_how_zero_points_are_stored(
    method: str, key: str, packing: str | None, minus_one: bool, tmp_path: Path
) -> None:
    tensors, dense = stored(4, groups(32, 32))
    form = {"quant_method": method, "group_size": 32, key: packing}
    if minus_one:
        tensors["m.qzeros"] -= 0x11111111
    assert torch.equal(read(tmp_path, tensors, form).dequantise(torch.float32), dense)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (V2 | {"checkpoint_format": "bitblas"}, "gptq in the checkpoint_format bitblas"),
        (V2 | {"rotation": "hadamard"}, "gptq has rotated weights"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:fp8_static"}, "auto_round:fp8_static"),
    ],
)
def test_a_layout_that_no_reader_knows_is_refused(form: dict[str, Any], says: str, tmp_path: Path) -> None:
    tensors, _ = stored(4, groups(32, 32))
    tensors["m.qweight"] = tensors["m.qweight"].reshape(4, 64)  # Marlin's
    with pytest.raises(BadModel, match=f"{says}.*; take "):
        read(tmp_path, tensors, form)


def in_marlins_order(codes: Tensor) -> Tensor:
    """The words `B` of codes `[N, K]`, as marlin's `Layer.pack` fills them: thread by thread."""
    words = torch.zeros(codes.shape[1] // 16, codes.shape[0] * 2, dtype=torch.int64)
    for row in range(words.shape[0]):
        for word in range(words.shape[1]):
            part, thread, tile = word // 128, word % 128 // 4, word % 4
            for place, which in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                k = 16 * row + 2 * (thread % 4) + (0, 1, 8, 9)[which % 4]
                n = 64 * part + 16 * tile + thread // 4 + 8 * (which // 4)
                words[row, word] |= int(codes[n, k]) << (4 * place)
    return (words - ((words >> 31) << 32)).int()


@pytest.mark.parametrize("num_groups", [1, 2])
def test_marlins_layout_is_read(num_groups: int, tmp_path: Path) -> None:
    num_outputs, num_inputs = 128, 256
    codes = torch.randint(16, (num_outputs, num_inputs))
    scales = (torch.rand(num_outputs, num_groups) + 0.1).half()
    places = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
    if num_groups > 1:
        places = [i + 8 * j for i in range(8) for j in range(8)]
    s = scales.t().reshape(-1, len(places))[:, places].reshape(num_groups, num_outputs)
    tensors = {"m.B": in_marlins_order(codes), "m.s": s, "m.workspace": torch.zeros(4, dtype=torch.int32)}
    form = {"quant_method": "gptq", "bits": 4, "is_marlin_format": True}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with open_tensors(tmp_path) as files:
        reader = reader_of("gptq", form, files)
        assert reader is not None
        assert reader.sources() == {"m.weight": ("m.B", "m.s"), "": ("m.workspace",)}
        found = reader.read("m.weight")
    assert isinstance(found, QuantisedWeight)
    assert (found.bits, found.group, found.zero, found.minimum) == (4, num_inputs // num_groups, 8, None)
    dense = (codes - 8) * scales.float().repeat_interleave(num_inputs // num_groups, 1)
    assert torch.equal(found.dequantise(torch.float32), dense)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"m.B": (16, 128)}, "m has no s, its scales"),
        ({"m.B": (16, 128), "m.s": (2, 128)}, r"do not fit together as Marlin: \[16, 128\] and \[2, 128\]"),
        ({"m.B": (16, 64), "m.s": (2, 32)}, "do not fit together as Marlin"),
    ],
)
def test_marlins_tensors_that_do_not_fit_are_named(tensors: Any, says: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(shape).int() for name, shape in tensors.items()}, tmp_path / "model.safetensors")
    with open_tensors(tmp_path) as files:
        reader = reader_of("gptq", {"quant_method": "gptq", "checkpoint_format": "marlin"}, files)
        assert reader is not None
        with pytest.raises(BadModel, match=says):
            reader.read("m.weight")


def test_marlin_as_the_name_of_a_kernel_is_read(tmp_path: Path) -> None:
    tensors = load_file(FORMATS / "gptq" / "model.safetensors")
    name = "model.layers.0.mlp.down_proj"
    part = {f"m.{key}": tensors[f"{name}.{key}"] for key in ("qweight", "qzeros", "scales", "g_idx")}
    assert read(tmp_path, part, {"quant_method": "gptq", "checkpoint_format": "marlin"}).zero == 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop("m.qzeros"), "has no qzeros"),
        (lambda tensors: tensors.update({"m.scales": tensors["m.scales"][:1]}), "do not fit together"),
        (lambda tensors: tensors.update({"m.qweight": tensors["m.qweight"][:, :16]}), "do not fit together"),
        (lambda tensors: tensors.update({"m.g_idx": tensors["m.g_idx"] + 7}), "names groups"),
        (lambda tensors: tensors.update({"m.g_idx": tensors["m.g_idx"].repeat(9)}), "names groups"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Any, says: str, tmp_path: Path) -> None:
    tensors, _ = stored(4, groups(32, 32))
    change(tensors)
    with pytest.raises(BadModel, match=says):
        read(tmp_path, tensors, V2)
