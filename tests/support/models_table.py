"""`docs/models.md`, written from the table of families that tests/engine/test_families.py runs.

Run it to write the file: `python -m tests.support.models_table`.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from container.api.openai import thought_forms
from container.api.openai.tool_parsers import FORMS, PLAIN, Form
from container.api.openai.tool_parsers.form import Arguments
from tests.support import tiny_models
from tests.support.call_forms import MODELS
from tests.support.recorded import recorded

PATH = Path(__file__).resolve().parents[2] / "docs" / "models.md"

_HEAD = """\
# Models

<!-- Written by `python -m tests.support.models_table`; tests/engine/test_families.py holds it to what was tested. -->

The engine tries any causal language model of transformers at start: it runs a few short texts in chunks, in batches and
with sequences that join and leave, and compares the logits with those of the model's own code. The first runner that
agrees serves the model. If none agrees, the engine does not start and logs the reason in one sentence.

| runner | how it works | what it costs |
|---|---|---|
| `slots` | prompts and decoding rows in one pass, keys and values in the engine's own memory; prefix reuse | nothing |
| `paged` | the same over pages, on CUDA, for the families of `slots` | nothing |
| `dynamic_cache` | a pass per prompt and per batch of decoding rows, over transformers' own `DynamicCache` | \
keys are copied at each step; no prefix reuse, no CUDA graphs |

{num_slots} families are tested on `slots` and {num_cached} on `dynamic_cache`, each as a tiny random model in float32
through the whole engine: greedy tokens equal those of stock `generate` for each prompt alone, for prompts of 1 to 40
tokens batched, and for requests that join while others are decoding; prompts longer than a step's budget run in
chunks. Families that are not in the table are tried too.

| model type | layers | runner | prompts | decoding |
|---|---|---|---|---|
"""


def render() -> str:
    """The whole document."""
    rows = [_row(family) for family in sorted(tiny_models.ALL_FAMILIES)]
    head = _HEAD.format(num_slots=len(tiny_models.FAMILIES), num_cached=len(tiny_models.CACHED_FAMILIES))
    calls = "\n".join(map(_calls_row, (*FORMS, PLAIN)))
    tables = f"{calls}\n{_harmony_row()}\n{_DIFFERENCES}{_difference_rows()}"
    return head + "\n".join(rows) + _FOOT.format(thoughts=_thoughts()) + _CALLS + tables


_FOOT = """

- *in chunks*: a long prompt is spread over several steps, so running streams continue meanwhile. *in one piece*: the
  family's code starts a second chunk from an empty recurrent state (transformers 5.23), and the last step runs all.
- *in batches*: rows of different lengths share one pass. *one by one*: the family's cache cannot be joined.
- Rope type `longrope` (Phi-3, Phi-4-mini): every sequence uses the long factors if `MAX_TOTAL_TOKENS` is beyond the
  original context, else the short factors ([decision 0070](decisions/0070-one-set-of-rotary-frequencies.md)).
- Refused with one sentence: families that keep their state outside transformers' cache (`recurrent_gemma`, `rwkv`,
  `xlstm`) or in a cache class of their own (`minimax`).

## Weights

Weights are dense or stored quantised: GPTQ, AWQ, AutoRound, HQQ, compressed-tensors, FP8, MXFP4, ModelOpt,
bitsandbytes, torchao, GGUF. [Stored forms](quantisation.md#stored-forms) says of each what multiplies it and how many
bytes a weight takes.

## Image-text models

They serve text: the language part is read alone, and images are refused
([decision 0112](decisions/0112-the-text-of-image-text-models.md)). Of the 97 image-text types of transformers 5.23, 81
start, among them 67 of the 83 that have no causal class; `python -m tests.support.tiny_image_text` prints the table.
The others end in one sentence:

- encoder-decoders: `florence2`, `pix2struct`, `pp_formulanet`, `t5gemma2`, `udop`, `vision-encoder-decoder`;
- `blip`, `diffusion_gemma`, `evolla`, `idefics`, `kosmos-2`, `kosmos-2.5`, `paligemma`, `pi0`, `shieldgemma2`,
  `unlimited_ocr`.

Encoder-decoders, of text too, are refused by their config.json, before the weights are downloaded.

## Tokenizers

| the directory has | what happens |
|---|---|
| `tokenizer.json` | it is used as it is |
| `tokenizer.model` of SentencePiece (BPE or Unigram) | converted once, into the cache, for the classes of Llama, \
Gemma, InternLM, Baichuan, Yi and Orion ([decision 0088](decisions/0088-tokenizer-model-without-sentencepiece.md)) |
| `tekken.json`; `vocab.json` and `merges.txt` with a class in tokenizer_config.json | converted once by transformers |
| a vocabulary of tiktoken, another class with `tokenizer.model`, no tokenizer | \
the start ends with 3 and says what to do |

Of several chat templates, `tool_use` renders requests with tools and `default` all others, as in transformers: from the
list in tokenizer_config.json, `additional_chat_templates/`, or `tokenizer.chat_template.tool_use` of a GGUF file.

## Thoughts

These marks split thoughts from the answer if the chat template or the vocabulary has them:

{thoughts}
- any pair of tags whose name says it, such as `<think>` and `</think>`, `<seed:think>`, `<mm:think>`, `<thought>`,
  `<reasoning>`. The answer may stand in `<answer>` or `<response>`.
- the marks between which the chat template renders the thoughts of earlier answers, if they are none of these.
- gpt-oss's channels (harmony): `analysis` is a thought, `final` the answer, a message to a function a tool call.
"""


def _thoughts() -> str:
    """One line for each form of `thought_forms.FORMS`."""
    return "\n".join(f"- {_marks(form.openings)} to {_marks(form.closings)}" for form in thought_forms.FORMS)


def _marks(marks: tuple[str, ...]) -> str:
    return " or ".join(f"`{mark}`" for mark in marks)


_CALLS = """
## How answers are read

1. A valid `response_template` (version 1) in tokenizer_config.json says which marks hold thoughts, content and calls,
   and how calls are written. It comes before all else: its authors know the model
   ([decision 0128](decisions/0128-a-checkpoints-own-response-template.md)).
2. Else the thoughts and the tool format below, recognised from the chat template, from what it renders, or from the
   vocabulary.

The line `tool format: ...` in the log says which it is, and in which form calls are forced: that of the family, if the
template reads it, else one made of the template's marks. If neither is read, forced calls and an answer held to a
schema are written and read as the format below, and strict functions are not held to their schemas. A template of
another version, with an unknown key or field, or with a pattern that is wrong or slow on a paragraph of text is not
used; the line says why.

Read of a template: all keys of version 1 and all contents up to transformers 5.24 (`text`, `int`, `float`, `bool`,
`json`, `xml-inline`, `kv-lines`, `python-call-list`). The field of thoughts is `reasoning_content`, `thinking` or
`reasoning`, and no others but `content` and `tool_calls` are known. What the prompt has begun, such as `<think>`,
counts. Other than in transformers:

- A mark that is a control token is that token, not its letters. In a JSON string only such a mark is one.
- Each region counts, in a field without `repeats` too. A second thought or text follows the first one in a new line,
  or after the field's `join`; further calls are calls of the same answer.
- A region of calls that names no function of the request, or cannot be read, is content with its marks. A JSON call
  that is not well-formed, or is cut, keeps what the model wrote. No answer fails, so `optional` changes nothing.
- `close: "eos"` is the end of the answer, as their documentation has it, not those letters, as their code has it.
- Values in tags and lines have the type of the function's schema; those in JSON stay as they are.
- A mark has at most 1,024 characters, and of the prompt the last 16,384 count. A search that takes more than 0.05 s of
  CPU time ends the splitting of that answer, with a line in the log; its text is shown as it is. So do searches that
  together take more than 1 s and 20 microseconds for each character of the answer.

## Tool calls

Under `tool_choice` auto a call in the form that the model was trained on comes back as `tool_calls`, streamed or whole.
The log says at start `tool format: NAME`, or that it is unknown. With an unknown form, JSON objects are read as calls
and all else is content. A forced or strict call is written in the same form.

A template that takes no tools but shows calls, as DeepSeek's, gets the tools in the system message, with an example in
the form. A template that loses past calls, as LFM2's first, gets them as text in the form; one that loses the text
beside a call gets it in the thought or in an answer of its own; one that takes one call an answer gets several answers.
One that loses the results of calls gets them as user messages.
Where a template fails on a list of types, it gets the first that is not null.

Each form is tested with calls as the models' templates write them, cut at every character, and the grammar of forced
calls takes the same texts. For the models of the last column a conversation is recorded in the real chat template
([tests/data/answers](../tests/data/answers/README.md)): thoughts, text and calls are read alike wherever the text is
cut, the next prompt holds what the model wrote, and a forced call may be just that.

| tool format | models | a call begins with | arguments | tested in the real template of |
|---|---|---|---|---|
"""
_DIFFERENCES = """
Mistral Small's ids of calls are the client's. Mistral Nemo and Solar Open write ids too, which clients get replaced.
These differ, in the next prompt from what the model wrote, and in a forced call from what it writes:

| model | in the next prompt | in a forced call |
|---|---|---|
"""
_WRITTEN = {
    Arguments.OBJECT: "JSON, with the name",
    Arguments.KEYED: "JSON, under the name",
    Arguments.JSON: "JSON, after the name",
    Arguments.TAGS: "tags, typed by the schema",
    Arguments.QUOTED: "`key:value`, typed by the schema",
    Arguments.PYTHON: "Python keywords",
}


def _calls_row(form: Form) -> str:
    begin = (form.opening or form.begin).strip().replace("|", "\\|")
    begins = f"`{begin}`" if begin else "the call itself"
    tested = ", ".join(each.models for each in recorded() if each.form == form.name) or "-"
    return f"| {form.name} | {MODELS[form.name]} | {begins} | {_WRITTEN[form.arguments]} | {tested} |"


def _harmony_row() -> str:
    tested = ", ".join(each.models for each in recorded() if each.form == "harmony")
    return f"| harmony | gpt-oss | a message to `functions.NAME` | JSON | {tested} |"


def _difference_rows() -> str:
    rows: list[str] = []
    for each in recorded():
        reasons = dict.fromkeys(answer.why for answer in each.answers if answer.why)
        if reasons or each.unforced:
            rows.append(f"| {each.models} | {'; '.join(reasons) or '-'} | {each.unforced or '-'} |")
    return "\n".join(rows) + "\n"


def _row(family: str) -> str:
    runner = "`slots`" if family in tiny_models.FAMILIES else "`dynamic_cache`"
    prompts = "in one piece" if family in tiny_models.IN_ONE_PIECE else "in chunks"
    decoding = "one by one" if family in tiny_models.ONE_BY_ONE else "in batches"
    return f"| `{family}` | {_layers(family)} | {runner} | {prompts} | {decoding} |"


def _layers(family: str) -> str:
    """The kinds of layer in the tested model, in the configuration's own words."""
    config = AutoConfig.for_model(family, **tiny_models.ALL_FAMILIES[family])
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        kinds = ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]
    return ", ".join(kind.replace("_", " ") for kind in dict.fromkeys(kinds))


if __name__ == "__main__":
    PATH.write_text(render())
