"""Whether two models have one vocabulary: a draft model's token ids must mean what the served model's do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.model.json_file import read_json
from handler.seam.errors import BadModel

_FILE = "tokenizer.json"


def check_vocabulary(served: tuple[Path, str], draft: tuple[Path, str]) -> None:
    """Raise BadModel, naming both, unless the tokenizers have the same tokens.

    Each is the directory of a tokenizer.json and the model's name. Added tokens may differ, as those of a chat
    template do between a model and its base: no answer depends on them. An id that is an ordinary token of one must be
    the same token in the other, ordinary or added. The padding of the embeddings may differ.
    """
    first, second = _Vocabulary.of(served[0]), _Vocabulary.of(draft[0])
    differing = [
        token_id
        for token_id in first.ordinary | second.ordinary
        if first.tokens.get(token_id) != second.tokens.get(token_id)
    ]
    if not differing:
        return
    token_id = min(differing)
    raise BadModel(
        f"the draft model {draft[1]!r} has another vocabulary than {served[1]!r}: {len(second.ordinary)} tokens, not "
        f"{len(first.ordinary)}, and token {token_id} is {second.tokens.get(token_id)!r}, not "
        f"{first.tokens.get(token_id)!r}; a draft model must be of the same family"
    )


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """All `tokens` by their ids, and the ids of those that are not listed as added."""

    tokens: dict[int, str]
    ordinary: set[int]

    @classmethod
    def of(cls, directory: Path) -> _Vocabulary:
        values = read_json(directory / _FILE)
        listed = [each for each in values.get("added_tokens") or () if isinstance(each, dict) and "id" in each]
        added = {each["id"]: str(each.get("content")) for each in listed}
        tokens = _tokens(values.get("model"))
        if tokens is None:
            raise BadModel(f"{directory / _FILE} lists no vocabulary")
        return cls({**added, **tokens}, tokens.keys() - added.keys())


def _tokens(model: Any) -> dict[int, str] | None:
    """The tokens by their ids, with those of the added ones that are in the vocabulary; None if none is listed."""
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        return {token_id: token for token, token_id in vocabulary.items()}
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score, by id
        return {token_id: str(entry[0]) for token_id, entry in enumerate(vocabulary)}
    return None
