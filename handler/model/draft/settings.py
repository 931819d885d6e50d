"""What SPECULATIVE_MODEL asks for, as settings of a model of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from handler.model.checks.custom_code import custom_code_files, report_custom_code
from handler.model.json_file import read_json
from handler.model.location import check_found, find
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadConfiguration, StartupError

# Values of HF_MODEL_QUANTIZE that quantise what is dense. The others say how the served checkpoint is stored.
_AT_LOAD = frozenset(
    {
        *(Quantize.NONE, Quantize.INT8, Quantize.NF4, Quantize.FP4),
        *(Quantize.INT8_BLOCKS, Quantize.INT4_BLOCKS, Quantize.EETQ),
    }
)


def draft_config(config: EngineConfig) -> EngineConfig:
    """The settings of the draft model: the served one's, but for which model it is.

    It is dense or as stored unless HF_MODEL_QUANTIZE quantises at load.
    """
    return msgspec.structs.replace(
        config,
        model=config.draft_model,
        draft_model="",
        revision=None,
        served_model_id="",
        adapters=(),
        max_adapters=0,
        reserves_adapters=False,
        quantize=config.quantize if config.quantize in _AT_LOAD else Quantize.AUTO,
    )


def locate_draft(config: EngineConfig, progress: Callable[[int, str], None]) -> Path | None:
    """The checkpoint directory of the draft model; None if none is asked for. Converts or downloads it if needed.

    Call it before `locate`, after which nothing is downloaded. Raises BadModel or BadConfiguration.
    """
    if not config.draft_model:
        return None
    if not config.num_draft_tokens:
        raise BadConfiguration(
            f"SPECULATIVE_MODEL={config.draft_model} guesses nothing with SPECULATE=0; unset one of them"
        )
    own = draft_config(config)
    with named_draft(config):
        directory, _ = find(own, progress)
        check_found(own, directory)
        if own.index == 0:
            files = custom_code_files(
                directory, read_json(directory / "config.json"), trust_remote_code=own.trust_remote_code
            )
            report_custom_code(files, refuse=own.refuse_custom_code)
    return directory


@contextmanager
def named_draft(config: EngineConfig) -> Iterator[None]:
    """Say in each StartupError of the block that it is about the draft model, and by which setting."""
    try:
        yield
    except StartupError as exc:
        told = str(exc).replace("HF_MODEL_ID", "SPECULATIVE_MODEL")
        raise type(exc)(f"SPECULATIVE_MODEL={config.draft_model}: {told}") from exc
