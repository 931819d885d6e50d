"""Which code a model's configuration can ask for, and when it is followed (docs/decisions/0081)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handler.model.json_file import read_json
from handler.seam.errors import BadModel

logger = logging.getLogger(__name__)

# Keys whose texts transformers may take for the name of a hub repository with kernels (CVE-2026-4372, CVE-2026-5241).
# Versions also write flags under such names (`_attn_implementation_autoset`); those name nothing.
_KERNEL_KEYS = ("_attn_implementation", "_experts_implementation")
_PUBLIC_KERNEL_KEYS = ("attn_implementation", "experts_implementation")
# Texts that name code of transformers itself, or a package; `published_values.settle` takes the latter back.
_PLAIN = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"})


def check_code(config: dict[str, Any], directory: Path, *, trust_remote_code: bool) -> None:
    """Raise BadModel if config.json, at any depth, names a kernel, or code that is needed and not trusted."""
    file = directory / "config.json"
    for key, value in _items(config):
        if _names_kernel(key, value):
            raise BadModel(
                f"{file} has the key {key!r}, which can fetch and run code; remove it, the server chooses the "
                "attention itself"
            )
    if not any(key == "auto_map" for key, _ in _items(config)):
        return
    if _is_known(config):
        logger.info("%s: auto_map is ignored, transformers knows %s", file, config["model_type"])
    elif not trust_remote_code:
        raise BadModel(
            f"{file} has the key 'auto_map', which runs code from the model, and transformers does not know its "
            "model_type; set HF_MODEL_TRUST_REMOTE_CODE=true only if you trust it"
        )


def follows_code(config: dict[str, Any], *, trust_remote_code: bool) -> bool:
    """Whether libraries may run code of the model: it is trusted, and transformers has none for its family."""
    return trust_remote_code and not _is_known(config)


def code_repositories(directory: Path) -> list[str]:
    """Hub ids of other repositories whose code `auto_map` names, in config.json or tokenizer_config.json.

    An entry is "owner/name--module.Class", or a list of such. Raises BadModel.
    """
    found: set[str] = set()
    for name in ("config.json", "tokenizer_config.json"):
        values = read_json(directory / name) if (directory / name).is_file() else {}
        entries = (value for key, value in _items(values) if key == "auto_map")
        found |= {text.partition("--")[0] for entry in entries for text in _texts(entry) if "--" in text}
    return sorted(found)


def _is_known(config: dict[str, Any]) -> bool:
    """Whether transformers itself has a configuration for the `model_type`, and a class that writes text."""
    # Imported here: it imports torch, and few configurations ask.
    from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )

    family = config.get("model_type")
    tables = (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )
    return isinstance(family, str) and family in CONFIG_MAPPING_NAMES and any(family in table for table in tables)


def _parts(value: object) -> Iterator[object]:
    """`value`, and every value in it at any depth."""
    rest = [value]
    while rest:
        part = rest.pop()
        yield part
        rest += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


def _items(value: object) -> Iterator[tuple[str, object]]:
    """Every key of every object in `value`, with its value."""
    for part in _parts(value):
        if isinstance(part, dict):
            yield from part.items()


def _names_kernel(key: str, value: object) -> bool:
    if key.startswith(_KERNEL_KEYS):
        return any(text not in _PLAIN for text in _texts(value))
    return key in _PUBLIC_KERNEL_KEYS and any("/" in text for text in _texts(value))


def _texts(value: object) -> list[str]:
    return [part for part in _parts(value) if isinstance(part, str)]
