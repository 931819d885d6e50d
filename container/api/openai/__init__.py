"""OpenAI's API: /v1/chat/completions, /v1/completions and /v1/models."""

from container.api.openai.chat import answer_chat
from container.api.openai.completions import answer_completion
from container.api.openai.routes import blueprint

__all__ = ["answer_chat", "answer_completion", "blueprint"]
