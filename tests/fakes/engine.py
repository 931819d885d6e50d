"""An engine that does what a test says: a real ROUTER on the run directory's socket, a real board, a real card.

It stands on the far side of the socket and nowhere else. Bytes are tokens (ids 0 to 255 in the byte alphabet's order),
a few pairs and words are tokens too, so that stop strings and characters begin and end inside tokens as well as between
them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from container.run_dir import RunDir
from handler.seam.protocol import (
    Abort,
    AdapterDone,
    AdapterMessage,
    AdapterReply,
    FinishReason,
    FromEngine,
    GenerateRequest,
    ModelCard,
    StepOutput,
    TokenLogprob,
    decode_to_engine,
    encode,
)
from handler.seam.status import Phase, StatusBoard

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
MERGES = [("l", "l"), ("o", "Ġ"), ("ll", "oĠ"), ("S", "T"), ("O", "P"), ("ST", "OP"), ("STOP", "!")]
# One token that is 16 kB of answer.
LONG = "x" * 16_384
CONTEXT = 4096
# Sequences in flight that it asks for; 128 is what a card without the number means.
IN_FLIGHT = 100

# What a script yields: a message to send, bytes to send as they are, or an event to wait for.
Act = FromEngine | bytes | threading.Event
Script = Callable[[GenerateRequest], Iterable[Act]]


# The reply to a message about an adapter; None: never.
AdapterScript = Callable[[AdapterMessage], AdapterReply | None]


def done(message: AdapterMessage) -> AdapterReply:
    """What an engine says that takes everything."""
    return AdapterDone(message.request_id)


class FakeEngine:
    """One engine after the other in one run directory. `script` says how the next requests are answered."""

    def __init__(self, directory: Path) -> None:
        self.run_dir = RunDir(directory)
        self.board = StatusBoard(self.run_dir.board)
        self.tokenizer = write_model(directory / "model", self.run_dir.card)
        self.requests: list[GenerateRequest] = []
        self.aborts: list[str] = []
        self.adapter_messages: list[AdapterMessage] = []
        self.adapter_script: AdapterScript = done
        self.script: Script = self.says("hello")
        self.heeds_aborts = True
        self._lives: list[_Life] = []

    @property
    def eos_id(self) -> int:
        return int(self.tokenizer.token_to_id("<|im_end|>"))

    def token_ids(self, text: str | bytes) -> list[int]:
        """One token for each byte."""
        alphabet = _ALPHABET
        raw = text.encode() if isinstance(text, str) else text
        return [self.tokenizer.token_to_id(alphabet[byte]) for byte in raw]

    def says(self, *steps: str | bytes | list[int], finish: FinishReason = FinishReason.EOS) -> Script:
        """A script: each step's tokens in one message, text as one token a byte; then `finish`."""
        token_ids = [step if isinstance(step, list) else self.token_ids(step) for step in steps]

        def play(request: GenerateRequest) -> Iterator[Act]:
            *others, last = [*token_ids, [self.eos_id]] if finish is FinishReason.EOS else token_ids or [[]]
            for ids in others:
                yield output(request, ids)
            yield output(request, last, finish)

        return play

    def start(self) -> None:
        """A new engine under the next epoch, ready. One that still lives keeps its old socket."""
        self.board.enter(Phase.STARTING, "starting")
        epoch = self.board["epoch"] + 1
        self.board["epoch"] = epoch
        self._lives.append(_Life(self, self.run_dir.socket(epoch)))
        self.board.enter(Phase.READY, "a fake engine")

    def die(self, *, silently: bool = False) -> None:
        """The engine ends without a word; PID 1 says so on the board, unless it is slow (`silently`)."""
        while self._lives:
            self._lives.pop().end()
        if not silently:
            self.board.enter(Phase.RESTARTING, "the engine died and is restarted")

    def reset(self) -> None:
        """Another engine, ready, nothing recorded; whatever a test left open ends with the old one."""
        self.script = self.says("hello")
        self.adapter_script = done
        self.adapter_messages.clear()
        self.heeds_aborts = True
        self.board["draining"] = self.board["running"] = self.board["waiting"] = 0
        self.board["waiting_tokens"] = 0
        self.die()
        self.requests.clear()
        self.aborts.clear()
        self.start()

    def close(self) -> None:
        self.die(silently=True)
        self.board.close()


def output(request: GenerateRequest, token_ids: list[int], finish: FinishReason | None = None) -> StepOutput:
    """One step, with the log-probabilities that were asked for."""
    wanted = request.sampling.num_logprobs
    likely = request.sampling.allowed_token_ids or range(wanted or 0)
    top = tuple((i, -1.0 - i) for i in likely[: wanted or 0])
    logprobs = None if wanted is None else [TokenLogprob(-0.25, top) for _ in token_ids]
    num_scored = None if request.sampling.num_prompt_logprobs is None else len(request.prompt_token_ids) - 1
    scores = None if num_scored is None else [TokenLogprob(-1.0, top)] * num_scored
    return StepOutput(request.request_id, token_ids, logprobs, scores, finish)


@dataclass(slots=True)
class _Play:
    worker: bytes
    request_id: str
    acts: Iterator[Act]
    waits_for: threading.Event | None = None
    num_sent: int = 0


class _Life:
    """The thread and the socket of one epoch."""

    def __init__(self, engine: FakeEngine, path: Path) -> None:
        self._engine = engine
        self._plays: list[_Play] = []
        self._ended = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # a script may say more at once than an engine ever does
        self._socket.bind(f"ipc://{path}")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self._context.destroy()

    def _run(self) -> None:
        while not self._ended.is_set():
            if self._socket.poll(2 if self._plays else 20):
                worker, frame = self._socket.recv_multipart()
                self._take(worker, frame)
                continue
            self._plays = [play for play in self._plays if self._advance(play)]

    def _take(self, worker: bytes, frame: bytes) -> None:
        engine = self._engine
        try:
            messages = decode_to_engine(frame)
        except ValueError:
            return
        for message in messages:
            if isinstance(message, AdapterMessage):
                engine.adapter_messages.append(message)
                reply = engine.adapter_script(message)
                if reply is not None:
                    self._socket.send_multipart([worker, encode([reply])])
            elif isinstance(message, Abort):
                engine.aborts.append(message.request_id)
                if engine.heeds_aborts:
                    self._plays = [play for play in self._plays if play.request_id != message.request_id]
            else:
                engine.requests.append(message)
                play = _Play(worker, message.request_id, iter(engine.script(message)))
                if self._advance(play):
                    self._plays.append(play)

    def _advance(self, play: _Play) -> bool:
        """Play until the next event that is not set; False at the end."""
        while play.waits_for is None or play.waits_for.is_set():
            act = next(play.acts, None)
            if act is None:
                return False
            play.waits_for = act if isinstance(act, threading.Event) else None
            if isinstance(act, bytes):
                self._socket.send_multipart([play.worker, act])
            elif not isinstance(act, threading.Event):
                self._socket.send_multipart([play.worker, encode([_placed(act, play)])])
        return True


def _placed(message: FromEngine, play: _Play) -> FromEngine:
    """A step's output of the request that is played, with the number of tokens before it."""
    if not isinstance(message, StepOutput) or message.request_id != play.request_id:
        return message
    placed = msgspec.structs.replace(message, start=play.num_sent)
    play.num_sent += len(message.token_ids)
    return placed


def write_model(directory: Path, card_path: Path) -> Tokenizer:
    """A tokenizer with a chat template, and the card that names it."""
    directory.mkdir()
    words = [*_ALPHABET, *("".join(pair) for pair in MERGES)]
    backend = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(words)}, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    backend.add_tokens([AddedToken(LONG, special=False, normalized=False)])
    backend.save(str(directory / "tokenizer.json"))
    config = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "chat_template": CHATML}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    card = ModelCard(
        model_id="fake/model",
        tokenizer_dir=str(directory),
        revision=None,
        vocab_size=backend.get_vocab_size(),
        max_model_len=CONTEXT,
        eos_token_ids=[backend.token_to_id("<|im_end|>")],
        dtype="float32",
        device="cpu",
        quantize="none",
        kv_capacity_tokens=CONTEXT * 64,
        max_waiting_tokens=CONTEXT * 64,
        max_concurrent_requests=IN_FLIGHT,
    )
    card_path.write_bytes(msgspec.json.encode(card))
    return backend


def _alphabet() -> list[str]:
    """GPT-2's characters, in the order of the bytes they spell."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(hidden)) for byte in range(256)]


_ALPHABET = _alphabet()
