import json
import logging
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import lm_eval
import task
from lm_eval.tasks import TaskManager

logging.getLogger("lm_eval").setLevel(logging.ERROR)

# Nine choices in all: more than the four prompts of a request that TGI takes.
DOCUMENTS = [
    {"question": "The capital of France is", "choices": ["Paris", "Berlin", "Madrid of old"], "answer": 0},
    {"question": "Two and two is", "choices": ["four", "five", "a fish"], "answer": 0},
    {"question": "Ice is", "choices": ["cold", "hot", "warmer than steam, as 12 é show"], "answer": 0},
]
BATCH_SIZE = 6
CHOICE_TASK = """
task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""
TEXT_TASK = """
task: texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{question}"
doc_to_target: "x"
generation_kwargs: {{until: ["never seen"], max_gen_toks: {max_tokens}, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""


def evaluated(directory: Path, name: str, model: str, **arguments: Any) -> list[dict[str, Any]]:
    """What lm_eval keeps of each document of a task."""
    chats = model == "local-chat-completions"
    path = "/v1/chat/completions" if chats else "/v1/completions"
    found = lm_eval.simple_evaluate(
        model=model,
        model_args={"model": "m", "base_url": task.URL + path, **arguments},
        tasks=[name],
        task_manager=TaskManager(include_path=str(directory), include_defaults=False),
        apply_chat_template=chats,
        system_instruction=task.SYSTEM if chats else None,
        log_samples=True,
        bootstrap_iters=0,
    )
    samples: list[dict[str, Any]] = found["samples"][name]
    return sorted(samples, key=lambda sample: sample["doc_id"])


def scores(directory: Path, **arguments: Any) -> list[list[Any]]:
    """The log-likelihood of each choice, and whether it is what the model would say."""
    samples = evaluated(directory, "choices", "local-completions", batch_size=BATCH_SIZE, **arguments)
    return [[float(score), str(greedy) == "True"] for sample in samples for score, greedy in sample["filtered_resps"]]


def ask(path: str, **body: Any) -> Any:
    request = urllib.request.Request(task.URL + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def expected() -> list[list[Any]]:
    """The same from the engine's own log-probabilities of each prompt, one prompt at a time."""
    found = []
    for document in DOCUMENTS:
        for choice in document["choices"]:
            before = ask("/tokenize", prompt=document["question"], add_special_tokens=False)["count"]
            text = f"{document['question']} {choice}"
            answer = ask("/v1/completions", prompt=text, max_tokens=1, prompt_logprobs=1, return_token_ids=True)
            (one,) = answer["choices"]
            pairs = list(zip(one["prompt_token_ids"], one["prompt_logprobs"], strict=True))[before:]
            entries = [scored[str(token_id)] for token_id, scored in pairs]
            found.append([sum(each["logprob"] for each in entries), all(each["rank"] == 1 for each in entries)])
    return found


def same(found: list[list[Any]], right: list[list[Any]]) -> bool:
    """The order of the prompts in a batch may move the last bits."""
    return len(found) == len(right) and all(
        abs(one[0] - two[0]) < 1e-3 and one[1] == two[1] for one, two in zip(found, right, strict=True)
    )


with tempfile.TemporaryDirectory() as name:
    directory = Path(name)
    data = directory / "documents.jsonl"
    data.write_text("\n".join(map(json.dumps, DOCUMENTS)))
    (directory / "choices.yaml").write_text(CHOICE_TASK.format(data=data))
    text_task = TEXT_TASK.format(data=data, question=task.QUESTION, max_tokens=task.MAX_TOKENS)
    (directory / "texts.yaml").write_text(text_task)
    right = expected()
    own = {"tokenizer_backend": "huggingface", "tokenizer": task.TOKENIZER}
    chats = evaluated(directory, "texts", "local-chat-completions")
    texts = evaluated(directory, "texts", "local-completions", batch_size=len(DOCUMENTS))
    task.report(
        scored_by_remote_tokenizer=same(scores(directory), right),
        scored_by_own_tokenizer=same(scores(directory, **own), right),
        scored_as_text=same(scores(directory, tokenized_requests=False, **own), right),
        chat=chats[0]["resps"][0][0],
        complete=texts[0]["resps"][0][0],
    )
