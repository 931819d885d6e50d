"""OpenAI's API: /v1/chat/completions and /v1/models."""

from container.api.openai.routes import answer_chat, blueprint

__all__ = ["answer_chat", "blueprint"]
