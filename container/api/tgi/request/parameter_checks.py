"""The checks of TGI's validation, with its order and its messages (`router/src/validation.rs` of TGI v3.3.7)."""

from __future__ import annotations

from container.api.tgi.request.grammar_parameter import check_grammar
from container.api.tgi.request.parameters import GenerateParameters
from container.errors import ContextLengthExceeded, InvalidRequest
from container.serving.served_model import ServedModel
from container.settings import Settings

_MAX_SEED = 2**64
# TGI counts at most this many new tokens against the context; a larger max_new_tokens is cut, not refused.
_COUNTED_NEW_TOKENS = 1024


def check_before_admission(parameters: GenerateParameters, settings: Settings, *, streaming: bool) -> None:
    """The checks that TGI makes before it queues a request. Raises InvalidRequest."""
    best_of = parameters.best_of
    if streaming:
        if best_of not in {None, 1}:
            raise InvalidRequest("`best_of` != 1 is not supported when streaming tokens", param="best_of")
        if parameters.decoder_input_details:
            raise InvalidRequest(
                "`decoder_input_details` == true is not supported when streaming tokens", param="decoder_input_details"
            )
    elif best_of is not None and best_of > 1:
        if settings.max_best_of == 1:
            raise InvalidRequest("`best_of` != 1 is not allowed for this endpoint", param="best_of")
        if best_of > settings.max_best_of:
            raise InvalidRequest(
                f"`best_of` must be > 0 and <= {settings.max_best_of}. Given: {best_of}", param="best_of"
            )


def check_parameters(parameters: GenerateParameters, settings: Settings) -> None:
    """TGI's checks of sampling, stop strings and seed. Raises InvalidRequest."""
    p = parameters
    if p.num_sequences > 1 and not p.wants_sampling:
        raise InvalidRequest("you must use sampling when `best_of` is > 1", param="best_of")
    _check_distribution(p)
    _positive("max_new_tokens", p.max_new_tokens)
    _check_stop(p.stop, settings.max_stop_sequences)
    if p.seed is not None and p.num_sequences > 1:
        raise InvalidRequest("`seed` must not be set when `best_of` > 1", param="seed")
    if p.seed is not None and p.seed >= _MAX_SEED:
        raise InvalidRequest(f"`seed` must be < 2^64. Given: {p.seed}", param="seed")
    if p.top_n_tokens is not None and p.top_n_tokens > settings.max_top_n_tokens:
        raise InvalidRequest(
            f"`top_n_tokens` must be >= 0 and <= {settings.max_top_n_tokens}. Given: {p.top_n_tokens}",
            param="top_n_tokens",
        )


def _check_distribution(p: GenerateParameters) -> None:
    _positive("temperature", p.temperature)
    _positive("repetition_penalty", p.repetition_penalty)
    if p.frequency_penalty is not None and not -2.0 <= p.frequency_penalty <= 2.0:
        raise InvalidRequest("`frequency_penalty` must be >= -2.0 and <= 2.0", param="frequency_penalty")
    for field in ("top_p", "typical_p"):
        value = getattr(p, field)
        if value is not None and not 0.0 < value < 1.0:
            raise InvalidRequest(f"`{field}` must be > 0.0 and < 1.0", param=field)
    _positive("top_k", p.top_k)


def _check_stop(stop: list[str], limit: int) -> None:
    if len(stop) > limit:
        raise InvalidRequest(f"`stop` supports up to {limit} stop sequences. Given: {len(stop)}", param="stop")
    if not all(stop):
        raise InvalidRequest("`stop` must be made of non-empty strings", param="stop")


def _positive(field: str, value: float | None) -> None:
    if value is not None and value <= 0:
        raise InvalidRequest(f"`{field}` must be strictly positive", param=field)


def check_inputs(inputs: str, parameters: GenerateParameters, served: ServedModel) -> None:
    """TGI's checks of the text and of `truncate`. Raises InvalidRequest."""
    if not inputs:
        raise InvalidRequest("`inputs` cannot be empty", param="inputs")
    limit, truncate = served.max_input_tokens, parameters.truncate
    if truncate is not None and not 0 < truncate <= limit:
        raise InvalidRequest(
            f"`truncate` must be strictly positive and less than {limit}. Given: {truncate}", param="truncate"
        )


def check_lengths(num_input_tokens: int, parameters: GenerateParameters, served: ServedModel) -> int:
    """TGI's checks of the token counts; returns the maximum number of tokens to generate.

    Raises InvalidRequest or ContextLengthExceeded.
    """
    max_total, wanted = served.card.max_model_len, parameters.max_new_tokens
    if num_input_tokens == 0:
        raise InvalidRequest("`inputs` cannot be empty", param="inputs")
    if wanted is not None:
        counted = min(wanted, _COUNTED_NEW_TOKENS)
        if num_input_tokens + counted > max_total:
            raise ContextLengthExceeded(
                f"`inputs` tokens + `max_new_tokens` must be <= {max_total}. "
                f"Given: {num_input_tokens} `inputs` tokens and {counted} `max_new_tokens`"
            )
    if num_input_tokens > served.max_input_tokens:
        raise ContextLengthExceeded(
            f"`inputs` must have less than {served.max_input_tokens} tokens. Given: {num_input_tokens}"
        )
    room = max_total - num_input_tokens
    return room if wanted is None else min(wanted, room)


def check_grammar_support(parameters: GenerateParameters, settings: Settings) -> None:
    """TGI's last check, of the grammar. Raises InvalidRequest."""
    check_grammar(parameters.grammar, supported=not settings.disable_grammar_support)
