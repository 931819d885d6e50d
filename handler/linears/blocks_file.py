"""Where a converted GGUF checkpoint keeps its quantised matrices. Imports nothing: the engine reads it before torch."""

from __future__ import annotations

# Relative to the checkpoint, beside the dense weights that transformers makes of the same matrices. In a folder of its
# own, because the size of a checkpoint is measured by the safetensors files directly in it.
BLOCKS_FILE = "packed/blocks.safetensors"
