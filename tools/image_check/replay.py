"""Executes a Dockerfile's stages on a stand-in base; each instruction that changes files gives one layer."""

from __future__ import annotations

import posixpath
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.image_check import build_context, dockerfile
from tools.image_check.dockerfile import Instruction, Stage
from tools.image_check.enter import Entry, mount_points
from tools.image_check.layers import Layer, seal, seen_together

_NO_FILES = {"ARG", "ENV", "LABEL", "EXPOSE", "USER", "ENTRYPOINT", "CMD"}


class ReplayError(Exception):
    """A step failed; the message names the Dockerfile's line."""


@dataclass(frozen=True)
class Image:
    """The result of a stage. The first `base_layers` layers come from its FROM."""

    stage: Stage
    layers: list[Layer]
    base_layers: int
    workdir: str

    def paths(self) -> list[Path]:
        """The layers' directories, lowest first."""
        return [layer.path for layer in self.layers]


@dataclass
class Replay:
    """Builds all stages in order. Needs root and a private mount namespace.

    RUN steps get `environment` and `binds` from this machine; neither leaves a trace in a layer. `base` returns the
    root directory for an image's name.
    """

    context: Path
    scratch: Path
    base: Callable[[str], Path]
    environment: Mapping[str, str]
    binds: Mapping[str, str]

    def build(self, stages: list[Stage]) -> Image:
        """The last stage's image. Raises ReplayError."""
        images: dict[str, Image] = {}
        for stage in stages:
            images[stage.name] = self._build_stage(stage, images)
        return images[stages[-1].name]

    def _build_stage(self, stage: Stage, earlier: Mapping[str, Image]) -> Image:
        parent = earlier.get(stage.base)
        if parent:
            layers, workdir = list(parent.layers), parent.workdir
        else:
            layers, workdir = [Layer(self.base(stage.base), f"FROM {stage.base}")], "/"
        num_base = len(layers)
        for item in stage.instructions:
            if item.name in _NO_FILES:
                continue
            sys.stderr.write(f"image-check: line {item.line}: {item.name} {item.text[:100]}\n")
            upper = self.scratch / f"layer-{stage.name}-{item.line}"
            upper.mkdir(parents=True)
            if item.name == "WORKDIR":
                workdir = posixpath.join(workdir, item.text)
            try:
                self._apply(item, stage, [layer.path for layer in layers], upper, workdir, earlier)
            except (OSError, subprocess.CalledProcessError) as exc:
                raise ReplayError(f"line {item.line}: {item.name} {item.text[:200]}: {exc}") from exc
            seal(upper)
            layers.append(Layer(upper, f"{item.name} {item.text}"))
        return Image(stage, layers, num_base, workdir)

    def _apply(
        self,
        item: Instruction,
        stage: Stage,
        layers: list[Path],
        upper: Path,
        workdir: str,
        earlier: Mapping[str, Image],
    ) -> None:
        if item.name == "RUN":
            self._run(item, stage, layers, upper, workdir)
            return
        with seen_together(layers, self.scratch / "view", upper) as root:
            if item.name == "WORKDIR":
                (root / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif item.name == "COPY":
                self._copy(item, root, workdir, earlier)
            else:
                raise ReplayError(f"line {item.line}: {item.name} is not replayed")

    def _run(self, item: Instruction, stage: Stage, layers: list[Path], upper: Path, workdir: str) -> None:
        defaults = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        environment = {**defaults, **self.environment, **stage.arguments, **stage.environment}
        argv = item.exec_form() or ["/bin/sh", "-c", item.text]
        points = self.scratch / f"{upper.name}-mounts"
        with seen_together([*layers, points_layer(points, self.binds)], self.scratch / "view", upper) as root:
            entry = Entry(root=str(root), argv=argv, environment=environment, workdir=workdir, binds=dict(self.binds))
            subprocess.run(entry.command(), check=True, stdout=sys.stderr.fileno())

    def _copy(self, item: Instruction, root: Path, workdir: str, earlier: Mapping[str, Image]) -> None:
        stage_name, sources, destination = item.copied()
        target = root / posixpath.join(workdir, destination).lstrip("/")
        into_directory = destination.endswith("/") or len(sources) > 1
        if not stage_name:
            for source in sources:
                self._copy_from_context(source, target, into_directory)
            return
        image = earlier[stage_name]
        with seen_together(image.paths(), self.scratch / "source") as tree:
            for source in sources:
                _copy_tree(tree / source.strip("/"), target, into_directory)

    def _copy_from_context(self, source: str, target: Path, into_directory: bool) -> None:
        found = build_context.matching(self.context, source)
        if not found:
            raise FileNotFoundError(f"{source} is not in the build context; does .dockerignore exclude it?")
        as_directory = into_directory or (self.context / source).is_dir()
        for file, name in found:
            path = target / name if as_directory else target
            path.parent.mkdir(parents=True, exist_ok=True)
            # Keeps mode and time; the owner is root, as in an image.
            shutil.copy2(file, path)


def points_layer(directory: Path, binds: Mapping[str, str]) -> Path:
    """A layer that contains only mount points."""
    return mount_points(Entry(root="", argv=[], environment={}, binds=dict(binds)), directory)


def _copy_tree(source: Path, target: Path, into_directory: bool) -> None:
    """Copy a directory's contents to `target`, or a file to `target` (into it if `into_directory`)."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        origin, destination = f"{source}/.", f"{target}/"
    else:
        destination = str(target / source.name) if into_directory else str(target)
        origin = str(source)
        Path(destination).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["cp", "--recursive", "--no-dereference", "--preserve=mode,timestamps,links", origin, destination], check=True
    )


def final_image(path: Path, replay: Replay, build_arguments: Mapping[str, str]) -> Image:
    """Parse the Dockerfile and build its last stage."""
    return replay.build(dockerfile.read(path, build_arguments))
