"""The text side of the model in one web worker: loaded when an engine has started, and whether requests can be served.

Files that cannot be used are written to the run directory, where PID 1 finds them.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import gevent
from gevent.event import Event

from container.errors import NotReady, TemplateFailed
from container.generation.engine_client import EngineClient
from container.generation.engine_pool import EnginePool
from container.run_dir import RunDir
from container.serving.served_model import ServedModel
from container.settings import Settings
from container.text.chat_template import TemplateError
from container.text.offload import in_pool
from container.text.template_renderer import RenderProcess
from container.text.tokenizer import TokenizerError
from handler.seam.status import Phase

logger = logging.getLogger(__name__)

# The engine is ready a moment before the last worker has read its tokenizer; requests of that moment wait this long.
_LOAD_WAIT_S = 10.0


class ModelWatch:
    """Loads the model's text side once for each start of an engine; call `poll` often.

    All engines serve the same model, so the card that was read last is the card.
    """

    def __init__(
        self,
        engines: EnginePool,
        run_dir: RunDir,
        settings: Settings,
        describe: Callable[[ServedModel], str] | None = None,
    ) -> None:
        """`describe` gives a line for the log, said once for all workers."""
        self._describe = describe
        self._engines = engines
        self._settings = settings
        self._refusal_path = run_dir.refusal
        self._template_fault_path = run_dir.template_fault
        self._template_told_path = run_dir.template_told
        self._renderer = RenderProcess()
        self._model: ServedModel | None = None
        self._loaded = Event()
        # The epoch of each engine whose card has been read.
        self._read_epochs: dict[EngineClient, int] = {}

    @property
    def loaded(self) -> bool:
        """Whether a model has been loaded, whatever the engines do now."""
        return self._model is not None

    @property
    def ready(self) -> bool:
        """True if a request can be served now."""
        return self._engines.ready and self._model is not None

    @property
    def model(self) -> ServedModel:
        """The loaded model. Raises NotReady before the first load and while no engine is ready."""
        if self._engines.ready and self._model is None:
            self._loaded.wait(_LOAD_WAIT_S)
        if self._model is None or not self.ready:
            raise NotReady(f"the model is not ready: {self.phase_name}", retry_after_s=2)
        return self._model

    @property
    def phase_name(self) -> str:
        """The server's phase in one word."""
        if self._engines.draining:
            return "draining"
        phase = self._engines.leading_board.phase
        if phase is Phase.READY and self._model is None:
            phase = Phase.WARMING
        return phase.name.lower()

    def poll(self) -> None:
        """Read the cards of engines that have started since the last call."""
        for client in self._engines.ready_clients:
            epoch = client.board["epoch"]
            if epoch != self._read_epochs.get(client):
                self._read_card(client)
                self._read_epochs[client] = epoch

    def _read_card(self, client: EngineClient) -> None:
        """Large vocabularies take a second, so they load off the event loop."""
        load = partial(ServedModel.load, client.engine_dir.card, self._settings, self._renderer)
        try:
            self._model = in_pool(load)
        except (TokenizerError, TemplateError) as exc:
            self._refuse(exc)
        except (OSError, ValueError) as exc:
            logger.error("the model's card cannot be used: %s", exc)
        else:
            _freeze_garbage()
            self._loaded.set()
            gevent.spawn(self._check_template, self._model)

    def _check_template(self, model: ServedModel) -> None:
        """Log before the first chat, once for all workers, what the template is like, or that it cannot run.

        Everything but chats is served then, and each chat is refused with the same reason.
        """
        if model.chat_template is None:
            return
        try:
            model.chat_template.compile()
            line = self._describe(model) if self._describe is not None else None
            with suppress(FileExistsError):
                if line is not None:
                    self._template_told_path.touch(exist_ok=False)
                    logger.info(line)
        except (TemplateError, TemplateFailed) as exc:
            with suppress(FileExistsError):
                self._template_fault_path.touch(exist_ok=False)
                logger.error("the model's chat template cannot run, chats that need it are refused: %s", exc)

    def _refuse(self, reason: Exception) -> None:
        """Make PID 1 end the container with `reason`: the model's files are at fault, so no restart would help."""
        scratch = self._refusal_path.with_suffix(f".{os.getpid()}")
        scratch.write_text(" ".join(str(reason).split()), "utf-8")
        scratch.replace(self._refusal_path)


def _freeze_garbage() -> None:
    """Freeze live objects. Otherwise each full collection scans them and pauses the worker for about 50 ms.

    Unfreeze first, so that a replaced model is freed.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
