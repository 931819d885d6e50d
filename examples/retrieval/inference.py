"""Retrieval before each prompt: the passages that share most words with the question go in front of it.

POST /invocations with {"question": "...", "max_tokens": 60}. All calls at once are one batch of the server's model.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PASSAGES = [text.strip() for text in (Path(__file__).parent / "passages.txt").read_text().split("\n\n")]
WORDS = [set(re.findall(r"\w+", text.lower())) for text in PASSAGES]


def retrieve(question: str, count: int = 2) -> list[str]:
    """The passages with the most words of the question, the best first."""
    asked = set(re.findall(r"\w+", question.lower()))
    best = sorted(range(len(PASSAGES)), key=lambda i: len(asked & WORDS[i]), reverse=True)
    return [PASSAGES[i] for i in best[:count]]


def predict_fn(data: dict[str, Any], model: Any) -> dict[str, Any]:
    """Without a model_fn in this file, `model` is the server's own."""
    question = data.get("question")
    if not isinstance(question, str) or not question:
        raise ValueError("the body needs a question, a string")
    passages = retrieve(question)
    context = "Answer from these passages alone.\n\n" + "\n\n".join(passages)
    messages = [{"role": "system", "content": context}, {"role": "user", "content": question}]
    answer = model.chat(messages, max_tokens=data.get("max_tokens", 100), temperature=0)
    return {"answer": answer["choices"][0]["message"]["content"], "passages": passages, "usage": answer["usage"]}
