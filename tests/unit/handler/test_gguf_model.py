"""Where a converted checkpoint is looked for; the conversion itself is not run here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handler.model import gguf_model

SECOND_NS = 1_700_000_000 * 10**9


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(gguf_model, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(gguf_model, "_convert", refuse)
    path = tmp_path / "model.Q4_1.gguf"
    path.write_bytes(b"GGUF")
    os.utime(path, ns=(SECOND_NS, SECOND_NS))
    return path


def make(base: Path, name: str) -> Path:
    directory = base / "gguf" / name
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    return directory


def found(gguf: Path, cache: Path) -> Path:
    return gguf_model.converted(gguf, cache, lambda *_: None)


def test_what_the_image_ships_is_used_and_the_cache_is_left_alone(gguf: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(gguf_model.BadModel):
        found(gguf, cache)
    shipped = make(gguf_model.SHIPPED, gguf_model._directory_name([gguf]))
    make(cache, shipped.name)
    assert found(gguf, cache) == shipped


def test_a_layer_of_an_image_keeps_whole_seconds_only(gguf: Path, tmp_path: Path) -> None:
    os.utime(gguf, ns=(SECOND_NS, SECOND_NS + 123_456_789))
    made = make(tmp_path / "cache", gguf_model._directory_name([gguf]))
    os.utime(gguf, ns=(SECOND_NS, SECOND_NS))
    assert found(gguf, tmp_path / "cache") == made


@pytest.mark.parametrize("change", ["size", "time"])
def test_another_file_of_that_name_is_converted_anew(gguf: Path, tmp_path: Path, change: str) -> None:
    make(tmp_path / "cache", gguf_model._directory_name([gguf]))
    if change == "size":
        gguf.write_bytes(b"GGUF2")
    os.utime(gguf, ns=(SECOND_NS, SECOND_NS + (10**9 if change == "time" else 0)))
    with pytest.raises(gguf_model.BadModel):
        found(gguf, tmp_path / "cache")


class PanicException(BaseException):
    """As pyo3's, which a library's Rust code raises."""


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no\n  such shape"), TypeError("x"), AttributeError("x"), IndexError(), PanicException("x")],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_reader_raises_is_one_sentence(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(gguf_model, "_convert", fail)
    with pytest.raises(gguf_model.BadModel, match=r"^model\.Q4_1\.gguf could not be converted: \w+: .+$") as caught:
        found(gguf, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "gguf").iterdir())


def test_an_interrupt_stays_one(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_model, "_convert", interrupt)
    with pytest.raises(KeyboardInterrupt):
        found(gguf, tmp_path / "cache")
