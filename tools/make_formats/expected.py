"""Expected answers of checkpoints whose dense weights are other tensors than the model's parameters: experts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.make_formats.base import weights, write_expected

_NUM_ROWS = 2


def write_expected_of_files(
    base: Path, target: Path, dense: Mapping[str, Tensor], *, stored: Mapping[str, Tensor] | None = None
) -> None:
    """As `write_expected`, with `dense` by the names of a dense checkpoint's tensors, which transformers loads.

    `stored` has them as a dense checkpoint keeps them, if that is not as `dense`, `[..., N, K]`.
    """
    with TemporaryDirectory() as temporary:
        whole = {name: each.float() for name, each in {**weights(base), **(stored or dense)}.items()}
        save_file({name: each.contiguous() for name, each in whole.items()}, Path(temporary) / "model.safetensors")
        shutil.copy(base / "config.json", temporary)
        write_expected(Path(temporary), target, {})
    answers = load_file(target / "expected.safetensors")
    rows = {f"rows.{name}": each[..., :_NUM_ROWS, :].float().contiguous() for name, each in dense.items()}
    save_file({**answers, **rows}, target / "expected.safetensors")
