"""The tokens of a question's labels as a tree, and what the engine must be asked to weigh them.

A label of one token is weighed by that token's logit. A longer one is weighed by the product of its tokens'
probabilities. What all labels share cancels out, so the tree begins where they part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from container.generation.generation import Token
from handler.seam.protocol import SamplingParams, TokenLogprob

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """One token after the prompt and `path`, of which only `tokens` may come.

    Its log-probabilities are those among `tokens`; `whole`: of the likeliest alone, among the whole vocabulary.
    """

    path: Path
    tokens: tuple[int, ...]
    whole: bool = False

    @property
    def sampling(self) -> SamplingParams:
        """What asks the engine for it. Greedy, so no draw, penalty or temperature has a part in it."""
        return SamplingParams(
            max_tokens=1,
            seed=0,
            temperature=0.0,
            allowed_token_ids=self.tokens,
            num_logprobs=0 if self.whole else len(self.tokens),
            warped_logprobs=not self.whole,
        )


class LabelTree:
    """`reads` are all that `probabilities` needs: one if every label is a token, none if there is one label."""

    def __init__(self, sequences: Sequence[Path]) -> None:
        """Raises ValueError if a label is empty, or equals or begins another."""
        self._sequences = sequences
        # The longest beginning of all: of one label, the whole.
        self._root: Path = _common_beginning(sequences)
        self._children: dict[Path, dict[int, None]] = {}
        for sequence in sequences:
            for i in range(len(self._root), len(sequence)):
                self._children.setdefault(sequence[:i], {})[sequence[i]] = None
        if len(set(sequences)) < len(sequences) or any(each in self._children for each in sequences) or () in sequences:
            raise ValueError("labels must differ, and none may begin another")
        self.reads = tuple(read for path in self._children for read in self._reads_at(path))

    @property
    def depth(self) -> int:
        """Tokens of the longest path that a read follows."""
        return max((len(read.path) for read in self.reads), default=0)

    def _reads_at(self, path: Path) -> list[Read]:
        tokens = tuple(self._children[path])
        among = [Read(path, tokens)] if len(tokens) > 1 else []
        # At the root the share of the whole vocabulary is common to all labels.
        return among if path == self._root else [*among, Read(path, tokens, whole=True)]

    def probabilities(self, found: Mapping[Read, Token]) -> list[float]:
        """The labels' probabilities, which sum to 1, from what the reads found. Raises ValueError if none can come."""
        steps = {path: self._log_shares(path, found) for path in self._children}
        first = len(self._root)
        weights = [math.fsum(steps[each[:i]][each[i]] for i in range(first, len(each))) for each in self._sequences]
        highest = max(weights)
        if not math.isfinite(highest):
            raise ValueError("no label can come")
        shares = [math.exp(weight - highest) for weight in weights]
        total = math.fsum(shares)
        return [share / total for share in shares]

    def _log_shares(self, path: Path, found: Mapping[Read, Token]) -> dict[int, float]:
        """The log-probability of each token that may follow `path`, at the root up to a common summand."""
        tokens = tuple(self._children[path])
        shares = dict.fromkeys(tokens, 0.0)
        if len(tokens) > 1:
            # A token that cannot come is not among them.
            among = dict(_reported(found[Read(path, tokens)]).top)
            shares = {token_id: among.get(token_id, -math.inf) for token_id in tokens}
        if path == self._root:
            return shares
        likeliest = found[Read(path, tokens, whole=True)]
        scale = _reported(likeliest).logprob - shares[likeliest.id]
        return {token_id: share + scale for token_id, share in shares.items()}


def _common_beginning(sequences: Sequence[Path]) -> Path:
    first, last = min(sequences), max(sequences)
    num_common = next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    return first[:num_common]


def _reported(token: Token) -> TokenLogprob:
    assert token.logprob is not None
    return token.logprob
