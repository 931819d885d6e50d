"""A model of one's own, without an engine: a linear classifier of the tone of a text, in batches.

POST /invocations with {"inputs": "a text"}. Requests that come while a batch runs are the next batch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

MAX_BATCH_SIZE = 64


class Model:
    """A weight for each word; unknown words count nothing."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.index = {word: i for i, word in enumerate(weights)}
        self.weights = np.array(list(weights.values()))

    def __call__(self, texts: list[str]) -> np.ndarray[Any, Any]:
        """Probabilities that the texts are friendly, of one matrix product."""
        counts = np.zeros((len(texts), len(self.weights)))
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                if word in self.index:
                    counts[row, self.index[word]] += 1
        return 1 / (1 + np.exp(-counts @ self.weights))


def model_fn(model_dir: str) -> Model:
    """Called once, before /ping answers 200."""
    return Model(json.loads((Path(model_dir) / "weights.json").read_text()))


def input_fn(body: str, content_type: str | None) -> str:
    """The text of one request; what is raised here is its answer, with status 400."""
    text = json.loads(body).get("inputs")
    if not isinstance(text, str):
        raise ValueError("inputs must be a text")
    return text


def predict_fn_batch(texts: list[str], model: Model) -> list[dict[str, Any]]:
    """One result for each text, in order."""
    return [{"friendly": round(float(value), 4), "batch": len(texts)} for value in model(texts)]
