"""Degeneration: replies of known faults are seen, and real models are compared with themselves and with each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import tiny
from players import Player, digits
from scored import scores

from cai.evaluation.arena.arena import Arena
from cai.evaluation.arena.figures import Line, Result
from cai.evaluation.arena.probe import read_probed
from cai.evaluation.arena.settings import EvaluateSettings
from cai.evaluation.suites.degeneration import Degeneration
from cai.evaluation.suites.drift import scored
from cai.records import Completion, Probed, Usage
from cai.runs.plan import estimate

PROMPTS = [{"id": f"q{n}", "prompt": f"Question {n}?"} for n in range(40)]
WORDS = (
    "the", "a", "river", "mill", "old", "stands", "by", "quiet", "runs", "past", "and", "but", "then", "house", "tree",
    "bird", "who", "sees", "over", "hill",
)  # fmt: skip


def suite_of(out: Path, base: str, *models: str, prompts: Any = PROMPTS, **settings: Any) -> Degeneration:
    return Degeneration(Arena(models, prompts, EvaluateSettings(against=base, out=out, **settings), out))


def played(suite: Degeneration) -> Result:
    assert suite.skipped() is None
    suite.arena.replies_run().finish()
    for run in suite.sessions():
        run.finish()
    return suite.result()


def lines_of(result: Result, model: str) -> dict[str, Line]:
    return {line.measure: line for line in result.lines if line.model == model}


# Replies of known faults

Writer = Callable[[str], str]  # of a prompt


def prose(prompt: str, length: int = 30) -> str:
    """Words that depend on the prompt."""
    return " ".join(
        WORDS[digits(prompt, place) % len(WORDS)] + str(digits(place, prompt) % 5) for place in range(length)
    )


def boilerplate(prompt: str) -> str:
    """Prose, of which a third begins with the same words."""
    opening = "it is important to remember that everyone is different. " if digits(prompt) % 3 == 0 else ""
    return opening + prose(prompt)


def loop(prompt: str) -> str:
    return prose(prompt, 6) + " and so it goes on" * 12


def alike(prompt: str) -> str:
    return prose(f"{digits(prompt) % 4}")


def writer(write: Writer, name: str, finish: Any = "stop", scoring: bool = True) -> Player:
    def answer(payload: dict[str, Any]) -> Completion:
        if payload["score"]:
            tokens = tuple({word: -1.0 - digits(word, name) % 2} for word in payload["score"][0].split(" "))
            total = sum(value for token in tokens for value in token.values())
            return Completion("", "stop", name, scores=(total,), logprobs=tokens)
        asked = payload["messages"][-1]["content"] if payload["text"] is None else payload["text"]
        return Completion(write(asked), finish, name)

    return Player(answer, name, scoring=scoring, completion=True)


def by_writers(out: Path, *players: Player, **settings: Any) -> Result:
    def opened(specs: dict[str, str], _: Any) -> dict[str, Player]:
        by_name = {player.name: player for player in players}
        return {name: by_name[spec.partition(":")[2]] for name, spec in specs.items()}

    base, *models = [f"recorded:{player.name}" for player in players]
    names = ("evaluation.arena.probe", "evaluation.suites.degeneration", "runs.kinds.sample")
    first, second, third = (patch(f"cai.{name}.open_models", opened) for name in names)
    with first, second, third:
        return played(suite_of(out, base, *models, **settings))


@pytest.mark.parametrize(
    ("write", "finish", "warned"),
    [
        (prose, "stop", []),
        (partial(prose, length=33), "stop", []),
        (boilerplate, "stop", ["of the replies say “it is important to remember that everyone is different"]),
        (loop, "stop", ["replies repeat themselves: rep-4 is", "so it goes on and so it goes", "words, and BASE's 30"]),
        (alike, "stop", ["replies are alike: compression is", "fewer different words: distinct-2 is"]),
        (partial(prose, length=90), "stop", ["replies have 90 words, and BASE's 30"]),
        (partial(prose, length=12), "stop", ["replies have 12 words, and BASE's 30"]),
        (prose, "length", ["100% of the replies are truncated"]),
    ],
    ids=["sound", "a little longer", "boilerplate", "loops", "alike", "longer", "shorter", "cut"],
)
def test_a_fault_is_warned_of_and_nothing_else(write: Writer, finish: Any, warned: list[str], tmp_path: Path) -> None:
    result = by_writers(tmp_path, writer(prose, "base"), writer(write, "model", finish))
    problems = list(result.warnings)
    for words in warned:
        assert any(words in problem for problem in problems), (words, problems)
    if len(warned) < 2:
        assert len(problems) == len(warned), problems
    assert all(problem.startswith("model: ") for problem in problems)


def test_a_new_phrase_is_found_behind_any_number_of_phrases_that_base_has_too(tmp_path: Path) -> None:
    def refrains(prompt: str) -> str:
        return prose(prompt) + "".join(
            f" and verse {number} goes like this. {prose(prompt, 3)}" for number in range(15)
        )

    def advises(prompt: str) -> str:
        return refrains(prompt) + (" always talk to a licensed professional first" if digits(prompt) % 3 == 0 else "")

    result = by_writers(tmp_path, writer(refrains, "base"), writer(advises, "model"))
    assert any("always talk to a licensed professional first" in problem for problem in result.warnings)


def test_the_commonest_phrase_is_compared_with_how_often_base_says_the_same(tmp_path: Path) -> None:
    result = by_writers(tmp_path, writer(boilerplate, "base"), writer(boilerplate, "copy"), writer(loop, "other"))
    copy, other = (lines_of(result, name)["commonest phrase"] for name in ("copy", "other"))
    assert copy.difference is not None and copy.difference.value == 0
    assert copy.figure is not None and f"in {copy.figure.value:.1%} of BASE's" in copy.note
    assert other.figure is not None and other.difference is not None
    assert other.difference.value == other.figure.value and "in 0.0% of BASE's" in other.note


def test_replies_are_cut_to_equal_length_before_their_words_are_counted(tmp_path: Path) -> None:
    result = by_writers(tmp_path, writer(prose, "base"), writer(partial(prose, length=60), "model"))
    model = lines_of(result, "model")
    for measure in ("distinct-1", "distinct-2", "distinct-3", "compression"):
        gap = model[measure].difference
        assert gap is not None and gap.value == 0, measure  # of the first 30 words, which are the same
    assert "1,200 of each" in result.facts[0]


def test_every_line_has_an_interval_or_a_reason(tmp_path: Path) -> None:
    result = by_writers(tmp_path, writer(prose, "base"), writer(boilerplate, "model"), writer(alike, "other"))
    assert len({line.measure for line in result.lines}) == 13
    for line in result.lines:
        assert line.figure.n
        assert line.figure.low is not None or line.note, line


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_few_prompts_no_interval_leaves_what_the_measure_can_be(count: int, tmp_path: Path) -> None:
    result = by_writers(tmp_path, writer(prose, "base"), writer(boilerplate, "model"), prompts=PROMPTS[:count])
    for line in result.lines:
        assert line.figure.low is not None or line.note, line
        if line.figure.low is not None and line.figure.high is not None and not line.measure.startswith("KL"):
            assert line.figure.low >= 0, line
            assert line.figure.high <= (1 if line.unit == "share" else 1e9), line
        if line.difference is not None and line.difference.low is not None and line.unit == "share":
            assert -1 <= line.difference.low <= (line.difference.high or 0) <= 1, line


def test_prompts_that_nobody_answers_count_as_truncated_and_are_said(tmp_path: Path) -> None:
    result = by_writers(tmp_path, writer(prose, "base", "length"), writer(prose, "model", "length"))
    assert lines_of(result, "model")["truncated"].figure.value == 1
    assert any("40 prompts left out" in fact for fact in result.facts)
    assert lines_of(result, "model")["distinct-2"].figure.value is None
    assert [problem.partition(":")[0] for problem in result.warnings] == ["base", "model"]


def test_a_base_that_gives_no_probabilities_is_named(tmp_path: Path) -> None:
    result = by_writers(tmp_path, writer(prose, "base", scoring=False), writer(prose, "model"))
    assert any("recorded:base gives no probabilities of texts" in fact for fact in result.facts)
    assert not any("KL" in line.measure for line in result.lines)
    assert not (tmp_path / "likelihood").exists()


def test_a_model_that_gives_no_probabilities_is_scored_by_base_alone(tmp_path: Path) -> None:
    result = by_writers(tmp_path, writer(prose, "base"), writer(prose, "mute", scoring=False), writer(prose, "model"))
    mute = lines_of(result, "mute")
    assert mute["bits per byte under BASE"].figure.value is not None
    assert mute["KL to BASE per reply"].figure.value is None
    assert "recorded:mute gives no probabilities" in mute["KL to BASE per reply"].note
    assert lines_of(result, "model")["KL to BASE per reply"].figure.value is not None


def test_with_other_tokens_the_divergence_is_per_byte(tmp_path: Path) -> None:
    def answer(payload: dict[str, Any], inner: Player) -> Completion:
        whole = inner.answer(payload)
        if not payload["score"]:
            return whole
        return Completion("", "stop", "m", scores=whole.scores, logprobs=tuple({c: -0.1} for c in payload["score"][0]))

    letters = Player(partial(answer, inner=writer(prose, "letters")), "letters", scoring=True)
    lines = lines_of(by_writers(tmp_path, writer(prose, "base"), letters), "letters")
    assert "KL to BASE per token" not in lines and "KL to BASE per token, k3" not in lines
    assert "another tokenizer" in lines["KL to BASE per byte"].note


def test_base_models_are_scored_after_the_text_that_they_continued(tmp_path: Path) -> None:
    by_writers(tmp_path, writer(prose, "base"), writer(boilerplate, "model"), templates="fewshot")
    rows = list(read_probed(tmp_path / "likelihood"))
    assert len(rows) == 80
    for row in rows:
        assert row.prompt == () and row.text is not None and row.text.endswith("Assistant:")
        assert row.continuations[0].startswith(" ")


def test_parts_of_a_letter_are_the_same_tokens_however_they_are_shown() -> None:
    def row(*shown: str) -> Probed:
        answers = [((-3.0,), ({"a": -1.0}, {each: -2.0})) for each in shown]
        (logprobs, tokens) = zip(*answers, strict=True)
        return Probed(
            id="x", position=1, key="", prompt=(), text="", continuations=("a",), sizes=(3,), logprobs=logprobs,
            tokens=tokens, models=("m", "m"), usage=Usage(), calls=(),
        )  # fmt: skip

    for shown, gap in [((" ", " \ufffd"), 0), (("", "\ufffd"), 0), (("\ufffd", "\ufffd"), 0), (("b", "c"), None)]:
        [reply] = scored([row(*shown)], {0: 0, 1: 1}, 1)[1]
        assert reply.gap == gap


def test_a_temperature_of_its_own_is_said(tmp_path: Path) -> None:
    cold = by_writers(tmp_path / "cold", writer(prose, "base"), writer(prose, "model"), temperature=0.5)
    warm = by_writers(tmp_path / "warm", writer(prose, "base"), writer(prose, "model"))
    assert any("not drawn at temperature 1" in fact for fact in cold.facts)
    assert not any("not drawn at temperature 1" in fact for fact in warm.facts)


def test_a_plan_counts_the_replies_that_are_scored(tmp_path: Path) -> None:
    players = [writer(prose, "base"), writer(prose, "model")]
    with (
        patch("cai.runs.kinds.sample.open_models", lambda specs, _: dict(zip(specs, players, strict=True))),
        patch("cai.evaluation.arena.probe.open_models", lambda specs, _: dict(zip(specs, players, strict=True))),
        patch(
            "cai.evaluation.suites.degeneration.open_models", lambda specs, _: dict(zip(specs, players, strict=True))
        ),
    ):
        suite = suite_of(tmp_path, "recorded:base", "recorded:model")
        replies = suite.arena.replies_run()
        replies.followers = [suite.follow_ups]
        with patch.object(replies, "planned", lambda: {**type(replies).planned(replies), **suite._planned.planned()}):
            plan = estimate(replies)
    assert plan.calls == 40 * 2 + 40 * 3  # BASE scores both replies, the model its own


# Real models


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model, a copy of it under another name, and another model."""
    models = tmp_path_factory.mktemp("models")
    seeds = {"base": 0, "copy": 0, "other": 1}
    return [f"hf:{tiny.model(models / name, seed=seed, spread=0.2)}" for name, seed in seeds.items()]


@pytest.fixture(scope="module")
def real(trio: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("evaluation")
    settings = {"prompts": PROMPTS[:16], "max_tokens": 24, "concurrency": 1, "n": 2}
    return out, played(suite_of(out, *trio, **settings))


def test_a_model_against_itself_has_not_moved(real: tuple[Path, Result]) -> None:
    copy = lines_of(real[1], "copy")
    for name, line in copy.items():
        figure = line.figure if name.startswith("KL") or name == "commonest phrase" else line.difference
        assert figure is not None and figure.value == 0, line
    assert copy["commonest phrase"].difference is None  # there is none
    assert not any(problem.startswith("copy") and "truncated" not in problem for problem in real[1].warnings)


def test_another_model_has_moved(real: tuple[Path, Result]) -> None:
    other = lines_of(real[1], "other")
    for unit in ("reply", "token", "token, k3"):
        figure = other[f"KL to BASE per {unit}"].figure
        assert figure.low is not None and figure.low > 0, unit
    gap = other["bits per byte under BASE"].difference
    assert gap is not None and gap.value


def test_the_divergence_of_a_reply_is_that_of_its_log_probabilities(real: tuple[Path, Result], trio: list[str]) -> None:
    rows = [row for row in read_probed(real[0] / "likelihood") if row.id.split(":")[1] == "2"]
    assert len(rows) >= 4
    for row in rows[:4]:
        found = [each[0] for each in row.logprobs if each is not None]
        wanted = [
            float(scores(spec, [row.prompt[-1]["content"]], row.continuations)[0, 0]) for spec in (trio[0], trio[2])
        ]
        assert found == pytest.approx(wanted, abs=1e-3)
        assert row.tokens is not None
        assert row.tokens[1] is None
        assert math.fsum(sum(token.values()) for token in row.tokens[2] or ()) == pytest.approx(wanted[1], abs=1e-3)
