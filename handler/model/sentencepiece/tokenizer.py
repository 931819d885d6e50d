"""Builds tokenizer.json from a SentencePiece model (docs/decisions/0088).

Token ids equal those of the sentencepiece library for each stretch of text between added tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from handler.model.sentencepiece.model_file import Algorithm, Kind, Piece, SentencePieceFile

# SentencePiece writes a space as U+2581.
_SPACE = "\u2581"
# Never chosen by Unigram, which takes the pieces with the highest sum of scores.
_LOWEST_SCORE = -1e6


class Prefix(StrEnum):
    """Where a space is put before a text. ALWAYS: after an added token too."""

    ALWAYS = "always"
    FIRST = "first"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a checkpoint says of its tokenizer beside the SentencePiece model.

    `added` are its tokens by id. `begin` and `end` are put around a text that is encoded with special tokens.
    """

    prefix: Prefix = Prefix.ALWAYS
    added: Mapping[int, AddedToken] = field(default_factory=dict)
    begin: str | None = None
    end: str | None = None


def build_tokenizer(file: SentencePieceFile, rules: Rules) -> Tokenizer:
    """The tokenizer of `file`. Raises ValueError for a form that tokenizer.json cannot express."""
    _check_form(file)
    prefix = rules.prefix if file.add_dummy_prefix else Prefix.NEVER
    pieces = _with_added(file.pieces, rules.added)
    tokenizer = Tokenizer(_model(file, pieces))
    tokenizer.normalizer = normalizers.Sequence(list(_normalizers(file, prefix)))
    tokenizer.pre_tokenizer = _pre_tokenizer(file, prefix)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([] if prefix is Prefix.NEVER else [decoders.Strip(" ", 1, 0)]))
    tokenizer.add_tokens(list(_added_tokens(pieces, rules.added, prefix)))
    _add_ends(tokenizer, rules)
    return tokenizer


def _check_form(file: SentencePieceFile) -> None:
    if file.algorithm not in {Algorithm.UNIGRAM, Algorithm.BPE}:
        raise ValueError(f"it splits texts by {file.algorithm.name}, and only Unigram and BPE are known here")
    if file.whitespace_as_suffix or not file.escape_whitespaces:
        raise ValueError("it keeps spaces in another way than at the beginning of words")
    if any(piece.kind is Kind.UNUSED for piece in file.pieces):
        raise ValueError("it has pieces that are marked as unused")


def _with_added(pieces: list[Piece], added: Mapping[int, AddedToken]) -> list[Piece]:
    """The vocabulary with `added` at their ids. A token in the place of a piece takes it, as in transformers."""
    size = max([len(pieces), *(token_id + 1 for token_id in added)])
    texts = {piece.text for piece in pieces}
    found = [*pieces, *(Piece(f"<|reserved_{i}|>", _LOWEST_SCORE, Kind.CONTROL) for i in range(len(pieces), size))]
    for token_id, token in added.items():
        if token.content not in texts:
            is_unknown = found[token_id].kind is Kind.UNKNOWN
            found[token_id] = Piece(token.content, _LOWEST_SCORE, Kind.UNKNOWN if is_unknown else Kind.CONTROL)
    return found


def _model(file: SentencePieceFile, pieces: list[Piece]) -> models.Model:
    unknown = next(i for i, piece in enumerate(pieces) if piece.kind is Kind.UNKNOWN)
    if file.algorithm is Algorithm.UNIGRAM:
        vocab = [(piece.text, piece.score) for piece in pieces]
        return models.Unigram(vocab, unk_id=unknown, byte_fallback=file.byte_fallback)
    ids = {piece.text: i for i, piece in enumerate(pieces)}
    if len(ids) < len(pieces):
        raise ValueError("two of its pieces are the same")
    return models.BPE(
        ids, _merges(pieces), unk_token=pieces[unknown].text, fuse_unk=True, byte_fallback=file.byte_fallback
    )


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes up a piece, that with the highest score first."""
    usable = [piece for piece in pieces if piece.kind in {Kind.NORMAL, Kind.USER_DEFINED}]
    texts = {piece.text for piece in usable}
    merges = []
    for piece in sorted(usable, key=lambda piece: -piece.score):
        pairs = ((piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text)))
        merges += [pair for pair in pairs if pair[0] in texts and pair[1] in texts]
    return merges


def _normalizers(file: SentencePieceFile, prefix: Prefix) -> Iterator[normalizers.Normalizer]:
    if file.charsmap:
        yield normalizers.Precompiled(file.charsmap)
    if file.remove_extra_whitespaces:
        yield normalizers.Replace(Regex(" {2,}"), " ")
        yield normalizers.Replace(Regex(r" +\z"), "")
        if prefix is Prefix.NEVER:
            yield normalizers.Replace(Regex(r"\A +"), "")
    yield normalizers.Replace(" ", _SPACE)


def _pre_tokenizer(file: SentencePieceFile, prefix: Prefix) -> pre_tokenizers.PreTokenizer:
    """Puts the space before a text.

    Metaspace leaves it out of a text that begins with one. SentencePiece does not, unless it removes extra spaces; so
    the space is put there before it is spelt as the text's own are.
    """
    if file.remove_extra_whitespaces or prefix is Prefix.NEVER:
        return pre_tokenizers.Metaspace(_SPACE, prefix, split=False)
    first = pre_tokenizers.Metaspace(" ", prefix, split=False)
    return pre_tokenizers.Sequence([first, pre_tokenizers.Metaspace(_SPACE, "never", split=False)])


def _added_tokens(pieces: list[Piece], added: Mapping[int, AddedToken], prefix: Prefix) -> Iterator[AddedToken]:
    """The tokens that are found in a text before it is split, by id."""
    for token_id, piece in enumerate(pieces):
        if token_id in added:
            yield added[token_id]
        elif piece.kind in {Kind.CONTROL, Kind.UNKNOWN}:
            yield AddedToken(piece.text, special=True, normalized=False)
        elif piece.kind is Kind.USER_DEFINED and _SPACE not in piece.text:
            yield AddedToken(piece.text, special=False, normalized=False)
        elif piece.kind is Kind.USER_DEFINED and prefix is Prefix.NEVER:
            yield AddedToken(piece.text, special=False, normalized=True)  # runs of spaces


def _add_ends(tokenizer: Tokenizer, rules: Rules) -> None:
    """Put `begin` and `end` around each text. Raises ValueError if the vocabulary lacks one."""
    ends = {text: tokenizer.token_to_id(text) for text in (rules.begin, rules.end) if text is not None}
    if None in ends.values():
        raise ValueError(f"the vocabulary lacks {next(text for text, token_id in ends.items() if token_id is None)}")
    if not ends:
        return
    around = [[] if text is None else [text] for text in (rules.begin, rules.end)]
    single = [*around[0], "$A", *around[1]]
    second = [f"{part}:1" for part in (*around[0], "$B", *around[1])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=[*single, *second], special_tokens=list(ends.items())
    )
