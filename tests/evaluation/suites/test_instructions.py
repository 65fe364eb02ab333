"""Checks of instructions: each against replies that follow, and that nearly do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cai.evaluation.suites.instructions import CHECKS, follows
from cai.sources.files import folder

ITEMS = [json.loads(line) for line in (folder("probes") / "instructions.jsonl").read_text().splitlines()]
CASES: list[tuple[str, Any, list[str], list[str]]] = [  # check, wanted, replies that pass, replies that fail
    ("lines", 3, ["a\nb\nc", "a\n\nb\nc\n"], ["a\nb", "a\nb\nc\nd"]),
    ("paragraphs", 2, ["One.\n\nTwo.", "One\nmore.\n \nTwo."], ["One.\nTwo.", "One.\n\nTwo.\n\nThree."]),
    ("sentences", 2, ["It is. It was!", 'He said "no." Then 3.5 came.'], ["One.", "One. Two? Three.", "no end"]),
    ("words", 5, ["The sun is a star.", "a b c d — e"], ["The sun is a very big star", "star"]),
    ("words_at_most", 3, ["one", "one, two, three"], ["one two three four"]),
    ("words_at_least", 3, ["one two three four"], ["one two", "- - - - one"]),
    ("lower_case", True, ["a dog barks.", "ein hund, 3 kühe"], ["A dog barks.", "123"]),
    ("upper_case", True, ["RAIN FALLS.", "ÜBER 3"], ["Rain", "123"]),
    ("without", "e", ["A cat sits on a mat"], ["Even so", "the cat"]),
    ("first_word", "snow", ["Snow falls.", '"Snow" fell.'], ["The snow", "Snowy days"]),
    ("last_word", "home", ["We walked home.", "home"], ["Home is far.", "homes"]),
    ("starts_with", "Dear reader,", ["Dear reader, knit."], ["dear reader, knit.", "Hello. Dear reader,"]),
    ("ends_with", "Enjoy your meal.", ["Boil it. Enjoy your meal."], ["Enjoy your meal. Bye.", "enjoy your meal."]),
    ("contains", ["lamp", "river"], ["A lamp by the river.", "River, lamp!"], ["A lamp.", "lamps in rivers"]),
    ("times", ["garden", 2], ["Garden and garden."], ["garden", "gardens garden", "garden garden garden"]),
    ("json_keys", ["age", "name"], ['{"name": 1, "age": 2}', '```json\n{"age": 1, "name": "x"}\n```'],
     ['{"name": 1}', 'Here: {"name": 1, "age": 2}', "[]", "{name: 1, age: 2}"]),
    ("json_list", 3, ['["a", "b", "c"]'], ['["a", "b"]', '["a", "b", 3]', '{"a": 1}', "a, b, c"]),
    ("bullets", 2, ["- a\n- b"], ["- a", "* a\n* b", "List:\n- a\n- b"]),
    ("numbered", 2, ["1. a\n2. b"], ["1) a\n2) b", "2. a\n1. b", "1. a\n2. b\n3. c"]),
    ("comma_list", 3, ["leek, kale, beet"], ["leek, kale", "leek,, beet", "leek,\nkale, beet"]),
    ("one_of", ["yes", "no"], ["Yes", "yes.", "NO"], ["Yes, it is", "maybe"]),
    ("quoted", True, ['"Haste makes waste."', "“Slow and steady.”"], ["Haste", '"a" b', '"']),
    ("bracketed", True, ["[[The Key]]"], ["[The Key]", "[[The Key]] it is", "[[]]"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wanted", "passes", "fails"), CASES, ids=[case[0] for case in CASES])
def test_a_check_tells_replies_that_follow_from_those_that_nearly_do(
    name: str, wanted: Any, passes: list[str], fails: list[str]
) -> None:
    for reply in passes:
        assert follows(f" {reply}\n", {name: wanted}), reply
    for reply in [*fails, "", " \n"]:
        assert not follows(reply, {name: wanted}), reply


def test_every_check_is_tested_and_every_instruction_names_one() -> None:
    assert {case[0] for case in CASES} == CHECKS.keys()
    assert len(ITEMS) == len({item["id"] for item in ITEMS}) == 30
    assert {name for item in ITEMS for name in item["checks"]} == CHECKS.keys()


@pytest.mark.parametrize("item", ITEMS, ids=[item["id"] for item in ITEMS])
def test_a_reply_that_repeats_the_instruction_does_not_follow_it(item: dict[str, Any]) -> None:
    if item["id"] not in ("upper-case", "at-most-ten", "one-sentence", "no-letter-a"):
        assert not follows(f"Sure! Here you go. {item['prompt']}\nI hope that this helps, everyone", item["checks"])
