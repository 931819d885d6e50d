"""`python -m tools.image_check.inside JSON`: replay the Dockerfile, then run all cases.

Start it as root in its own mount namespace, so that every mount is gone when it ends, however it ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tools.image_check import base_root, cases, host, sizes
from tools.image_check.dockerfile import DockerfileError
from tools.image_check.replay import Image, Replay, ReplayError, final_image

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Job:
    """`scratch` is a temporary directory, `base` an existing root directory or "", `model` a checkpoint."""

    scratch: str
    model: str
    base: str = ""
    compress: bool = False


def main(job: Job) -> int:
    """Build and run all cases. Returns 0 if the image was built and every case holds."""
    try:
        image = _build(job)
    except (DockerfileError, ReplayError, ValueError, subprocess.CalledProcessError) as exc:
        sys.stdout.write(f"image-check: NOT BUILT: {exc}\n")
        return 1
    sys.stdout.write(sizes.table(image, compress=job.compress))
    num_broken = 0
    for number, case in enumerate(_cases(job, image)):
        Path(case.scratch).mkdir()
        done = subprocess.run(cases.command(case), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        verdict = "ok" if done.returncode == 0 else "BROKEN\n  " + done.stdout.strip().replace("\n", "\n  ")
        sys.stdout.write(f"case {number + 1}: {case.title}: {verdict}\n")
        sys.stdout.flush()
        num_broken += done.returncode != 0
    return 1 if num_broken else 0


def _build(job: Job) -> Image:
    scratch = Path(job.scratch)
    environment = host.pip_environment()
    made: dict[str, Path] = {}

    def base(name: str) -> Path:
        if name not in made:
            made[name] = Path(job.base) if job.base else scratch / f"base-{len(made)}"
            if not job.base:
                made[name].mkdir()
                release, _ = base_root.release_and_python(name)
                base_root.make(name, host.debian_mirror(release), made[name])
        return made[name]

    replay = Replay(ROOT, scratch, base, environment, host.build_binds(environment))
    return final_image(ROOT / "Dockerfile", replay, {"TORCH": "cpu"} | host.torch_index(environment))


def _cases(job: Job, image: Image) -> Iterator[cases.Case]:
    entry = image.stage.last("ENTRYPOINT")
    argv = entry.exec_form() if entry else None
    defaults = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOSTNAME": "container"}
    for number, case in enumerate(cases.all_cases(Path(job.model), argv or [])):
        yield replace(
            case,
            environment=defaults | image.stage.environment | case.environment,
            workdir=image.workdir,
            layers=[str(path) for path in image.paths()],
            scratch=str(Path(job.scratch, f"case-{number}")),
        )


def command(job: Job) -> list[str]:
    """The command line that runs a job in a new mount namespace."""
    arguments = [sys.executable, "-m", "tools.image_check.inside", json.dumps(asdict(job))]
    return ["unshare", "--mount", "--propagation", "private", *arguments]


if __name__ == "__main__":
    sys.exit(main(Job(**json.loads(sys.argv[1]))))
