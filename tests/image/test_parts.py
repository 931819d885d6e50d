"""Parts of the replay that need no root: build context, host settings, base, layers, sizes."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from tools.image_check import base_root, build_context, host, sizes
from tools.image_check.cases import all_cases
from tools.image_check.enter import Entry, mount_points
from tools.image_check.layers import Layer, seal

ROOT = Path(__file__).resolve().parents[2]


def context_names(source: str) -> set[str]:
    return {str(name) for _, name in build_context.matching(ROOT, source)}


def test_the_context_holds_what_the_image_needs_and_nothing_else() -> None:
    assert {"serve.py", "api/playground/page/index.html"} <= context_names("container")
    assert "image.txt" in context_names("requirements/image*.txt")
    assert context_names("LICENSE") == {"LICENSE"}
    for left_out in ("tests", "requirements/dev.txt", ".git", "Makefile", ".venv"):
        assert context_names(left_out) == set()
    assert not [name for name in context_names("container") if name.endswith(".pyc")]


@pytest.mark.parametrize(
    ("lines", "name", "expected"),
    [
        ("*\n!a", "a/b.py", True),
        ("*\n!a", "b/a", False),
        ("*\n!a\n**/__pycache__", "a/__pycache__/x.pyc", False),
        ("*.md\n!README.md", "README.md", True),
        ("*.md", "docs/x.md", True),
        ("**/*.md", "docs/x.md", False),
        ("a?c", "abc", False),
        ("# a\n\n", "a", True),
    ],
)
def test_dockerignore(tmp_path: Path, lines: str, name: str, expected: bool) -> None:
    (tmp_path / ".dockerignore").write_text(lines)
    assert build_context.kept(PurePosixPath(name), build_context.read_rules(tmp_path / ".dockerignore")) is expected


def test_pips_settings_become_variables_and_the_environment_wins() -> None:
    lines = [
        ":env:.find-links='/a'",
        "global.find-links='/b'",
        "global.extra-index-url='file:///i/simple\\nfile:///j/simple'",
        "install.no-input='true'",
        "global.cache-dir='/c'",
    ]
    assert host.parse_pip_config(lines) == {
        "PIP_FIND_LINKS": "/a",
        "PIP_EXTRA_INDEX_URL": "file:///i/simple file:///j/simple",
        "PIP_NO_INPUT": "true",
    }


def test_what_the_settings_name_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "index" / "simple").mkdir(parents=True)
    (tmp_path / "cert.pem").touch()
    found = host.build_binds(
        {"A": f"file://{tmp_path}/index/simple https://example.org/simple", "B": f"{tmp_path}/cert.pem", "C": "/none"}
    )
    assert {place for place in found if place.startswith(str(tmp_path))} == {
        f"{tmp_path}/index",
        f"{tmp_path}/cert.pem",
    }
    assert all(place == source for place, source in found.items())


def test_a_cpu_torch_on_disk_is_used(tmp_path: Path) -> None:
    assert host.torch_index({"PIP_FIND_LINKS": str(tmp_path)}) == {}
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    assert host.torch_index({"PIP_FIND_LINKS": f"/none {tmp_path}"}) == {"TORCH_INDEX": f"file://{tmp_path}"}


@pytest.mark.parametrize(
    "text",
    [
        "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n",
        "Types: deb\nURIs: http://security\nSuites: bookworm-security\n\nURIs: http://mirror/debian\nSuites: bookworm",
        "deb [signed-by=/x] http://mirror/debian bookworm main\n",
    ],
)
def test_the_mirror_is_apts(text: str) -> None:
    assert host.find_mirror(["deb http://other sid main\n", text], "bookworm") == "http://mirror/debian"


@pytest.mark.parametrize("image", ["python:3.11.15-slim-bookworm", "docker.io/library/python:3.11-slim-bookworm"])
def test_the_bases_release(image: str) -> None:
    assert base_root.release_and_python(image) == ("bookworm", "3.11")


@pytest.mark.parametrize("image", ["python:3.11", "debian:bookworm", "python:3.11-alpine"])
def test_another_base_cannot_be_replayed(image: str) -> None:
    with pytest.raises(ValueError, match="only base"):
        base_root.release_and_python(image)


def test_mount_points_are_files_for_files(tmp_path: Path) -> None:
    file, directory = tmp_path / "f", tmp_path / "d"
    file.touch()
    directory.mkdir()
    entry = Entry(root="", argv=[], environment={}, binds={"/etc/f": str(file), "/opt/ml/model": str(directory)})
    layer = mount_points(entry, tmp_path / "layer")
    assert (layer / "etc/f").is_file()
    assert (layer / "opt/ml/model").is_dir()
    assert (layer / "proc").is_dir()


def test_a_sealed_layer_has_whole_seconds_and_counts_a_linked_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("nowhere")
    os.utime(tmp_path / "a", ns=(1_700_000_000_123_456_789,) * 2)
    seal(tmp_path)
    assert (tmp_path / "a").stat().st_mtime_ns == 1_700_000_000_000_000_000
    assert Layer(tmp_path, "RUN x").size_bytes() == 1000


def test_a_package_is_as_large_as_the_files_it_still_has(tmp_path: Path) -> None:
    site_packages = tmp_path / "opt/venv/lib/python3.11/site-packages"
    info = site_packages / "thing-1.0.dist-info"
    info.mkdir(parents=True)
    (site_packages / "thing.py").write_bytes(b"x" * 500)
    (info / "RECORD").write_text("thing.py,sha256=x,500\nremoved.h,sha256=y,900\n")
    assert sizes.package_sizes(tmp_path) == [("thing-1.0", 500)]


def test_gzip_is_measured(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0" * 10_000_000)
    assert 0 < sizes.gzip_bytes(tmp_path) < 100_000


def test_every_case_passes_serve() -> None:
    cases = all_cases(Path("/model"), ["/bin/python", "-m", "x"])
    assert all(case.argv[-1] == "serve" for case in cases)
    assert {case.uid for case in cases} >= {0, 10001}
    assert {bool(case.model) for case in cases} == {True, False}
