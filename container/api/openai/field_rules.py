"""Fields of other servers' and clients' requests that this server knows and does not do, by the type that reads them.

A field of the type itself wins. Null is taken everywhere: clients send it for "not set".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class NotDone:
    """It would change the answer. `neutral` values ask for nothing; `why` completes "`field` is not supported: "."""

    why: str
    neutral: tuple[Any, ...] = ()

    def takes(self, value: Any) -> bool:
        """Whether the value asks for nothing. 1 and true differ."""
        return value is None or any(value == each and _is_flag(value) == _is_flag(each) for each in self.neutral)


@dataclass(frozen=True, slots=True)
class Ignored:
    """It changes no answer: any value is taken. `why` completes the line of the log."""

    why: str


@dataclass(frozen=True, slots=True)
class Spelling:
    """Another way to say what the field `of` says; `reasoning_effort.py` reads it."""

    of: str


Rule = NotDone | Ignored | Spelling
Rules = dict[str, Rule]


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _not_done(why: str, *names: str, **neutral: Any) -> Rules:
    """One rule for several fields: `names` take null alone, `neutral` also the value or the tuple of values given."""
    found: Rules = {name: NotDone(why) for name in names}
    return found | {
        name: NotDone(why, value if isinstance(value, tuple) else (value,)) for name, value in neutral.items()
    }


def _ignored(why: str, *names: str) -> Rules:
    return {name: Ignored(why) for name in names}


_LABELS = "it labels the request"
_PROVIDERS = "this server is the only provider"
_PROXY = "it is meant for a proxy"
_ECHO = "it repeats a part of an earlier answer"
_STORED = "it belongs to the client's own records"
_CACHE_HINT = "prefixes are cached anyway"
# On a message or a part of one.
CACHE_HINTS: Rules = _ignored(_CACHE_HINT, "cache_control", "prompt_cache_breakpoint")
_HAS_NO_EFFECT = "it has no effect without another field, which this server does not have"
_TEXT_ONLY = "this model reads text only"
_NO_BEAMS = "there is no beam search; for several answers send `n`"
_FORMAT = "send `response_format`"
_VERBOSITY = ("no model follows it reliably; say it in the prompt", "verbosity")
_PREDICTION = ("it speeds up other servers and changes no answer", "prediction")
_ADAPTERS = "send the adapter's name as `model`"

# /v1/chat/completions and /v1/completions.
_REQUEST: Rules = {
    **_ignored(
        _LABELS,
        *("user", "metadata", "safety_identifier", "rid", "session_id", "chat_id", "trace_id", "trace"),
        *("id", "tags", "litellm_metadata", "litellm_session_id", "litellm_trace_id", "litellm_call_id"),
        *("custom_labels", "extra_key", "conversation_id", "thread_id"),
    ),
    **_ignored(_CACHE_HINT, "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "cache_control"),
    **_ignored("nothing is stored", "store"),
    **_ignored("text arrives as it is generated", "stream_interval"),
    **_ignored("the model stays loaded", "keep_alive"),
    **_ignored("usage is always counted; `stream_options` shows it in a stream", "usage"),
    **_ignored(_PROVIDERS, "provider", "models", "route", "custom_llm_provider", "anthropic_version", "betas"),
    **_ignored(
        _PROXY,
        *("api_base", "api_key", "api_version", "base_url", "drop_params", "additional_drop_params"),
        *("allowed_openai_params", "num_retries", "max_retries", "timeout", "request_timeout", "stream_timeout"),
        *("caching", "fallbacks", "no_log", "no-log"),
    ),
    # Sampling of other servers.
    **_not_done(_NO_BEAMS, use_beam_search=False, num_beams=1, early_stopping=False, length_penalty=1),
    **_not_done("send `repetition_penalty`", repeat_penalty=1),
    **_not_done("tokens are sampled unless `temperature` is 0", do_sample=True),
    **_not_done(
        "there is no such sampler",
        *("dynatemp_range", "mirostat", "xtc_probability", "dry_multiplier", "smoothing_factor", "tfs_z", "top_a"),
        *("epsilon_cutoff", "eta_cutoff", "penalty_alpha", "adaptive_target", "no_repeat_ngram_size"),
        **dict.fromkeys(("dynatemp_range", "mirostat", "xtc_probability", "dry_multiplier", "smoothing_factor"), 0),
        **dict.fromkeys(("top_a", "epsilon_cutoff", "eta_cutoff", "penalty_alpha", "no_repeat_ngram_size"), 0),
        tfs_z=1,
        top_n_sigma=(-1, 0),
        adaptive_target=-1,
    ),
    **_ignored(
        _HAS_NO_EFFECT,
        *("dynatemp_exponent", "mirostat_tau", "mirostat_eta", "xtc_threshold", "repeat_last_n", "min_keep"),
        *("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "smoothing_curve"),
        *("adaptive_decay", "routed_experts_start_len", "routed_experts_prompt_start"),
    ),
    **_not_done("samplers run in a fixed order", samplers=[], sampler_order=[], sampler_priority=[]),
    **_not_done("`temperature` comes first", temperature_last=False),
    **_not_done("new lines are penalised as any token", penalize_nl=True),
    **_not_done(
        "code of clients is not run", "custom_logit_processor", logits_processors=[], custom_params={}, vllm_xargs={}
    ),
    **_not_done("answers do not end at repetitions", "repetition_detection"),
    **_not_done("send `seed`", "random_seed", "sampling_seed"),
    # Lengths and ends under other names.
    **_not_done("send `max_tokens`", "max_new_tokens", "max_output_tokens", "max_length", "max_gen_len"),
    **_not_done("send `max_tokens`", n_predict=-1, num_predict=-1),
    **_not_done("send `min_tokens`", min_new_tokens=0, min_length=0),
    **_not_done("send `stop`", stop_sequences=[], stop_words=[]),
    **_not_done("`stop` holds strings, not patterns", stop_regex=[]),
    **_not_done("lines are not counted", n_indent=0),
    **_not_done("generation has no time limit of its own", t_max_predict_ms=(0, -1)),
    **_not_done("a prompt that is too long is refused", truncate=(False, 0), transforms=[], truncation="disabled"),
    **_not_done("a context is never shifted", context_shift=False, n_keep=0, num_keep=0, n_discard=0),
    **_not_done("the context is the model's", "num_ctx", "context_length"),
    # What the answer shows.
    **_not_done("send `logprobs`", n_probs=0, top_n_tokens=0, details=False, decoder_input_details=False),
    **_not_done("`logprobs` show the most likely tokens", "logprob_token_ids"),
    **_not_done("log-probabilities are those before sampling", post_sampling_probs=False),
    **_not_done(
        "the answer has no such part",
        *("return_prompt_text", "return_token_offsets", "return_prompt_token_ids", "response_fields"),
        **dict.fromkeys(("return_prompt_text", "return_token_offsets", "return_prompt_token_ids"), False),
        **dict.fromkeys(("return_hidden_states", "return_routed_experts", "return_cached_tokens_details"), False),
        **dict.fromkeys(("return_meta_info", "return_progress", "return_tokens", "timings_per_token"), False),
        response_fields=[],
        include=[],
    ),
    **_not_done("the answer holds the new text alone", return_full_text=False),
    **_not_done("there is no watermark on this route", watermark=False, watermarking=False),
    # Constraints under other names.
    **_not_done(_FORMAT, "structural_tag", grammar="", format=""),
    **_not_done(_FORMAT, grammar_lazy=False, grammar_triggers=[]),
    **_not_done("there is no classifier-free guidance", negative_prompt="", guidance_scale=1, cfg_scale=1),
    # Engines of other servers.
    **_not_done("this server does not share KV memory", "kv_transfer_params", "ec_transfer_params"),
    **_not_done("this server does not share KV memory", "bootstrap_host", "bootstrap_port", "bootstrap_room"),
    **_ignored("the engine is chosen here", "data_parallel_rank", "routed_dp_rank", "disagg_prefill_dp_rank"),
    **_ignored("the engine is chosen here", "id_slot", "slot_id"),
    **_ignored("there is no speculation, which changes no answer", "ngram_corpus_id", "speculative", "draft_model"),
    **_not_done("SageMaker's sessions are in headers", session_params={}),
    **_not_done(_ADAPTERS, lora=[], lora_path=("", []), adapter_id="", lora_request={}),
    **_not_done(_TEXT_ONLY, images=[], files=[], mm_processor_kwargs={}, media_io_kwargs={}, images_config={}),
    **_not_done("send the conversation itself", "previous_response_id", "conversation", "context_management"),
    **_not_done("send its fields in the body itself", extra_body={}, options={}, parameters={}),
    **_ignored("send headers as headers", "extra_headers"),
    **_not_done("guardrails and plug-ins are not run here", guardrails=[], plugins=[], mcp_servers=[]),
    **_not_done("answers are not made in the background", background=False),
    **_not_done("there is no moderation on this server", moderation={}, safe_prompt=False),
}
_CHAT: Rules = {
    **_REQUEST,
    **dict.fromkeys(("reasoning", "thinking", "enable_thinking", "think"), Spelling("reasoning_effort")),
    **_ignored(*_VERBOSITY),
    **_ignored(*_PREDICTION),
    **_not_done("audio answers are not supported", "audio"),
    **_not_done("this server does not search the web", "web_search_options"),
    **_not_done("`functions` is superseded; send `tools`", functions=[]),
    **_not_done("`function_call` is superseded; send `tool_choice`", function_call="none"),
    **_not_done("there is no `best_of` for chats; send `n`", best_of=1),
    **_not_done("it belongs to /v1/completions", suffix="", prompt=("", [])),
    **_not_done("send `messages`", "inputs", "input", input_ids=[]),
    **_not_done("send it as a message of the role system", system="", instructions="", system_prompt=""),
    **_not_done("send `chat_template_kwargs`", "task", guideline=""),
    **_not_done("reasoning is apart from the answer", reasoning_format=("auto", "deepseek")),
    **_not_done("reasoning is apart from the answer", thinking_forced_open=False),
    **_not_done("calls are always read from the answer", parse_tool_calls=True),
    **_not_done("calls are always read from the answer", "tool_call_parser", "chat_format"),
    **_not_done(_TEXT_ONLY, "max_dynamic_patch", "min_dynamic_patch", use_audio_in_video=False),
    **_not_done(_TEXT_ONLY, image_config={}),
    **_not_done("the prompt mode is the template's", "prompt_mode"),
}
_COMPLETION: Rules = {
    **_REQUEST,
    **_not_done("it can be achieved by preprocessing the prompt", suffix=""),
    **_not_done("send `max_tokens`", "max_completion_tokens"),
    **_not_done("send `logprobs`", top_logprobs=0),
    **_not_done("it belongs to /v1/chat/completions", tools=[], functions=[], tool_choice=("none", "auto")),
    **_not_done("it belongs to /v1/chat/completions", chat_template_kwargs={}, modalities=["text"], documents=[]),
    **_not_done("it belongs to /v1/chat/completions", continue_final_message=False, reasoning={}, thinking=False),
    **_not_done("it belongs to /v1/chat/completions", "messages", "chat_template", think=False, tool_prompt=""),
    **_not_done(
        "it belongs to /v1/chat/completions", include_reasoning=True, separate_reasoning=True, stream_reasoning=True
    ),
    **_not_done("it belongs to /v1/chat/completions", "reasoning_effort", "enable_thinking", "web_search_options"),
    **_not_done("it belongs to /v1/chat/completions", "audio", add_generation_prompt=False),
    **_not_done("it belongs to /v1/chat/completions", function_call="none"),
    **_ignored("there are no tools", "parallel_tool_calls"),
    **_ignored(*_VERBOSITY),
    **_ignored(*_PREDICTION),
    **_not_done("send `prompt`", "inputs", "input", "input_ids"),
    **_not_done("prompts are text", "prompt_embeds"),
}

_NAMES_NO_CALL = "it names no earlier call"

_MESSAGE: Rules = {
    **_ignored(
        _STORED,
        *("id", "created", "created_at", "createdAt", "updated_at", "timestamp", "date", "time", "model", "models"),
        *("modelName", "metadata", "additional_kwargs", "response_metadata", "usage_metadata", "example", "type"),
        *("parentId", "childrenIds", "feedback", "info", "done", "sources", "user", "status", "status_code", "opts"),
        *("weight", "artifact", "run_id", "session_id", "thread_id", "message_id", "conversation_id", "role_name"),
        *("sent_from", "send_to", "cause_by", "hidden", "visible", "_meta", "state", "priority", "tokens"),
    ),
    **_ignored(
        _ECHO,
        *("provider_specific_fields", "provider", "annotations", "citations", "parsed", "logprobs"),
        *("reasoning_details", "reasoning_text", "thinking", "thinking_blocks"),
        *("thinking_signature", "signature", "thought_signature", "extra_content", "encrypted_content"),
        *("finish_reason", "native_finish_reason", "stop_reason", "index", "object", "usage", "timings"),
        *("system_fingerprint", "token_ids", "invalid_tool_calls", "phase"),
    ),
    **CACHE_HINTS,
    **_ignored(_NAMES_NO_CALL, "call_id"),
    **_not_done(_TEXT_ONLY, images=[], image="", files=[], file_ids=[], attachments=[], videos=[], audios=[]),
    **_not_done("an earlier answer in audio cannot be read", "audio"),
    **_not_done("`function_call` is superseded; send `tool_calls`", "function_call"),
    **_not_done("send `continue_final_message`", prefix=False, partial=False),
    **_not_done("functions stand in the request's `tools`", tools=[]),
}
_NO_CALL_ID = _ignored(_NAMES_NO_CALL, "tool_call_id")
# What only an assistant's message has.
_SAID: Rules = {
    **_MESSAGE,
    **_ignored(_ECHO, "reasoning", "reasoning_content", "refusal"),
    **_not_done("only an assistant calls functions; it must be null or []", tool_calls=[]),
}
_RESULT: Rules = {**_SAID, **_ignored("the text says it", "is_error", "isError", "success")}

_PART: Rules = {
    **CACHE_HINTS,
    **_ignored(_STORED, "id", "index", "metadata", "name", "title", "timestamp"),
    **_ignored(_ECHO, "annotations", "citations", "logprobs", "parsed", "signature", "provider_specific_fields"),
    **_ignored(_ECHO, "providerOptions", "provider_options", "providerMetadata", "provider_metadata", "extra_content"),
}
_CALL: Rules = {
    **_ignored(_STORED, "index", "metadata", "status", "created_at"),
    **_ignored(_ECHO, "provider_specific_fields", "extra_content", "thought_signature", "signature", "output"),
    **_ignored(_CACHE_HINT, "cache_control"),
    **_ignored("`type` says what is called", "custom"),
}
_CALLED: Rules = {
    **_ignored(_ECHO, "description", "provider_specific_fields", "parsed_arguments", "thought_signature", "output"),
    **_ignored(_STORED, "index", "id", "type"),
}
_OFFER: Rules = {
    **_ignored(_CACHE_HINT, "cache_control"),
    **_ignored("every function is offered from the start", "defer_loading"),
    **_ignored("it is meant for other servers", "eager_input_streaming", "allowed_callers", "metadata", "id", "index"),
    **_ignored("it is meant for other servers", "provider_specific_fields", "annotations", "input_examples"),
}
_TOOL: Rules = {
    **_OFFER,
    **_not_done("send it inside `function`", "name", "description", "parameters", "input_schema", strict=False),
    **_ignored("`type` says what is offered", "custom"),
}
_FUNCTION: Rules = {
    **_OFFER,
    **_not_done("send `parameters`", "input_schema", "inputSchema", "schema"),
    **_ignored("only `parameters` are enforced", "title", "output_schema", "outputSchema", "examples", "type"),
}
_CHOSEN: Rules = _ignored("a function is chosen by its name", "description", "parameters", "strict", "arguments")
_CHOICE: Rules = {
    **_not_done("send `parallel_tool_calls`", disable_parallel_tool_use=False),
    **_ignored("`type` says what is offered", "custom"),
    **_not_done("send it inside `function`", "name"),
}

RULES: dict[str, Rules] = {
    "ChatRequest": _CHAT,
    "CompletionRequest": _COMPLETION,
    "StreamOptions": _ignored("chunks come as text is generated", "chunk_size", "stream_interval"),
    "SystemMessage": _SAID | _NO_CALL_ID,
    "DeveloperMessage": _SAID | _NO_CALL_ID,
    "UserMessage": _SAID | _NO_CALL_ID,
    "AssistantMessage": _MESSAGE | _NO_CALL_ID,
    "ToolMessage": _RESULT,
    "FunctionMessage": _RESULT | _NO_CALL_ID,
    "TextPart": _PART,
    "RefusalPart": _PART,
    "ToolCall": _CALL,
    "CalledFunction": _CALLED,
    "Tool": _TOOL,
    "FunctionFields": _FUNCTION,
    "ToolChoice": _CHOICE,
    "NamedFunction": _CHOSEN,
    "FunctionName": _CHOSEN,
    "Reasoning": _not_done("reasoning is shown as the model writes it", summary="auto", generate_summary="auto"),
    "Thinking": _not_done("send `chat_template_kwargs`", clear_thinking=True),
}
