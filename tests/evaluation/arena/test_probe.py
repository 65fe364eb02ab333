"""Runs of probes: what models say of texts, by models that are known and by real tiny ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import tiny
from players import Player, digits
from scored import scores

from cai.errors import ModelStopped, UsageError
from cai.evaluation.arena.probe import ProbeRun, numbered, probe, read_probed
from cai.folder.lines import read_drops
from cai.records import Completion, Probe, Turns
from cai.runs.plan import estimate
from cai.runs.settings import RunSettings

ASK: Turns = ({"role": "user", "content": "Where is the old mill?"},)
TEXTS = [f"The mill stands {place}." for place in ("by the river", "on a hill", "in the town", "nowhere", "am Fluß")]


def some(count: int = 12) -> list[Probe]:
    return [
        probe(f"p{n}", f"{TEXTS[n % 5]} Number {n}.", " It is old.", f" {n}", f" {TEXTS[n % 4]}") for n in range(count)
    ]


def likely(payload: dict[str, Any]) -> Completion:
    """Log-probabilities that depend on what is asked."""
    found = tuple(-float(digits(payload["text"], text) % 90) - 1 for text in payload["score"])
    return Completion("", "stop", "m-1", input_tokens=9, output_tokens=0, scores=found)


def player(name: str = "a", answer: Any = likely) -> Player:
    return Player(answer, name, completion=True, scoring=True)


def run_of(probes: list[Probe], out: Path, *players: Player, **settings: Any) -> ProbeRun:
    with patch("cai.evaluation.arena.probe.open_models", lambda specs, _: dict(zip(specs, players, strict=True))):
        return ProbeRun(numbered(probes), [each.name for each in players], RunSettings(out=out, **settings))


def test_rows_hold_what_each_model_says_in_the_order_of_the_models(tmp_path: Path) -> None:
    run_of(
        some(), tmp_path, player("a"), player("b", lambda payload: Completion("", "stop", "b", scores=(-1.0,) * 3))
    ).finish()
    rows = list(read_probed(tmp_path))
    assert [row.id for row in rows] == [f"p{n}" for n in range(12)]
    for row in rows:
        assert row.logprobs[0] == likely({"text": row.text, "score": row.continuations}).scores
        assert row.logprobs[1] == (-1.0, -1.0, -1.0)
        assert row.sizes == tuple(len(text.encode()) for text in row.continuations)
        assert (row.models, row.prompt, row.tokens) == (("m-1", "b"), (), None)


@pytest.mark.parametrize("concurrency", [1, 3, 64])
def test_rows_do_not_depend_on_concurrency(concurrency: int, tmp_path: Path) -> None:
    run_of(some(40), tmp_path / "one", player()).finish()
    run_of(some(40), tmp_path / "other", player(), concurrency=concurrency).finish()
    assert list(read_probed(tmp_path / "one")) == list(read_probed(tmp_path / "other"))


def test_a_run_that_stopped_resumes_and_asks_nothing_twice(tmp_path: Path) -> None:
    down = player("a")
    calls = 0

    def answer(payload: dict[str, Any]) -> Completion:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise ModelStopped("the key is used up")
        return likely(payload)

    down.answer = answer
    with pytest.raises(ModelStopped, match="used up"):
        run_of(some(), tmp_path, down, concurrency=2).finish()
    assert 0 < len(list(read_probed(tmp_path))) < 12
    up = player("a")
    run_of(some(), tmp_path, up).finish()
    assert len(list(read_probed(tmp_path))) == 12
    assert up.asked.total() == 12 - (calls - 1) + sum(count > 1 for count in up.asked.values())
    again = player("a")
    run_of(some(), tmp_path, again).finish()
    assert not again.asked


def test_a_probe_asks_only_the_models_that_it_names(tmp_path: Path) -> None:
    a, b = player("a"), player("b")
    run_of([probe("x", "Some text", " more", models=(1,))], tmp_path, a, b).finish()
    [row] = read_probed(tmp_path)
    assert row.logprobs[0] is None and row.logprobs[1] is not None
    assert row.models == (None, "m-1")
    assert (a.asked.total(), b.asked.total()) == (0, 1)


def test_equal_texts_of_two_probes_are_two_rows(tmp_path: Path) -> None:
    run_of([probe("x", "Some text", " more"), probe("y", "Some text", " more")], tmp_path, player()).finish()
    first, second = read_probed(tmp_path)
    assert (first.id, second.id) == ("x", "y")
    assert first.logprobs == second.logprobs


def test_a_model_that_gives_no_probabilities_is_named(tmp_path: Path) -> None:
    mute = Player(likely, "mute", completion=True)
    with pytest.raises(UsageError, match=r"recorded:mute gives no probabilities of texts: use hf: or local:"):
        run_of(some(), tmp_path, player(), mute)
    assert not (tmp_path / "run.json").exists()


def test_a_plan_counts_one_call_a_probe_and_model(tmp_path: Path) -> None:
    plan = estimate(run_of(some(), tmp_path / "new", player("a"), player("b")))
    assert (plan.prompts, plan.calls, plan.output_tokens) == (12, 24, 0)


# Real models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [f"hf:{tiny.model(folder / f'm{seed}', seed=seed, spread=0.3)}" for seed in (0, 1)]


def asked(probes: list[Probe], models: list[str], out: Path, **settings: Any) -> list[Any]:
    ProbeRun(numbered(probes), models, RunSettings(out=out, **settings)).finish()
    return list(read_probed(out))


def test_a_conversation_is_scored_as_the_model_scores_it(models: list[str], tmp_path: Path) -> None:
    [row] = asked([probe("x", ASK, *TEXTS)], models, tmp_path)
    for spec, found in zip(models, row.logprobs, strict=True):
        assert found == pytest.approx(scores(spec, [ASK[0]["content"]], tuple(TEXTS))[0].tolist(), abs=1e-3)


def test_tokens_add_up_to_their_text_and_their_log_probability(models: list[str], tmp_path: Path) -> None:
    rows = asked([probe(f"x{n}", ASK, text, by_token=True) for n, text in enumerate(TEXTS[:4])], models, tmp_path)
    for row in rows:
        assert row.tokens is not None
        for found, tokens in zip(row.logprobs, row.tokens, strict=True):
            assert "".join(name for token in tokens for name in token) == row.continuations[0]
            assert sum(value for token in tokens for value in token.values()) == pytest.approx(found[0])


def test_real_rows_do_not_depend_on_concurrency(models: list[str], tmp_path: Path) -> None:
    one = asked(some(), models, tmp_path / "one", concurrency=1)
    many = asked(some(), models, tmp_path / "many", concurrency=16)
    for first, second in zip(one, many, strict=True):
        assert first.key == second.key
        for mine, theirs in zip(first.logprobs, second.logprobs, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-3)


def test_a_text_that_does_not_fit_is_left_out_with_the_reason(models: list[str], tmp_path: Path) -> None:
    rows = asked([*some(3), probe("long", "word " * 300, " end")], models, tmp_path)
    assert [row.id for row in rows] == ["p0", "p1", "p2"]
    [drop] = read_drops(tmp_path)
    assert (drop.id, drop.reason) == ("long", "too_long")


def test_a_base_model_is_not_asked_about_conversations(tmp_path: Path) -> None:
    spec = f"hf:{tiny.model(tmp_path / 'base', template=None)}"
    with pytest.raises(UsageError, match="has no chat template"):
        ProbeRun(numbered([probe("x", ASK, "yes")]), [spec], RunSettings(out=tmp_path / "run"))
    assert len(asked([probe("x", "text", " yes")], [spec], tmp_path / "run")) == 1


def test_rows_of_a_run_come_one_by_one(tmp_path: Path) -> None:
    async def ids() -> set[str]:
        return {row.id async for row in run_of(some(5), tmp_path, player()).rows()}

    assert asyncio.run(ids()) == {f"p{n}" for n in range(5)}
