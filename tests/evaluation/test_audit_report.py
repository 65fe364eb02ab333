from __future__ import annotations

import pytest

from cai.errors import UsageError
from cai.evaluation.audit import audit
from cai.evaluation.audit_report import read_limits

PLAIN = "The ferry leaves at dawn, and the last one comes back at nine in the evening, from the second pier."
NO = "I'm sorry, but I can't help with that."


def test_limits_are_read_from_lists_and_repetition() -> None:
    assert read_limits(["refusal_full=0.2, role_mixup=0", "chosen.empty=0.01"]) == {
        "refusal_full": 0.2, "role_mixup": 0, "chosen.empty": 0.01,
    }  # fmt: skip
    assert read_limits([]) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("refusal_ful=0.2", "did you mean 'refusal_full'"),
        ("chosen.overlap=0", "'chosen.overlap' is not measured"),
        ("empty", "write NAME=SHARE"),
        ("empty=20", "a share from 0 to 1"),
        ("empty=nan", "a share from 0 to 1"),
    ],
)
def test_a_limit_that_cannot_be_is_told(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        read_limits([text])


def test_what_exceeds_its_limit_is_named_with_by_how_much() -> None:
    result = audit([{"chosen": NO, "rejected": PLAIN}])
    assert result.failures({"refusal_full": 0.5, "chosen.refusal_full": 0.2}) == [
        "chosen.refusal_full is 1, which is 0.8 above 0.2"
    ]
    with pytest.raises(UsageError, match="no replies of 'chose'; did you mean 'chosen'"):
        result.failures({"chose.empty": 0})
    with pytest.raises(UsageError, match="nothing to measure it on"):
        result.failures({"overlap": 0})


def test_a_problem_of_a_record_is_one_line() -> None:
    lines = audit([{"completion": PLAIN}, {"a\n| b": 1}]).lines()
    assert "  line 2: no reply; it has 'a\\n| b': name its column with --reply-field" in lines
