"""Every page, source file, folder and decision that a page, a comment or a docstring names exists."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = ROOT / "docs" / "decisions"
RECORDS = {path.name[:4] for path in DECISIONS.glob("[0-9]*.md")}
FOLDERS = (
    *("container", "handler", "model_memory", "sagemaker_deploy", "tools", "bench", "tests"),
    *("docs", "examples", "findings", "requirements", ".github"),
)
# Files of other projects, and those that users bring.
OTHERS = {
    *("llama.cpp", "cache_utils.py", "text_generation_server/utils/watermark.py", "src/alignment/data.py"),
    *("inference.py", "handler.py", "model.py", "modeling_x.py"),
}


def prose(path: Path) -> str:
    """What a file says to a reader: all of a page, comments and docstrings of code, comments of anything else."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    if path.suffix != ".py":
        return "\n".join(re.findall(r"#.*", text))
    comments = [
        found.string for found in tokenize.generate_tokens(io.StringIO(text).readline) if found.type == tokenize.COMMENT
    ]
    nodes = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr))
    return "\n".join(
        [*comments, *(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))]
    )


def readable() -> list[Path]:
    """Every page, every Python file of ours, and what builds and checks them."""
    below = [
        path
        for folder in FOLDERS
        for kind in ("py", "md", "sh", "yml", "tf")
        for path in (ROOT / folder).rglob(f"*.{kind}")
    ]
    return [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "Makefile", ROOT / "Dockerfile", *below]


FILES = {
    path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()
}
FILES |= {path.name for path in ROOT.iterdir() if path.is_file()}

# A document or a source file; a path that begins with one of our folders; a decision's number.
NAMED = re.compile(r"(?<![\w./*<>{}…-])([\w./<>*-]*[\w>*-]\.(?:md|py|toml|ipynb|tf|sh))\b(?![\w*])")
IN_A_FOLDER = re.compile(rf"(?<![\w./-])((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./<>*-]*[\w>*/])")
# A page followed by the number of a section.
SECTION = re.compile(r"([\w/-]+\.md)`? (?:section )?(\d[\dA-Z.]*\b)")
NUMBERED = re.compile(r"decisions?[ /]\[?((?:\d{4}(?:,? and |, | to )?)+)", re.IGNORECASE)


def exists(name: str) -> bool:
    """A file or folder of ours, by its path or the end of it; `<dialect>` and `*` stand for any name."""
    name = re.sub(r"<\w+>", "*", name).removeprefix("../").removeprefix("../").rstrip(".")
    if "*" in name:
        return any(ROOT.glob(name)) or any(fnmatch(known, f"*/{name}") for known in FILES)
    if record := re.fullmatch(r"docs/decisions/(\d{4})", name):
        return record[1] in RECORDS
    return name in FILES or (ROOT / name).exists() or any(known.endswith(f"/{name}") for known in FILES)


def pages(name: str) -> list[Path]:
    """The pages of that name."""
    return [ROOT / known for known in FILES if f"/{known}".endswith(f"/{name}")]


def missing(text: str, *, record: bool = False, finding: bool = False) -> Iterator[str]:
    """Names in `text` that do not exist. A record names others by number; a finding names other projects' files too."""
    text = re.sub(r"https?://\S+", "", text)
    for name in (*(NAMED.findall(text) if not finding else ()), *IN_A_FOLDER.findall(text)):
        if name.removeprefix("./") not in OTHERS and not exists(name):
            yield name
    for page, section in SECTION.findall(text):
        if not any(re.search(rf"^#+ {re.escape(section)}", file.read_text(), re.MULTILINE) for file in pages(page)):
            yield f"{page} {section}"
    for numbers in (*NUMBERED.findall(text), *(re.findall(r"\b0\d{3}\b", text) if record else ())):
        yield from (f"decision {number}" for number in re.findall(r"\d{4}", numbers) if number not in RECORDS)


@pytest.mark.parametrize("path", readable(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_file_names_exists(path: Path) -> None:
    finding = path.parent == ROOT / "findings"
    assert not sorted(set(missing(prose(path), record=path.parent == DECISIONS, finding=finding)))


@pytest.mark.parametrize(
    "text",
    [
        "see tgi-http-api.md for it",
        "as handler/native/team.py does",
        "as handler/native does",
        "`model_runner.py`",
        "container/api/<dialect>/nothing.py",
        "reliability.md 1D",
        "docs/deploy.md section 12",
        "(decision 0999)",
        "docs/decisions/0998-what-never-was.md",
        "decisions 0001 and 0997",
    ],
)
def test_a_wrong_name_is_found(text: str) -> None:
    assert list(missing(text))


@pytest.mark.parametrize(
    "text",
    [
        "docs/decisions/0007 and decision 0001, handler/engine/core.py; `container/api/<dialect>/routes.py`, core.py.",
        "https://example.com/some/where.md and TGI's router/src/validation.rs; docs/deploy.md section 8",
        "handler/engine/, tests/faults, *.py and llama.cpp",
    ],
)
def test_a_right_name_is_no_finding(text: str) -> None:
    assert not list(missing(text))
