"""Pairs as files of others write them, read with the others of a source."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_records import PAIR, TURN, contests

from cai.records import BadPrompt, Contest
from cai.runs.kinds.pairs import read_pairs
from cai.sources.conversations import pair_hash, prompt_hash


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_coin_that_depends_on_the_texts_alone_hides_which_reply_was_chosen(chosen: str, rejected: str) -> None:
    record = {"prompt": "Hi?", "chosen": chosen, "rejected": rejected}
    [(_, item)] = read_pairs([record])
    [_, (_, again)] = read_pairs([PAIR, {**record, "id": "x", "more": 1}])
    if isinstance(item, BadPrompt):
        assert item.reason in ("empty", "identical", "bad_input")
        return
    assert isinstance(item, Contest) and isinstance(again, Contest)
    assert (item.a, item.b, item.human) == (again.a, again.b, again.human)
    assert (item.a, item.a_from) == ((chosen, "chosen") if item.human == "a" else (rejected, "rejected"))
    [(_, turned)] = read_pairs([{"prompt": "Hi?", "chosen": rejected, "rejected": chosen}])
    assert isinstance(turned, Contest) and turned.key == item.key
    assert turned.a_from == item.a_from  # the same coin for the same two texts


def test_the_coin_is_about_balanced() -> None:
    records = [{"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(2_000)]
    assert 0.45 < sum(item.human == "a" for item in contests(records)) / 2_000 < 0.55


@pytest.mark.parametrize(
    "record",
    [
        PAIR,
        {"prompt": list(TURN), "chosen": "Good day.", "rejected": "What."},
        {"chosen": "\n\nHuman: Hi?\n\nAssistant: Good day.", "rejected": "\n\nHuman: Hi?\n\nAssistant: What."},
        {
            "prompt": "Hi?",
            "chosen": [*TURN, {"role": "assistant", "content": "Good day."}],
            "rejected": [*TURN, {"role": "assistant", "content": "What."}],
        },
        {
            "prompt": list(TURN),
            "chosen": [{"role": "assistant", "content": "Good day."}],
            "rejected": [{"role": "assistant", "content": "What."}],
        },
        {
            "chosen": [*TURN, {"role": "assistant", "content": "Good day."}],
            "rejected": [*TURN, {"role": "assistant", "content": "What."}],
        },
    ],
)
def test_a_pair_is_the_same_in_whatever_shape_it_comes(record: dict[str, Any]) -> None:
    [item], [usual] = contests([record]), contests([PAIR])
    assert item == usual
    assert (item.id, item.prompt_id) == (pair_hash(TURN, "Good day.", "What."), prompt_hash(TURN))


@pytest.mark.parametrize(("label", "human"), [(1, "a"), (2, "b"), ("1", "a"), ("2", "b"), (None, None)])
def test_numbered_outputs_keep_their_places(label: Any, human: str | None) -> None:
    [item] = contests([{"input": "Hi?", "output_1": "x", "output_2": "y", "label": label}])
    assert (item.a, item.b, item.human, item.messages) == ("x", "y", human, TURN)


def test_our_own_labels_are_a_source() -> None:
    row = {
        "schema": 1, "id": "p:0-1", "position": 0, "prompt_id": "p", "prompt": list(TURN), "a": "x", "b": "y",
        "a_from": "sample 0", "b_from": "sample 1", "a_model": "m", "b_model": None, "human": "b", "votes": [],
    }  # fmt: skip
    [item] = contests([row])
    assert (item.id, item.prompt_id, item.a, item.b) == ("p:0-1", "p", "x", "y")
    assert (item.a_from, item.b_from, item.a_model, item.b_model, item.human) == (
        "sample 0",
        "sample 1",
        "m",
        None,
        "b",
    )
