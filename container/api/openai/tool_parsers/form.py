"""How a family of models writes tool calls, as data: marks, where the name stands, how arguments are written."""

# ruff: noqa: RUF001 - marks may have fullwidth bars

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

# Spellings that tokenizers have as one token.
_MARKS = (re.compile(r"<[^<>\s=]+>"), re.compile(r"\[/?[A-Za-z_]+\d*\]"), re.compile(r"｜[A-Z]+｜|\]<\]\w+\[>\["))
# Stands for the number of a call, which nobody reads.
NUMBER = "\ue000"
# Stands for an id of nine letters and digits.
SHORT_ID = "\ue001"


class Arguments(enum.Enum):
    """How a call's name and arguments are written."""

    # One JSON object holds both.
    OBJECT = enum.auto()
    # A JSON object whose only key is the name.
    KEYED = enum.auto()
    # The name, then a JSON object.
    JSON = enum.auto()
    # The name, then tags, one for each argument.
    TAGS = enum.auto()
    # The name, then `{key:value}` where a mark quotes strings.
    QUOTED = enum.auto()
    # Python: `name(key=value)`.
    PYTHON = enum.auto()


class CallIds(enum.Enum):
    """Ids that a template accepts in past calls: any, nine letters and digits, or `functions.name:number`."""

    ANY = enum.auto()
    SHORT = enum.auto()
    NUMBERED = enum.auto()


@dataclass(frozen=True, slots=True)
class Tags:
    """One argument: `key_open`, the key, `key_close`, an attribute, `value_open`, the value, `value_close`.

    `text` is the attribute of a string, `other` that of any other value, with its type for `{type}`. `gap` follows a
    value. `framed`: a line break next to a value belongs to its tag. `cdata`: a value may stand in `<![CDATA[...]]>`.
    `value_close` may name the key as `{key}`. `nested`: objects and arrays are tags too, items of arrays `<item>`.
    """

    key_open: str
    value_open: str
    value_close: str
    key_close: str = ""
    text: str = ""
    other: str = ""
    gap: str = "\n"
    framed: bool = False
    cdata: bool = False
    nested: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """A row of the table: what the reader looks for and a grammar demands.

    All calls: `opening`, `around[0]`, the calls split by `separator`, `around[1]`, `closing`. One call: `begin`,
    `lead`, the name, `between`, the arguments, `tail`, `end`. Of these, `opening`, `begin`, `end` and `closing` are
    marks; the reader does without all but the one that comes first, and takes any white space between them.

    `also` are other spellings of `begin`. `drops` is more text that may end a call, or stand before one, and is never
    content alone. `head`, a regular expression with the group `name` and perhaps `id`, overrides what stands between
    `begin` and the arguments; `inner` are marks that only `head` knows. Without marks the answer begins with a call,
    and `starts` is a regular expression for such a beginning, where NAMES are the functions' names. `begun`: the prompt
    ends with `begin`. `spoken` follows it where no call does.

    A model has this form if all strings of one group of `shows` are in its template, or if it has all of `tokens`.
    """

    name: str
    arguments: Arguments = Arguments.OBJECT
    opening: str = ""
    around: tuple[str, str] = ("", "")
    begin: str = ""
    lead: str = ""
    between: str = ""
    tail: str = ""
    end: str = ""
    separator: str = "\n"
    closing: str = ""
    also: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    head: str = ""
    inner: tuple[str, ...] = ()
    tags: Tags | None = None
    quotes: str = ""
    starts: str = ""
    begun: bool = False
    spoken: str = ""
    call_ids: CallIds = CallIds.ANY
    shows: tuple[tuple[str, ...], ...] = ()
    tokens: tuple[str, ...] = ()

    @property
    def begins(self) -> tuple[str, ...]:
        """What begins calls inside a text."""
        return tuple(filter(None, (self.opening, self.begin, *self.also)))

    @property
    def ends(self) -> tuple[str, ...]:
        """What may follow a call."""
        return tuple(filter(None, (self.end, self.closing, *self.drops)))

    @property
    def marks(self) -> tuple[str, ...]:
        """What the tokenizer may have as one token and the reader needs to see."""
        texts = [self.lead, self.between, self.tail, self.quotes, *self.around, *self.begins, *self.ends, *self.inner]
        if self.tags is not None:
            tags = self.tags
            texts += [tags.key_open, tags.key_close, tags.value_open, tags.value_close]
        found = [mark for text in texts for pattern in _MARKS for mark in pattern.findall(text)]
        return tuple(dict.fromkeys(found))
