#!/usr/bin/env bash
# transformers reads a GGUF file and silently ignores its pre-tokenizer where the name is not in its table.
#
# What happens: a GGUF file names in `tokenizer.ggml.pre` how text is split before merges are applied. transformers
#   knows some names (`llama-bpe`, `qwen2`, ...). For the others, `smollm`, `starcoder`, `refact`, `command-r`,
#   `codeshell` and `exaone` among them, it takes GPT-2's split without a warning. These models take digits off first,
#   one by one, so white space before a digit stays together; GPT-2's split takes the last space apart.
# Expected instead: the file is split as its name says, or loading fails as it does for an unknown architecture. In
#   llama.cpp, whose format this is, an unknown name is an error.
# Why it matters: a prompt with several spaces before a number, as in code and tables, reaches the model in tokens that
#   it was not trained on. Nothing fails; llama.cpp and transformers answer the same prompt over the same file in
#   different ways.
# What helps: set `tokenizer.backend_tokenizer.pre_tokenizer` after loading, by the name in the file.
# Explained in: transformers 5.23.0, integrations/gguf/gguf_tokenizer_mapping.py, `GGUF_PRE_TOKENIZER_SPLITS` and
#   `set_split_regex`. The right splits: llama.cpp, src/llama-vocab.cpp, `LLAMA_VOCAB_PRE_TYPE_SMOLLM` (`\p{N}` first).
# Seen: 2026-11-30, transformers 5.23.0, tokenizers 0.23.3, gguf 0.19.0, torch 2.13.0 (which the reader imports), Python
#   3.11, Linux x86-64. The file has a vocabulary of bytes and one merge (two spaces). Does not depend on the processor.
#
# Output seen, a space written as "_". The script compares these lines with what it gets:
#= transformers 5.23.0, gguf 0.19.0
#= text "a__12" with the split that smollm stands for: a __ 1 2
#= smollm: a _ _ 1 2
#= starcoder: a _ _ 1 2
#= command-r: a _ _ 1 2
#= exaone: a _ _ 1 2
#= pre-tokenizers are equal under these names: True
#= warnings: 0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 gguf==0.19.0 safetensors==0.8.0 numpy==2.4.6

HF_HUB_OFFLINE=1 "$work/venv/bin/python" -I - "$work" >"$work/seen" <<'PY'
import logging
import sys
import warnings
from importlib.metadata import version

import gguf
import transformers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoTokenizer

FOLDER = sys.argv[1]
SPACE = "\u0120"  # how byte-level vocabularies spell a space
NAMES = ("smollm", "starcoder", "command-r", "exaone")
TEXT = "a  12"


class Count(logging.Handler):
    num = 0

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)
        Count.num += "tokeniz" in record.getMessage().lower()


def read(name: str):
    """The tokenizer that transformers makes of a small GGUF file with this pre-tokenizer name."""
    tokens = [*sorted(ByteLevel.alphabet()), 2 * SPACE, "<end>"]
    writer = gguf.GGUFWriter(f"{FOLDER}/{name}.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges([f"{SPACE} {SPACE}"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AutoTokenizer.from_pretrained(FOLDER, gguf_file=f"{name}.gguf")


def tokens(tokenizer) -> str:
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    return " ".join(token.replace(SPACE, "_") for token in tokenizer.convert_ids_to_tokens(ids))


print(f"transformers {transformers.__version__}, gguf {version('gguf')}")
transformers.logging.get_logger("transformers").addHandler(Count())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = {name: read(name) for name in NAMES}
named = [warning for warning in caught if "tokeniz" in str(warning.message).lower()]
splits = {str(tokenizer.backend_tokenizer.pre_tokenizer) for tokenizer in found.values()}

right = read("smollm")
right.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
print(f'text "{TEXT.replace(" ", "_")}" with the split that smollm stands for: {tokens(right)}')
for name, tokenizer in found.items():
    print(f"{name}: {tokens(tokenizer)}")
print("pre-tokenizers are equal under these names:", len(splits) == 1)
print("warnings:", Count.num + len(named))
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
