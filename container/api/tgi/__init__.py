"""Text Generation Inference's own API, v3: /, /generate, /generate_stream, /info."""

from container.api.tgi.routes import answer_generate, blueprint

__all__ = ["answer_generate", "blueprint"]
