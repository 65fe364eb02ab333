"""The price of alignment: what is measured of real tiny models, and of models whose minds are known."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import tiny
from players import Player, digits

from cai.evaluation.arena.arena import Arena
from cai.evaluation.arena.figures import Line, Result
from cai.evaluation.arena.probe import read_probed
from cai.evaluation.arena.settings import EvaluateSettings
from cai.evaluation.suites.tax import INSTRUCTIONS, Tax, _items, probes
from cai.records import Completion
from cai.sources.files import folder

CHOICES = [json.loads(line) for line in (folder("probes") / "choices.jsonl").read_text().splitlines()]
TEXTS = [json.loads(line) for line in (folder("probes") / "text.jsonl").read_text().splitlines()]
Mind = Callable[[str, Sequence[str]], Sequence[float]]  # of a context and its continuations: their log-probabilities


def evaluated(out: Path, base: str, *models: str, **settings: Any) -> Result:
    settings = {"max_tokens": 8, **settings}
    suite = Tax(Arena(models, None, EvaluateSettings(against=base, out=out, **settings), out))
    assert suite.skipped() is None
    for run in suite.sessions():
        run.finish()
    return suite.result()


def lines_of(result: Result, model: str) -> dict[str, Line]:
    return {line.measure: line for line in result.lines if line.model == model}


# The probe itself


def test_the_probe_asks_for_three_hundred_texts_at_most() -> None:
    assert sum(len(probe.continuations) for probe in probes()) <= 300
    assert len({probe.id for probe in probes()}) == len(CHOICES) + len(TEXTS)


def test_the_prose_has_many_registers_in_passages_of_at_most_eight_hundred_bytes() -> None:
    sizes = [len(text["text"].encode()) for text in TEXTS]
    assert max(sizes) <= 800
    assert 30_000 <= sum(sizes) <= 50_000
    assert len({text["register"] for text in TEXTS}) >= 8
    assert all(text["text"][0].isspace() and not text["context"][-1].isspace() for text in TEXTS)


PLACES: dict[str, Callable[[list[int]], int]] = {
    "the first": lambda sizes: 0,
    "the last": lambda sizes: len(sizes) - 1,
    "the longest": lambda sizes: sizes.index(max(sizes)),
    "the shortest": lambda sizes: sizes.index(min(sizes)),
}


@pytest.mark.parametrize("part", ["arithmetic", "facts", "reading"])
@pytest.mark.parametrize("place", PLACES)
def test_who_always_takes_one_place_is_right_by_chance(part: str, place: str) -> None:
    items = [item for item in CHOICES if item["part"] == part]
    chance = sum(1 / len(item["choices"]) for item in items) / len(items)
    right = sum(PLACES[place](list(map(len, item["choices"]))) == item["answer"] for item in items) / len(items)
    assert abs(right - chance) < 0.12


def test_the_sums_are_right_and_the_other_choices_are_not() -> None:
    checked = 0
    for item in CHOICES:
        found = re.fullmatch(r"Question: What is (\d+) ([-+×]) (\d+)\?\nAnswer:", item["context"])
        if found:
            a, b = int(found[1]), int(found[3])
            value = {"+": a + b, "-": a - b, "×": a * b}[found[2]]
            assert [int(choice) == value for choice in item["choices"]].index(True) == item["answer"]
            assert len(set(item["choices"])) == len(item["choices"])
            checked += 1
    assert checked == 21


# Models whose minds are known


def minded(mind: Mind, name: str, **can: Any) -> Player:
    def answer(payload: dict[str, Any]) -> Completion:
        if payload["score"]:
            return Completion("", "stop", name, scores=tuple(mind(payload["text"], payload["score"])))
        return Completion("Snow falls.", "stop", name, input_tokens=1, output_tokens=2)

    return Player(answer, name, **{"completion": True, "scoring": True, **can})


def by_minds(out: Path, *players: Player, **settings: Any) -> Result:
    def opened(specs: dict[str, str], _: Any) -> dict[str, Player]:
        by_name = {player.name: player for player in players}
        return {name: by_name[spec.partition(":")[2]] for name, spec in specs.items()}

    base, *models = [f"recorded:{player.name}" for player in players]
    patches = [
        f"cai.{name}.open_models" for name in ("evaluation.arena.probe", "evaluation.suites.tax", "runs.kinds.sample")
    ]
    with patch(patches[0], opened), patch(patches[1], opened), patch(patches[2], opened):
        return evaluated(out, base, *models, **settings)


def per_byte(rate: Callable[[int], float], context: str, texts: Sequence[str]) -> list[float]:
    return [-rate(place) * len(text.encode()) for place, text in enumerate(texts)]


def knowing(context: str, texts: Sequence[str]) -> list[float]:
    answers = {item["context"]: item["answer"] for item in CHOICES}
    return per_byte(lambda place: 1.0 + (place != answers.get(context, place)), context, texts)


def first(context: str, texts: Sequence[str]) -> list[float]:
    return per_byte(lambda place: 1.0 + place, context, texts)


def hashed(seed: str, context: str, texts: Sequence[str]) -> list[float]:
    return per_byte(lambda place: 1 + digits(seed, context, place) % 1000 / 1000, context, texts)


def test_a_model_that_takes_the_first_choice_is_right_by_chance_and_one_that_knows_always(tmp_path: Path) -> None:
    result = by_minds(tmp_path, minded(first, "first"), minded(knowing, "knowing"))
    base, model = lines_of(result, "first"), lines_of(result, "knowing")
    for part, chance in {"arithmetic": 1 / 2, "facts": 1 / 3, "reading": 1 / 2}.items():
        figure = base[part].figure
        assert figure.value == pytest.approx(chance, abs=0.02)
        assert figure.low is not None and figure.high is not None and figure.low < chance < figure.high
        assert model[part].figure.value == 1
        gap = model[part].difference
        assert gap is not None and gap.low is not None and gap.low > 0.2
        assert "0 lost" in model[part].note
    assert base["accuracy"].figure.n == model["accuracy"].figure.n == len(CHOICES) + 30


def test_bits_per_byte_are_those_of_all_texts_together(tmp_path: Path) -> None:
    result = by_minds(
        tmp_path, minded(first, "one"), minded(lambda _, texts: [-2.0 * len(t.encode()) for t in texts], "two")
    )
    line = lines_of(result, "two")["bits per byte"]
    assert line.figure.value == pytest.approx(2 / 0.6931472)
    assert line.difference is not None
    assert line.difference.value == pytest.approx(1 / 0.6931472)
    assert line.figure.n == len(TEXTS)


def test_equally_likely_choices_are_not_right(tmp_path: Path) -> None:
    flat = minded(lambda _, texts: [-1.0 * len(t.encode()) for t in texts], "flat")
    result = by_minds(tmp_path, minded(knowing, "knowing"), flat)
    assert lines_of(result, "flat")["facts"].figure.value == 0


def test_the_interval_of_a_difference_covers_no_difference_between_equal_guessers(tmp_path: Path) -> None:
    guessers = [minded(partial(hashed, seed), f"guesser-{seed}") for seed in "abcd"]
    result = by_minds(tmp_path, *guessers)
    for seed in "bcd":
        gap = lines_of(result, f"guesser-{seed}")["accuracy"].difference
        assert gap is not None and gap.low is not None and gap.high is not None
        assert gap.low < 0 < gap.high


def test_a_model_that_cannot_score_is_named_and_only_its_replies_are_measured(tmp_path: Path) -> None:
    mute = minded(first, "mute", scoring=False, completion=False)
    result = by_minds(tmp_path, minded(first, "first"), mute)
    lines = lines_of(result, "mute")
    assert lines["bits per byte"].figure.value is None
    assert "recorded:mute gives no probabilities of texts" in lines["bits per byte"].note
    assert any("recorded:mute gives no probabilities" in fact for fact in result.facts)
    assert lines["instructions"].figure.n == 30
    gap = lines["accuracy"].difference
    assert gap is not None and (gap.value, gap.n) == (0, 30)


def test_without_a_model_that_scores_no_probe_is_run(tmp_path: Path) -> None:
    players = [minded(first, name, scoring=False, completion=False) for name in "ab"]
    result = by_minds(tmp_path, *players)
    assert not (tmp_path / "probe").exists()
    assert lines_of(result, "b")["facts"].figure.value is None
    assert lines_of(result, "b")["instructions"].figure.n == 30


def test_instructions_are_asked_at_temperature_zero_unless_a_model_has_a_fixed_one(tmp_path: Path) -> None:
    for fixed in (False, True):
        can = {"temperature": None} if fixed else {}
        base, model = minded(first, "base"), minded(first, "model", **can)
        by_minds(tmp_path / str(fixed), base, model)
        temperatures = Counter(re.findall(r"'temperature': ([\d.]+)", " ".join(base.asked)))
        assert temperatures["1.0" if fixed else "0.0"] >= 30


def test_replies_that_are_cut_follow_no_instruction_and_those_that_are_blocked_say_nothing(tmp_path: Path) -> None:
    def ending(finish: Any, payload: dict[str, Any]) -> Completion:
        if payload["score"]:
            return Completion("", "stop", "x", scores=tuple(first("", payload["score"])))
        return Completion("Snow", finish, "x")

    can = {"completion": True, "scoring": True}
    cut, blocked = (Player(partial(ending, finish), finish, **can) for finish in ("length", "content_filter"))
    lines = lines_of(by_minds(tmp_path / "1", minded(first, "base"), cut), "length")
    assert (lines["instructions"].figure.value, lines["instructions"].figure.n) == (0, 30)
    lines = lines_of(by_minds(tmp_path / "2", minded(first, "base"), blocked), "content_filter")
    assert (lines["instructions"].figure.value, lines["instructions"].figure.n) == (None, 0)
    lines = lines_of(by_minds(tmp_path / "3", cut, Player(partial(ending, "length"), "other", **can)), "other")
    assert (lines["instructions"].figure.value, lines["instructions"].figure.n) == (0, 30)


# Real models


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model, a copy of it under another name, and another model."""
    models = tmp_path_factory.mktemp("models")
    seeds = {"base": 0, "copy": 0, "other": 1}
    return [f"hf:{tiny.model(models / name, context=2048, seed=seed)}" for name, seed in seeds.items()]


@pytest.mark.slow
def test_a_model_against_itself_pays_nothing_and_another_differs(
    trio: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"choices": CHOICES[::6], "text": TEXTS[::6], INSTRUCTIONS: _items(INSTRUCTIONS)}
    monkeypatch.setattr("cai.evaluation.suites.tax._items", few.__getitem__)
    result = evaluated(tmp_path, *trio, concurrency=1)
    copy, other = lines_of(result, "copy"), lines_of(result, "other")
    assert copy.keys() == {"bits per byte", "arithmetic", "facts", "reading", "instructions", "accuracy"}
    for line in copy.values():
        assert line.difference is not None
        assert line.difference.value == 0, line
    gap = other["bits per byte"].difference
    assert gap is not None and gap.value is not None and abs(gap.value) > 0.001
    # A model that knows nothing takes about log2(330) bits a token, and these tokens have about a byte and a half.
    assert other["bits per byte"].figure.value == pytest.approx(6, abs=3)
    assert len(list(read_probed(tmp_path / "probe"))) == len(few["choices"]) + len(few["text"])
    again = Tax(Arena(trio[1:], None, EvaluateSettings(against=trio[0], out=tmp_path, max_tokens=8), tmp_path))
    assert again.result().lines == result.lines  # from what is on disk
