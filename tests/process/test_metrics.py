"""Every number of /metrics is made to move in a running server, and moves by what was done."""

from __future__ import annotations

import concurrent.futures
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.exposition import Scrape, scrape
from tests.support.server import Server

# router/src/server.rs and backends/v3 of TGI 3.3.7, without what has no meaning here: concatenating and filtering
# batches.
TGI = {
    "tgi_request_count": "counter",
    "tgi_request_success": "counter",
    "tgi_request_failure": "counter",
    "tgi_batch_inference_count": "counter",
    "tgi_batch_inference_success": "counter",
    "tgi_batch_inference_failure": "counter",
    "tgi_queue_size": "gauge",
    "tgi_batch_current_size": "gauge",
    "tgi_batch_current_max_tokens": "gauge",
    "tgi_batch_max_total_tokens": "gauge",
    "tgi_request_duration": "histogram",
    "tgi_request_validation_duration": "histogram",
    "tgi_request_queue_duration": "histogram",
    "tgi_request_inference_duration": "histogram",
    "tgi_request_mean_time_per_token_duration": "histogram",
    "tgi_request_input_length": "histogram",
    "tgi_request_generated_tokens": "histogram",
    "tgi_request_max_new_tokens": "histogram",
    "tgi_batch_inference_duration": "histogram",
    "tgi_batch_forward_duration": "histogram",
    "tgi_batch_next_size": "histogram",
}
# Counted where SPECULATE is set: vLLM's names, and TGI's.
DRAFTS = {
    "vllm:spec_decode_num_drafts": "counter",
    "vllm:spec_decode_num_draft_tokens": "counter",
    "vllm:spec_decode_num_accepted_tokens": "counter",
    "tgi_request_skipped_tokens": "histogram",
}
GENERATE: dict[str, Any] = {"inputs": "hello world", "parameters": {"max_new_tokens": 7}}


class Change:
    """What moved between two scrapes, when all has been counted that was answered before them."""

    def __init__(self, server: Server) -> None:
        self._server = server
        server.settle_idle()
        self._before = scrape(server)

    def __call__(self, name: str, **labels: str) -> float:
        self._server.settle()
        return scrape(self._server)(name, **labels) - _or_zero(self._before, name, **labels)


def _or_zero(found: Scrape, name: str, **labels: str) -> float:
    try:
        return found(name, **labels)
    except AssertionError:
        return 0.0


def test_tgis_names_and_kinds(tiny_server: Server) -> None:
    found = scrape(tiny_server)
    assert {name: found.types.get(name) for name in TGI} == TGI
    assert {name: found.types.get(name) for name in DRAFTS} == DRAFTS
    assert {name for name, kind in TGI.items() if kind != "histogram"} <= found.names
    bounds = sorted(
        float(dict(labels)["le"])
        for name, labels in found.values
        if name == "tgi_request_duration_bucket" and not labels - {("le", dict(labels)["le"])}
    )
    assert bounds[:-1] == pytest.approx([0.00015 * 1.5**i for i in range(35)])
    failures = {dict(labels)["err"] for name, labels in found.values if name == "tgi_request_failure"}
    assert {"validation", "overloaded", "template", "incomplete", "generation", "dropped"} <= failures


def test_a_request_moves_every_number_it_should(tiny_server: Server) -> None:
    change = Change(tiny_server)
    answer = tiny_server.request("POST", "/generate", GENERATE)
    num_prompt = int(answer.headers["x-prompt-tokens"])
    once = ["tgi_request_count", "tgi_request_success"]
    histograms = [name for name, kind in TGI.items() if kind == "histogram" and name.startswith("tgi_request_")]
    once += [f"{name}_count" for name in [*histograms, "heir_time_to_first_token_seconds"]]
    assert {name: change(name) for name in once} == dict.fromkeys(once, 1)
    assert change("tgi_request_generated_tokens_sum") == 7
    assert change("tgi_request_max_new_tokens_sum") == 7
    assert change("tgi_request_input_length_sum") == num_prompt
    assert change("heir_inter_token_seconds_count") == 6
    assert change("heir_generated_tokens_total") == 7
    assert change("heir_prompt_tokens_total") == num_prompt
    assert change("heir_http_responses_total", route="/generate", method="POST", status="200") == 1
    assert change("heir_steps_total") == 7
    assert change("tgi_batch_inference_count", method="prefill") == 1
    assert change("tgi_batch_inference_success", method="decode") == 6
    assert change("tgi_batch_inference_duration_count", method="decode") == 6
    assert change("tgi_batch_forward_duration_count", method="decode") == 6
    assert change("tgi_batch_next_size_sum") == 7
    parts = ("validation", "queue", "inference")
    whole = change("tgi_request_duration_sum")
    assert 0 < sum(change(f"tgi_request_{part}_duration_sum") for part in parts) <= whole
    assert 0 < change("heir_time_to_first_token_seconds_sum") <= whole


def test_choices_are_one_request_and_several_sequences(tiny_server: Server) -> None:
    change = Change(tiny_server)
    body = {"messages": [{"role": "user", "content": "a"}], "n": 3, "max_tokens": 4, "ignore_eos": True}
    assert tiny_server.request("POST", "/v1/chat/completions", body).status == 200
    assert change("tgi_request_count") == change("tgi_request_success") == 1
    assert change("tgi_request_generated_tokens_count") == 3
    assert change("tgi_request_generated_tokens_sum") == 12


@pytest.mark.parametrize(
    ("route", "body", "failure", "status"),
    [
        ("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 0}}, "validation", "422"),
        ("/v1/chat/completions", {"messages": []}, "validation", "400"),
        ("/v1/chat/completions", {"messages": [{"role": "root", "content": "x"}]}, "validation", "400"),
    ],
)
def test_a_refusal_is_a_failure_and_no_duration(
    tiny_server: Server, route: str, body: Any, failure: str, status: str
) -> None:
    change = Change(tiny_server)
    assert tiny_server.request("POST", route, body).status == int(status)
    assert change("tgi_request_count") == change("tgi_request_failure", err=failure) == 1
    assert change("tgi_request_success") == change("tgi_request_duration_count") == 0
    assert change("heir_http_responses_total", route=route, status=status) == 1


def test_only_what_asks_for_text_is_counted_as_a_request(tiny_server: Server) -> None:
    change = Change(tiny_server)
    tiny_server.request("POST", "/tokenize", {"inputs": "x"})
    tiny_server.request("POST", "/tokenize", {"inputs": 1})
    tiny_server.request("GET", "/nowhere")
    tiny_server.request("BREW", "/generate")
    assert change("tgi_request_count") == 0
    assert change("heir_http_responses_total", route="/tokenize") == 2
    assert change("heir_http_responses_total", route="none", method="other") == 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_is_counted_and_gives_memory_back(tiny_server: Server, stream: bool) -> None:
    change = Change(tiny_server)
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 480, "ignore_eos": True, "stream": stream}
    with tiny_server.caught("/v1/chat/completions", body) as client:
        # Zero linger sends a reset, as a crashed client does.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        # It is missed although the engine says nothing.
        tiny_server.wait(lambda: change("tgi_request_failure", err="dropped") == 1)
        assert scrape(tiny_server)("tgi_batch_current_max_tokens") > 0
    tiny_server.wait(lambda: change("heir_aborts_total") == 1)
    tiny_server.wait(lambda: scrape(tiny_server)("tgi_batch_current_max_tokens") == 0)
    assert scrape(tiny_server)("heir_kv_use_ratio") == 0


def test_a_prompt_asked_twice_is_found_in_the_prefix_cache(tiny_server: Server) -> None:
    body = {"inputs": "once upon a time " * 10, "parameters": {"max_new_tokens": 2}}
    tiny_server.request("POST", "/generate", body)
    change = Change(tiny_server)
    tiny_server.request("POST", "/generate", body)
    assert 0 < change("heir_prefix_hit_tokens_total") <= change("heir_prefix_query_tokens_total")


def test_state_of_the_server(tiny_server: Server) -> None:
    found = scrape(tiny_server)
    assert (found("heir_ready"), found("heir_draining"), found("heir_self_test")) == (1, 0, 1)
    assert found("tgi_batch_max_total_tokens") > 512
    (labels,) = [dict(labels) for name, labels in found.values if name == "heir_build_info"]
    assert labels["device"] == "cpu"
    assert labels["runner"] == "slots"
    assert labels["version"]


@pytest.fixture(scope="module")
def small_server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two web workers, and memory for no more than one whole sequence."""
    environ = {"HF_MODEL_ID": str(tiny_llama), "WEB_WORKERS": "2", "REQUEST_TIMEOUT_S": "150"}
    environ |= {"MAX_TOTAL_TOKENS": "128", "MAX_BATCH_TOTAL_TOKENS": "144"}
    server = Server(tmp_path_factory.mktemp("small") / "log", environ)
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def long_requests(server: Server, count: int) -> None:
    body = {"prompt": "x", "max_tokens": 70, "ignore_eos": True, "temperature": 0}
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        answers = list(threads.map(lambda _: server.request("POST", "/v1/completions", body, 160), range(count)))
    assert {answer.status for answer in answers} == {200}


def test_preemptions_are_counted(small_server: Server) -> None:
    long_requests(small_server, 3)
    assert scrape(small_server)("heir_preemptions_total") > 0


def test_counts_outlive_workers_and_engines(small_server: Server) -> None:
    names = ("tgi_request_count", "tgi_request_generated_tokens_sum", "heir_inter_token_seconds_count")
    names += ("tgi_batch_inference_count", "heir_generated_tokens_total", "heir_preemptions_total")
    small_server.settle_idle()
    before = scrape(small_server)
    web = small_server.gunicorn()
    victim = web.children()[0]
    victim.kill()
    small_server.wait(lambda: victim.pid not in {each.pid for each in web.children()} and len(web.children()) == 2)
    small_server.engine().kill()
    small_server.wait(lambda: small_server.ping() == 503)
    small_server.wait_ready()
    assert {name: scrape(small_server)(name) for name in names} == {name: before(name) for name in names}
    assert scrape(small_server)("heir_engine_restarts_total") == before("heir_engine_restarts_total") + 1
    change = Change(small_server)
    long_requests(small_server, 2)
    assert change("tgi_request_count") == 2
    assert change("tgi_request_generated_tokens_sum") == 140
    assert change("tgi_batch_inference_count") > 70
