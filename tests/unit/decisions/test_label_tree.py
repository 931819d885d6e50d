"""Labels of any number of tokens weigh what their tokens' probabilities make together; what all share cancels out."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from container.api.decisions.label_tree import LabelTree, Path, Read
from container.generation.generation import Token
from handler.seam.protocol import TokenLogprob

VOCABULARY = range(12)


class Model:
    """Random logits after every path, the same for the same path."""

    def logprobs(self, path: Path, tokens: Sequence[int] = VOCABULARY) -> dict[int, float]:
        """Of `tokens` among themselves."""
        draw = random.Random(str(path))
        logits = {token_id: draw.gauss(0, 3) for token_id in VOCABULARY}
        total = math.log(math.fsum(math.exp(logits[token_id]) for token_id in tokens))
        return {token_id: logits[token_id] - total for token_id in tokens}

    def answers(self, read: Read) -> Token:
        """As the engine does: the likeliest of the read's tokens."""
        found = self.logprobs(read.path, VOCABULARY if read.whole else read.tokens)
        best = max(read.tokens, key=found.__getitem__)
        top = () if read.whole else tuple(found.items())
        return Token(best, "", False, TokenLogprob(found[best], top))

    def probabilities(self, labels: Sequence[Path]) -> list[float]:
        """The products of the tokens' probabilities in the whole vocabulary, made to sum to 1."""
        weights = [math.exp(sum(self.logprobs(each[:i])[each[i]] for i in range(len(each)))) for each in labels]
        return [weight / math.fsum(weights) for weight in weights]


@pytest.mark.parametrize(
    ("labels", "num_reads"),
    [
        ([(3,), (5,)], 1),
        ([(3,), (5,), (7,), (11,)], 1),
        ([(3,)], 0),
        ([(3, 4), (5,)], 2),
        ([(3, 4), (3, 5)], 1),
        ([(3, 4)], 0),
        ([(3, 4, 1), (3, 4, 2, 8)], 2),
        ([(3, 4), (3, 5), (6, 4), (6, 5), (7, 0)], 6),
        ([(3, 4, 1), (3, 4, 2), (3, 5, 1), (9,)], 6),
    ],
)
def test_labels_weigh_the_product_of_their_tokens(labels: list[Path], num_reads: int) -> None:
    model = Model()
    tree = LabelTree(labels)
    assert len(tree.reads) == num_reads
    found = tree.probabilities({read: model.answers(read) for read in tree.reads})
    assert found == pytest.approx(model.probabilities(labels), abs=1e-12)
    assert math.fsum(found) == pytest.approx(1.0, abs=1e-15)


def test_a_common_beginning_costs_no_read() -> None:
    """Its share of the vocabulary is the same for all labels, and cancels out."""
    model = Model()
    plain, longer = LabelTree([(3,), (5,)]), LabelTree([(8, 3), (8, 5)])
    found = longer.probabilities({read: model.answers(read) for read in longer.reads})
    assert found == pytest.approx(model.probabilities([(8, 3), (8, 5)]), abs=1e-12)
    assert (plain.depth, longer.depth) == (0, 1)
    assert (len(plain.reads), len(longer.reads)) == (1, 1)


def test_a_label_that_cannot_come_has_no_share() -> None:
    tree = LabelTree([(3,), (5,), (7,)])
    (read,) = tree.reads
    told = Token(3, "", False, TokenLogprob(-0.7, ((3, -0.7), (7, -0.7))))
    assert tree.probabilities({read: told}) == [0.5, 0.0, 0.5]
    with pytest.raises(ValueError, match="no label"):
        tree.probabilities({read: Token(3, "", False, TokenLogprob(-0.7))})


@pytest.mark.parametrize("labels", [[(3,), (3,)], [(3,), (3, 4)], [(3, 4), (3,)], [(), (3,)], [()]])
def test_labels_must_differ(labels: list[Path]) -> None:
    with pytest.raises(ValueError, match="differ"):
        LabelTree(labels)
