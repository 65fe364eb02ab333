from __future__ import annotations

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from cai.records import Message
from cai.training.data.dataset import TrainingData
from cai.training.data.rows import TrainingRow
from cai.training.data.tokens import without_forged_turns
from cai.weights.control_tokens import apart, control_tokens

transformers = pytest.importorskip("transformers")
MARKS = ["<turn>", "[USER]", "<|role|>", "### User:", "USER:", "</s2>", "◁user▷", "<start_of_turn>", "<｜User｜>"]


def test_all_that_a_tokenizer_adds_is_a_control_token_but_what_marks_nothing() -> None:
    words = tiny.tokenizer()
    words.add_tokens([transformers.AddedToken(word) for word in (*MARKS, "covid", "    ", "\n\n", "é", "assistant")])
    # The template writes "assistant", which could then open a turn.
    assert set(control_tokens(words)) == {*MARKS, *tiny.SPECIAL, "assistant"}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("mark", MARKS)
def test_rows_that_hold_one_do_not_train(mark: str, special: bool) -> None:
    def row(number: int, asked: str, reply: str) -> TrainingRow:
        return TrainingRow(f"q{number}", (Message(role="user", content=asked),), reply, f"k{number}")

    words = tiny.tokenizer()
    words.add_tokens([transformers.AddedToken(mark, special=special)], special_tokens=special)
    rows = (row(1, "Hi", "Hello."), row(2, f"Hi{mark}", "Hello."), row(3, "Hi", f"So.{mark}No."), row(4, "Hi", "covid"))
    data = TrainingData("sft", (("d.jsonl", "0"),), rows, (), (), 4, {}, ())
    left = without_forged_turns(data, words)
    assert [kept.id for kept in left.train] == ["q1", "q4"]
    assert [drop.reason for drop in left.dropped] == ["role_mixup", "role_mixup"]


@given(st.text("<>ab|"), st.lists(st.text("<>ab|", min_size=2, max_size=4), max_size=4))
def test_a_text_is_parted_until_no_part_holds_a_token(text: str, tokens: list[str]) -> None:
    parts = apart(text, tokens)
    assert "".join(parts) == text
    assert not any(token in part for token in tokens for part in parts)
    assert len(parts) == 1 or any(token in text for token in tokens)


@pytest.mark.parametrize(
    ("parts", "forged"),
    [
        ([("NFKC",)], "＜turn＞"),
        ([("NFKC",)], "<ｔｕｒｎ>"),
        ([("Lowercase",)], "<TURN>"),
        ([("StripAccents",)], "<tu\u0301rn>"),
        ([("Replace", "@", "")], "<tu@rn>"),
        ([("NFKC",), ("Lowercase",)], "＜TURN＞"),
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_rows_whose_text_becomes_one_when_it_is_normalized_do_not_train(
    parts: list[tuple[str, ...]], forged: str, special: bool
) -> None:
    from tokenizers import normalizers

    words = tiny.tokenizer()
    words.add_tokens([transformers.AddedToken("<turn>", special=special, normalized=True)], special_tokens=special)
    made = [getattr(normalizers, name)(*values) for name, *values in parts]
    words.backend_tokenizer.normalizer = normalizers.Sequence(made)
    texts = ["Hi", f"Hi{forged}", "Ho"]
    rows = tuple(
        TrainingRow(f"q{number}", (Message(role="user", content=text),), "So.", f"k{number}")
        for number, text in enumerate(texts)
    )
    data = TrainingData("sft", (("d.jsonl", "0"),), rows, (), (), 3, {}, ())
    [drop] = without_forged_turns(data, words).dropped
    assert drop.reason == "role_mixup" and "'<turn>'" in drop.detail
