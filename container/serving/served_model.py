"""A web worker's side of the model: the engine's card, the tokenizer, the chat template, the limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from container.errors import ContextLengthExceeded, InvalidRequest
from container.settings import Settings
from container.text.chat_template import ChatTemplate
from container.text.template_renderer import Renderer
from container.text.tokenizer import Tokenizer
from handler.seam.protocol import ModelCard


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The text side of the loaded model."""

    card: ModelCard
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    max_input_tokens: int
    renderer: Renderer | None = None

    @classmethod
    def load(cls, card_path: Path, settings: Settings, renderer: Renderer) -> ServedModel:
        """Read the card the engine wrote and the files it names; `renderer` runs the chat template.

        Raises OSError, TokenizerError or TemplateError.
        """
        card = msgspec.json.decode(card_path.read_bytes(), type=ModelCard)
        directory = Path(card.tokenizer_dir)
        tokenizer = Tokenizer.load(directory)
        template = ChatTemplate.load(directory, tokenizer, renderer)
        longest = card.max_model_len - 1
        return cls(card, tokenizer, template, min(settings.max_input_tokens or longest, longest), renderer)

    def prompt_room(self, max_new_tokens: int | None) -> int:
        """The longest prompt, in tokens, beside so many new tokens; at least 1."""
        return max(1, min(self.max_input_tokens, self.card.max_model_len - (max_new_tokens or 0)))

    def check_length(self, num_input_tokens: int, max_new_tokens: int | None) -> int:
        """The number of tokens to generate. Raises InvalidRequest or ContextLengthExceeded in TGI's words."""
        max_total = self.card.max_model_len
        if num_input_tokens == 0:
            raise InvalidRequest("`inputs` cannot be empty", param="inputs")
        if num_input_tokens > self.max_input_tokens:
            raise ContextLengthExceeded(
                f"`inputs` must have less than {self.max_input_tokens} tokens. Given: {num_input_tokens}",
                num_tokens=num_input_tokens,
                limit=self.max_input_tokens,
            )
        if max_new_tokens is None:
            return max_total - num_input_tokens
        if num_input_tokens + max_new_tokens > max_total:
            raise ContextLengthExceeded(
                f"`inputs` tokens + `max_new_tokens` must be <= {max_total}. "
                f"Given: {num_input_tokens} `inputs` tokens and {max_new_tokens} `max_new_tokens`"
            )
        return max_new_tokens


def answered_model(served: ServedModel, asked: str | None) -> str:
    """The model's name in an answer: as the request has it, else its id."""
    return served.card.model_id if asked is None else asked
