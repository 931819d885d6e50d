"""`DraftStart`: from SPECULATIVE_MODEL to a runner beside the served model's."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from handler.kernels.product.rounded.activations import ACTIVATIONS
from handler.linears.rounded import check_rounded
from handler.model.checks.remote_code import follows_code
from handler.model.draft.settings import draft_config, named_draft
from handler.model.draft.vocabulary import check_vocabulary
from handler.model.json_file import read_json
from handler.model.loader import Beside, LoadedModel, load
from handler.model.machine_memory import give_back
from handler.model.placement import Devices
from handler.model.tokenizer_files import tokenizer_dir
from handler.runners.choice import choose_runner
from handler.runners.limits import Limits, bytes_per_token
from handler.runners.runner import Runner
from handler.seam.config import EngineConfig
from handler.seam.errors import UnsupportedModel
from handler.seam.status import StatusBoard

logger = logging.getLogger(__name__)

# GPU memory for the draft model's graphs and for what its steps take beside the served model's: an estimate.
_STEP_BYTES = 768 << 20


class DraftStart:
    """The draft model on its way. Its methods are called in the order in which they stand.

    All raise StartupError that names the draft model.
    """

    def __init__(self, config: EngineConfig, directory: Path) -> None:
        """`config` is the served model's; `directory` holds the draft model's checkpoint."""
        self.config = draft_config(config)
        self.directory = directory
        self._asked = config
        self._loaded: LoadedModel | None = None

    def check_vocabulary(self, served: tuple[Path, str]) -> None:
        """Compare the tokenizers, before any weight is read. `served` is the other one's directory and model."""
        check_vocabulary(served, (self._tokens_dir(), self._asked.draft_model))

    def load(self, progress: Callable[[int, str], None], devices: Devices) -> None:
        """Load the weights onto the first of `devices`."""
        with named_draft(self._asked):
            own = Devices(devices.own[:1])
            self._loaded = load(self.config, self.directory, progress, own, self._tokens_dir())
            if ACTIVATIONS.wants_int8:
                check_rounded(self._loaded.model, self._loaded.device.type)

    def beside(self, served: LoadedModel) -> LoadedModel:
        """The served model, which leaves memory to the draft model."""
        assert self._loaded is not None
        on_cuda = self._loaded.device.type == "cuda"
        beside = Beside(bytes_per_token(self._loaded), _STEP_BYTES if on_cuda else 0)
        return dataclasses.replace(served, beside=beside)

    def run_beside(self, served: Runner, limits: Limits, board: StatusBoard) -> tuple[Runner, Limits] | None:
        """The runner and its limits: as many sequences and tokens as `limits` say, each as long as its context allows.

        None if `served` cannot verify drafts. What the board says of the trial is then of both models, the worse.
        """
        assert self._loaded is not None
        loaded, self._loaded = self._loaded, None
        if served.drafts_obstacle is not None:
            del loaded
            give_back()
            return None
        own = msgspec.structs.replace(
            self.config,
            max_model_len=min(limits.max_model_len, loaded.max_position_embeddings),
            kv_capacity_tokens=limits.capacity_tokens,
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
        )
        verdict = board["self_test"]
        with named_draft(self._asked):
            runner, found = choose_runner(own, loaded, board)
            if runner.drafts_obstacle is not None:
                raise UnsupportedModel(f"it cannot guess for this server: {runner.drafts_obstacle}")
        board["self_test"] = max(verdict, board["self_test"])
        logger.info(
            "draft model %s: %s on %s, quantize=%s, runner %s, up to %d tokens of a sequence",
            *(self._asked.draft_model, str(loaded.dtype).removeprefix("torch."), loaded.device),
            *(loaded.quantize, runner.name, found.max_model_len),
        )
        return runner, found

    def _tokens_dir(self) -> Path:
        trusted = follows_code(
            read_json(self.directory / "config.json"), trust_remote_code=self.config.trust_remote_code
        )
        return tokenizer_dir(self.directory, Path(self.config.cache_dir), trusted)
