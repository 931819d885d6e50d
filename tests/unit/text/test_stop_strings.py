"""A completion ends at the first stop string, however the text arrives."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from container.text.stop_strings import StopStrings

# Few letters, so that stop strings overlap, nest and nearly match all the time.
texts = st.text(alphabet="abé", max_size=60)
stop_lists = st.lists(st.text(alphabet="abé", min_size=1, max_size=5), max_size=4)
cuts = st.lists(st.integers(0, 7), max_size=20)


def first_match(text: str, stops: list[str]) -> str | None:
    """The definition: the first to be complete, and of those the longest."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return max(complete, key=len)
    return None


def expected(text: str, stops: list[str], *, keep: bool) -> tuple[str, str | None]:
    stop = first_match(text, stops)
    if stop is None:
        return text, None
    end = min(end for end in range(len(text) + 1) if any(text[:end].endswith(other) for other in stops))
    return text[: end if keep else end - len(stop)], stop


def pushed(text: str, stops: list[str], sizes: list[int], *, keep: bool) -> tuple[list[str], StopStrings]:
    checker = StopStrings(stops, keep=keep)
    rest = iter(text)
    pieces = [checker.push("".join(itertools.islice(rest, size))) for size in sizes]
    return [*pieces, checker.push("".join(rest)), checker.flush()], checker


@settings(max_examples=500)
@given(text=texts, stops=stop_lists, sizes=cuts, keep=st.booleans())
@example(text="aab", stops=["ab", "aab"], sizes=[1, 1, 1], keep=False)
@example(text="aaab", stops=["aab"], sizes=[2, 1], keep=False)
def test_any_split_gives_the_defined_result(text, stops, sizes, keep):
    pieces, checker = pushed(text, stops, sizes, keep=keep)
    assert ("".join(pieces), checker.matched) == expected(text, stops, keep=keep)


@settings(max_examples=500)
@given(text=texts, stops=stop_lists)
def test_no_character_waits_without_reason(text, stops):
    """What is held back is the longest end of the text that a stop string begins with, no more and no
    less.
    """
    checker = StopStrings(stops, keep=False)
    out = ""
    for index, character in enumerate(text):
        out += checker.push(character)
        if checker.matched is not None:
            return
        seen = text[: index + 1]
        beginnings = {stop[:length] for stop in stops for length in range(len(stop))} | {""}
        held = max(length for length in range(len(seen) + 1) if seen[len(seen) - length :] in beginnings)
        assert out == seen[: len(seen) - held]
    assert checker.flush() == text[len(out) :]


def test_openai_cuts_and_tgi_keeps():
    assert pushed("one STOP two", ["STOP"], [5, 3], keep=False)[0] == ["one ", "", "", ""]
    assert pushed("one STOP two", ["STOP"], [5, 3], keep=True)[0] == ["one ", "STOP", "", ""]


def test_after_the_match_nothing_follows():
    checker = StopStrings(["x"], keep=True)
    assert checker.push("ax") == "ax"
    assert checker.matched == "x"
    assert checker.push("more") == ""
    assert checker.flush() == ""


def test_what_follows_the_match_in_one_push_is_dropped():
    checker = StopStrings(["STOP"], keep=False)
    assert checker.push("one ST") + checker.push("OP two") == "one "
    assert checker.flush() == ""


def test_the_shorter_of_two_that_start_together_is_complete_first():
    pieces, checker = pushed("a\n\nb", ["\n\n", "\n"], [], keep=False)
    assert "".join(pieces) == "a"
    assert checker.matched == "\n"


def test_the_longer_of_two_that_end_together_wins():
    pieces, checker = pushed("so</s>", ["s>", "</s>"], [1] * 6, keep=False)
    assert "".join(pieces) == "so"
    assert checker.matched == "</s>"


def test_held_text_is_shown_when_it_turns_out_harmless():
    checker = StopStrings(["<|end|>"], keep=False)
    assert checker.push("a <|e") == "a "
    assert checker.push("nough") == "<|enough"
    assert checker.push("<|end") == ""
    assert checker.flush() == "<|end"
    assert checker.matched is None


def test_without_stop_strings_text_passes():
    checker = StopStrings([], keep=False)
    assert checker.push("anything") == "anything"
    assert checker.flush() == ""


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        StopStrings(["a", ""], keep=False)


def test_the_work_is_linear_for_repetitive_text():
    """Every character is looked at once, and falls back at most as often as it advanced."""

    class Counting(dict):
        lookups = 0

        def __contains__(self, key: object) -> bool:
            Counting.lookups += 1
            return super().__contains__(key)

    checker = StopStrings(["a" * 500 + "b"], keep=False)
    checker._next = [Counting(each) for each in checker._next]
    text = ("a" * 499 + "c") * 40
    assert checker.push(text) + checker.flush() == text
    assert Counting.lookups <= 3 * len(text)
