"""Whether two models have one vocabulary: a draft model's token ids must mean what the served model's do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handler.model.json_file import read_json
from handler.seam.errors import BadModel

_FILE = "tokenizer.json"


def check_vocabulary(served: tuple[Path, str], draft: tuple[Path, str]) -> None:
    """Raise BadModel, naming both, unless the tokenizers have the same tokens.

    Each is the directory of a tokenizer.json and the model's name. Added tokens may differ, as those of a chat template
    do between a model and its base: no answer depends on them. So may the padding of the embeddings.
    """
    first, second = _tokens(served[0]), _tokens(draft[0])
    if first == second:
        return
    token_id = min(
        (i for i in {*first, *second} if first.get(i) != second.get(i)),
        default=0,
    )
    raise BadModel(
        f"the draft model {draft[1]!r} has another vocabulary than {served[1]!r}: {len(second)} tokens, not "
        f"{len(first)}, and token {token_id} is {second.get(token_id)!r}, not {first.get(token_id)!r}; a draft model "
        "must be of the same family"
    )


def _tokens(directory: Path) -> dict[int, str]:
    """The tokens by their ids, without those that were added to the vocabulary."""
    values = read_json(directory / _FILE)
    model: Any = values.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    added = {each.get("id") for each in values.get("added_tokens") or () if isinstance(each, dict)}
    if isinstance(vocabulary, dict):
        pairs = [(token_id, token) for token, token_id in vocabulary.items()]
    elif isinstance(vocabulary, list):  # Unigram: pairs of token and score, by id
        pairs = [(token_id, str(entry[0])) for token_id, entry in enumerate(vocabulary)]
    else:
        raise BadModel(f"{directory / _FILE} lists no vocabulary")
    return {token_id: token for token_id, token in pairs if token_id not in added}
