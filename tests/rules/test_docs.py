"""Documents must not drift from the code; decision records have one form."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from container.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = ROOT / "docs" / "decisions"


def test_every_setting_is_documented_and_nothing_else() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}
    assert documented == {name for item in fields(Settings) for name in item.metadata["names"]}


def test_every_client_of_the_migration_guide_has_its_test() -> None:
    clients = (ROOT / "docs" / "migrate-from-tgi.md").read_text().partition("## Clients")[2]
    rows = [line for line in clients.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), test


def test_every_file_the_architecture_names_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for name in re.findall(r"`((?:container|handler|tests)/[\w/]+\.py)`", text):
        assert (ROOT / name).is_file(), name


def test_the_glossary_is_short() -> None:
    glossary = (ROOT / "ARCHITECTURE.md").read_text().partition("## Glossary\n\n")[2]
    assert 0 < len(glossary.splitlines()) <= 25


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_makefile_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"make ([a-z-]+)", (ROOT / page).read_text())) <= targets


def test_the_index_lists_every_page() -> None:
    docs = ROOT / "docs"
    listed = set(re.findall(r"^\| \[([\w-]+\.md)\]", (docs / "README.md").read_text(), re.MULTILINE))
    assert listed == {page.name for page in docs.glob("*.md")} - {"README.md"}


RECORDS = {path.name[:4]: path for path in sorted(DECISIONS.glob("[0-9]*.md"))}
HEADINGS = ["Context", "Decision", "Consequences", "Alternatives and dead ends"]
HEAD = re.compile(r"# (\d{4}) (\S.*)\n\n- Date: (\d{4}-\d\d-\d\d)\n- Status: (\S.*)\n\n## Context\n")
STATUS = re.compile(r"(accepted(, amended by [\d, and]+)?|superseded by \d{4})")


@pytest.mark.parametrize("number", RECORDS)
def test_a_record_has_a_date_a_status_and_four_headings(number: str) -> None:
    text = RECORDS[number].read_text()
    head = HEAD.match(text)
    assert head, text[:200]
    assert head[1] == number
    assert STATUS.fullmatch(head[4]), head[4]
    assert set(re.findall(r"\d{4}", head[4])) <= RECORDS.keys() - {number}
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == HEADINGS
    parts = re.split(r"^## .*\n", text, flags=re.MULTILINE)[1:]
    assert all(part.strip() for part in parts), "a heading without a text"


def test_the_index_of_decisions_says_what_the_records_say() -> None:
    listed = re.findall(
        r"^\| \[(\d{4})\]\((.*)\) \| (.*) \| (.*) \| (.*) \|$", (DECISIONS / "README.md").read_text(), re.MULTILINE
    )
    heads = [(HEAD.match(path.read_text()), path.name) for path in RECORDS.values()]
    assert listed == [(head[1], name, head[2], head[3], head[4]) for head, name in heads if head]
    assert len(listed) == len(RECORDS)
