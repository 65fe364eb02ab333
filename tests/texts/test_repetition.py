"""Repetition by hand, and on real replies."""

from __future__ import annotations

import gzip
import json
import lzma
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import shared

from cai.texts.repetition import compressed, distinct, equal_length, mtld, repeated, tokens

TEXTS = st.lists(st.lists(st.sampled_from("abcde"), max_size=12), max_size=8)


def test_words_are_lower_case_and_marks_stand_alone() -> None:
    assert tokens("Don't STOP, it's 3 o'clock…") == [
        "don", "'", "t", "stop", ",", "it", "'", "s", "3", "o", "'", "clock", "…",
    ]  # fmt: skip


def test_distinct_runs_are_counted_over_all_texts() -> None:
    texts = [["a", "b", "a", "b"], ["a", "b", "c"], ["d"]]
    assert distinct(texts, 1) == 4 / 8
    assert distinct(texts, 2) == 3 / 5  # ab, ba, bc of ab ba ab, ab bc: no run goes from one text into the next
    assert distinct(texts, 5) is distinct([], 1) is None


@given(TEXTS, st.integers(1, 4))
def test_the_same_texts_again_halve_what_is_distinct(texts: list[list[str]], size: int) -> None:
    once, twice = distinct(texts, size), distinct(texts + texts, size)
    assert (once is None) == (twice is None)
    if once is not None and twice is not None:
        assert twice == pytest.approx(once / 2)


def test_a_loop_repeats_and_a_sentence_does_not() -> None:
    assert repeated(["one", "two", "three", "four"] * 5) == 1 - 4 / 17
    assert repeated(["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]) == 0
    assert repeated(["too", "short", "now"]) is None


def test_models_are_cut_to_the_shortest_reply_to_each_prompt() -> None:
    models = [[list("abcd"), list("ab")], [list("wx"), list("wxyz")], [list("123"), []]]
    assert equal_length(models) == [[["a", "b"], []], [["w", "x"], []], [["1", "2"], []]]
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        equal_length([[["a"], ["b"]], [["a"]]])


def test_lzma_sees_repeats_that_zlib_is_too_short_sighted_for() -> None:
    chance = random.Random(1)
    block = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz ", k=100)) for _ in range(500)]  # 50 KB
    assert compressed(block + block) == pytest.approx(compressed(block), rel=0.02)
    assert (compressed(block + block, lzma.compress) or 0) > 1.9 * (compressed(block, lzma.compress) or 1)
    assert compressed([]) is compressed([""]) is None


def test_words_that_never_repeat_last_as_long_as_the_text() -> None:
    assert mtld(list("abcdefgh")) == 8
    assert mtld([]) is None


def test_the_length_of_factors_is_that_by_hand() -> None:
    # a: 1, aa: 0.5 <= 0.72, so two words a factor in both directions
    assert mtld(["a"] * 10) == 2
    # forwards a b a: 2/3 is a factor, then b c: 1, none of it; backwards c b a b: 3/4, then a: 3/5 is a factor
    assert mtld(["a", "b", "a", "b", "c"]) == (5 / 1 + 5 / 1) / 2
    # forwards a a is a factor, and then b c: 1; backwards c b a a: 3/4
    assert mtld(["a", "a", "b", "c"]) == pytest.approx((4 + 4 / ((1 - 0.75) / 0.28)) / 2)
    # forwards a b c a: 3/4, which is (1 - 0.75) / 0.28 of a factor, and the same backwards
    assert mtld(["a", "b", "c", "a"]) == pytest.approx(4 / ((1 - 0.75) / 0.28))


@pytest.mark.shared_data
def test_real_replies_have_the_figures_that_were_measured_by_other_code() -> None:
    with gzip.open(shared("hh_harmless_dev.jsonl.gz"), "rt") as file:
        rows = [json.loads(line) for line in file][:1000]
    texts = [row["chosen"].rpartition("\n\nAssistant:")[2].strip() for row in rows]
    words = [tokens(text) for text in texts]
    assert [distinct(words, size) for size in (1, 2, 3)] == pytest.approx([0.099, 0.46, 0.758], abs=6e-4)
    assert [compressed(texts), compressed(texts, lzma.compress)] == pytest.approx([2.76, 3.14], abs=0.01)
    assert mtld([word for text in words for word in text]) == pytest.approx(63, abs=0.5)
    assert fmean(part for text in words if (part := repeated(text)) is not None) == pytest.approx(0.005, abs=5e-4)
