"""Harmony, in which gpt-oss answers: messages with a channel and, for calls, a recipient."""

from container.api.openai.harmony.grammar import harmony_grammar
from container.api.openai.harmony.marks import HarmonyMarks
from container.api.openai.harmony.reader import HarmonyReader

__all__ = ["HarmonyMarks", "HarmonyReader", "harmony_grammar"]
