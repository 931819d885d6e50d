"""Rows 12, 33 and 34 against the real server: a poisoned request, memory that runs out, grammars without end."""

from __future__ import annotations

import concurrent.futures
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from tests.faults import streams
from tests.faults.conftest import MakeServer, Scoreboard
from tests.faults.streams import Client


def save(directory: Path, change: Callable[[Any], None] = lambda _model: None, **config: int) -> Path:
    """A tiny llama in float32, changed before it is written."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.support import tiny_models

    torch.manual_seed(0)
    values = tiny_models.FAMILIES["llama"] | {"tie_word_embeddings": False} | config
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **values), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "norm" not in name:
                parameter.normal_(0.0, 0.15)
        change(model)
    model.save_pretrained(directory)
    tiny_models.write_tokenizer(directory)
    return directory


@pytest.mark.row(
    12, bug="handler/sampling/sampler.py: one row that is not finite fails the batch: 0 of 150 others as alone"
)
def test_a_poisoned_request(scoreboard: Scoreboard, make_server: MakeServer, tmp_path: Path) -> None:
    """A character whose embedding is NaN, in the middle of 15 streams; then in every slot, one after the other."""
    from tokenizers import Tokenizer

    model = tmp_path / "model"
    model.mkdir()
    save(model)
    poison = Tokenizer.from_file(str(model / "tokenizer.json")).token_to_id("~")
    save(model, lambda built: built.get_input_embeddings().weight[poison].fill_(float("nan")))
    server = make_server(HF_MODEL_ID=str(model))
    alone = {}
    for prompt in streams.prompts(15):
        client = Client(server, prompt, 100)
        streams.join([client])
        alone[prompt] = client.token_ids
    right, failed, statuses = 0, 0, set()
    for _ in range(10):
        clients = streams.start(server, 15, 100)
        streams.wait_running(clients, 1)
        poisoned = server.request("POST", "/v1/completions", {"prompt": "so bad ~ it fails", "max_tokens": 20})
        statuses.add(poisoned.status)
        failed += poisoned.status == 500
        streams.join(clients)
        right += sum(client.token_ids == alone[client.prompt] for client in clients)
    text = f"{failed} of 10 poisoned failed ({statuses}), {right} of 150 others as alone"
    scoreboard(
        12,
        "a NaN row beside 15 streams, 10 times (each call site: tests/engine)",
        "",
        text,
        (failed, right) == (10, 150),
    )


@pytest.mark.row(34, bug="a thread in which oneDNN cannot compile stays in use: the same prompt afterwards 503")
def test_memory_runs_out(scoreboard: Scoreboard, make_server: MakeServer, tmp_path: Path) -> None:
    """RLIMIT_AS of the engine is lowered to what it has while 6 streams run; then a long prompt comes."""
    model = tmp_path / "model"
    model.mkdir()
    server = make_server(HF_MODEL_ID=str(save(model, intermediate_size=16_384, num_hidden_layers=2)))
    alone = {}
    for prompt in streams.prompts(6):
        client = Client(server, prompt, 60)
        streams.join([client])
        alone[prompt] = client.token_ids
    pid = server.engine().pid
    newest_refused = right = 0
    statuses: set[int] = set()
    for _ in range(20):
        clients = streams.start(server, 6, 60)
        streams.wait_running(clients, 3)
        size = psutil.Process(pid).memory_info().vms
        resource.prlimit(pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
        # 400 letters: a chunk of 256 rows needs 16 MB in one piece, ten rows of decoding do not.
        newest = server.request("POST", "/v1/completions", {"prompt": "abcd" * 100, "max_tokens": 20})
        # Fewer rows may want kernels that were never compiled: whoever has to compile one now is the newest of those.
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        streams.join(clients)
        statuses.add(newest.status)
        newest_refused += newest.status == 503 and bool(newest.headers.get("Retry-After"))
        right += sum(client.token_ids == alone[client.prompt] for client in clients)
    same = server.engine().pid == pid
    after = server.request("POST", "/v1/completions", {"prompt": "abcd" * 100, "max_tokens": 20}).status
    text = f"newest 503 in {newest_refused} of 20 ({statuses}), {right} of 120 others as alone, "
    text += f"engine {'the same' if same else 'ANOTHER'}, the same prompt afterwards {after}"
    ok = newest_refused == 20 and right == 120 and same and after == 200
    scoreboard(34, "RLIMIT_AS lowered under 6 streams, 20 times", "20 of 20", text, ok)


@pytest.mark.row(33, bug="handler/sampling/grammar.py: compiled grammars are kept without limit: +855 MB")
def test_grammars_without_end(
    scoreboard: Scoreboard, make_server: MakeServer, tiny_llama: Path, tmp_path: Path
) -> None:
    """10,000 distinct schemas and salts, after 1,000 that warm everything up."""
    server = make_server()
    engine = psutil.Process(server.engine().pid)

    def ask(i: int) -> int:
        properties = {f"field{i}": {"enum": [f"a{i}", f"b{i}"]}, f"number{i}": {"type": "integer"}}
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        parameters = {"max_new_tokens": 2, "grammar": {"type": "json", "value": schema}}
        return server.request("POST", "/generate", {"inputs": f"{i}", "parameters": parameters}).status

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        warm = set(threads.map(ask, range(1_000)))
        before, files = engine.memory_info().rss, count_files(tmp_path / "cache")
        began = time.monotonic()
        statuses = set(threads.map(ask, range(1_000, 11_000)))
    grown = (engine.memory_info().rss - before) / 1e6
    made = count_files(tmp_path / "cache") - files
    rate = 10_000 / (time.monotonic() - began)
    text = f"memory {grown:+.0f} MB, {made} files, statuses {statuses | warm}, {rate:.0f} a second"
    scoreboard(33, "10,000 distinct JSON schemas", "", text, grown < 64 and not made and statuses == {200})


@pytest.mark.row(33, bug="handler/engine/adapters/reader.py: copies of adapters that went are kept: 512 files")
def test_adapters_that_come_and_go(
    scoreboard: Scoreboard, make_server: MakeServer, tiny_llama: Path, tmp_path: Path
) -> None:
    """64 adapters are registered, used in turn and deleted; four times, of which the first warms everything up."""
    directories = [write_adapter(tiny_llama, tmp_path / f"adapter{i}", seed=i) for i in range(64)]
    server = make_server(MAX_ADAPTERS="8", MAX_ADAPTER_RANK="64")
    engine = psutil.Process(server.engine().pid)
    statuses: set[int] = set()

    def round_trip() -> set[str]:
        """All texts that the adapters gave."""
        for i, directory in enumerate(directories):
            statuses.add(server.request("POST", "/adapters", {"name": f"a{i}", "src": str(directory)}).status)
        bodies = [{"prompt": "hello", "max_tokens": 8, "temperature": 0, "model": f"a{i}"} for i in range(64)]
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda body: server.request("POST", "/v1/completions", body), bodies * 2))
        statuses.update(answer.status for answer in answers)
        for i in range(64):
            statuses.add(server.request("DELETE", f"/adapters/a{i}").status)
        return {answer.json["choices"][0]["text"] for answer in answers if answer.status == 200}

    texts = round_trip()
    before = engine.memory_info().rss
    again = [round_trip() for _ in range(3)]
    grown = (engine.memory_info().rss - before) / 1e6
    # A copy goes after the answer to DELETE.
    until_s = time.monotonic() + 10
    # The list, two locks and the mark that there were adapters stay.
    while (left := count_files(server.run_dir().adapters) - 4) > 0 and time.monotonic() < until_s:
        time.sleep(0.1)
    text = f"memory {grown:+.1f} MB, {left} files, {len(texts)} texts, statuses {statuses}"
    ok = grown < 16 and left <= 0 and statuses == {200} and len(texts) > 32 and again == [texts] * 3
    scoreboard(33, "64 adapters registered, used in turn, deleted; 3 times after a first", "memory < +16 MB", text, ok)


def write_adapter(model: Path, directory: Path, seed: int) -> Path:
    """A LoRA adapter of rank 64 for the queries and values of a Llama, strong enough to change texts."""
    config = json.loads((model / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = hidden // config["num_attention_heads"]
    sizes = {"q_proj": hidden, "v_proj": heads * config["num_key_value_heads"]}
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(layers):
        for name, size in sizes.items():
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{place}.lora_A.weight"] = torch.randn(64, hidden, generator=generator) * 0.2
            weights[f"{place}.lora_B.weight"] = torch.randn(size, 64, generator=generator) * 0.2
    directory.mkdir()
    save_file(weights, directory / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 64, "lora_alpha": 64, "target_modules": [*sizes]}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def count_files(directory: Path) -> int:
    return sum(path.is_file() for path in directory.rglob("*"))
