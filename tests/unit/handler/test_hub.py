"""What is fetched from the hub: no more than what runs, after a look at what says whether it can run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save

from handler.model.gguf.location import fetch_gguf
from handler.model.hub_commit import answers_later
from handler.model.location import locate
from handler.seam.code_names import CUSTOM_CODE
from handler.seam.config import EngineConfig
from handler.seam.errors import BadModel
from tests.fakes.hub import SHA, FakeHub

LLAMA = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 4}
GGUF_IDS = "'org/model' holds GGUF files; give HF_MODEL_ID one of org/model:BF16, org/model:Q4_K_M$"
WEIGHTS = save({"weight": torch.zeros(64, 64)})
INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}


def written(values: Any) -> bytes:
    return json.dumps(values).encode()


def repository(config: dict[str, Any] | None = None, **files: bytes) -> dict[str, bytes]:
    return {"config.json": written(config or LLAMA), **files}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeHub]]:
    hubs: list[FakeHub] = []

    def start(**repositories: dict[str, bytes]) -> FakeHub:
        hub = FakeHub({f"org/{name}": files for name, files in repositories.items()}).__enter__()
        hubs.append(hub)
        point_at(hub.url)
        return hub

    def point_at(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("transformers.utils.hub._is_offline_mode", False, raising=False)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    yield start
    for hub in hubs:
        hub.__exit__(None, None, None)


def fetch(name: str = "model", **changes: Any) -> Path:
    constants.HF_HUB_OFFLINE = False
    directory, _ = locate(EngineConfig(model=f"org/{name}", **changes), lambda *_: None)
    return directory


def names(hub: FakeHub) -> set[str]:
    return {path.removeprefix("org/model/") for path in hub.fetched}


def test_weights_that_lie_there_twice_are_fetched_once(start: Callable[..., FakeHub]) -> None:
    beside = {
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"t",
        "additional_chat_templates/tool_use.jinja": b"x",
        "code/inference.py": b"pass",
    }
    left = {
        "model.fp16.safetensors": WEIGHTS,
        "consolidated.safetensors": WEIGHTS,
        "original/params.json": b"{}",
        "original/model.safetensors": WEIGHTS,
        "onnx/model.onnx": b"x",
        "onnx/config.json": b"{}",
        "pytorch_model.bin": b"x",
        "README.md": b"x",
        "modeling_x.py": b"",
    }
    hub = start(model=repository(**{"model.safetensors": WEIGHTS}, **beside, **left))
    directory = fetch()
    assert names(hub) == {"config.json", "model.safetensors", *beside}
    assert not list(directory.glob("consolidated*"))


def test_of_shards_those_that_the_index_names_are_fetched(start: Callable[..., FakeHub]) -> None:
    shards = {name: save({key: torch.full((64, 64), 1.0)}) for key, name in INDEX["weight_map"].items()}
    index = {"model.safetensors.index.json": written(INDEX)}
    hub = start(model=repository(**index, **shards, **{"consolidated-00001-of-00001.safetensors": WEIGHTS}))
    fetch()
    assert names(hub) == {"config.json", *index, *shards}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "'t5', is an encoder-decoder; only decoder-only"),
        ({"model_type": "bart"}, "'bart' is an encoder-decoder; only decoder-only"),
        ({"model_type": "vit"}, "'vit' has no causal language model in transformers"),
        ({"model_type": "brandnew"}, "was not understood"),
        ({"model_type": "brandnew", "auto_map": {"AutoConfig": "x.Y"}}, "set HF_MODEL_TRUST_REMOTE_CODE=true only if"),
        ({**LLAMA, "quantization_config": {"quant_method": "exl2"}}, "stored as exl2 "),
        ({**LLAMA, "text_config": {"quantization_config": {"quant_method": "exl2"}}}, "stored as exl2 "),
        ({**LLAMA, "_attn_implementation": "a/b"}, "which can fetch and run code"),
    ],
)
def test_what_cannot_run_is_refused_before_its_weights_are_fetched(
    config: dict[str, Any], sentence: str, start: Callable[..., FakeHub]
) -> None:
    hub = start(model=repository(config, **{"model.safetensors": WEIGHTS, "tokenizer.json": b"{}"}))
    with pytest.raises(BadModel, match=sentence) as caught:
        fetch()
    assert names(hub) == {"config.json"}
    assert "\n" not in str(caught.value)


def test_a_form_that_modelopts_own_file_names_is_refused_before_the_weights(
    start: Callable[..., FakeHub],
) -> None:
    own = {"hf_quant_config.json": written({"quantization": {"quant_algo": "W4A8_AWQ"}})}
    hub = start(model=repository(**{"model.safetensors": WEIGHTS}, **own))
    with pytest.raises(BadModel, match="stored as modelopt with the quant_algo W4A8_AWQ is not read here; take "):
        fetch()
    assert names(hub) == {"config.json", *own}


def test_a_form_that_is_read_here_is_fetched(start: Callable[..., FakeHub]) -> None:
    form = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    hub = start(model=repository(LLAMA | form, **{"model.safetensors": WEIGHTS}))
    fetch()
    assert "model.safetensors" in names(hub)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (repository(**{"pytorch_model.bin": b"x"}), "pytorch_model.bin is a pickle and may run code, convert it"),
        ({"model.safetensors": WEIGHTS}, "has no config.json"),
        ({"m-Q4_K_M.gguf": b"x", "m-BF16-00001-of-00002.gguf": b"x", "m-BF16-00002-of-00002.gguf": b"x"}, GGUF_IDS),
    ],
)
def test_a_list_of_files_is_enough_to_refuse(
    files: dict[str, bytes], sentence: str, start: Callable[..., FakeHub]
) -> None:
    hub = start(model=files)
    with pytest.raises(BadModel, match=sentence):
        fetch()
    assert not hub.fetched


def test_a_second_start_fetches_nothing_and_needs_no_network(start: Callable[..., FakeHub]) -> None:
    hub = start(model=repository(**{"model.safetensors": WEIGHTS, "README.md": b"never wanted"}))
    first = fetch()
    hub.fetched.clear()
    assert fetch() == first
    assert not hub.fetched
    hub.__exit__(None, None, None)
    assert fetch() == first


def test_all_files_of_a_start_are_of_one_commit(start: Callable[..., FakeHub]) -> None:
    """Another is pushed after each list of files; the next start takes the newest, also if it has no network then."""
    commits = [
        {"org/model": repository(LLAMA | {"commit": i}, **{"model.safetensors": save({"w": torch.tensor(i)})})}
        for i in range(4)
    ]
    hub = start(model=dict(commits[0]["org/model"]))
    hub.pushes = commits[1:3]

    def numbers() -> tuple[int, int]:
        directory = fetch()
        weights = load_file(directory / "model.safetensors")
        return json.loads((directory / "config.json").read_text())["commit"], int(weights["w"])

    assert numbers() == (0, 0)
    assert numbers() == (1, 1)
    assert not hub.pushes
    assert numbers() == (2, 2)
    hub.pushes, hub.refused = commits[3:], {"org/model/model.safetensors"}
    hub.push()
    with pytest.raises(BadModel, match="could not be downloaded"):
        fetch()
    hub.__exit__(None, None, None)
    assert numbers() == (2, 2), "the last that is complete"


def test_parts_of_a_gguf_file_are_of_one_commit(start: Callable[..., FakeHub], tmp_path: Path) -> None:
    parts = [f"m-Q4_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    commits = [{"org/model": {name: b"%d %s" % (i, name.encode()) for name in parts}} for i in range(3)]
    hub = start(model=dict(commits[0]["org/model"], other=b""))
    hub.pushes = commits[1:]
    found = fetch_gguf("org/model:Q4_0", None, lambda *_: None)
    assert found.name == parts[0]
    assert [found.with_name(name).read_bytes()[:1] for name in parts] == [b"0", b"0"]
    assert names(hub) == {*parts}
    hub.__exit__(None, None, None)
    assert fetch_gguf("org/model:Q4_0", None, lambda *_: None) == found


@pytest.mark.parametrize("revision", [None, "refs/pr/1", SHA])
def test_a_revision_is_what_it_was_without_network(revision: str | None, start: Callable[..., FakeHub]) -> None:
    hub = start(model=repository(**{"model.safetensors": WEIGHTS}))
    first = fetch(revision=revision)
    hub.__exit__(None, None, None)
    assert fetch(revision=revision) == first


def test_what_was_fetched_before_a_download_broke_is_kept(start: Callable[..., FakeHub]) -> None:
    shards = {name: save({key: torch.full((64, 64), 1.0)}) for key, name in INDEX["weight_map"].items()}
    last = max(shards)
    files = repository(**{"model.safetensors.index.json": written(INDEX)}, **shards)
    hub = start(model=files)
    hub.refused = {f"org/model/{last}"}
    with pytest.raises(BadModel, match="could not be downloaded"):
        fetch()
    assert min(shards) in names(hub)
    hub.fetched.clear()
    hub.refused = set()
    fetch()
    assert names(hub) == {last}


def test_an_answer_that_is_cut_goes_on_where_it_ended(start: Callable[..., FakeHub]) -> None:
    """The client writes pieces of 10 MB."""
    large = save({"weight": torch.zeros(6 << 20)})
    hub = start(model=repository(**{"model.safetensors": large}))
    hub.cuts = [22 << 20]
    fetch()
    assert hub.fetched.count("org/model/model.safetensors") == 2
    assert hub.num_bytes < 1.2 * len(large)


@pytest.mark.parametrize("trusted", [False, True])
def test_code_is_fetched_to_name_it_and_modules_if_trusted(trusted: bool, start: Callable[..., FakeHub]) -> None:
    """`modeling_x.py` and what it imports are needed to run the model's code."""
    to_name = ["code/helper.py", "code/inference.py", "code/requirements.txt", *CUSTOM_CODE]
    code = {name: name.encode() for name in (*to_name, "modeling_x.py", "lib/rope.py")}
    hub = start(model=repository(**{"model.safetensors": WEIGHTS}, **code))
    fetch(trust_remote_code=trusted)
    assert names(hub) >= set(to_name)
    assert ({"modeling_x.py", "lib/rope.py"} <= names(hub)) is trusted


def test_trusted_code_of_another_repository_is_fetched_too(start: Callable[..., FakeHub]) -> None:
    """And runs afterwards, when no library may ask the hub."""
    from transformers import AutoConfig

    auto_map = {"AutoConfig": "org/code--configuration_x.XConfig"}
    code = (
        b"from transformers import PretrainedConfig\nfrom .helper import SIZE\n"
        b"class XConfig(PretrainedConfig):\n    model_type = 'brandnew'\n    size = SIZE\n"
    )
    other = {"configuration_x.py": code, "helper.py": b"SIZE = 7\n", "model.safetensors": WEIGHTS}
    files = {"model.safetensors": WEIGHTS, "own.py": b"pass"}
    hub = start(model=repository({"model_type": "brandnew", "auto_map": auto_map}, **files), code=other)
    directory = fetch(trust_remote_code=True)
    assert set(hub.fetched) == {
        *("org/model/config.json", "org/model/model.safetensors", "org/model/own.py"),
        *("org/code/configuration_x.py", "org/code/helper.py"),
    }
    hub.__exit__(None, None, None)
    assert AutoConfig.from_pretrained(directory, trust_remote_code=True).size == 7


@pytest.mark.parametrize(("status", "later"), [(429, True), (408, True), (503, True), (404, False), (401, False)])
def test_a_hub_that_is_busy_says_nothing_of_the_repository(status: int, later: bool) -> None:
    """The cache serves meanwhile."""
    assert answers_later(status) is later
