from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_cuts import BINDING
from pair_labels import LEAK, MIXED, PLAIN, REFUSED, A, B, filters, label, swapped, unit, vote

from cai.engine.letters import probability
from cai.errors import UsageError
from cai.export.options import ExportOptions, Filters, filters_of
from cai.export.pairings import extra_pass
from cai.export.pairs import (
    FAULTS_OF_TEXTS,
    Row,
    checks,
    confidence,
    fault_of_texts,
    flipped,
    margin,
    p_a,
    reason,
    refuses,
    sides,
)
from cai.export.preferences import reasons
from cai.judge.certify import Binding, Calibration, certify_all
from cai.judge.metrics import log_odds
from cai.records import Label
from cai.sources.conversations import prompt_hash
from cai.texts import hygiene, likeness, off_task, refusal_sentences, refusal_words, refusals, scripts, thoughts

CHECKS = ("invalid_vote", "empty", "identical", "length_ratio", "order_flip", "low_confidence")
NOT_NOW = "I am sorry, I can't assist with this request."


def test_the_rows_of_these_tests_are_labels() -> None:
    assert Label.model_validate(label()).model_dump(mode="json") == label()


zs = st.none() | st.floats(-30, 30) | st.sampled_from([0.0, 1e-300, 0.8472978603872034])
texts = st.sampled_from([A, B, A + "\n", A.upper(), REFUSED, NOT_NOW, "", " ", "Here is a revised reply: wait.", "No."])


@given(zs, texts, texts, filters)
def test_swapping_the_replies_changes_neither_the_reason_nor_the_pair(
    z: float | None, a: str, b: str, asked: Filters
) -> None:
    row = label(z, a, b)
    other = swapped(row)
    assert reason(row, asked) == reason(other, asked)
    if z is not None:
        assert p_a(row, asked) == 1 - p_a(other, asked)
        assert confidence(row, asked) == confidence(other, asked)
        assert margin(row, asked) == margin(other, asked)
        if z != 0:
            assert row[sides(row)[0]] == other[sides(other)[0]]


@given(zs, texts, texts, filters)
def test_a_reason_is_one_of_the_known_and_told_in_words(z: float | None, a: str, b: str, asked: Filters) -> None:
    row = label(z, a, b)
    why = reason(row, asked)
    if why is None:
        assert z is not None and confidence(row, asked) >= asked.min_confidence and a.strip() and b.strip()
    else:
        name, words = why
        assert name in (*CHECKS, *FAULTS_OF_TEXTS) and words


@given(zs, texts, texts, filters, st.floats(0.5, 1))
def test_a_higher_threshold_keeps_no_pair_that_a_lower_one_leaves_out(
    z: float | None, a: str, b: str, asked: Filters, other: float
) -> None:
    row, low, high = label(z, a, b), *sorted((asked.min_confidence, other))
    options = {name: getattr(asked, name) for name in ("temperature", "max_length_ratio", "order_flip", "hygiene")}
    if reason(row, Filters(min_confidence=high, **options)) is None:
        assert reason(row, Filters(min_confidence=low, **options)) is None


@pytest.mark.parametrize(
    ("row", "asked", "why"),
    [
        (label(), PLAIN, None),
        (label(None), PLAIN, "invalid_vote"),
        (label(a=" \n"), PLAIN, "empty"),
        (label(b=A.replace(" ", "\n ") + " "), PLAIN, "identical"),
        (label(a="Yes. " * 9), Filters(0.5, max_length_ratio=1.5), "length_ratio"),
        (label(a="Yes. " * 9), PLAIN, None),
        (label(votes=[vote(2, 3), vote(2, -3), vote(2)]), Filters(0.5, order_flip=True), "order_flip"),
        (label(votes=[vote(2, 3), vote(2, -1)]), Filters(0.5, order_flip=True), None),  # half is not more than half
        (label(votes=[vote(2, 3), vote(2, 3)]), PLAIN, None),
        (label(0.8), Filters(), "low_confidence"),
        (label(0.85), Filters(), None),
        (label(0.0), PLAIN, "low_confidence"),
        (label(1e-300), PLAIN, "low_confidence"),  # its probability is one half to the last bit
        (label(b=A.replace("stones", "stone")), PLAIN, None),
        (label(b=A.replace(":", ",").lower()), PLAIN, "near_duplicate"),
        (label(b=A.replace(":", ",").lower()), Filters(0.5, hygiene=False), None),
        (label(a=LEAK), PLAIN, "preamble_leak"),
        (label(-2, a=LEAK), PLAIN, None),  # the rejected reply may have any fault
        (label(a=LEAK), Filters(0.5, hygiene=False), None),
        (label(a=MIXED), PLAIN, "role_mixup"),
        (label(a=REFUSED, b=NOT_NOW), PLAIN, "both_refused"),
        (label(a=REFUSED, b=NOT_NOW), Filters(0.5, hygiene=False), None),
        (label(a=REFUSED), PLAIN, None),
        (label(a=REFUSED), Filters(0.5, benign=frozenset([prompt_hash(label()["prompt"])])), "refused_benign"),
        (label(-2, a=REFUSED), Filters(0.5, benign=frozenset([prompt_hash(label()["prompt"])])), None),
        (label(a=REFUSED), Filters(0.5, benign=frozenset(["0" * 32])), None),
    ],
)
def test_a_pair_leaves_for_its_reason(row: Row, asked: Filters, why: str | None) -> None:
    found = reason(row, asked)
    assert (found and found[0]) == why


def test_the_first_reason_counts() -> None:
    row = label(0.1, a=REFUSED, b=REFUSED + " ")
    assert [name for name, _ in checks(row, Filters())] == ["identical", "low_confidence"]
    prompt = [{"role": "user", "content": "What?"}]
    assert fault_of_texts(REFUSED, REFUSED + " ", prompt) == "near_duplicate"
    assert fault_of_texts(LEAK, LEAK, prompt) == "near_duplicate" and fault_of_texts(LEAK, A, prompt) == "preamble_leak"
    assert reason(row, Filters()) == ("identical", "the replies differ only in white space")


def test_what_cuts_remember_is_of_this_reading() -> None:
    modules = (hygiene, off_task, scripts, likeness, refusals, refusal_sentences, refusal_words, thoughts)
    read = (*modules, fault_of_texts, refuses.__wrapped__)
    parts = [*map(inspect.getsource, read), Path(refusals.__file__).with_suffix(".json").read_text()]
    digest = sha256("".join(parts).encode()).hexdigest()[:16]
    # If a text may get another fault now, raise READING; write what this finds here in any case.
    assert (hygiene.READING, digest) == (10, "962217f7bc48c93a")


def test_order_flips_are_counted_where_the_bias_is_larger_than_the_preference() -> None:
    votes = [vote(1, 1.5), vote(1, -1.5), vote(1.5, 1), vote(1, 1), vote(1, 9, problem="cut")]
    assert flipped(label(votes=votes)) == (2, 4)


def test_votes_in_words_flip_where_both_orders_name_the_same_place() -> None:
    def said(first: str, second: str) -> Row:
        return {"ab": {"choice": first, "problem": None}, "ba": {"choice": second, "problem": None}}

    assert flipped(label(votes=[said("first", "first"), said("first", "second")])) == (1, 2)
    assert flipped(label(votes=[], protocol="reward")) == (0, 0)


def test_beliefs_after_reasoning_end_at_six_tenths_unless_they_are_calibrated() -> None:
    row = label(9.0, protocol="reason")
    at_six = Filters(min_confidence=0.6)
    assert (p_a(row, at_six), confidence(row, at_six)) == (0.6, 0.6)
    assert margin(row, at_six) == pytest.approx(math.log(0.6 / 0.4))
    assert reason(row, at_six) is None
    with pytest.raises(
        UsageError, match=r"--min-confidence 0.61 .* is at most 0.6; set --min-confidence to 0.6 or less"
    ):
        reason(row, Filters(min_confidence=0.61))
    calibrated = Filters(min_confidence=0.73, temperature=9.0)
    assert reason(row, calibrated) is None
    assert p_a(row, calibrated) == 1 / (1 + math.exp(-1))


def test_thresholds_are_compared_with_what_a_temperature_leaves_of_a_belief() -> None:
    row, asked = label(2.0), Filters(min_confidence=0.62, temperature=4.0)
    assert confidence(row, asked) == p_a(row, asked) == pytest.approx(0.6225, abs=1e-4)
    assert margin(row, asked) == 0.5
    assert reason(row, asked) is None
    assert reason(row, Filters(min_confidence=0.63, temperature=4.0)) == ("low_confidence", "0.622 is below 0.63")
    assert confidence(label(-2.0), asked) == confidence(row, asked)


# Pairing


def kept(rows: Sequence[Row], pairing: Any) -> list[str]:
    return [row["id"] for row, why in zip(rows, reasons(rows, PLAIN, pairing), strict=True) if why is None]


def names(rows: Sequence[Row], pairing: Any) -> list[str | None]:
    return [why and why[0] for why in reasons(rows, PLAIN, pairing)]


def test_of_all_pairs_best_worst_keeps_that_of_the_highest_and_the_lowest_mean() -> None:
    rows = unit((0, 1, -1.0), (0, 2, 2.0), (1, 2, 3.0))  # means: 0.5, 2.0, -2.5
    assert kept(rows, "all") == ["q0:0-1", "q0:0-2", "q0:1-2"]
    assert kept(rows, "best-worst") == ["q0:1-2"]
    assert names(rows, "best-worst") == ["not_extreme", "not_extreme", None]


def test_of_equal_replies_the_first_is_the_best_and_the_worst() -> None:
    rows = unit((0, 1, 0.0), (0, 2, 0.0), (1, 2, 0.0))
    assert names(rows, "best-worst") == ["low_confidence", "not_extreme", "not_extreme"]
    tied = unit((0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.0))  # 1 and 2 are equally bad
    assert kept(tied, "best-worst") == ["q0:0-1"]


def test_the_pair_of_the_extremes_must_pass_like_any_other() -> None:
    rows = unit((0, 1, 3.0), (0, 2, None), (1, 2, 1.0))  # best 0, worst 1 (-1.0 against -1.0): the first counts
    assert names(rows, "best-worst") == [None, "invalid_vote", "not_extreme"]
    missing = unit((0, 1, 1.0), (1, 2, 3.0))  # best 0 and worst 2 were never compared
    assert names(missing, "best-worst") == ["not_extreme", "not_extreme"]
    assert names(unit((0, 1, None)), "best-worst") == ["invalid_vote"]


def rounds(*odds: float) -> list[Row]:
    return [
        label(z, A, B, position=n, id=f"q0:round-{n}", a_from=f"round {n}", b_from="initial")
        for n, z in enumerate(odds, 1)
    ]


def test_of_a_generate_run_final_keeps_the_last_round() -> None:
    assert kept(rounds(1.0, 3.0, 2.0), "final") == ["q0:round-3"]
    assert kept(rounds(*[1.0] * 10), "final") == ["q0:round-10"]
    assert kept(rounds(1.0), "all") == ["q0:round-1"]


def test_a_pairing_that_does_not_fit_the_labels_is_refused() -> None:
    with pytest.raises(UsageError, match="--pairing final is for labels of a generate run"):
        reasons(unit((0, 1, 1.0)), PLAIN, "final")
    with pytest.raises(UsageError, match="--pairing best-worst is for labels of samples"):
        reasons(rounds(1.0, 2.0), PLAIN, "best-worst")


def test_a_pair_waits_for_the_samples_beyond_the_first() -> None:
    [row] = unit((0, 4, 1.0))
    assert [extra_pass(row, n) for n in (None, 2, 4, 5, 9)] == [0, 3, 1, 0, 0]


# What a vote in words gives, so that many labels have one confidence
VOTES = [
    log_odds((won + 0.5) / (n + 1)) / principles for principles in (1, 3) for n in (2, 4, 6) for won in range(n + 1)
]


@given(st.floats(0.05, 100), st.integers(0, len(VOTES) - 1))
def test_all_labels_that_were_certified_are_kept(temperature: float, place: int) -> None:
    """The gold pairs are those of one confidence, 70 of them, and people agree with all."""
    z = abs(VOTES[place]) or 1.0
    ps = [probability(z)] * 70
    at = certify_all(ps, [1.0] * 70, temperature, targets=(0.85,))["0.85"]
    assert at is not None and at.coverage == 1.0
    made = Calibration(
        binding=Binding.model_validate(BINDING), n=70, temperature=temperature, delta=0.1, thresholds={"0.85": at},
        before=None, after=None,
    )  # fmt: skip
    asked = filters_of(ExportOptions(agreement=0.85), made)
    for row in (label(z), label(-z)):
        assert "low_confidence" not in [name for name, _ in checks(row, asked)]
    less = label(z - 1e-6)
    if confidence(less, asked) > 0.5:
        assert "low_confidence" in [name for name, _ in checks(less, asked)]
