"""The rivals: the same model, all cores, otherwise their own defaults."""

from __future__ import annotations

import json
import os
from pathlib import Path

from bench.rivals.dense_checkpoint import dense_checkpoint
from bench.rivals.install import LLAMA_SERVER, TRANSFORMERS, VLLM, installed
from bench.servers import Contender
from handler.model.gguf_model import bundled_gguf

# Room for 32 prompts of 1,000 tokens with their answers; llama.cpp divides its context among its slots.
_LLAMA_SLOTS = 32
_LLAMA_CONTEXT = _LLAMA_SLOTS * 1536
_STANDARD = {"max_tokens": 64, "temperature": 0, "ignore_eos": True}


def rivals() -> list[Contender]:
    """The installed rivals."""
    model = dense_checkpoint(Path(os.environ["CACHE_DIR"]))
    found = {"vllm": _vllm(model), "llama.cpp": _llama_cpp(bundled_gguf()), "transformers": _transformers(model)}
    return [contender for name, contender in found.items() if installed(name)]


def _vllm(model: Path) -> Contender:
    def command(port: int) -> list[str]:
        options = ("--served-model-name", "m", "--dtype", "bfloat16", "--host", "127.0.0.1", "--port", str(port))
        return [str(VLLM / "bin" / "python"), str(VLLM / "bin" / "vllm"), "serve", str(model), *options]

    cores = sorted(os.sched_getaffinity(0))
    # By default vLLM reserves one core for its front end.
    environ = {
        "VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}-{cores[-1]}",
        "OMP_NUM_THREADS": str(len(cores)),
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{VLLM / 'bin'}:{os.environ['PATH']}",
    }
    return Contender("vLLM bf16", command, _STANDARD, environ)


def _llama_cpp(gguf: Path) -> Contender:
    threads = str(len(os.sched_getaffinity(0)))

    def command(port: int) -> list[str]:
        options = (
            "-np",
            str(_LLAMA_SLOTS),
            "-c",
            str(_LLAMA_CONTEXT),
            "-t",
            threads,
            "-tb",
            threads,
            "--port",
            str(port),
        )
        return [str(LLAMA_SERVER), "-m", str(gguf), "--alias", "m", "--offline", *options]

    return Contender("llama.cpp Q4_1", command, _STANDARD)


def _transformers(model: Path) -> Contender:
    def command(port: int) -> list[str]:
        options = ("--continuous-batching", "--device", "cpu", "--dtype", "bfloat16", "--port", str(port))
        return [str(TRANSFORMERS / "bin" / "transformers"), "serve", str(model), *options]

    # It refuses unknown fields, and accepts `ignore_eos` only in this form.
    generation = json.dumps({"eos_token_id": -1, "do_sample": False, "max_new_tokens": 64})
    options = {"model": str(model), "max_tokens": 64, "temperature": 0, "generation_config": generation}
    return Contender("transformers serve bf16", command, options, {"HF_HUB_OFFLINE": "1"}, light=True)
