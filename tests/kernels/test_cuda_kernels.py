"""CUDA kernels without a GPU: compiled to machine code for every one, and run thread by thread on this processor."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from handler.kernels.cuda import layer_kernels
from handler.kernels.cuda.adapter_kernels import AdapterKernels, LowRankStack
from handler.kernels.cuda.driver import DriverError, Module
from handler.kernels.cuda.layer_kernels import DEFINES, SIGNATURES, Heads, LayerKernels, NormWeight, layer_source
from handler.kernels.cuda.nvrtc import CompileError, compile_cubin, open_nvrtc
from tests.support.host_kernels import HostKernels
from tests.support.pretend_cuda import gpus_of, pretend_cuda
from tests.support.pretend_cuda.driver import PretendDriver, signatures
from tests.support.pretend_cuda.tensor import PretendTensor

# What SageMaker rents, and Blackwell: T4, A100, A10G, L4, H100, B200, RTX PRO 6000.
CAPABILITIES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
_EM_CUDA = 190
# One rounding may go the other way where float32 sums differ by their order. Far below zero gelu is what remains of
# 1 - 1, so only its first digits count.
TOLERANCE = {torch.bfloat16: {"rtol": 2**-7, "atol": 1e-5}, torch.float16: {"rtol": 2**-10, "atol": 1e-5}}


def architecture(cubin: bytes) -> int:
    """Compute capability, times ten, in the flags of the ELF file. Its place depends on the ABI, the byte 8."""
    (flags,) = struct.unpack_from("<I", cubin, 48)
    return flags & 0xFF if cubin[8] < 8 else flags >> 8 & 0xFF


@pytest.mark.needs("nvrtc")
@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda each: f"sm_{each[0]}{each[1]}")
def test_the_source_compiles_to_machine_code(capability: tuple[int, int]) -> None:
    """Not to PTX, which a driver older than the compiler refuses."""
    library = open_nvrtc(None)
    for defines in DEFINES.values():
        cubin = compile_cubin(library, layer_source(), capability, defines)
        assert cubin[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", cubin, 18) == (_EM_CUDA,)
        assert architecture(cubin) == 10 * capability[0] + capability[1]
        assert b".version" not in cubin, "PTX inside"
        assert all(f".text.{name}\0".encode() in cubin for name in SIGNATURES)


@pytest.mark.needs("nvrtc")
def test_what_nvrtc_refuses_is_said() -> None:
    library = open_nvrtc(None)
    with pytest.raises(CompileError, match="identifier"):
        compile_cubin(library, "__global__ void wrong() { unknown(); }", (8, 6))
    with pytest.raises(CompileError, match="architecture"):
        compile_cubin(library, layer_source(), (3, 0))
    with pytest.raises(CompileError, match=r"libnvrtc\.so\.1"):
        open_nvrtc("1.0")


def test_parameters_are_passed_as_the_source_declares_them() -> None:
    assert signatures(layer_source()) == {name: list(types) for name, types in SIGNATURES.items()}


@contextlib.contextmanager
def on_host(directory: Path, dtype: torch.dtype, **options: bool) -> Iterator[LayerKernels]:
    """The kernels on a pretended A10G, whose driver runs their source on this processor."""
    run = HostKernels(directory, dtype, **options)
    with pretend_cuda(gpus_of("A10G")), pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_kernels, "open_driver", lambda: PretendDriver(PretendTensor.dispatcher, run))
        yield LayerKernels(dtype)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host")


def numbers(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * scale).to(dtype)


def same(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(found.cpu(), expected, **TOLERANCE[dtype])


@pytest.mark.needs("g++")
@pytest.mark.parametrize("dtype", DEFINES, ids=str)
@pytest.mark.parametrize("width", [2, 130, 1536])
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm])
def test_norms(kind: Any, width: int, dtype: torch.dtype, built: Path) -> None:
    norm = kind(width, eps=1e-5).to(dtype)
    norm.weight.data = numbers(width, dtype=dtype) + 1
    rows, residual = numbers(1, 5, width, dtype=dtype, scale=30), numbers(1, 5, width, dtype=dtype, scale=7)
    with torch.no_grad():
        expected = norm(rows), residual + rows, norm(residual + rows), residual + norm(rows)
    with on_host(built, dtype) as kernels:
        weight = NormWeight(norm.weight.detach().cuda(), 1e-5, kind is Gemma3RMSNorm)
        given = rows.cuda(), residual.cuda()
        found = kernels.norm(given[0], weight), *kernels.add_norm(*given, weight), kernels.norm_add(*given, weight)
        for one, other in zip(found, expected, strict=True):
            same(one, other, dtype)
        assert torch.equal(found[1].cpu(), expected[1])


@pytest.mark.needs("g++")
@pytest.mark.parametrize("dtype", DEFINES, ids=str)
@pytest.mark.parametrize("width", [2, 96, 1100])
@pytest.mark.parametrize("gelu", [False, True])
def test_gate_times_up(gelu: bool, width: int, dtype: torch.dtype, built: Path) -> None:
    """Halves of one product, and two tensors; garbage of the one is not read as the other's."""
    joined = numbers(1, 3, 2 * width, dtype=dtype, scale=4)
    gate, up = joined.split(width, -1)
    expected = (F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)) * up
    with on_host(built, dtype) as kernels:
        same(kernels.gate_times_up(*joined.cuda().split(width, -1), gelu), expected, dtype)
        same(kernels.gate_times_up(gate.contiguous().cuda(), up.contiguous().cuda(), gelu), expected, dtype)


def rotated(heads: Tensor, norm: Any, angles: list[Tensor]) -> Tensor:
    """`heads` `[T, H, D]` as transformers norms and rotates them."""
    with torch.no_grad():
        heads = (norm(heads) if norm else heads).transpose(0, 1)[None]
        return apply_rotary_pos_emb(heads, heads, *angles)[0][0].transpose(0, 1)


@pytest.mark.needs("g++")
@pytest.mark.parametrize("dtype", DEFINES, ids=str)
@pytest.mark.parametrize("kind", [None, LlamaRMSNorm, Gemma3RMSNorm])
@pytest.mark.parametrize("shape", [(4, 2, 16, 16), (3, 1, 160, 160), (2, 2, 6, 8)], ids=str)
def test_rotary_and_cache(shape: tuple[int, int, int, int], kind: Any, dtype: torch.dtype, built: Path) -> None:
    """Tokens at scattered slots; the rest of the cache stays as it was."""
    num_heads, num_kv_heads, dim, cache_dim = shape
    sizes, slots = [n * dim for n in (num_heads, num_kv_heads, num_kv_heads)], torch.tensor([9, 2, 31])
    joined = numbers(1, 3, sum(sizes), dtype=dtype, scale=3)
    before = numbers(4, 8, num_kv_heads, cache_dim, dtype=dtype)
    half = torch.outer(torch.tensor([0.0, 5.0, 1234.0]), torch.linspace(0, 1, dim // 2))
    angles = [turn(torch.cat((half, half), -1))[None].to(dtype) for turn in (torch.cos, torch.sin)]
    norms = [kind(dim, eps=1e-6).to(dtype) for _ in range(2)] if kind else []
    for i, norm in enumerate(norms):
        norm.weight.data = numbers(dim + i, dtype=dtype)[:dim]
    q, k, v = (part.view(3, -1, dim) for part in joined[0].split(sizes, -1))
    q, k = (rotated(part, norm, angles) for part, norm in zip((q, k), norms or [None] * 2, strict=True))
    with on_host(built, dtype) as kernels:
        weights = [NormWeight(norm.weight.detach().cuda(), 1e-6, kind is Gemma3RMSNorm) for norm in norms]
        heads, cache = Heads(*shape[:3], *weights), (before.cuda(), before.clone().cuda())
        given = joined.cuda().split(sizes, -1), [one.cuda() for one in angles], cache, slots.cuda()
        same(kernels.rotate_and_store(heads, *given), q, dtype)
        for tensor, part in zip(cache, (k, v), strict=True):
            expected = before.clone()
            expected.view(32, num_kv_heads, cache_dim)[slots, :, :dim] = part
            same(tensor, expected, dtype)


@contextlib.contextmanager
def adapters_on_host(directory: Path, dtype: torch.dtype, **options: bool) -> Iterator[AdapterKernels]:
    with on_host(directory, dtype, **options):
        yield AdapterKernels(dtype)


def stack(dtype: torch.dtype, width: int, ends: tuple[int, ...], ranks: list[list[int]], most: int) -> LowRankStack:
    """What lies beyond a rank is huge: a kernel that reads it shows."""
    slots, parts = len(ranks), len(ends)
    down, up = numbers(slots, parts * most, width, dtype=dtype), numbers(slots, most, ends[-1], dtype=dtype)
    down /= width**0.5
    for slot, part in ((s, p) for s in range(slots) for p in range(parts)):
        first, last = part * most + ranks[slot][part], (part + 1) * most
        down[slot, first:last] = 1e4
    scalings = numbers(slots, parts, dtype=torch.float32)
    return LowRankStack(down.cuda(), up.cuda(), torch.tensor(ranks, dtype=torch.int32).cuda(), scalings.cuda(), ends)


def with_adapters(out: Tensor, rows: Tensor, held: LowRankStack, slots: list[int]) -> Tensor:
    """The formula, row by row, in float64."""
    found = out.double()
    starts = held.starts
    for row, slot in enumerate(slots):
        for part, (first, last) in enumerate(zip(starts, held.ends, strict=True)):
            rank, scaling = int(held.ranks[slot, part]), float(held.scalings[slot, part])
            if slot >= 0:
                at = part * held.max_rank
                dots = held.down[slot, at : at + rank].cpu().double() @ rows[row].double()
                found[row, first:last] += scaling * (held.up[slot, :rank, first:last].cpu().double().T @ dots)
    return found.to(out.dtype)


@pytest.mark.needs("g++")
@pytest.mark.parametrize("dtype", DEFINES, ids=str)
@pytest.mark.parametrize(
    ("width", "ends", "ranks", "most"),
    [(2, (2,), [[1]], 1), (514, (64, 80, 96), [[8, 3, 0], [1, 8, 8]], 8), (130, (300, 600), [[5, 6], [0, 0]], 6)],
    ids=str,
)
def test_what_adapters_add(
    width: int, ends: tuple[int, ...], ranks: list[list[int]], most: int, dtype: torch.dtype, built: Path
) -> None:
    """Rows of several adapters and of none, joined and each part alone, into columns of a wider tensor; and each row
    alone, which has the same bits."""
    slots = [0, -1, len(ranks) - 1, -1, -1, 0, len(ranks) - 1]
    rows, before = numbers(7, width, dtype=dtype), numbers(7, ends[-1] + 2, dtype=dtype)
    with adapters_on_host(built, dtype) as kernels:
        held, on_gpu = stack(dtype, width, ends, ranks, most), torch.tensor(slots, dtype=torch.int32).cuda()
        whole, apart = before.cuda(), before.cuda()
        kernels.add(whole[:, : ends[-1]], rows.cuda(), held, on_gpu)
        for part, (first, last) in enumerate(zip(held.starts, ends, strict=True)):
            kernels.add(apart[:, first:last], rows.cuda(), held.part(part), on_gpu)
        same(whole[:, : ends[-1]], with_adapters(before[:, : ends[-1]], rows, held, slots), dtype)
        assert torch.equal(whole.cpu(), apart.cpu())
        assert torch.equal(whole.cpu()[:, ends[-1] :], before[:, ends[-1] :])
        for row, slot in enumerate(slots):
            alone = before[row : row + 1].cuda()
            kernels.add(alone[:, : ends[-1]], rows[row : row + 1].cuda(), held, on_gpu[row : row + 1])
            assert torch.equal(alone.cpu()[0], whole.cpu()[row])
            assert slot >= 0 or torch.equal(alone.cpu()[0], before[row])


@pytest.mark.needs("g++")
def test_no_barrier_is_missing(built: Path) -> None:
    """Threads in falling order say the same, bit for bit."""
    rows, weight = numbers(1, 2, 700, dtype=torch.bfloat16), numbers(700, dtype=torch.bfloat16)
    found = []
    for backwards in (False, True):
        with on_host(built, torch.bfloat16, backwards=backwards) as kernels:
            found.append(kernels.add_norm(rows.cuda(), rows.cuda(), NormWeight(weight.cuda(), 1e-5, False))[1].cpu())
    assert torch.equal(*found)
    found, slots = [], torch.tensor([0, 1], dtype=torch.int32)
    for backwards in (False, True):
        with adapters_on_host(built, torch.bfloat16, backwards=backwards) as kernels:
            out = rows[0].cuda()
            kernels.add(out, out.clone(), stack(torch.bfloat16, 700, (700,), [[8], [3]], 8), slots.cuda())
            found.append(out.cpu())
    assert torch.equal(*found)


def test_tensors_that_a_kernel_would_misread_are_refused() -> None:
    with pretend_cuda(gpus_of("A10G")):
        kernels = LayerKernels(torch.bfloat16)
        rows = torch.zeros(1, 4, 8, dtype=torch.bfloat16, device="cuda")
        weight = NormWeight(rows[0, 0], 1e-5, False)
        for wrong in (rows.float(), rows.transpose(1, 2), rows[..., :7], rows[..., :6], rows.cpu()):
            with pytest.raises(ValueError, match="no kernel takes"):
                kernels.norm(wrong, weight)
        for gate, up in ((rows, rows[..., :6]), (rows[..., :7], rows[..., :7]), (rows[..., 1:7], rows[..., 1:7])):
            with pytest.raises(ValueError, match="no kernel takes"):
                kernels.gate_times_up(gate, up, False)
        heads, slots = Heads(1, 1, 8), torch.zeros(4, dtype=torch.int64, device="cuda")
        cache = torch.zeros(2, 4, 1, 8, dtype=torch.bfloat16, device="cuda")
        good = ((rows, rows, rows), (rows, rows), (cache, cache), slots)
        assert kernels.rotate_and_store(heads, *good).shape == (4, 1, 8)
        for place, wrong in (
            (0, (rows, rows, rows[..., :4])),
            (1, (rows, rows[:, :3])),
            (2, (cache, cache[:1])),
            (3, slots.int()),
        ):
            with pytest.raises(ValueError, match="no kernel takes"):
                kernels.rotate_and_store(heads, *good[:place], wrong, *good[place + 1 :])


def test_products_that_no_adapter_kernel_takes_are_refused() -> None:
    with pretend_cuda(gpus_of("A10G")):
        kernels = AdapterKernels(torch.bfloat16)
        held = stack(torch.bfloat16, 8, (6,), [[2]], 2)
        out, rows, slots = (torch.zeros(4, n, dtype=torch.bfloat16, device="cuda") for n in (6, 8, 1))
        known = slots[:, 0].int()
        kernels.add(out, rows, held, known)
        for wrong in (
            (out.float(), rows, held, known),
            (out, rows[:, :7], held, known),
            (out[:, :5], rows, stack(torch.bfloat16, 8, (5,), [[2]], 2), known),
            (out, rows, stack(torch.float16, 8, (6,), [[2]], 2), known),
            (out, rows, held, known[:3]),
            (out, rows, held, known.long()),
            (out.cpu(), rows, held, known),
        ):
            with pytest.raises(ValueError, match="no kernel takes"):
                kernels.add(*wrong)


def test_machine_code_for_another_gpu_is_refused() -> None:
    with pretend_cuda(gpus_of("T4")), pytest.raises(DriverError, match="no kernel image"):
        Module(layer_kernels.open_driver(), compile_cubin(layer_kernels.open_nvrtc(None), layer_source(), (8, 6)))
