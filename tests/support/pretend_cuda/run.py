"""`python -m tests.support.pretend_cuda.run H200 MODULE ARGUMENTS`: a module's `main` on a pretended GPU."""

from __future__ import annotations

import sys
from importlib import import_module

import torch

from tests.support.pretend_cuda.gpus import gpus_of
from tests.support.pretend_cuda.install import pretend_cuda


def main(kind: str, module: str, *arguments: str) -> int:
    """Returns what the module's `main` returns."""
    torch.set_num_threads(1)
    with pretend_cuda(gpus_of(kind)):
        return int(import_module(module).main(list(arguments)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
