"""Clients that were written for TGI, unmodified."""

from __future__ import annotations

import asyncio
import warnings

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from tests.contract.tgi.conftest import EOS, says_a_and_eos
from tests.support.server import Server


@pytest.fixture(scope="module")
def hub(server: Server) -> InferenceClient:
    return InferenceClient(server.url)


def test_huggingface_hub_whole(hub: InferenceClient) -> None:
    assert isinstance(hub.text_generation("hello", max_new_tokens=4), str)
    found = hub.text_generation("hello", max_new_tokens=4, details=True, top_n_tokens=2, decoder_input_details=True)
    assert found.details is not None
    assert (found.details.finish_reason, found.details.generated_tokens) == ("length", 4)
    assert len(found.details.prefill) == 5
    assert found.details.top_tokens is not None


def test_huggingface_hub_best_of(hub: InferenceClient) -> None:
    found = hub.text_generation("hello", max_new_tokens=4, details=True, best_of=2, do_sample=True)
    assert found.details is not None
    assert found.details.best_of_sequences is not None
    assert len(found.details.best_of_sequences) == 1


def test_huggingface_hub_stream(server: Server, hub: InferenceClient) -> None:
    wanted = says_a_and_eos(server)
    events = list(hub.text_generation("hello", stream=True, details=True, return_full_text=False, **wanted))
    assert [event.token.special for event in events] == [False, True]
    assert events[-1].generated_text == "a"
    assert events[-1].details is not None
    assert events[-1].details.finish_reason == "eos_token"
    assert list(hub.text_generation("hello", stream=True, **wanted)) == ["a", EOS]


def test_huggingface_hub_errors(hub: InferenceClient) -> None:
    with pytest.raises(ValidationError, match=r"`top_p` must be > 0\.0 and < 1\.0"):
        hub.text_generation("hello", top_p=1.0)
    with pytest.raises(ValidationError, match="`max_new_tokens` must be <= 512"):
        list(hub.text_generation("hello", max_new_tokens=10000, stream=True))


class TestTextGeneration:
    """The `text-generation` package 0.7.0, on huggingface_hub 2 in spite of its pin (it uses none of it here)."""

    @pytest.fixture(scope="class")
    def client(self, server: Server) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import text_generation
        return text_generation.Client(server.url, timeout=60)

    def test_generate(self, client: object) -> None:
        found = client.generate("hello", max_new_tokens=1, decoder_input_details=True)  # type: ignore[attr-defined]
        assert (found.details.finish_reason.value, found.details.generated_tokens) == ("length", 1)
        assert [token.text for token in found.details.prefill] == list("hello")
        assert found.details.prefill[0].logprob is None

    def test_best_of(self, client: object) -> None:
        found = client.generate("hello", max_new_tokens=1, best_of=2, do_sample=True)  # type: ignore[attr-defined]
        assert found.details.seed is not None
        assert len(found.details.best_of_sequences) == 1

    def test_generate_stream(self, client: object) -> None:
        (event,) = client.generate_stream("hello", max_new_tokens=1)  # type: ignore[attr-defined]
        assert event.details.finish_reason.value == "length"
        assert event.generated_text is not None

    def test_chat(self, client: object) -> None:
        found = client.chat([{"role": "user", "content": "hi"}], max_tokens=2, temperature=0)  # type: ignore[attr-defined]
        assert found.choices[0].finish_reason == "length"
        assert found.choices[0].message.content is not None

    def test_chat_stream_fails_in_the_client(self, client: object) -> None:
        """Its chunk needs `tool_calls` in each delta, which TGI omits, and it reads `[DONE]` as JSON."""
        from text_generation.types import ChatCompletionChunk

        with pytest.raises(AttributeError, match="'status'"):  # its handler of the pydantic error fails too
            list(client.chat([{"role": "user", "content": "hi"}], max_tokens=2, stream=True))  # type: ignore[attr-defined]
        delta = {"role": "assistant", "content": "a"}
        of_tgi = {
            "object": "chat.completion.chunk", "id": "", "created": 1, "model": "m", "system_fingerprint": "3.3.7",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
        }  # fmt: skip
        with pytest.raises(ValueError, match="tool_calls"):
            ChatCompletionChunk(**of_tgi)

    def test_async(self, server: Server) -> None:
        from text_generation import AsyncClient

        async def ask() -> tuple[int, list[int], str]:
            client = AsyncClient(server.url, timeout=60)
            whole = await client.generate("hello", max_new_tokens=2)
            events = [event.token.id async for event in client.generate_stream("hello", max_new_tokens=2)]
            chat = await client.chat([{"role": "user", "content": "hi"}], max_tokens=2, temperature=0)
            return whole.details.generated_tokens, events, chat.choices[0].finish_reason

        num_tokens, events, reason = asyncio.run(ask())
        assert (num_tokens, len(events), reason) == (2, 2, "length")

    def test_errors(self, client: object) -> None:
        from text_generation.errors import NotFoundError
        from text_generation.errors import ValidationError as Refused

        with pytest.raises(Refused):
            client.generate("hello", max_new_tokens=10000)  # type: ignore[attr-defined]
        with pytest.raises(Refused):
            list(client.generate_stream("hello", max_new_tokens=10000))  # type: ignore[attr-defined]
        other = type(client)(f"{client.base_url}/nowhere")  # type: ignore[attr-defined]
        with pytest.raises(NotFoundError):
            other.generate("hello")
