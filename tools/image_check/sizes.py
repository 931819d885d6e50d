"""The image's size by layer, and its largest packages."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.image_check.replay import Image

_NUM_PACKAGES = 12


def table(image: Image, *, compress: bool) -> str:
    """A line for each layer above the base, then the largest packages.

    `compress` also measures gzipped layers, which registries store and hosts pull; that takes minutes.
    """
    lines = []
    total = gzipped = 0
    for layer in image.layers[image.base_layers :]:
        size = layer.size_bytes()
        total += size
        compressed = gzip_bytes(layer.path) if compress else 0
        gzipped += compressed
        lines.append(f"{_mb(size)}{_mb(compressed) if compress else ''}  {layer.created_by[:90]}")
    base = sum(layer.size_bytes() for layer in image.layers[: image.base_layers])
    lines.append(f"{_mb(total)}{_mb(gzipped) if compress else ''}  all layers above the base")
    lines.append(f"{_mb(base)}  the stand-in for the base, not part of the sum")
    packages = [pair for layer in image.layers for pair in package_sizes(layer.path)]
    for name, size in sorted(packages, key=lambda pair: -pair[1])[:_NUM_PACKAGES]:
        lines.append(f"{_mb(size)}    {name}")
    return "\n".join(lines) + "\n"


def package_sizes(layer: Path) -> list[tuple[str, int]]:
    """(name-version, bytes) of each distribution in the layer: the sum of the existing files in its RECORD."""
    found = []
    for record in layer.glob("opt/venv/lib/python3.*/site-packages/*.dist-info/RECORD"):
        site_packages = record.parents[1]
        with record.open(newline="") as rows:
            files = [site_packages / row[0] for row in csv.reader(rows) if row]
        found.append((record.parent.name.removesuffix(".dist-info"), _sum(files)))
    return found


def gzip_bytes(layer: Path) -> int:
    """Size of the layer's archive, compressed at gzip's default level."""
    tar = subprocess.Popen(["tar", "--create", "--directory", str(layer), "."], stdout=subprocess.PIPE)
    gzip = subprocess.Popen(["gzip", "--stdout"], stdin=tar.stdout, stdout=subprocess.PIPE)
    if tar.stdout is None or gzip.stdout is None:
        raise RuntimeError("no pipe")
    tar.stdout.close()
    size = 0
    while chunk := gzip.stdout.read(1 << 20):
        size += len(chunk)
    if tar.wait() or gzip.wait():
        raise RuntimeError(f"{layer} could not be compressed")
    return size


def _sum(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


def _mb(size: int) -> str:
    return f"{size / 1e6:10.1f} MB"
