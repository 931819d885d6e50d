"""POST /, /generate, /generate_stream; GET /info."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app, g, request

from container import sse
from container.api.tgi.generate_request import check_truncate, parse_generate_request, sampling_params
from container.api.tgi.generate_response import GenerateAnswer
from container.body import read_json
from container.errors import ServiceError
from container.generation import Generation, Prompt
from container.responses import json_response
from container.service import service
from container.version import VERSION

blueprint = Blueprint("tgi", __name__)


@blueprint.post("/generate")
def generate() -> Response:
    """A whole answer; a `stream` key is ignored, as TGI does."""
    body = read_json(request, service().settings.payload_limit)
    return answer_generate(body | {"stream": False}, as_list=False, full_text=False)


@blueprint.post("/generate_stream")
def generate_stream() -> Response:
    """Always a stream."""
    body = read_json(request, service().settings.payload_limit)
    return answer_generate(body | {"stream": True}, as_list=False, full_text=False)


@blueprint.post("/")
def compat_generate() -> Response:
    """TGI's compatibility route: `stream` in the body decides, a whole answer is an array of one."""
    return answer_generate(read_json(request, service().settings.payload_limit), as_list=True)


@blueprint.get("/info")
def info() -> Response:
    """The model and the limits, with TGI's names."""
    served, settings = service().model, service().settings
    card = served.card
    return json_response(
        {
            "model_id": card.model_id,
            "model_sha": card.revision,
            "model_dtype": card.dtype,
            "model_device_type": card.device.split(":")[0],
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": settings.max_concurrent_requests,
            "max_best_of": settings.max_best_of,
            "max_stop_sequences": settings.max_stop_sequences,
            "max_input_tokens": served.max_input_tokens,
            "max_total_tokens": card.max_model_len,
            "max_batch_total_tokens": card.kv_capacity_tokens,
            "validation_workers": settings.web_workers,
            "max_client_batch_size": settings.max_client_batch_size,
            "router": "text-generation-router",
            "version": VERSION,
            "sha": None,
            "docker_label": None,
            "quantize": card.quantize,
        }
    )


def answer_generate(body: dict[str, Any], *, as_list: bool, full_text: bool = True) -> Response:
    """Parse, tokenise, submit; then stream or collect. Raises ServiceError.

    `full_text` is what `return_full_text` means when absent: true on / and /invocations (tgi-http-api.md 1.7).
    """
    g.dialect = "tgi"
    served = service().admit()
    streaming = body.get("stream") is True
    parsed = parse_generate_request(body, service().settings, streaming=streaming)
    parameters = parsed.parameters
    keep = check_truncate(parameters, served.max_input_tokens)
    token_ids = served.tokenizer.encode(parsed.inputs, add_special_tokens=True)
    token_ids = token_ids if keep is None else token_ids[-keep:]
    max_tokens = served.check_length(len(token_ids), parameters.max_new_tokens)
    prompt = Prompt(
        token_ids=token_ids,
        sampling=sampling_params(parameters, max_tokens),
        stop=tuple(parameters.stop),
        keep_stop=True,
        show_tokens=True,
        timeout_s=service().timeout_s(streaming),
    )
    wanted = parameters.return_full_text
    generation = service().generate(prompt, request)
    answer = GenerateAnswer(parsed, served, generation, full_text=full_text if wanted is None else wanted)
    if streaming:
        log = current_app.logger
        return sse.stream(answer.frames(), ServiceError.tgi_body, lambda: log.exception("a stream failed"))
    whole = answer.whole()
    response = json_response([whole] if as_list else whole)
    _add_headers(response, generation, parsed.inputs)
    return response


def _add_headers(response: Response, generation: Generation, text: str) -> None:
    """TGI's measurements of a whole answer: milliseconds, but for x-compute-time."""
    timings = generation.timings
    num_tokens = max(1, generation.num_tokens)
    values = {
        "x-compute-type": service().model.card.device.split(":")[0],
        "x-compute-time": f"{timings.total_s:.6f}",
        "x-compute-characters": len(text),
        "x-total-time": _milliseconds(timings.total_s),
        "x-validation-time": _milliseconds(timings.total_s - timings.queue_s - timings.inference_s),
        "x-queue-time": _milliseconds(timings.queue_s),
        "x-inference-time": _milliseconds(timings.inference_s),
        "x-time-per-token": _milliseconds(timings.inference_s / num_tokens),
        "x-prompt-tokens": len(generation.prompt.token_ids),
        "x-generated-tokens": generation.num_tokens,
    }
    for name, value in values.items():
        response.headers[name] = str(value)


def _milliseconds(seconds: float) -> int:
    return round(max(0.0, seconds) * 1000)
