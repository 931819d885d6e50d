"""Where the server writes, on machines that hardly let it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from container import directories
from container.directories import NotWritable, check_writable, default_cache_dir, make_run_dir


def test_the_run_directory_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "temporary_directory", lambda: Path("/dev/shm"))
    made = make_run_dir()
    try:
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        assert made.parent == Path("/dev/shm")
    finally:
        made.rmdir()


def test_a_temporary_directory_too_long_for_sockets_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(directories, "temporary_directory", lambda: deep)
    made = make_run_dir()
    try:
        assert made.parent != deep
    finally:
        made.rmdir()


def test_no_directory_at_all_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(NotWritable, match=r"no directory can be written to .*Read-only file system"):
        make_run_dir()


def test_without_home_and_tmp_the_cache_is_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setenv("HOME", "/nowhere")
    assert default_cache_dir() == "/dev/shm/tgi-heir"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotWritable, match=f"CACHE_DIR '{file}/cache' cannot be written to: Not a directory"):
        check_writable(file / "cache")
    check_writable(tmp_path / "new" / "cache")
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o777 == 0o700


def test_where_no_place_is_writable_libraries_are_given_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.delenv("TMPDIR", raising=False)
    directories.name_temporary_directory()
    assert "TMPDIR" not in os.environ
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    directories.name_temporary_directory()
    assert os.environ.pop("TMPDIR") == "/dev/shm"
