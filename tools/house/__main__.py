"""Print the report on a checkout, or with `--check` what breaks the limits; 1 if anything does."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.house.functions import functions
from tools.house.imports import Import, between_folders, circles, imports
from tools.house.source import PACKAGES, Module, read

ROOT = Path(__file__).resolve().parents[2]
# Python files directly in a folder: few at the roots, where entry points lie.
MAX_FILES = {"handler": 6, "container": 10}
MAX_FILES_ELSEWHERE = 16
UNLIMITED = {"container/api/openai"}
_NUM_LONGEST = 10


def file_counts(modules: Mapping[str, Module]) -> Counter[str]:
    """Python files directly in each folder."""
    return Counter(module.folder for module in modules.values())


def all_circles(found: set[Import], *, with_late: bool) -> list[list[str]]:
    """Circles between modules, on demand with imports inside functions and for types."""
    return circles({(one.importer, one.imported) for one in found if with_late or not one.is_late})


def broken_limits(modules: Mapping[str, Module]) -> Iterator[str]:
    """What breaks a limit, each a sentence."""
    for folder, count in sorted(file_counts(modules).items()):
        limit = MAX_FILES.get(folder, MAX_FILES_ELSEWHERE)
        if count > limit and folder not in UNLIMITED:
            yield f"{folder}/ has {count} Python files; the limit is {limit}"
    for group in all_circles(imports(modules), with_late=True):
        yield f"modules import each other in a circle: {', '.join(group)}"


def report(modules: Mapping[str, Module]) -> Iterator[str]:
    """The report's lines."""
    yield from _folders(modules)
    yield from _imports(modules)
    yield from _functions(modules)


def _folders(modules: Mapping[str, Module]) -> Iterator[str]:
    lines = Counter[str]()
    for module in modules.values():
        lines[module.folder] += module.num_lines
    yield "files  lines  folder"
    for folder, count in sorted(file_counts(modules).items()):
        yield f"{count:5}  {lines[folder]:5}  {folder}/"
    yield f"{len(modules):5}  {lines.total():5}  in {len(lines)} folders"


def _imports(modules: Mapping[str, Module]) -> Iterator[str]:
    found = imports(modules)
    arrows = between_folders(found, modules)
    yield from ("", "imports between folders")
    for folder in sorted({one for one, _ in arrows}):
        targets = [f"{other} {count}" for (one, other), count in sorted(arrows.items()) if one == folder]
        yield f"  {folder} -> {', '.join(targets)}"
    for title, with_late in (("at module level", False), ("with imports inside functions and for types", True)):
        groups = all_circles(found, with_late=with_late)
        yield f"circles {title}: {len(groups)}"
        yield from (f"  {', '.join(group)}" for group in groups)


def _functions(modules: Mapping[str, Module]) -> Iterator[str]:
    found = functions(modules.values())
    yield from ("", "package           functions  median  p90  longest  annotated")
    for package in PACKAGES:
        own = [one for one in found if one.module.path.parts[0] == package]
        if own:
            sizes = sorted(one.num_lines for one in own)
            share = sum(one.is_annotated for one in own) / len(own)
            yield (
                f"{package:17} {len(own):9}  {statistics.median(sizes):6.0f}  {sizes[len(sizes) * 9 // 10]:3}"
                f"  {sizes[-1]:7}  {share:9.1%}"
            )
    yield from ("", "longest functions")
    for one in sorted(found, key=lambda one: -one.num_lines)[:_NUM_LONGEST]:
        yield f"{one.num_lines:5}  {one.module.path}:{one.line} {one.name}"


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.house", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=ROOT, help="a checkout (default: this one)")
    parser.add_argument("--check", action="store_true", help="print only what breaks the limits; 1 if anything does")
    options = parser.parse_args(arguments)
    modules = read(options.path)
    lines = list(broken_limits(modules) if options.check else report(modules))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if options.check and lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
