"""The list of adapters under many hands, the copies of their files, and those of the hub."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import constants

from handler.adapters.location import adapter_directory, fetch_adapters
from handler.engine.adapters.own_copy import content_fingerprint, copy_files
from handler.seam.adapter_list import AdapterEntry, AdapterList, NameTaken, new_registration
from handler.seam.config import AdapterSource, EngineConfig
from handler.seam.errors import BadConfiguration, StartupError
from handler.seam.status import StatusBoard
from handler.startup import start
from tests.fakes.hub import FakeHub

FILES = {"adapter_config.json": json.dumps({"peft_type": "LORA"}).encode(), "adapter_model.safetensors": b"weights"}


def entry(name: str, registration: str | None = None) -> AdapterEntry:
    return AdapterEntry(name=name, src="/somewhere", registration=registration or new_registration())


def test_the_list_keeps_order_and_says_what_a_change_did(tmp_path: Path) -> None:
    listed = AdapterList(tmp_path / "adapters")
    assert (listed.read(), listed.stamp(), listed.exists) == ([], (0, 0), False)
    one, two = entry("one"), entry("two")
    assert listed.begin([one]) == [one]
    assert listed.begin([two]) == [one], "a second engine finds the list"
    listed.add(two)
    with pytest.raises(NameTaken):
        listed.add(entry("one"))
    before = listed.stamp()
    assert listed.mark_ready(two.registration)
    assert listed.pin(one.registration, True)
    assert listed.stamp() != before
    assert [(each.name, each.pin, each.ready) for each in listed.read()] == [("one", True, False), ("two", False, True)]
    new = entry("one")
    listed.replace(new)
    assert not listed.remove(one.registration), "another registration has the name"
    assert not listed.mark_ready(one.registration)
    assert listed.remove(two.registration)
    assert listed.read() == [new]


def _add_ten(directory: Path, first: int) -> None:
    for number in range(first, first + 10):
        AdapterList(directory).add(entry(str(number)))


def test_no_change_of_two_processes_is_lost(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add_ten, args=(tmp_path, 100 * i)) for i in range(3)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert len({each.name for each in AdapterList(tmp_path).read()}) == 30


def write(directory: Path, **changes: bytes) -> Path:
    directory.mkdir(parents=True)
    for name, content in (FILES | changes).items():
        (directory / name).write_bytes(content)
    return directory


def test_a_copy_has_the_two_files_and_outlives_them(tmp_path: Path) -> None:
    source = write(tmp_path / "source", **{"README.md": b"x", "adapter_model.bin": b"a pickle"})
    own = content_fingerprint(source)
    target = tmp_path / "copies" / "registration"
    assert copy_files(source, target) == target
    (source / "adapter_model.safetensors").write_bytes(b"other weights")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == FILES
    assert copy_files(source, target) == target, "what another engine copied is what this one reads"
    assert content_fingerprint(target) == own != content_fingerprint(source)
    shutil.rmtree(source)
    assert copy_files(source, target) == target
    assert [path.name for path in target.parent.iterdir()] == ["registration"]


def linked(directory: Path, elsewhere: Path) -> Path:
    """An adapter in `directory` whose weights are a link to a file in `elsewhere`."""
    write(directory)
    elsewhere.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_model.safetensors").rename(elsewhere / "blob")
    (directory / "adapter_model.safetensors").symlink_to(elsewhere / "blob")
    return directory


@pytest.mark.parametrize("snapshot", ["snapshots/0a1b", "snapshots/0a1b/one/of/several"])
def test_links_of_the_hubs_cache_are_followed_to_their_own_repository(snapshot: str, tmp_path: Path) -> None:
    repository, target = tmp_path / "models--org--name", tmp_path / "copies" / "registration"
    source = linked(repository / snapshot, repository / "blobs")
    assert copy_files(source, target) == target
    assert {path.name: path.read_bytes() for path in target.iterdir()} == FILES
    assert not any(path.is_symlink() for path in target.iterdir())


@pytest.mark.parametrize(
    ("directory", "elsewhere"),
    [
        ("source", "elsewhere"),
        ("models--org--name/snapshots/0a1b", "models--org--other/blobs"),
        ("models--org--name/snapshots/0a1b", "models--org--name/blobs-of-another"),
        ("org--name/snapshots/0a1b", "org--name/blobs"),
        ("models--org--name/0a1b", "models--org--name/blobs"),
    ],
)
def test_a_link_that_leads_out_is_not_followed(directory: str, elsewhere: str, tmp_path: Path) -> None:
    source = linked(tmp_path / directory, tmp_path / elsewhere)
    target = tmp_path / "copies" / "registration"
    assert copy_files(source, target) == source, "its reader says what is wrong"
    assert not target.exists()


def test_blobs_that_are_a_link_themselves_are_not_the_repositorys_own(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    source = linked(repository / "snapshots" / "0a1b", tmp_path / "elsewhere")
    (repository / "blobs").symlink_to(tmp_path / "elsewhere")
    (source / "adapter_model.safetensors").unlink()
    (source / "adapter_model.safetensors").symlink_to("../../blobs/blob")
    assert copy_files(source, tmp_path / "copies" / "registration") == source


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    half = {"adapter_config.json": FILES["adapter_config.json"], "adapter_model.bin": b"a pickle"}
    with FakeHub({"org/adapter": {**FILES, "README.md": b"x", "optimizer.pt": b"x"}, "org/half": half}) as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        yield found


def config(tmp_path: Path, *paths: str) -> EngineConfig:
    sources = tuple(AdapterSource(f"a{i}", path) for i, path in enumerate(paths))
    return EngineConfig(adapters=sources, adapters_path=str(tmp_path / "adapters"))


def test_an_adapter_of_the_hub_is_fetched_once_and_only_its_two_files(tmp_path: Path, hub: FakeHub) -> None:
    source = write(tmp_path / "source")
    fetch_adapters(config(tmp_path, "org/adapter", str(source)), lambda *_: None)
    assert sorted(hub.fetched) == [f"org/adapter/{name}" for name in sorted(FILES)]
    found = adapter_directory("org/adapter", None)
    assert found.joinpath("adapter_model.safetensors").is_symlink()
    assert copy_files(found, tmp_path / "copies" / "x") == tmp_path / "copies" / "x"
    assert adapter_directory(str(source), None) == source
    AdapterList(tmp_path / "adapters").begin([])
    fetch_adapters(config(tmp_path, "org/half"), lambda *_: None)  # an engine that starts again asks nobody
    assert len(hub.fetched) == 2


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("org/half", "the hub's 'org/half' has no adapter_model.safetensors"),
        ("org/none", "the adapter 'org/none' could not be downloaded"),
        ("/nowhere", "'/nowhere' is neither a directory nor a hub id"),
        ("a/b/c", "'a/b/c' is neither a directory nor a hub id"),
    ],
)
def test_what_cannot_be_fetched_ends_the_start(tmp_path: Path, hub: FakeHub, path: str, sentence: str) -> None:
    with pytest.raises(BadConfiguration, match=f"^LORA_ADAPTERS: .*{sentence}"):
        fetch_adapters(config(tmp_path, path), lambda *_: None)


def test_an_adapter_with_the_id_of_the_model_that_is_found_ends_the_start(tmp_path: Path) -> None:
    with closing(StatusBoard(tmp_path / "board", create=True)) as board:
        for model_id in ("/opt/ml/model", "a0"):
            with pytest.raises(StartupError) as refused:
                start(config(tmp_path, "org/adapter"), board, (tmp_path, model_id))
            assert ("LORA_ADAPTERS must not have a name of the model" in str(refused.value)) is (model_id == "a0")
